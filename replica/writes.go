package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// sourceWrites stops the writes to a source: for a moment, by a pause that has to be renewed, and then for good, by asking for more replicas than there are
// (protocol 0: what waits in a pause is refused, too, when it ends). What the source's settings were is on disk before they are changed.
type sourceWrites struct {
	src     *source
	server  Endpoint
	notes   notes
	own     *ownConns // to the source
	info    map[string]string
	primary bool // it takes writes itself, and does not only pass its own primary's on

	looked time.Time // when look found it to be the same

	stop  func()        // ends the renewing; nil when nothing is paused
	ended chan struct{} // closed when it has ended
	mu    sync.Mutex
	until time.Time // the source's writes are paused at least until then
}

const (
	pauseSpan  = 4 * time.Second           // how long a pause lasts without being renewed: as long as a source waits for a process that has died
	pauseRenew = 500 * time.Millisecond    // how often it is
	forGood    = 10 * 365 * 24 * time.Hour // of a pause that somebody has to end
	askTime    = time.Second               // for what is only told
	lookAgain  = time.Second               // how long a look at the source is good for
	// RefusingReplicas is what min-replicas-to-write becomes: more than a source has.
	RefusingReplicas = 1000000
	// defaultMaxLag is for min-replicas-max-lag where it is 0, with which a source does not count its replicas.
	defaultMaxLag = "10"

	minReplicas = "min-replicas-to-write"
	maxLag      = "min-replicas-max-lag"
)

// manyReplicas is RefusingReplicas as the servers say it.
var manyReplicas = strconv.Itoa(RefusingReplicas)

// dialWrites finds the source's server, connects to it, and asks it what it is.
func dialWrites(ctx context.Context, source Endpoint, notes notes) (*sourceWrites, error) {
	src, server, info, err := openSource(ctx, source)
	if err != nil {
		return nil, err
	}
	return &sourceWrites{src: src, server: server, notes: notes, own: source.own, info: info, primary: info["role"] == "master"}, nil
}

// close lets go of the source. What is paused runs out by itself.
func (w *sourceWrites) close() {
	w.endRenewing()
	w.src.close()
}

// admit refuses a cutover that the source cannot have.
func (w *sourceWrites) admit(ctx context.Context, c *Cutover) error {
	if w.src.blind {
		return &Stop{
			Kind: Config, Reason: fmt.Sprintf("the source %s does not permit INFO, so that nobody can tell when the target has all", w.server),
			Hint: "ACL SETUSER <user> +info on the source",
		}
	}
	if err := cmp.Or(w.current(), failingOver(w.server, w.info)); err != nil {
		return err
	}
	if err := w.open(ctx, c); err != nil || c.WritesStopped {
		return err
	}
	why := ""
	switch {
	case !w.primary:
		why = "is a replica, and its primary's writes cannot be stopped from here"
	case !canStopWrites(w.info["redis_version"]):
		why = "is older than Redis 6.2.7: it cannot pause writes alone, or lets scripts write that it should refuse"
	default:
		if err := w.notPaused(ctx); err != nil {
			return err
		}
		return w.permitted(ctx, c)
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s %s", w.server, why),
		Hint: "stop the applications that write to it, and say so with --source-writes=stopped",
	}
}

// current is an error when the source is a replica that does not have what its primary has acknowledged: it has lost it, or gets a snapshot of it.
func (w *sourceWrites) current() error {
	if w.primary || w.info["master_link_status"] == "up" && w.info["master_sync_in_progress"] == "0" {
		return nil
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s is a replica without a link to its primary, and may lack what that has acknowledged", w.server),
		Hint: "wait until INFO replication there says master_link_status:up",
	}
}

// open is an error when the source refuses writes still since an earlier cutover, and is to be left as it is: then nobody could write to it, whatever is said of it.
func (w *sourceWrites) open(ctx context.Context, c *Cutover) error {
	if c.After == SourceRefuses {
		return nil
	}
	note, err := w.notes.read()
	if err != nil || note == nil || !note.Refuses || !note.of(w) {
		return err
	}
	if refuses, err := w.refuses(ctx); err != nil || !refuses {
		return err
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s refuses writes since the cutover of %s", w.server, note.Since.Format(time.RFC3339)),
		Hint: "redferry cutover --undo --source URL lets it take them again; or leave --source-after out",
	}
}

// canStopWrites tells whether a server of this redis_version has CLIENT PAUSE … WRITE, since 6.2.0, and refuses what scripts write as well, since 6.2.7. Valkey says 7.2.4.
func canStopWrites(version string) bool {
	var v [3]int
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 3 || err != nil {
		return false
	}
	return slices.Compare(v[:], []int{6, 2, 7}) >= 0
}

