package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
	"redferry/replica/admin"
	"redferry/replica/events"
)

// patience is how long status, inspect and reset wait for a target.
const patience = 15 * time.Second

type statusCmd struct {
	Target string `placeholder:"URL" help:"The migration's target, as for run: shows its checkpoint, also of a migration that runs elsewhere or not at all."`
	targetTLS
	homeFlags
	JSON  bool `name:"json" help:"Print one JSON object."`
	Watch bool `help:"Show it again each second, until Ctrl-C."`
}

// Run prints how a migration does.
func (c *statusCmd) Run(ctx context.Context, s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	if !c.Watch {
		return c.show(ctx, s, s.out)
	}
	file, ok := s.out.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	for {
		var page bytes.Buffer
		err := c.show(ctx, s, &page)
		if ctx.Err() != nil {
			return nil
		}
		text := page.String()
		switch {
		case c.JSON:
		case terminal:
			text = overwrite(text)
		default:
			text += "\n"
		}
		if _, printing := io.WriteString(s.out, text); err == nil {
			err = printing
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// overwrite has a terminal show a page in place of what it shows, without a flicker: from its upper left corner on, each line's rest is cleared, and the rest of the screen.
func overwrite(page string) string {
	return "\x1b[H" + strings.ReplaceAll(page, "\n", "\x1b[K\n") + "\x1b[J"
}

// show prints what the run says, where one is here, and what the checkpoint says, where its target is named.
func (c *statusCmd) show(ctx context.Context, s *streams, w io.Writer) error {
	status := fullStatus{Name: c.Name}
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	run, err := c.ask(asking)
	switch {
	case err == nil:
		status.Running, status.Run = true, run
	case errors.Is(err, admin.ErrNotRunning):
	case c.Target == "" || ctx.Err() != nil:
		return err
	default: // its target may tell all the same
		if _, err := fmt.Fprintln(s.err, "redferry: warning:", redact(err.Error())); err != nil {
			return err
		}
	}
	unfinished := c.unfinished()
	switch {
	case status.Running: // it finishes the cutover
	case c.Target == "":
		return c.showEvents(w, status, unfinished)
	case unfinished != nil:
		if _, err := fmt.Fprintln(s.err, "redferry: warning:", unfinished); err != nil {
			return err
		}
	}
	if status.Running && !c.JSON {
		if err := printRun(w, run); err != nil {
			return err
		}
	}
	if c.Target == "" {
		if c.JSON {
			return printJSON(w, status)
		}
		return nil
	}
	if status.Running && !c.JSON {
		if _, err := fmt.Fprintln(w, "\nand in the target:"); err != nil {
			return err
		}
	}
	target, t, err := c.checkpoint(ctx)
	switch {
	case err != nil && c.Watch && status.Running && c.JSON: // the next look may find more
		return printJSON(w, status)
	case err != nil && c.Watch && status.Running:
		_, err = fmt.Fprintln(w, redact(err.Error()))
		return err
	case err != nil && c.JSON && status.Running: // what is known is worth printing
		return errors.Join(printJSON(w, status), err)
	case err != nil:
		return err
	case c.JSON:
		status.statusJSON = new(statusOf(target.String(), &t))
		return printJSON(w, status)
	}
	return printStatus(w, target.String(), &t)
}

// ask asks the run on this machine. One that ends just then closes the connection: a second look tells it from one that does not answer.
func (c *statusCmd) ask(ctx context.Context) (*admin.Report, error) {
	r, err := c.askOnce(ctx)
	if err != nil && !errors.Is(err, admin.ErrNotRunning) && ctx.Err() == nil {
		r, err = c.askOnce(ctx)
	}
	return r, err
}

func (c *statusCmd) askOnce(ctx context.Context) (*admin.Report, error) {
	run, err := c.dialRun(ctx)
	if err != nil {
		return nil, err
	}
	defer run.Close()
	r, err := run.Status(ctx)
	return &r, err
}

// unfinished is an error when nobody is at a cutover that has come half way.
func (c *statusCmd) unfinished() error {
	dir, err := c.folder()
	if err != nil {
		return err
	}
	return notBegun(dir)
}

// showEvents is for a migration that does not run here, and of which nothing else is known but what is unfinished.
func (c *statusCmd) showEvents(w io.Writer, status fullStatus, unfinished error) error {
	const few = 5
	list, _, err := c.last(few)
	if err != nil {
		return err
	}
	if c.JSON {
		status.Events = list
		if err := printJSON(w, status); err != nil {
			return err
		}
	} else {
		for _, e := range list {
			if err := printEvent(w, e); err != nil {
				return err
			}
		}
	}
	if unfinished != nil {
		return unfinished
	}
	return &replica.Stop{
		Kind: replica.Decide, Reason: fmt.Sprintf("migration %q does not run on this machine", c.Name),
		Hint: "give --target URL, to see its checkpoint there, or the --name and --dir of its run",
	}
}

// checkpoint finds the migration's checkpoint. The error is a Stop of kind Decide when there is none that can be used.
func (c *statusCmd) checkpoint(ctx context.Context) (replica.Endpoint, applier.Traces, error) {
	target, t, err := findTraces(ctx, c.Target, c.TargetTLS, c.nameFlag)
	if err != nil {
		return target, t, err
	}
	switch {
	case t.Unusable != nil:
		err = &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("cannot use the checkpoint %s in %s", checkpoint.Key(c.Name), target), Err: t.Unusable,
			Hint: "run the version of redferry that wrote it; `redferry inspect --target URL` shows it as it is",
		}
	case !t.HasRecord && t.Alive():
		err = &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("the target %s has no checkpoint of migration %q yet; it is owned by %s, which is alive", target, c.Name, t.Owner.Text),
			Hint: "ask again when its snapshot has begun",
		}
	case !t.HasRecord:
		err = &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("the target %s has no checkpoint of migration %q", target, c.Name),
			Hint: "check --target and --name; a run writes the checkpoint when its snapshot begins",
		}
	}
	return target, t, err
}

