package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
	"redferry/replica/admin"
)

// undo opens a source that a cutover has made refuse writes: by the run, where there is one, or else by itself. Nobody may make
// the target the one to write to at the same time.
func (c *cutoverCmd) undo(ctx context.Context, s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	if !c.Force {
		had, err := c.undoByRun(ctx, s)
		if !errors.Is(err, admin.ErrNotRunning) {
			return c.sayUndone(s, "the source", had, goesOn, err)
		}
	}
	switch {
	case c.Source == "" && c.Force:
		return &replica.Stop{
			Kind: replica.Config, Reason: "--force asks neither a run nor the target, so --undo wants --source",
			Hint: "redferry cutover --undo --force --source URL",
		}
	case c.Source == "":
		return &replica.Stop{
			Kind: replica.Config, Reason: "no run of this migration is alive here, so --undo wants --source",
			Hint: "redferry cutover --undo --source URL --target URL",
		}
	}
	source, err := endpoint("source", c.Source, c.SourceTLS)
	if err != nil {
		return err
	}
	dir, err := c.folder()
	if err != nil {
		return err
	}
	done, err := replica.CutoverDone(cutoverFile(dir))
	if err != nil {
		return err
	}
	begun := notBegun(dir)
	if c.Force {
		had, err := replica.UndoCutover(ctx, source, cutoverFile(dir), nil)
		return c.sayUndone(s, source.String(), had, fate(done, inDoubt), err)
	}
	home, err := c.open()
	if err != nil {
		return err
	}
	defer home.Close()
	if c.Target == "" {
		if begun != nil {
			return &replica.Stop{
				Kind: replica.Config, Reason: "a cutover of this migration was begun and has not come to its end, so --undo wants --target, too: " +
					"a process elsewhere could still finish it",
				Hint: "redferry cutover --undo --source URL --target URL; or --force, where the target cannot be reached",
			}
		}
		had, err := replica.UndoCutover(ctx, source, cutoverFile(dir), nil)
		return c.sayUndone(s, source.String(), had, fate(done, stopped), err)
	}
	target, err := endpoint("target", c.Target, c.TargetTLS)
	if err != nil {
		return err
	}
	u, err := applier.BeginUndo(ctx, target, c.Name, home.Place(), c.Takeover)
	if err != nil {
		return err
	}
	defer u.Close()
	if (done || begun != nil) && u.Refusal() == "" && (!u.Before.HasRecord || !home.Leads(target.String())) {
		return c.notThere(target, home)
	}
	had, err := replica.UndoCutover(ctx, source, cutoverFile(dir), u)
	return c.sayUndone(s, source.String(), had, fate(u.Before.Record.Phase == checkpoint.PhaseCompleted, stopped), err)
}

// notThere is the Stop for a target that knows nothing of the cutover which the note here is of: the right one may be the one to
// write to, or become so.
func (c *cutoverCmd) notThere(target replica.Endpoint, home *applier.Home) *replica.Stop {
	hint := "give the target that the migration went into"
	if known := home.Known(); known != "" {
		hint += " (" + known + ")"
	}
	return &replica.Stop{
		Kind: replica.Decide, Reason: fmt.Sprintf("the target %s knows of no cutover of migration %q, so it cannot tell whether that has come to its end", target, c.Name),
		Hint: hint + "; --force opens the source whatever became of the target",
	}
}

// undoByRun has the run of this machine do it. The error is admin.ErrNotRunning where there is none.
func (c *cutoverCmd) undoByRun(ctx context.Context, s *streams) (had bool, err error) {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	client, err := c.dialRun(watching)
	if err != nil {
		return false, err
	}
	defer client.Close()
	var watcher sync.WaitGroup
	watcher.Go(func() { c.watch(watching, s) })
	answered := context.AfterFunc(ctx, client.HangUp)
	text, err := client.Do(watching, "CUTOVER", "UNDO")
	answered()
	stop()
	watcher.Wait()
	if errors.Is(err, admin.ErrNoAnswer) {
		return false, c.whatWas(err)
	}
	if err != nil {
		return false, heardUndo(err)
	}
	return text == "1", nil
}

// What becomes of a migration whose cutover was undone.
const (
	goesOn    = "the migration goes on, and `redferry cutover` can be given again"
	stopped   = "the migration goes on with `redferry run`, and then `redferry cutover` can be given again"
	inDoubt   = "nobody has asked the target: if `redferry status --target URL` calls the migration completed, what is written here from now on does not come into it"
	completed = "what is written there from now on does not come into the target of a migration that is completed"
)

func fate(done bool, otherwise string) string {
	if done {
		return completed
	}
	return otherwise
}

// sayUndone says what --undo has come to, and what becomes of the migration.
func (c *cutoverCmd) sayUndone(s *streams, source string, had bool, fate string, err error) error {
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s refuses no writes because of migration %q\n", source, c.Name)
	if had {
		text = fmt.Sprintf("%s takes writes again; %s\n", source, fate)
	}
	_, err = fmt.Fprint(s.out, text)
	return err
}
