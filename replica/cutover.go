package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A cutover ends a migration for good while its source is in use: clients move from the source to the target, and no write that the source has acknowledged may be missing there.
//
// Up to the point of no return all can be undone, and is, when anything fails or takes too long; then the source goes on as before. That point is where the source is made to
// refuse writes, not where the target's checkpoint becomes a tombstone, as one might expect: between a tombstone and a refusal a process that dies would leave a source that takes writes, when
// its pause has run out, and a target that takes none of them. A process that dies behind a refusal leaves a source that takes none, and a checkpoint that can be gone on from: the
// next run catches up, finds the note of the refusal, and finishes what was begun. That order makes the pause a courtesy: clients wait instead of being refused until it is certain that the cutover
// will come to its end.

// Cutover says how a migration is to be ended.
type Cutover struct {
	// Timeout is for how long the source's writes may be stopped before the attempt is given up, and the longest that they are when this process dies; 0 for the default.
	Timeout time.Duration
	// Force goes on although something speaks against the target being equal.
	Force bool
	// WritesStopped is the operator's word that nobody writes to the source any more. Where CLIENT PAUSE does not stop them, on a replica or before Redis 6.2.7, there is no cutover without it.
	WritesStopped bool
	// After is what becomes of the source; "" for SourceRefuses.
	After SourceAfter
	// EndClients closes the connections of the source's clients once the target is the one to write to. Clients that wait
	// there for something, such as a queue that nobody fills any more, notice it by that.
	EndClients bool
	// CompareAll compares the ends key by key, while they are in use. It is called where replies to some writes were lost, and nothing else speaks against the target: what it finds equal needs
	// no reply. nil leaves that to Force.
	CompareAll func(ctx context.Context) error
	// Compare looks at both ends when the source's writes are stopped and the target has all of them. An error ends the attempt. nil for no look.
	Compare func(ctx context.Context) error
}

// SourceAfter is what becomes of a source behind a cutover.
type SourceAfter string

// The ways to leave a source.
const (
	SourceRefuses SourceAfter = "refuse" // it refuses writes, also those that have waited in the pause
	SourcePaused  SourceAfter = "paused" // its writes wait for the rest of the timeout, and are carried out then
	SourceOpen    SourceAfter = "open"   // it goes on: for a source whose clients are gone, or which nobody cares for
)

// DefaultCutoverTimeout is Timeout where it is not given.
const DefaultCutoverTimeout = 30 * time.Second

// CutoverReport is what a cutover has come to.
type CutoverReport struct {
	At      Position  // that the target has
	Stopped time.Time // since when no write to the source has been acknowledged; zero when the operator has stopped them
	Done    time.Time // when the target was on its own
	Source  string    // what has become of it, in words
	Resumed bool      // an earlier process had begun it
	Hook    error     // of CutoverConfig.Completed; the cutover is done all the same
	Clients int64     // that are still connected to the source; -1 when it does not say
	Ended   int64     // clients of the source whose connections were closed
}

// WritesStopped is for how long nobody could write: from the source's last acknowledged write until the target was ready for the next one. 0 when it is not known.
func (r *CutoverReport) WritesStopped() time.Duration {
	if r.Stopped.IsZero() {
		return 0
	}
	return r.Done.Sub(r.Stopped)
}

// Closer is what a sink has to be able to do for a cutover. Like [Sink], it is called by [Run] alone.
type Closer interface {
	// Doubts are the reasons why the target may not equal the source, in words; none when nothing is known against it. unchecked tells that replies to some writes were lost, which says little.
	// Any goroutine may ask.
	Doubts() (why []string, unchecked bool)
	ReplyRecord
	RefusalRecord
	// Expired tells whether the target may have expired keys by itself that the source has renewed. Any goroutine may ask.
	Expired() bool
	// Intact has Expired tell that of now. It is called when the target has all that the source has written, while Commit goes on.
	Intact(ctx context.Context) error
	// Equal begins a comparison of all keys, while Commit goes on. What it returns is to be called when they are equal: then nothing that was unknown when it began is unknown any more.
	Equal(ctx context.Context) (equal func(ctx context.Context) error, err error)
	// Complete makes the target one that no process writes to any more, and takes from it what was only there for the migration, but for the mark that it is completed. It is called
	// behind Settle, when Commit has ended, and before Release. It asks still before each try, when no earlier try can take
	// effect any more, and returns its error. Any other error leaves it unknown whether that has happened; the next Resume tells ErrCompleted if it has.
	Complete(ctx context.Context, still func(ctx context.Context) error) error
}

