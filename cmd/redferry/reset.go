package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
	"redferry/replica/spool"
)

type resetCmd struct {
	Target string `placeholder:"URL" help:"The migration's target, as for run."`
	targetTLS
	Source    string   `placeholder:"URL" help:"The migration's source, as for run. It is needed after a run with --raise-source-limits that was killed: its limit is put back."`
	SourceTLS tlsFlags `embed:"" prefix:"source-tls-" group:"TLS to the source:"`
	homeFlags
	LocalOnly bool `help:"Forget the migration on this machine alone: its target is gone for good."`
	Takeover  bool `help:"Reset a migration whose owner lives; the owner stops writing and ends."`
}

// Run settles a migration's target and removes its keys from there, and then the note of it on this machine: in this order, since what is left behind by a
// reset that broke off only makes the next run ask.
func (c *resetCmd) Run(ctx context.Context, s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	var target replica.Endpoint
	switch {
	case !c.LocalOnly && c.Target == "":
		return &replica.Stop{Kind: replica.Config, Reason: "reset needs the migration's --target", Hint: "give --target, or --local-only if the target is gone for good"}
	case !c.LocalOnly:
		var err error
		if target, err = endpoint("target", c.Target, c.TargetTLS); err != nil {
			return err
		}
	}
	var source *replica.Endpoint
	if c.Source != "" {
		e, err := endpoint("source", c.Source, c.SourceTLS)
		if err != nil {
			return err
		}
		source = &e
	}
	home, held, err := c.lock()
	if err != nil {
		return err
	}
	defer func() {
		if home != nil {
			home.Close()
		}
	}()
	if home != nil {
		if err := notBegun(home.Dir()); err != nil {
			return err
		}
	}
	if !c.LocalOnly {
		if err := c.resetTarget(ctx, s, target, home); err != nil {
			return err
		}
	}
	if held {
		if home, err = c.awaitLock(ctx); err != nil {
			return err
		}
	}
	if home != nil {
		if err := c.putLimitsBack(ctx, s.out, source, home); err != nil {
			return errors.Join(err, c.forget(s.out, home))
		}
	}
	return c.forget(s.out, home)
}

// putLimitsBack has the source limit its replicas' buffers again, as it did before a run that was killed. What stays lifted is the reset's error, and its note stays.
func (c *resetCmd) putLimitsBack(ctx context.Context, out io.Writer, source *replica.Endpoint, home *applier.Home) error {
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done, err := replica.PutLimitsBack(soon, source, limitsFile(home))
	if err != nil || done == "" {
		return err
	}
	_, err = fmt.Fprintf(out, "source %s: %s\n", source.String(), done)
	return err
}

// limitsFile notes which sources' limits are lifted.
func limitsFile(home *applier.Home) string { return filepath.Join(home.Dir(), "source-limits") }

// lock opens the migration's directory, if there is one. held tells that a live process has it, whose migration is to be taken over.
func (c *resetCmd) lock() (home *applier.Home, held bool, err error) {
	dir, err := c.folder()
	if err != nil {
		return nil, false, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // nor is one made
	}
	home, err = c.open()
	if stop := replica.AsStop(err); c.Takeover && stop != nil && stop.Kind == replica.Fenced {
		return nil, true, nil
	}
	return home, false, err
}