// permitted asks for all that a cutover wants of the source, in a way that changes nothing: a right that is missing is not to show when the target has been settled, and clients wait.
func (w *sourceWrites) permitted(ctx context.Context, c *Cutover) error {
	if err := w.pauseFor(ctx, time.Millisecond); err != nil {
		return err
	}
	if c.After != SourceRefuses {
		return nil
	}
	now, err := w.config(ctx)
	if err != nil {
		return w.forbids(err)
	}
	note, err := w.notes.read()
	if err != nil {
		return err
	}
	if refusing(now) && (note == nil || !note.Refuses) {
		return w.foreign()
	}
	err = w.atOnce(ctx, []rueidis.Completed{w.setOne(minReplicas, now[minReplicas])})
	if err == nil && c.EndClients {
		err = w.mayEndClients(ctx)
	}
	return w.forbids(err)
}

// becomes says what the source is left as, after asking it.
func (w *sourceWrites) becomes(ctx context.Context, after SourceAfter) string {
	switch {
	case !w.primary:
		return "is a replica, and goes on following its primary"
	case after == SourcePaused:
		return "has its writes wait for the rest of the pause, and carries them out then"
	case after == SourceOpen:
		return "takes writes as before, which the target does not get"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	switch refuses, err := w.refuses(ctx); {
	case err != nil:
		return "was made to refuse writes and cannot be asked now: " + err.Error()
	case !refuses:
		return "TAKES WRITES, which the target does not get: somebody has set " + minReplicas + " since"
	}
	return "refuses writes (" + minReplicas + " is " + manyReplicas + "); cutover --undo re-opens it"
}

// clients counts the source's clients beside ourselves, or closes their connections; -1 when the source does not say.
func (w *sourceWrites) clients(ctx context.Context, end bool) (there, ended int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	c := w.src.client
	before, err := w.count(ctx)
	if err != nil || !end {
		return before, 0
	}
	for _, class := range []string{"normal", "pubsub"} { // SKIPME spares the connection that this is sent on
		if err := c.Do(ctx, c.B().Arbitrary("CLIENT", "KILL", "TYPE", class, "SKIPME", "yes").Build()).Error(); err != nil {
			return -1, 0
		}
	}
	there, _ = w.count(ctx) // -1 with an error
	return there, before
}

// count counts the source's clients beside ourselves.
func (w *sourceWrites) count(ctx context.Context) (n int64, err error) {
	list, err := w.src.client.Do(ctx, w.src.client.B().ClientList().Build()).ToString()
	if err != nil {
		return -1, err
	}
	for line := range strings.Lines(list) {
		if isClient(line) && !w.own.has(line) {
			n++
		}
	}
	return n, nil
}

// isClient tells a line of CLIENT LIST that is about a client, and not a replica, a primary or a sentinel.
func isClient(line string) bool {
	for field := range strings.FieldsSeq(line) {
		if flags, ok := strings.CutPrefix(field, "flags="); ok && strings.ContainsAny(flags, "SM") {
			return false
		}
		if strings.HasPrefix(field, "name=sentinel-") {
			return false
		}
	}
	return true
}

// mayEndClients is an error when the source does not let its clients' connections be closed. It closes none: there is no such client.
func (w *sourceWrites) mayEndClients(ctx context.Context) error {
	b := w.src.client.B()
	err := forbidden(w.src.client.Do(ctx, b.ClientKill().Id(math.MaxInt64).Build()).Error())
	if !errors.Is(err, errForbidden) {
		return err
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s does not let the connections of its clients be closed", w.server), Err: err,
		Hint: "ACL SETUSER <user> +client|kill on the source; or leave --source-clients=kick out, and restart what is still connected",
	}
}

// note begins a note.
func (w *sourceWrites) note() *cutoverNote {
	return &cutoverNote{Addr: w.server.Addr, RunID: w.info["run_id"], Since: time.Now().UTC()}
}

// leave notes a cutover that leaves the source's settings as they are. What an earlier one has changed, there or at another server, is still needed.
func (w *sourceWrites) leave() error {
	earlier, err := w.notes.read()
	if err == nil && earlier != nil && earlier.Refuses {
		err = earlier.setAside(w.notes.path)
	}
	if err != nil {
		return err
	}
	return w.note().write(w.notes.path)
}

// refuse makes the source refuse writes. When it returns nil no write is acknowledged any more.
//
// A refusal alone lets a script answer that all is well which writes by redis.pcall and does not look at the reply. So the
// source's writes stay paused beside it, until somebody ends that: writes that come now are refused at once, and such scripts,
// and PUBLISH, wait; what waits already waits until release. Both come into force in one step, for the pause of the cutover
// ends by itself where this process dies.
//
// noting bounds how long the target may take to note it, before anything is changed; ctx is for the source, which must not be
// left half changed.
func (w *sourceWrites) refuse(noting, ctx context.Context, force bool) error {
	note, err := w.notes.read()
	if err != nil {
		return err
	}
	now, err := w.config(ctx)
	if err != nil {
		return w.forbids(err)
	}
	if note != nil && !note.of(w) {
		if err := note.setAside(w.notes.path); err != nil {
			return err
		}
		note = nil
	}
	if refusing(now) {
		switch {
		case note == nil || !note.Refuses:
			return w.foreign()
		case !note.Done: // an earlier process has come this far
			return nil
		}
	}
	was := note.without(now)
	note = w.note()
	note.Refuses, note.MinReplicas, note.MaxLag, note.Force = true, was[minReplicas], was[maxLag], force
	note.Paused = w.primary && canStopWrites(w.info["redis_version"]) && w.pauseFor(ctx, time.Millisecond) == nil
	if err := w.notes.write(noting, note); err != nil { // nothing was changed yet
		return errors.Join(err, w.reopen())
	}
	lag := now[maxLag]
	if lag == "0" {
		lag = defaultMaxLag
	}
	steps := w.set(now, map[string]string{maxLag: lag, minReplicas: manyReplicas}, maxLag, minReplicas) // with a lag of 0 the number means nothing
	if note.Paused {
		steps = append(steps, w.pauseForGood())
	}
	if err := w.atOnce(ctx, steps); err != nil {
		return errors.Join(w.forbids(err), w.reopen())
	}
	return nil
}

// foreign is the Stop for a source that refuses writes because of a cutover of which this migration knows nothing.
func (w *sourceWrites) foreign() *Stop {
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s already refuses writes: its %s is %s, as a cutover of another migration leaves it", w.server, minReplicas, manyReplicas),
		Hint: "if that cutover is to be undone: redferry cutover --undo --source URL, with the --name and --target of that migration; " +
			"if nobody knows of it: CONFIG SET " + minReplicas + " 0 and CLIENT UNPAUSE on the source",
	}
}