// CutoverConfig is what a run that can be cut over needs.
type CutoverConfig struct {
	Closer Closer
	Orders *Orders
	// Auto cuts over as soon as the run is in sync, without being asked, and again after a while when that fails; nil for not.
	Auto *Cutover
	// CompareAll is that of a cutover which is finished without being asked for.
	CompareAll func(ctx context.Context) error
	// File is where is noted that the source refuses writes because of us, in a directory that outlives the process.
	File string
	// Completed hears of the end, before writes that wait at the source are let go: this is where clients are sent to the target. It is called once, or once more by the next run when a process
	// has died in it. Its error is told and changes nothing.
	Completed func(ctx context.Context, r CutoverReport) error
}

// errCutOver ends a stream behind which the target is to be completed; errNotCut one that goes on as before.
var (
	errCutOver = errors.New("cut over")
	errNotCut  = errors.New("no cutover")
)

// An automatic cutover that has failed is left alone for a while, longer each time: it stops the source's writes.
const (
	autoAgain  = 10 * time.Second
	autoSeldom = 10 * time.Minute
)

// ErrCutoverBegun says of an error that the cutover has passed the point of no return, and is gone on with.
var ErrCutoverBegun = errors.New("the source refuses writes, and the cutover is gone on with")

// ErrCutoverDone says of an error that the cutover itself is done: only the rest of the TTLs is left.
var ErrCutoverDone = errors.New("the target is the one to write to; the TTLs of some of its keys are still to be brought back")

// closing is a cutover under way, from the pause to the end of the run.
type closing struct {
	order   *order // nil for none that anybody waits for
	undo    *undo  // somebody wants it undone; nil for nobody
	no      error  // what has kept the tombstone from being written
	config  Cutover
	writes  *sourceWrites
	stopped time.Time
	resumed bool
}

// refuses tells whether the source is made to refuse writes: behind that there is no way back.
func (c *closing) refuses() bool { return c.config.After == SourceRefuses && c.writes.primary }

// notes are where a cutover of this run notes what it does to the source.
func (r *run) notes() notes { return notes{path: r.Cutover.File, record: r.Cutover.Closer} }

// nextOrder waits for a cutover to be asked for: by an operator, by the configuration, or by the note of a process that has died in one.
func (r *run) nextOrder(ctx context.Context) (*closing, error) {
	if r.Cutover == nil || r.StopAt != (StopAt{}) { // which settles, too, and ends the run
		<-ctx.Done()
		return nil, ctx.Err()
	}
	begun, err := r.begun(ctx)
	for said := false; err != nil; begun, err = r.begun(ctx) { // the source may be away, which is no matter of applying
		if AsStop(err) != nil {
			return nil, err
		}
		if !said {
			said = true
			r.Log.Warn().Err(err).Msg("redferry cannot ask the source whether a cutover has made it refuse writes; it asks again each second")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case u := <-r.Cutover.Orders.undos:
			u.answer <- undone{err: err}
		case <-time.After(time.Second):
		}
	}
	for {
		var unasked <-chan time.Time
		if begun != nil || r.Cutover.Auto != nil {
			unasked = time.After(time.Until(r.autoAfter))
		}
		select {
		case o := <-r.Cutover.Orders.cutovers:
			c := &closing{order: o, config: o.Cutover, resumed: begun != nil}
			if c.resumed { // whatever is wanted now: the note says how the source was, and stays
				c.config.After = SourceRefuses
			}
			return c, nil
		case u := <-r.Cutover.Orders.undos:
			u.answer <- r.openAgain(ctx, true)
			begun = nil
			r.autoAfter = time.Now().Add(r.autoPause.NextBackOff())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-unasked:
			if begun == nil {
				return &closing{config: *r.Cutover.Auto}, nil
			}
			// What spoke against it was asked then; the last replies may have been lost with that process.
			return &closing{config: Cutover{After: SourceRefuses, Force: begun.Force, CompareAll: r.Cutover.CompareAll}, resumed: true}, nil
		}
	}
}

