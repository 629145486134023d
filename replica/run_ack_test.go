package replica

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
)

// ackLog is what a source hears, and when.
type ackLog struct {
	mu    sync.Mutex
	acks  []int64
	times []time.Time
}

// hear reads acknowledgements until the replica is gone.
func (l *ackLog) hear(p *redistest.Peer, check func(offset int64)) {
	for {
		offset := p.WaitAck()
		check(offset)
		l.mu.Lock()
		l.acks, l.times = append(l.acks, offset), append(l.times, time.Now())
		l.mu.Unlock()
	}
}

func (l *ackLog) last() (offset int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.acks) == 0 {
		return -1, 0
	}
	return l.acks[len(l.acks)-1], len(l.acks)
}

// when is the time of the first acknowledgement of offset or beyond.
func (l *ackLog) when(offset int64) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, ack := range l.acks {
		if ack >= offset {
			return l.times[i], true
		}
	}
	return time.Time{}, false
}

// acked ≤ checkpointed, at every single ACK, and both only grow; at the end the source hears all that the drained target holds.
func TestRunAcksWhatIsDurable(t *testing.T) {
	const units = 3000
	var stream bytes.Buffer
	random := rand.New(rand.NewPCG(1, 2))
	for range units {
		switch random.IntN(10) {
		case 0:
			stream.WriteString(resp("REPLCONF", "GETACK", "*"))
		case 1:
			stream.WriteString(resp("MULTI") + resp("INCR", "n") + resp("REPLCONF", "GETACK", "*") + resp("EXEC"))
		default:
			stream.WriteString(resp("SET", "k", "v"))
		}
	}
	end := 1000 + int64(stream.Len())
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 1000}
	var slow atomic.Int64
	sink.onCommit = func(context.Context, int64) error {
		if slow.Add(1) <= 300 {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	var heard ackLog
	src := newSource(t, end, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n")
		text, before := stream.Bytes(), int64(0)
		check := func(offset int64) {
			if durable, _ := sink.Checkpointed(); offset > durable || offset < before {
				t.Errorf("acknowledged %d, after %d, with %d durable", offset, before, durable)
			}
			before = offset
		}
		for len(text) > 0 { // a piece for every few acknowledgements
			n := min(len(text), 1+int(before)%4000)
			p.Send(string(text[:n]))
			text = text[n:]
			check(p.WaitAck())
		}
		heard.hear(p, check)
	})
	r := startRun(t, src.endpoint(), sink)
	eventually(t, "everything read", func() bool { return r.status.Taken.Load() == end })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last word to the source", func() bool { last, _ := heard.last(); return last == end })
}

// A GETACK is answered when what it asks for is durable, not before and not a second later.
func TestRunAnswersGETACK(t *testing.T) {
	t.Parallel()
	const rounds, atOnce = 4, 400 * time.Millisecond
	question := resp("SET", "k", "v") + resp("REPLCONF", "GETACK", "*")
	send := make(chan struct{})
	var heard ackLog
	src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n")
		var asking sync.WaitGroup
		defer asking.Wait()
		asking.Go(func() {
			for range send {
				p.Send(question)
			}
		})
		heard.hear(p, func(int64) {})
	})
	gate := make(chan struct{})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	sink.onCommit = func(ctx context.Context, offset int64) error {
		if offset == 100 {
			return nil
		}
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return nil
	}
	r := startRun(t, src.endpoint(), sink)
	offset, fastest := int64(100), time.Hour
	for round := 0; round < rounds || fastest > atOnce && round < 10*rounds; round++ { // on a busy machine some answers take longer
		send <- struct{}{}
		offset += int64(len(question))
		eventually(t, "the question read", func() bool { return r.status.Taken.Load() == offset })
		_, before := heard.last()
		eventually(t, "another ACK", func() bool { _, n := heard.last(); return n > before })
		if last, _ := heard.last(); last >= offset {
			t.Fatalf("acknowledged %d before %d is durable", last, offset)
		}
		began := time.Now()
		for done := false; !done; { // the question may come in two pieces
			select {
			case gate <- struct{}{}:
			case <-time.After(time.Millisecond):
				_, done = heard.when(offset)
			}
			if time.Since(began) > time.Minute {
				t.Fatal("the question is not answered")
			}
		}
		at, _ := heard.when(offset)
		fastest = min(fastest, at.Sub(began))
	}
	if fastest > atOnce { // what is said each second was said just before, each time
		t.Errorf("the fastest answer took %v", fastest)
	}
	close(send)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// With AckLiveness the source hears that we live, and no offset.
