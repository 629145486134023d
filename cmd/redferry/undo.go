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
			return c.sayUndone(s, "the source", had, false, err)
		}
	}
	if c.Source == "" {
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
	if c.Force {
		had, err := replica.UndoCutover(ctx, source, cutoverFile(dir), nil)
		return c.sayUndone(s, source.String(), had, false, err)
	}
	home, err := c.open()
	if err != nil {
		return err
	}
	defer home.Close()
	if c.Target == "" {
		done, err := replica.CutoverDone(cutoverFile(dir))
		begun := notBegun(dir)
		switch {
		case err != nil:
			return err
		case begun != nil:
			return &replica.Stop{
				Kind: replica.Config, Reason: "a cutover of this migration was begun and has not come to its end, so --undo wants --target, too: " +
					"a process elsewhere could still finish it",
				Hint: "redferry cutover --undo --source URL --target URL; or --force, where the target cannot be reached",
			}
		}
		had, err := replica.UndoCutover(ctx, source, cutoverFile(dir), nil)
		return c.sayUndone(s, source.String(), had, done, err)
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
	had, err := replica.UndoCutover(ctx, source, cutoverFile(dir), u)
	return c.sayUndone(s, source.String(), had, u.Before.Record.Phase == checkpoint.PhaseCompleted, err)
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

// sayUndone says what --undo has come to. completed tells that the cutover had come to its end.
func (c *cutoverCmd) sayUndone(s *streams, source string, had, completed bool, err error) error {
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s refuses no writes because of migration %q\n", source, c.Name)
	switch {
	case had && completed:
		text = fmt.Sprintf("%s takes writes again; what is written there from now on does not come into the target of a migration that is completed\n", source)
	case had:
		text = fmt.Sprintf("%s takes writes again; the migration goes on, and `redferry cutover` can be given again\n", source)
	}
	_, err = fmt.Fprint(s.out, text)
	return err
}