// begun is the note of a cutover that has not come to its end while the source refuses writes because of it; nil for none. Where the source has been opened by hand since the note is dropped: nothing may
// happen by surprise.
func (r *run) begun(ctx context.Context) (*cutoverNote, error) {
	note, err := r.notes().read()
	if err != nil {
		return nil, err
	}
	ours := note != nil && note.Refuses && !note.Done // one that is done is of an earlier migration of this name
	if !ours && r.lookedAtRefusal {
		return nil, nil
	}
	w, err := dialWrites(ctx, r.Source, r.notes())
	if err != nil && !ours { // the next attempt looks: nobody who asks for a cutover is to wait for it
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer w.close()
	refuses, err := w.refuses(ctx)
	if !ours {
		r.lookedAtRefusal = true
		if err == nil && refuses { // that it may not be asked is no matter yet
			r.Status.ForeignRefusal.Store(true)
			stop := w.foreign()
			r.Log.Warn().Str("hint", stop.Hint).Msg(stop.Reason)
		}
		return nil, nil
	}
	if !note.of(w) && r.openLast(ctx, note) {
		r.Log.Warn().Str("addr", note.Addr).Time("since", note.Since).
			Msg("the source has failed over since a cutover made it refuse writes: the cutover is not finished, and the last primary has its settings back")
		return nil, r.notes().forget(ctx)
	}
	if !note.of(w) {
		r.Log.Error().Str("addr", note.Addr).Time("since", note.Since).Str("hint", note.byHand()).
			Msg("a cutover has made that server refuse writes, and the source is another one now: the cutover is not finished; the hint opens that server again")
		return nil, errors.Join(note.setAside(r.Cutover.File), r.notes().forget(ctx))
	}
	if err != nil {
		return nil, err
	}
	if !w.primary { // it refuses nothing that its primary takes
		r.Log.Error().Str("source", w.server.String()).Time("since", note.Since).
			Msg("a cutover has made the source refuse writes, and it was made a replica since: the cutover is not finished, and the source gets its settings back")
		return nil, errors.Join(w.reopen(), r.notes().forget(ctx))
	}
	if !refuses {
		if err := errors.Join(w.reopen(), r.notes().forget(ctx)); err != nil { // what is left of it
			return nil, err
		}
		r.Log.Warn().Time("since", note.Since).Msg("a cutover was begun and did not come to its end, and the source takes writes again: nothing is finished")
		return nil, nil
	}
	if err := note.write(r.Cutover.File); err != nil { // it may be another machine's, and only the target knew of it
		return nil, err
	}
	r.Log.Warn().Time("since", note.Since).Msg("the source refuses writes since a cutover that did not come to its end: redferry finishes it now; `redferry cutover --undo` opens the source instead")
	return note, nil
}

// cutOvers waits for a cutover and carries it out up to the point of no return: its error is errCutOver then. When that fails it is errNotCut, and applying begins anew, with expiries
// shifted again.
func (r *run) cutOvers(ctx context.Context) error {
	c, err := r.nextOrder(ctx)
	if err != nil {
		return err
	}
	if c.config.Timeout <= 0 {
		c.config.Timeout = DefaultCutoverTimeout
	}
	if c.config.After == "" {
		c.config.After = SourceRefuses
	}
	if err = r.cutOver(ctx, c); err == nil && c.undo == nil {
		r.closing = c
		return errCutOver
	}
	text := "no cutover; replication goes on as before"
	if c.undo != nil {
		if c.writes != nil {
			c.writes.unpause() // where the source was to be left open, or paused, nothing else is to be put back
		}
		err = cmp.Or(r.giveUp(ctx, c, ctx.Err() == nil), errUndone)
	}
	if begun, _ := CutoverBegun(r.Cutover.File); begun { // by an earlier process; or the source could not be opened again
		err = fmt.Errorf("%w: %w", ErrCutoverBegun, err)
		text = "the cutover that was begun cannot be finished yet, and the source goes on refusing writes; `redferry cutover --undo` opens it"
	} else {
		soon, cancel := context.WithTimeout(ctx, askTime) // who has asked waits for the answer
		if noted := r.notes().forget(soon); noted != nil {
			r.Log.Debug().Err(noted).Msg("cannot note in the target that the source is open; the next attempt does")
		}
		cancel()
	}
	c.end(CutoverReport{}, err)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := r.Log.Warn()
	if stop := AsStop(err); stop != nil {
		e.Str("hint", stop.Hint)
	}
	e.Err(err).Msg(text)
	r.autoAfter = time.Now().Add(r.autoPause.NextBackOff())
	return errNotCut
}

// end gives the answer to who has asked, and lets go of the source's connection.
func (c *closing) end(report CutoverReport, err error) {
	if c.writes != nil {
		c.writes.close()
		c.writes = nil
	}
	if c.order != nil {
		c.order.answer <- answer{report, err}
		c.order = nil
	}
}

// cutOver goes from in sync to the point of no return, or back. Who has asked for it can take it back meanwhile, and anybody
// can undo it.
func (r *run) cutOver(ctx context.Context, c *closing) (err error) {
	ctx, stop := context.WithCancelCause(ctx)
	if c.order != nil {
		asked := c.order.ctx // end forgets the order, perhaps while the function runs
		defer context.AfterFunc(asked, func() { stop(fmt.Errorf("it was taken back: %w", context.Cause(asked))) })()
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		select {
		case c.undo = <-r.Cutover.Orders.undos:
			stop(errUndone)
		case <-ctx.Done():
		}
	}()
	defer func() {
		stop(nil)
		<-listening
	}()
	if r.Gate.Paused() {
		return &Stop{Kind: Decide, Reason: "the migration is paused", Hint: "redferry resume"}
	}
	if c.writes, err = dialWrites(ctx, r.Source, r.notes()); err != nil {
		return causeOf(ctx, err)
	}
	if !c.resumed { // else nothing is paused
		if err := c.writes.admit(ctx, &c.config); err != nil {
			return causeOf(ctx, err)
		}
	}
	if err := r.compareAll(ctx, c); err != nil {
		return causeOf(ctx, err)
	}
	if err := r.settleBefore(ctx, c.config.Timeout); err != nil {
		return causeOf(ctx, err)
	}
	if err := r.noDoubts(c); err != nil { // settling may have shown some
		return err
	}
	return r.stopWrites(ctx, c)
}

// compareAll has the ends compared where replies are all that speaks against the target, lost ones or suspects: only the keys that those were about, if they are known. It takes its time, and so comes before
// settling, behind which the target must not be left to fall behind; a reply that is lost later ends the attempt, and the next one compares.
func (r *run) compareAll(ctx context.Context, c *closing) error {
	suspects, err := r.compareKnown(ctx, c.config.Force)
	if err != nil {
		return err
	}
	doubts, unchecked := r.Cutover.Closer.Doubts()
	unknown := unchecked && !c.resumed || r.Cutover.Closer.Expired()
	compares := len(doubts) == 0 && unknown || len(doubts) == 1 && len(suspects.Counts) > 0 && !c.resumed // which are that one
	if !compares || c.config.Force || c.config.CompareAll == nil {
		return r.noDoubts(c)
	}
	r.Status.Set(Comparing, "something speaks against the target, or is unknown of it: source and target are compared, key by key")
	equal, err := r.Cutover.Closer.Equal(ctx)
	if err != nil {
		return err
	}
	if err := c.config.CompareAll(ctx); err != nil {
		return err
	}
	return errors.Join(equal(ctx), r.Cutover.Closer.Cleared(ctx, suspects))
}

// noDoubts is an error when the target may not equal the source.
func (r *run) noDoubts(c *closing) error {
	doubts, unchecked := r.Cutover.Closer.Doubts()
	lost := unchecked && !c.resumed || r.Cutover.Closer.Expired() // an earlier process has seen to that; its last replies may have been lost with it
	switch {
	case c.config.Force, len(doubts) == 0 && !lost:
		return nil
	case len(doubts) == 0 && c.config.CompareAll != nil:
		return &Stop{Kind: Failed, Reason: "the replies to some writes were lost meanwhile, or the target may have expired keys by itself", Hint: "the same command again: it compares source and target first"}
	case lost:
		doubts = append(doubts, "the replies to some writes were lost, or it may have expired keys by itself that the source has renewed")
	}
	return &Stop{
		Kind: Refused, Reason: "the target may not equal the source: " + strings.Join(doubts, "; "),
		Hint: "redferry verify tells what differs; cutover --force goes on nevertheless",
	}
}

// stopWrites pauses the source's writes, and makes sure that the target has all of them, within the timeout; then it has the source refuse them. Until then ctx can end it.
func (r *run) stopWrites(ctx context.Context, c *closing) (err error) {
	tooLong := fmt.Errorf("the source's writes were stopped for %v, which is the timeout", c.config.Timeout)
	waiting, cancel := context.WithTimeoutCause(ctx, c.config.Timeout, tooLong)
	defer cancel()
	asking, cancelAsking := context.WithTimeoutCause(context.WithoutCancel(ctx), c.config.Timeout, tooLong) // what the source is to do, which must not be left half done
	defer cancelAsking()
	r.Status.Set(CuttingOver, "the source's writes are being stopped")
	w := c.writes
	if err := w.look(waiting, r.Source); err != nil { // settling took its time
		return causeOf(waiting, err)
	}
	if !c.config.WritesStopped && !c.resumed {
		if err := w.notPaused(waiting); err != nil {
			return causeOf(waiting, err)
		}
		c.stopped = time.Now()
		if err := w.pause(asking, c.config.Timeout); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				w.unpause()
			}
		}()
	}
	if err := r.drain(waiting, w); err != nil {
		return causeOf(waiting, err)
	}
	if err := r.noDoubts(c); err != nil { // of what came last
		return err
	}
	if c.config.Compare != nil {
		if err := c.config.Compare(waiting); err != nil {
			return causeOf(waiting, err)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !c.refuses() {
		if err := w.leave(); err != nil {
			return err
		}
		return w.stillPaused()
	}
	if err := w.refuse(waiting, asking, c.config.Force); err != nil {
		return err
	}
	// What the source has taken up to its refusal is all that it will ever acknowledge, however long the pause really was.
	last, cancelLast := context.WithTimeoutCause(ctx, c.config.Timeout, fmt.Errorf("the target did not get the last writes within %v", c.config.Timeout))
	defer cancelLast()
	looked := make(chan error, 1)
	go func() { looked <- w.look(last, r.Source) }()
	err = r.drain(last, w)
	if other := <-looked; err == nil {
		err = other
	}
	if err == nil {
		err = r.noDoubts(c)
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = causeOf(last, err)
		if !c.resumed {
			err = errors.Join(err, w.reopen())
		}
	}
	return err
}

// drain waits until the target has all that the source has written by now.
func (r *run) drain(ctx context.Context, w *sourceWrites) error {
	offset, _, err := w.src.offset(ctx, r.Spool.Contents().EndID)
	if err != nil {
		return err
	}
	r.Status.Set(CuttingOver, fmt.Sprintf("the source's writes are stopped; the target gets the rest, up to offset %d", offset))
	if err := Reach(ctx, r.sink, offset); err != nil {
		return err
	}
	return r.Cutover.Closer.Intact(ctx)
}