// findTraces reads the flags and asks the target.
func findTraces(ctx context.Context, rawURL string, tls tlsFlags, name nameFlag) (replica.Endpoint, applier.Traces, error) {
	if err := name.check(); err != nil {
		return replica.Endpoint{}, applier.Traces{}, err
	}
	target, err := endpoint("target", rawURL, tls)
	if err != nil {
		return target, applier.Traces{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t, err := applier.FindTraces(ctx, target, name.Name)
	return target, t, err
}

func printStatus(w io.Writer, target string, t *applier.Traces) error {
	r := &t.Record
	p := &table{w: w}
	p.row("migration", "%s, in the target %s", r.Name, target)
	p.row("phase", "%s", phaseText(t))
	p.row("source", "%s, replication ID %s", r.Source, r.ReplID)
	p.row("offset", "%s (database %d)", humanize.Comma(r.Offset), r.DB)
	if r.Phase == checkpoint.PhaseSnapshot {
		p.row("snapshot", "%s", snapshotText(r))
	}
	p.row("written", "%s", ageText(t))
	p.row("expiry", "%s", expiryText(r))
	p.row("owner", "%s", ownerText(t))
	p.row("rejected", "%s", countText(r.Rejected, "writes that the target refused; they are in rejected.resp where redferry runs"))
	p.row("diverged", "%s", countText(r.Diverged, "transactions that took effect though their guard had not agreed: compare both sides"))
	p.row("divergence", "%s", divergenceText(r.Divergence.Total(), r.Divergence.String()))
	p.row("unchecked", "%s", uncheckedText(r))
	if r.Expired != 0 {
		p.row("expired", "up to offset %s the target may have expired keys by itself that the source has renewed; a cutover compares all keys first", humanize.Comma(r.Expired))
	}
	if r.Refusal != "" {
		p.row("refusal", "%s", refusalText(r))
	}
	return p.err
}

func refusalText(r *checkpoint.Record) string {
	if r.Phase == checkpoint.PhaseCompleted {
		return "the source refuses writes since the cutover, as far as is known here; `redferry cutover --undo --source URL --target URL` opens it"
	}
	return "a cutover has not come to its end, and the source may refuse writes because of it: `redferry run` finishes it, from any machine; " +
		"`redferry cutover --undo --source URL --target URL` opens the source"
}

func phaseText(t *applier.Traces) string {
	switch t.Record.Phase {
	case checkpoint.PhaseSnapshot:
		if t.Alive() {
			return "snapshot: being loaded"
		}
		return "snapshot: loaded in part, and nobody is at it; the target is of no use before a run has completed it"
	case checkpoint.PhaseStream:
		if t.Alive() {
			return "stream: the target has what the source had at this offset, and follows it"
		}
		return "stream: the target has what the source had at this offset; nobody follows it now"
	case checkpoint.PhaseCompleted:
		return "completed: a cutover has ended this migration"
	}
	return string(t.Record.Phase)
}

func expiryText(r *checkpoint.Record) string {
	switch r.Expiry {
	case checkpoint.Mixed:
		if r.Phase == checkpoint.PhaseCompleted {
			return "the TTLs of some keys are still to be brought back, which the run has not come to: run the same command again, or `redferry reset`"
		}
		return "settled in part, and shifted again by the next run; cutover, `run --stop-at caught-up`, or reset, gives the target the source's TTLs"
	case string(applier.Shift):
		return "shifted: the source expires keys, the target does not; cutover, `run --stop-at caught-up`, or reset, gives it the source's TTLs"
	case string(applier.Import):
		return "in the target's import mode, which was " + r.ImportWas + " before; cutover, `run --stop-at caught-up`, or reset, ends it"
	}
	return "as in the source"
}

func snapshotText(r *checkpoint.Record) string {
	if r.SnapshotSize <= 0 {
		return humanize.Bytes(uint64(r.SnapshotRead)) + " of an unknown size"
	}
	return fmt.Sprintf("%s of %s (%d%%)", humanize.Bytes(uint64(r.SnapshotRead)), humanize.Bytes(uint64(r.SnapshotSize)), 100*r.SnapshotRead/r.SnapshotSize)
}

func age(t *applier.Traces) time.Duration {
	return max(0, t.Now.Sub(time.UnixMilli(t.Record.Time)))
}

func ageText(t *applier.Traces) string {
	return fmt.Sprintf("%s ago (%s)", short(age(t)), time.UnixMilli(t.Record.Time).UTC().Format("2006-01-02 15:04:05 MST"))
}

func ownerText(t *applier.Traces) string {
	left := t.Owner.Lease.Sub(t.Now)
	switch {
	case !t.HasOwner:
		return "none"
	case left > 0:
		return fmt.Sprintf("%s; alive: its lease runs for another %s by the target's clock", t.Owner.Text, short(left))
	}
	return fmt.Sprintf("none alive; the last was %s, whose lease ended %s ago", t.Owner.Text, short(-left))
}

func countText(n int64, what string) string {
	if n == 0 {
		return "0"
	}
	return humanize.Comma(n) + " " + what
}

// divergenceText says what so much divergence, of these kinds, as the checkpoint has them, means.
func divergenceText(total int64, kinds string) string {
	if total == 0 {
		return "0"
	}
	text := kinds + ": commands of the stream that found nothing to change in the target, where the source had"
	if strings.Contains(kinds, checkpoint.LostReply) {
		text += "; " + checkpoint.LostReply + ": keys that differ, to which replies were lost"
	}
	return text + ": compare both sides"
}

func uncheckedText(r *checkpoint.Record) string {
	if r.Unchecked == "" {
		return "none"
	}
	return strings.ReplaceAll(r.Unchecked, ",", ", ") + ": offsets whose writes are in the target, but the replies to them were lost"
}

// fullStatus is what status --json prints; people script against it. What the checkpoint says stands beside what the run says, where its target is named.
type fullStatus struct {
	Name        string         `json:"name"`
	Running     bool           `json:"running"` // on this machine
	*statusJSON                // nil without a target
	Run         *admin.Report  `json:"run,omitempty"`
	Events      []events.Event `json:"events,omitempty"` // where nothing else is known
}

// statusJSON is what the checkpoint says.
type statusJSON struct {
	Name         string    `json:"name"`
	Target       string    `json:"target"`
	Phase        string    `json:"phase"`
	Origin       string    `json:"origin"`
	Source       string    `json:"source"`
	ReplID       string    `json:"replid"`
	Offset       int64     `json:"offset"`
	DB           int       `json:"db"`
	SnapshotRead int64     `json:"snapshot_read"`
	SnapshotSize int64     `json:"snapshot_size"`
	WrittenAt    time.Time `json:"written_at"`
	AgeSeconds   float64   `json:"age_seconds"`
	Rejected     int64     `json:"rejected"`
	Diverged     int64     `json:"diverged"`
	Checked      int64     `json:"checked"`
	Unchecked    string    `json:"unchecked"`
	Expiry       string    `json:"expiry"`
	Expired      int64     `json:"expired"`
	Refusal      string    `json:"refusal"` // how the source was before a cutover made it refuse writes; "" when it takes them
	Owner        ownerJSON `json:"owner"`

	Divergence checkpoint.Divergence `json:"divergence,omitempty"`
}

type ownerJSON struct {
	Text         string  `json:"text"`
	Epoch        int64   `json:"epoch"`
	Alive        bool    `json:"alive"`
	LeaseSeconds float64 `json:"lease_seconds"` // left; negative when it has run out
}

func statusOf(target string, t *applier.Traces) statusJSON {
	r := &t.Record
	s := statusJSON{
		Name: r.Name, Target: target, Phase: string(r.Phase), Origin: string(r.Origin), Source: r.Source, ReplID: r.ReplID, Offset: r.Offset, DB: r.DB,
		SnapshotRead: r.SnapshotRead, SnapshotSize: r.SnapshotSize, WrittenAt: time.UnixMilli(r.Time).UTC(), AgeSeconds: age(t).Seconds(),
		Rejected: r.Rejected, Diverged: r.Diverged, Divergence: r.Divergence, Checked: r.Checked, Unchecked: r.Unchecked, Expiry: r.Expiry, Expired: r.Expired, Refusal: r.Refusal,
	}
	if t.HasOwner {
		s.Owner = ownerJSON{Text: t.Owner.Text, Epoch: t.Owner.Epoch, Alive: t.Alive(), LeaseSeconds: t.Owner.Lease.Sub(t.Now).Seconds()}
	}
	return s
}

// printJSON writes a value and a newline.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows of a name and a text.
type table struct {
	w   io.Writer
	err error
}

func (t *table) row(name, format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, "%-13s %s\n", name, fmt.Sprintf(format, args...))
	}
}