func TestRunAckLiveness(t *testing.T) {
	one := resp("INCR", "n") + resp("REPLCONF", "GETACK", "*")
	var heard ackLog
	src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n" + one)
		heard.hear(p, func(offset int64) {
			if offset != 0 {
				t.Errorf("acknowledged %d", offset)
			}
		})
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	r := startRun(t, src.endpoint(), sink, func(c *RunConfig) { c.AckLiveness = true })
	eventually(t, "some ACKs", func() bool { _, n := heard.last(); return n > 3 && r.status.Taken.Load() > 100 })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// The end of the run waits for what the sink has taken, and tells the source of it.
func TestRunDrains(t *testing.T) {
	stream := resp("SET", "a", "1") + resp("SET", "b", "2")
	end := 100 + int64(len(stream))
	var heard ackLog
	src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n" + stream)
		heard.hear(p, func(int64) {})
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	sink.onCommit = func(ctx context.Context, offset int64) error {
		if offset > 100 {
			<-ctx.Done() // nothing is in before the end begins
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	}
	r := startRun(t, src.endpoint(), sink)
	eventually(t, "both units taken", func() bool { return r.status.Taken.Load() == end })
	if last, _ := heard.last(); last > 100 {
		t.Errorf("acknowledged %d, which is not durable", last)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if at, _, _ := sink.seen(); at.Offset != end {
		t.Errorf("the target is at %d, want %d", at.Offset, end)
	}
	eventually(t, "the last word to the source", func() bool { last, _ := heard.last(); return last == end })
}

// Whatever was read when the end came is in the target: Commit outlives the last Apply.
func TestRunDrainsAllThatWasRead(t *testing.T) {
	burst := bytes.Repeat([]byte(resp("INCR", "n")), 20000)
	src := newSource(t, 1<<40, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n")
		for {
			p.Send(string(burst))
			p.WaitAck()
		}
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	for range 20 {
		before, _ := sink.Checkpointed()
		r := startRun(t, src.endpoint(), sink)
		eventually(t, "the stream flows", func() bool { return r.status.Taken.Load() > before+10000 })
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if at, _, _ := sink.seen(); at.Offset != r.status.Taken.Load() {
			t.Fatalf("read up to %d, durable up to %d", r.status.Taken.Load(), at.Offset)
		}
	}
}

// The last word arrives although the source was still talking.
func TestRunPartsPolitely(t *testing.T) {
	burst := bytes.Repeat([]byte(resp("INCR", "n")), 20000)
	var heard ackLog
	src := newSource(t, 1<<40, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n")
		var talking sync.WaitGroup
		defer talking.Wait()
		talking.Go(func() {
			for range 20 {
				p.Send(string(burst))
			}
		})
		heard.hear(p, func(int64) {})
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	for range 5 {
		before, _ := sink.Checkpointed()
		r := startRun(t, src.endpoint(), sink)
		eventually(t, "the stream flows", func() bool { return r.status.Taken.Load() > before+10000 })
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		at, _, _ := sink.seen()
		eventually(t, "the last word", func() bool { last, _ := heard.last(); return last == at.Offset })
	}
}

// While the RDB arrives the source sees newlines, one a second; while it is loaded, acknowledgements of 0: nothing is durable.
func TestRunKeepsTheSourcesPatience(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	var heard ackLog
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+FULLRESYNC " + testID + " 100\r\n$26\r\n")
		<-arrived
		p.Send(fakeRDB)
		heard.hear(p, func(int64) {})
	})
	var newlines, others atomic.Int64
	var waiting atomic.Bool
	proxy := redistest.NewProxy(t, src.script.Addr())
	proxy.OnData(redistest.FromClient, func(data []byte) redistest.Verdict {
		if waiting.Load() {
			if only := bytes.Count(data, []byte("\n")); only == len(data) {
				newlines.Add(int64(only))
			} else if bytes.Contains(data, []byte("REPLCONF")) { // the side connection has its own words
				others.Add(1)
			}
		}
		return redistest.Pass
	})
	sink := newSink(t)
	release := make(chan struct{})
	sink.onLoad = func(ctx context.Context, snap Snapshot) error {
		<-release
		return readRDB(ctx, snap)
	}
	e := src.endpoint()
	e.Addr = proxy.Addr()
	r := startRun(t, e, sink, stopAtCaughtUp)
	eventually(t, "the snapshot begins", func() bool { _, loads := sink.counts(); return loads == 1 })
	waiting.Store(true)
	began := time.Now()
	eventually(t, "three newlines", func() bool { return newlines.Load() >= 3 }) // the first may be on its way already
	if took := time.Since(began); took < time.Second || took > 20*time.Second {
		t.Errorf("three newlines took %v, want 3 s", took)
	}
	if n := others.Load(); n > 0 {
		t.Errorf("%d times something else was said", n)
	}
	waiting.Store(false)
	close(arrived)
	eventually(t, "acknowledgements", func() bool { _, n := heard.last(); return n > 3 })
	if last, _ := heard.last(); last != 0 {
		t.Errorf("acknowledged %d, and nothing is durable", last)
	}
	close(release)
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	eventually(t, "the last word", func() bool { last, _ := heard.last(); return last == 100 })
}

// An RDB that has arrived whole is loaded although its source is gone, and the stream gone on with when it is back.
func TestRunLoadsWithoutTheSource(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	back := make(chan struct{})
	src := newSource(t, 100, func(p *redistest.Peer, n int, _, _ string) {
		if n == 1 {
			p.FullResync(100, fakeRDB)
			return
		}
		<-back
		p.Send("+CONTINUE\r\n" + one)
		p.Hang()
	})
	sink := newSink(t)
	sink.onLoad = readRDB
	r := startRun(t, src.endpoint(), sink, stopAtOffset(100+int64(len(one))))
	eventually(t, "the snapshot is in", func() bool { have, _ := sink.Checkpointed(); return have == 100 })
	close(back)
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"? -1", testID + " 101"}, src.asked()); diff != "" {
		t.Errorf("PSYNC (-want +got):\n%s", diff)
	}
}

// In sync is left and found again as the source runs ahead and the target follows.
func TestRunStates(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	more := make(chan struct{})
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n")
		select {
		case <-more:
		case <-t.Context().Done():
			return
		}
		p.Send(one)
		p.Hang()
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	r := startRun(t, src.endpoint(), sink)
	eventually(t, "in sync", func() bool { return r.saw(InSync, "up to offset 100") })
	src.grow(100 + int64(len(one)))
	eventually(t, "behind", func() bool { return r.saw(CatchingUp, "21 bytes behind") })
	close(more)
	eventually(t, "in sync again", func() bool { return r.saw(InSync, "up to offset 121") })
	if got := r.status.SourceOffset.Load(); got != 121 {
		t.Errorf("the source's offset is %d, want 121", got)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}
