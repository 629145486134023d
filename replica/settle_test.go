package replica

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// A run that stops when it is caught up settles first, beside the stream; and what came until it is done is durable.
func TestRunSettlesBesideTheStream(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	settling, more := make(chan struct{}), make(chan struct{})
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE " + testID + "\r\n")
		<-settling
		p.Send(one)
		close(more)
		p.Hang()
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	end := 100 + int64(len(one))
	sink.onSettle = func(ctx context.Context) error {
		close(settling)
		<-more
		src.grow(end)
		for have, moved := sink.Checkpointed(); have < end; have, moved = sink.Checkpointed() {
			select {
			case <-moved:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	released := false
	sink.onRelease = func(context.Context) error {
		released = sink.drained // Commit has ended
		return nil
	}
	r := startRun(t, src.endpoint(), sink, stopAtCaughtUp)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if !released {
		t.Error("it was not released at the end of the stream")
	}
	if at, units, _ := sink.seen(); at.Offset != end || len(units) != 1 {
		t.Errorf("the sink is at %v with %d units", at, len(units))
	}
	if !r.saw(InSync, "") || !r.saw(Settling, "") {
		t.Errorf("states %q, want in_sync, then settling", r.states)
	}
}

// With an offset to stop at nothing comes any more that could be late: the sink has nothing to settle beside, and releases once it has all.
func TestRunReleasesAtAnOffset(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	end := 100 + int64(len(one))
	src := newSource(t, end+int64(len(one)), func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE " + testID + "\r\n" + one + one)
		p.Hang()
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	sink.onSettle = func(context.Context) error {
		t.Error("it settles")
		return nil
	}
	releases := 0
	sink.onRelease = func(context.Context) error {
		releases++
		if at, _, _ := sink.seen(); at.Offset != end || !sink.drained {
			t.Errorf("released at offset %d, want %d", at.Offset, end)
		}
		return nil
	}
	if err := startRun(t, src.endpoint(), sink, stopAtOffset(end)).wait(); err != nil {
		t.Fatal(err)
	}
	if releases != 1 {
		t.Errorf("released %d times", releases)
	}
}

// An error of settling starts over from the target's checkpoint, as any other.
func TestRunSettlesAnewAfterAnError(t *testing.T) {
	t.Parallel()
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE " + testID + "\r\n")
		p.Hang()
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	tries := 0
	sink.onSettle = func(context.Context) error {
		if tries++; tries == 1 {
			return errors.New("the target is away")
		}
		return nil
	}
	r := startRun(t, src.endpoint(), sink, stopAtCaughtUp)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if resumes, _ := sink.counts(); tries != 2 || resumes != 2 {
		t.Errorf("it settled %d times and resumed %d times, want 2 and 2", tries, resumes)
	}
}

// A unit knows when it was received, by the source's clock: never too early, and at most 100 ms too late.
func TestUnitKnowsWhen(t *testing.T) {
	t.Parallel()
	one := resp("EXPIRE", "k", "10")
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE " + testID + "\r\n" + strings.Repeat(one, 3))
		p.Hang()
	})
	sink := &whenSink{sinkDouble: newSink(t), held: make(chan struct{})}
	sink.at = Position{ReplID: testID, Offset: 100}
	began := time.Now().UnixMilli()
	r := startRun(t, src.endpoint(), sink, stopAtOffset(100+int64(3*len(one))))
	eventually(t, "all is received", func() bool { return r.status.Received.Load() == 100+int64(3*len(one)) })
	arrived := time.Now().UnixMilli()
	time.Sleep(300 * time.Millisecond)
	close(sink.held) // only now is it applied
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if len(sink.when) != 3 {
		t.Fatalf("%d units, want 3", len(sink.when))
	}
	for _, when := range sink.when {
		if when < began-1 || when > arrived+100 {
			t.Errorf("received at %d, want from %d to %d", when, began, arrived+100)
		}
	}
}

// whenSink keeps when units were received, and takes none before held is closed.
type whenSink struct {
	*sinkDouble
	held chan struct{}
	when []int64
}

func (s *whenSink) Apply(ctx context.Context, u *Unit) error {
	<-s.held
	s.when = append(s.when, u.When())
	return s.sinkDouble.Apply(ctx, u)
}