// awaitLock waits for the directory of a process that was just made to end.
func (c *resetCmd) awaitLock(ctx context.Context) (*applier.Home, error) {
	last := time.After(patience)
	for {
		home, err := c.open()
		if err == nil {
			return home, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-last:
			return nil, fmt.Errorf("wait for the migration's owner to end: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (c *resetCmd) resetTarget(ctx context.Context, s *streams, target replica.Endpoint, home *applier.Home) error {
	place := ""
	if home != nil {
		place = home.Place()
	}
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := applier.BeginReset(soon, target, c.Name, place, c.Takeover)
	if err != nil {
		return err
	}
	defer r.Close()
	t := &r.Before
	if t.None() {
		_, err = fmt.Fprintf(s.out, "target %s: it had nothing of migration %q\n", target, c.Name)
		return err
	}
	if t.Unfinished() {
		return &replica.Stop{
			Kind:   replica.Decide,
			Reason: "a cutover of this migration has not come to its end: the source may refuse writes because of it, and only its checkpoint says how the source was before",
			Hint:   "redferry run finishes the cutover; or redferry cutover --undo --source URL --target URL opens the source; then reset again",
		}
	}
	if t.Alive() && t.Owner.Place != place {
		if _, err := fmt.Fprintf(s.out, "target %s: took the migration from %s\n", target, t.Owner.Text); err != nil {
			return err
		}
	}
	if err := settle(ctx, s, target, r); err != nil {
		return err
	}
	soon, cancel = context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.Remove(soon); err != nil {
		return err
	}
	what := "no checkpoint"
	switch {
	case t.Unusable != nil:
		what = "a checkpoint of another version"
	case t.HasRecord:
		what = fmt.Sprintf("phase %s, offset %s of %s", t.Record.Phase, humanize.Comma(t.Record.Offset), t.Record.ReplID)
	}
	if was := t.Checkpoint[checkpoint.FieldImport]; was != "" {
		if _, err := fmt.Fprintf(s.out, "target %s: import-mode is %s again, as before the migration\n", target, was); err != nil {
			return err
		}
	}
	if refusal := t.Record.Refusal; refusal != "" {
		if _, err := fmt.Fprintf(s.out, "the source refuses writes since the cutover, as far as is known; to open it: %s\n", replica.ByHand(refusal)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(s.out, "target %s: removed %[2]s and %[2]s:* (%[3]s); all other keys stay\n", target, checkpoint.Key(c.Name), what)
	return err
}

// sayEvery is how often a reset that takes long says how far it is.
const sayEvery = 5 * time.Second

// settle has the target expire its keys by itself again, as it does without redferry.
func settle(ctx context.Context, s *streams, target replica.Endpoint, r *applier.Reset) error {
	said := time.Now()
	at, err := r.Settle(ctx, func(at applier.Settling) {
		if time.Since(said) >= sayEvery {
			said = time.Now()
			fmt.Fprintln(s.err, settlingText(at))
		}
	})
	switch {
	case err == nil:
		_, err = fmt.Fprintf(s.out, "target %s: settled the expiries of %s and %s\n", target, plural(at.Settled, "key"), plural(at.Fields, "hash field"))
		return err
	case replica.AsStop(err) != nil || at.Pass == 0:
		return err
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return &replica.Stop{
		Kind: replica.Failed, Err: err,
		Reason: fmt.Sprintf("reset broke off while it settled: about %s of %s still have shifted expiries", plural(at.Left(), "key"), target),
		Hint:   "run the same reset again: it begins with what is left",
	}
}

func settlingText(at applier.Settling) string {
	text := fmt.Sprintf("settling: pass %d has looked at %s of %s keys", at.Pass, amount(float64(at.Looked)), amount(float64(at.Keys)))
	if left := at.ETA(); left > 0 {
		text += ", ETA " + short(left)
	}
	return text
}

func (c *resetCmd) forget(w io.Writer, home *applier.Home) error {
	known := ""
	if home != nil {
		known = home.Known()
		if err := spool.Remove(spoolDir(home)); err != nil {
			return fmt.Errorf("remove the spool: %w", err)
		}
	}
	if known == "" {
		_, err := fmt.Fprintf(w, "here: migration %q was not known\n", c.Name)
		return err
	}
	if err := home.Forget(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "here: forgot the migration in %s (%s)\n", home.Dir(), known); err != nil {
		return err
	}
	if info, err := os.Stat(home.RejectedPath()); err == nil {
		_, err := fmt.Fprintf(w, "here: %s stays (%s)\n", home.RejectedPath(), humanize.Bytes(uint64(info.Size())))
		return err
	}
	return nil
}
