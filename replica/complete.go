package replica

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// complete ends the migration behind the end of its stream, which was for err: in the target, then at the source.
func (r *run) complete(ctx context.Context, err error) error {
	c := r.closing
	r.closing = nil
	have, _ := r.sink.Checkpointed() // no Commit runs any more
	at := Position{ReplID: r.Spool.IDAt(have), Offset: have}
	if errors.Is(err, errCutOver) {
		if err := markPosition(r.Cutover.File, at); err != nil {
			r.Log.Warn().Err(err).Msg("cannot note the offset of the cutover")
		}
		r.Status.Set(CuttingOver, "the target has all that the source has acknowledged; it is made the one to write to")
		err = r.tombstone(ctx, c)
	}
	if err == nil {
		if err := r.finish(ctx, c, CutoverReport{At: at, Stopped: c.stopped, Done: time.Now(), Resumed: c.resumed}); err != nil {
			return err
		}
		return errStopAt
	}
	err = fmt.Errorf("complete the migration in the target: %w", err)
	switch {
	case !c.refuses():
		c.writes.unpause()
		c.end(CutoverReport{}, err)
		return err
	case c.undo != nil: // still has heard of it: there is no tombstone, and there will be none
		undoing := r.giveUp(ctx, c, false)
		if undoing == nil {
			c.end(CutoverReport{}, err)
			return errNotCut
		}
		err = errors.Join(err, undoing)
	}
	r.Log.Error().Err(err).Msg("the source refuses writes, and the target is not yet the one to write to: redferry tries again; `redferry cutover --undo` opens the source")
	c.end(CutoverReport{}, fmt.Errorf("%w: %w", ErrCutoverBegun, err))
	if ctx.Err() != nil {
		return &Stop{
			Kind: Failed, Reason: "stopped in the midst of a cutover: the source refuses writes, and the target may not be the one to write to yet", Err: err,
			Hint: "run the same command again, which finishes it; or redferry cutover --undo --source URL --target URL",
		}
	}
	if c.no != nil { // the next attempt looks what is to become of it
		return errNotCut
	}
	return err
}

// tombstone completes the migration in the target; where only a pause keeps writes from the source, not beyond its end.
func (r *run) tombstone(ctx context.Context, c *closing) error {
	if c.refuses() {
		return r.Cutover.Closer.Complete(ctx, func(ctx context.Context) error { return r.still(ctx, c) })
	}
	if c.writes.stop != nil {
		if err := c.writes.stillPaused(); err != nil {
			return err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, c.writes.pausedUntil())
		defer cancel()
	}
	return r.Cutover.Closer.Complete(ctx, func(context.Context) error { return c.writes.stillPaused() })
}

// still is an error when the target may not become the one to write to any more: the cutover was undone, here or by hand, or
// the source is not what it was when it was made to refuse writes.
func (r *run) still(ctx context.Context, c *closing) error {
	c.no = r.speaksAgainst(ctx, c)
	return c.no
}

func (r *run) speaksAgainst(ctx context.Context, c *closing) error {
	select {
	case c.undo = <-r.Cutover.Orders.undos:
	default:
	}
	if c.undo != nil {
		return errUndone
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limitsTimeout)
	defer cancel()
	// A source that has failed over may still be as it was: a Sentinel promotes the next primary before it tells the last one.
	// Of a single host that was found a moment ago, beside the last drain, its own connection tells enough.
	if len(r.Source.Hosts) > 0 || time.Since(c.writes.looked) > lookAgain {
		if err := c.writes.look(ctx, r.Source); err != nil {
			return err
		}
	}
	return c.writes.stillRefuses(ctx)
}

// tooLate answers whoever wants a cutover undone that has come to its end, until end is called.
func (r *run) tooLate() (end func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case u := <-r.Cutover.Orders.undos:
				u.answer <- undone{err: &Stop{
					Kind: Decide, Reason: "it is too late: the target is the one to write to",
					Hint: "once the run has ended, redferry cutover --undo --source URL opens the source nevertheless; what is written there then does not come into the target",
				}}
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// finish is what comes behind the tombstone: the hook, the clients that wait at the source, and, beside these, the rest of the target's TTLs.
func (r *run) finish(ctx context.Context, c *closing, report CutoverReport) error {
	defer r.tooLate()()
	released := r.releaseBeside()
	r.Status.Set(CuttingOver, "the target is the one to write to; it is given the TTLs of the keys that expire soon")
	report.Source = c.writes.becomes(ctx, c.config.After)
	if r.Cutover.Completed != nil {
		if report.Hook = r.Cutover.Completed(ctx, report); report.Hook != nil {
			r.Log.Error().Err(report.Hook).Msg("what was to be run after the cutover has failed: run it by hand; the cutover itself is done")
		}
	}
	switch {
	case c.refuses():
		c.writes.release(ctx)
	case c.config.After != SourcePaused:
		c.writes.unpause()
	}
	report.Clients, report.Ended = c.writes.clients(ctx, c.config.EndClients)
	if err := markDone(r.Cutover.File); err != nil {
		r.Log.Warn().Err(err).Msg("cannot note that the cutover is done")
	}
	if err := released(); err != nil {
		c.end(report, fmt.Errorf("%w: %w", ErrCutoverDone, err))
		return err
	}
	r.Status.Set(Completed, fmt.Sprintf("the target has all up to offset %d; the source %s", report.At.Offset, report.Source))
	c.end(report, nil)
	return nil
}
