package replica

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// When the source's writes are over, the sink gives the target what Settle had to leave. That comes after a cutover's tombstone, so that it
// does not make the stop of writes longer, and after the stream of a run that stops by itself. Clients use the target meanwhile. A process
// that dies in it leaves a target that the next run, or a reset, finishes.

// release waits for the sink's Release. Its error says what is to be done.
func (r *run) release() error {
	err := r.sink.Release(r.whole)
	if err == nil || AsStop(err) != nil {
		return err
	}
	return &Stop{
		Kind: Failed, Err: err, Hint: "run the same command again: it begins with what is left",
		Reason: "the run was ended before the target had the TTLs of all keys",
	}
}

// releaseBeside releases beside what else is to be done, and returns what waits for its end.
func (r *run) releaseBeside() (wait func() error) {
	released := make(chan error, 1)
	go func() { released <- r.release() }()
	return func() error { return <-released }
}

// releaseStopped releases at the end of a stream that has come to where the run stops.
func (r *run) releaseStopped(err error) error {
	if !errors.Is(err, errStopAt) {
		return err
	}
	have, _ := r.sink.Checkpointed()
	r.Status.Set(Settling, fmt.Sprintf("the target has all up to offset %d; it is given the TTLs of the keys that expire soon", have))
	if released := r.sink.Release(r.whole); released != nil {
		return released
	}
	return err
}

// finishLate does what a process did not come to that has died behind the tombstone. It is for a run that finds its migration completed, for which err is.
func (r *run) finishLate(ctx context.Context, err error) error {
	var left error
	if c, report := r.leftBegun(ctx); c != nil {
		left = r.finish(ctx, c, report)
	} else {
		left = r.release()
	}
	if left != nil {
		return left
	}
	return err
}

// leftBegun is a cutover that a process has left behind the tombstone, by its note; nil for none.
func (r *run) leftBegun(ctx context.Context) (*closing, CutoverReport) {
	if r.Cutover == nil {
		return nil, CutoverReport{}
	}
	note, err := r.notes().read()
	if err != nil || note == nil || note.Done {
		return nil, CutoverReport{}
	}
	w, err := dialWrites(ctx, r.Source, r.notes())
	if err != nil {
		r.Log.Warn().Err(err).Msg("cannot look whether the source refuses writes, as a cutover has left it")
		return nil, CutoverReport{}
	}
	after := SourceOpen
	if note.Refuses {
		after = SourceRefuses
	}
	return &closing{config: Cutover{After: after}, writes: w, resumed: true}, CutoverReport{At: Position{ReplID: note.ReplID, Offset: note.Offset}, Done: time.Now(), Resumed: true}
}