// refuses tells whether the source refuses writes.
func (w *sourceWrites) refuses(ctx context.Context) (bool, error) {
	now, err := w.config(ctx)
	return err == nil && refusing(now), w.forbids(err)
}

// refusing tells whether settings make a source refuse writes as refuse does it.
func refusing(now map[string]string) bool {
	return now[minReplicas] == manyReplicas && now[maxLag] != "0"
}

// reopen puts back what refuse has changed and nobody else since, asks the source whether it takes writes, and forgets the note
// here. It works though contexts have ended, for five seconds at most.
func (w *sourceWrites) reopen() error {
	note, err := w.notes.read()
	if err != nil || note == nil {
		return err
	}
	if !note.Refuses {
		return remove(w.notes.path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limitsTimeout)
	defer cancel()
	now, err := w.config(ctx)
	if err == nil {
		steps := w.set(now, note.without(now), minReplicas, maxLag)
		if note.Paused {
			steps = append(steps, w.src.client.B().ClientUnpause().Build())
		}
		err = w.atOnce(ctx, steps)
	}
	if err == nil {
		if now, err = w.config(ctx); err == nil && refusing(now) {
			err = fmt.Errorf("its %s is %s still", minReplicas, now[minReplicas])
		}
	}
	if err != nil {
		return fmt.Errorf("let the source take writes again; by hand: %s: %w", note.byHand(), err)
	}
	if err := remove(w.notes.path); err != nil {
		return fmt.Errorf("forget that the source refused writes: %w", err)
	}
	return nil
}

// config is what the source's two settings are.
func (w *sourceWrites) config(ctx context.Context) (_ map[string]string, err error) {
	now := map[string]string{}
	for _, name := range []string{minReplicas, maxLag} {
		if now[name], err = w.src.config(ctx, name); err != nil {
			return nil, err
		}
	}
	return now, nil
}

// set are the commands that make settings what they are to be, in the order of their names; what they are already is left alone.
func (w *sourceWrites) set(now, to map[string]string, names ...string) (steps []rueidis.Completed) {
	for _, name := range names {
		if now[name] != to[name] {
			steps = append(steps, w.setOne(name, to[name]))
		}
	}
	return steps
}

func (w *sourceWrites) setOne(name, value string) rueidis.Completed {
	return w.src.client.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build()
}

// atOnce has the source carry out all of these or, if it dies or the connection breaks, none.
func (w *sourceWrites) atOnce(ctx context.Context, steps []rueidis.Completed) error {
	if len(steps) == 0 {
		return nil
	}
	b := w.src.client.B()
	all := append(append([]rueidis.Completed{b.Multi().Build()}, steps...), b.Exec().Build())
	results := w.src.client.DoMulti(ctx, all...)
	for _, r := range results[:len(results)-1] { // what was not queued says why EXEC refuses
		if err := r.Error(); err != nil {
			return fmt.Errorf("change the source's settings: %w", forbidden(err))
		}
	}
	replies, err := results[len(results)-1].ToArray()
	for i := 0; err == nil && i < len(replies); i++ {
		err = replies[i].Error()
	}
	if err != nil {
		return fmt.Errorf("change the source's settings: %w", forbidden(err))
	}
	return nil
}

// forbids makes a Stop of a source's no; other errors pass through.
func (w *sourceWrites) forbids(err error) error {
	if !errors.Is(err, errForbidden) || AsStop(err) != nil {
		return err
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s cannot be made to refuse writes", w.server), Err: err,
		Hint: "ACL SETUSER <user> +config|get +config|set on the source; or --source-after=paused or open, once its clients are stopped",
	}
}
