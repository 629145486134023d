package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"redferry/internal/redistest"
)

const otherID = "fedcba9876543210fedcba9876543210fedcba98"

// From nothing to the end: a full resync, what comes after it, and the run is over once that is durable.
func TestRunFromNothing(t *testing.T) {
	const rdb = "not really an RDB"
	stream := resp("SELECT", "2") + resp("SET", "a", "1") + resp("MULTI") + resp("INCR", "n") + resp("DEL", "a") + resp("EXEC") + resp("SET", "b", "2")
	end := 100 + int64(len(stream))
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.FullResync(100, rdb)
		p.WaitAck() // a diskless source streams only then
		p.Send(stream)
		p.Hang()
	})
	sink := newSink(t)
	sink.onLoad = readRDB(int64(len(rdb)))
	r := startRun(t, src.endpoint(), sink, stopAtOffset(end))
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"? -1"}, src.asked()); diff != "" {
		t.Errorf("PSYNC (-want +got):\n%s", diff)
	}
	at, units, _ := sink.seen()
	if want := (Position{testID, end, 2}); at != want {
		t.Errorf("the sink is at %v, want %v", at, want)
	}
	var cmds []string
	for _, u := range units {
		cmds = append(cmds, strings.Join(u.Cmds, "; "))
	}
	if diff := cmp.Diff([]string{"db2 SET a 1", "db2 INCR n; db2 DEL a", "db2 SET b 2"}, cmds); diff != "" {
		t.Errorf("units (-want +got):\n%s", diff)
	}
	for _, state := range []State{Connecting, Loading, CatchingUp} {
		if !r.saw(state, "") {
			t.Errorf("it was never %s: %q", state, r.states)
		}
	}
	if n := r.status.FullResyncs.Load(); n != 1 {
		t.Errorf("%d full resyncs are counted", n)
	}
}

// What ends a run before it has asked the source for anything: PSYNC is not sent, so no source forks for it.
func TestRunRefusesBeforePSYNC(t *testing.T) {
	never := &Stop{Kind: Decide, Reason: "a full resync is not allowed", Hint: "allow it"}
	tests := []struct {
		name   string
		info   map[string]string
		resume Resume
		err    error
		want   error  // the very error, or
		stop   string // contained in a Stop of never's kind and hint
	}{
		{name: "a completed migration", err: fmt.Errorf("wrapped: %w", ErrCompleted), want: ErrCompleted},
		{name: "the sink stops", err: never, want: never},
		{name: "nothing to go on from, and no full resync", resume: Resume{FullResync: never}, want: never},
		{
			name: "the backlog begins later", info: map[string]string{"repl_backlog_first_byte_offset": "52"},
			resume: Resume{From: Position{ReplID: testID, Offset: 50}, FullResync: never}, stop: "1 bytes are gone",
		},
		{
			name: "the source is behind", resume: Resume{From: Position{ReplID: testID, Offset: 101}, FullResync: never}, stop: "the source only at 100",
		},
		{
			name: "another history", resume: Resume{From: Position{ReplID: otherID, Offset: 50}, FullResync: never}, stop: "belongs to the replication ID " + otherID,
		},
		{
			name: "no backlog", info: map[string]string{"repl_backlog_active": "0"},
			resume: Resume{From: Position{ReplID: testID, Offset: 50}, FullResync: never}, stop: "keeps no backlog",
		},
		{
			name: "bytes lost in a failover", info: map[string]string{"master_replid": otherID, "master_replid2": testID, "second_repl_offset": "41"},
			resume: Resume{From: Position{ReplID: testID, Offset: 50}, FullResync: never}, stop: "10 bytes were lost in the failover",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 100, func(*redistest.Peer, int, string, string) {})
			for field, value := range test.info {
				src.set(field, value)
			}
			sink := newSink(t)
			sink.onResume = func(int, SourceInfo) (Resume, error) { return test.resume, test.err }
			err := startRun(t, src.endpoint(), sink).wait()
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if test.stop != "" {
				stop := AsStop(err)
				if stop == nil || stop.Kind != Decide || stop.Hint != never.Hint || !strings.Contains(stop.Reason, test.stop) || !strings.Contains(stop.Reason, never.Reason) {
					t.Errorf("got %+v, want a Stop with %q", err, test.stop)
				}
			}
			if got := src.asked(); len(got) > 0 {
				t.Errorf("the source heard PSYNC %q", got)
			}
		})
	}
}

// The backlog may lose the position between INFO and PSYNC: then the source's full resync is refused, too.
func TestRunRefusesFullResyncThatRaces(t *testing.T) {
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.FullResync(100, "RDB")
		p.Hang()
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 50}
	sink.onResume = func(int, SourceInfo) (Resume, error) {
		return Resume{From: sink.at, FullResync: &Stop{Kind: Decide, Reason: "not allowed"}}, nil
	}
	err := startRun(t, src.endpoint(), sink).wait()
	if stop := AsStop(err); stop == nil || stop.Kind != Decide || !strings.Contains(stop.Reason, "answered PSYNC with a full resync") {
		t.Errorf("got %v, want a Stop", err)
	}
	if _, loads := sink.counts(); loads != 0 {
		t.Errorf("the sink was given %d snapshots", loads)
	}
	if diff := cmp.Diff([]string{testID + " 51"}, src.asked()); diff != "" {
		t.Errorf("PSYNC (-want +got):\n%s", diff)
	}
}

// A source that cannot serve for the moment is asked again, and not for a full resync.
func TestRunWaitsForTheSource(t *testing.T) {
	tests := []struct {
		name string
		info map[string]string // until it is well again
		why  string
	}{
		{"loading", map[string]string{"loading": "1"}, "is loading its dataset"},
		{"a replica without its primary, synchronised from elsewhere", map[string]string{"role": "slave", "master_link_status": "down", "master_replid": otherID}, "has lost its own primary"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
				p.Send("+CONTINUE " + testID + "\r\n")
				p.Hang()
			})
			for field, value := range test.info {
				src.set(field, value)
			}
			sink := newSink(t)
			sink.at = Position{ReplID: testID, Offset: 100}
			r := startRun(t, src.endpoint(), sink, stopAtCaughtUp)
			eventually(t, "the wait "+test.why, func() bool { return r.saw(Waiting, test.why) })
			if got := src.asked(); len(got) > 0 {
				t.Errorf("meanwhile it heard PSYNC %q", got)
			}
			for field := range test.info {
				src.set(field, map[string]string{"role": "master", "master_replid": testID}[field])
			}
			if err := r.wait(); err != nil {
				t.Error(err)
			}
			if !r.saw(InSync, "all up to offset 100") {
				t.Errorf("states %q, want in_sync", r.states)
			}
		})
	}
}

// With the stream going on, a broken link is mended at once and everything arrives once; so is one whose sink has to start over.
func TestRunReconnectsAtOnce(t *testing.T) {
	const links = 15
	one := resp("INCR", "n")
	for _, hurt := range []string{"the link", "the middle of a unit", "the sink"} {
		t.Run(hurt, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 1000, func(p *redistest.Peer, n int, _, next string) {
				p.Send("+CONTINUE\r\n" + one)
				switch {
				case n == links:
				case hurt == "the link":
					return
				case hurt == "the middle of a unit":
					p.Send(resp("MULTI") + one)
					return
				}
				p.Hang()
			})
			sink := newSink(t)
			sink.at = Position{ReplID: testID, Offset: 100}
			if hurt == "the sink" {
				sink.onCommit = func(_ context.Context, offset int64) error {
					if resumes, _ := sink.counts(); offset == 100+int64(resumes*len(one)) && resumes < links {
						sink.mu.Lock()
						sink.at = Position{ReplID: testID, Offset: offset} // it is in, and the reply was lost
						sink.mu.Unlock()
						return errBoom
					}
					return nil
				}
			}
			end := 100 + int64(links*len(one))
			began := time.Now()
			r := startRun(t, src.endpoint(), sink, stopAtOffset(end))
			if err := r.wait(); err != nil {
				t.Fatal(err)
			}
			if _, units, _ := sink.seen(); len(units) != links {
				t.Errorf("%d units, want %d", len(units), links)
			}
			if n := r.status.Reconnects.Load(); n != links-1 {
				t.Errorf("%d attempts after the first, want %d", n, links-1)
			}
			if took := time.Since(began); took > 5*time.Second { // with pauses it would be a minute
				t.Errorf("it took %v", took)
			}
			for i, got := range src.asked() {
				if want := fmt.Sprintf("%s %d", testID, 101+i*len(one)); got != want {
					t.Errorf("PSYNC %d was %q, want %q", i, got, want)
				}
			}
		})
	}
}

// A source that cannot be reached is asked ever less often, and the end of the run does not wait for the pause.
func TestRunBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Time
		status := &Status{}
		status.Observe = func(s State, _ string) {
			if s == Waiting {
				times = append(times, time.Now())
			}
		}
		const lasts = 10 * time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		began := time.Now()
		err := Run(ctx, RunConfig{Source: Endpoint{Network: "unix", Addr: "/nonexistent/redis.sock"}, Status: status, Log: zerolog.Nop()}, newSink(t))
		if err != nil || time.Since(began) != lasts {
			t.Errorf("Run returned %v after %v, want nil after %v", err, time.Since(began), lasts)
		}
		if n := len(times); n < 40 || n > 150 || int64(n) != status.Reconnects.Load() {
			t.Fatalf("%d attempts, %d counted as further ones", n, status.Reconnects.Load())
		}
		for i := 1; i < len(times); i++ {
			pause := times[i].Sub(times[i-1])
			if pause > 15*time.Second || i == 1 && pause > 200*time.Millisecond || i > 30 && pause < 4*time.Second {
				t.Errorf("pause %d is %v", i, pause)
			}
		}
	})
}

// A new replication ID reaches the sink as a unit without commands, before anything that was written under it.
func TestRunNewReplicationID(t *testing.T) {
	one := resp("INCR", "n")
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE " + otherID + "\r\n" + one)
		p.Hang()
	})
	src.set("master_replid2", testID)
	src.set("master_replid", otherID)
	src.set("second_repl_offset", "101")
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100, DB: 7}
	r := startRun(t, src.endpoint(), sink, stopAtOffset(100+int64(len(one))))
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	_, units, news := sink.seen()
	if diff := cmp.Diff([]Position{{otherID, 100, 7}}, news); diff != "" {
		t.Errorf("news (-want +got):\n%s", diff)
	}
	if want := []unitText{{Cmds: []string{"db7 INCR n"}, Start: 100, End: 100 + int64(len(one)), DB: 7}}; !cmp.Equal(want, units) {
		t.Errorf("units %+v, want %+v", units, want)
	}
}

// A Stop ends the run from wherever it comes; any other error of a snapshot is tried again.
func TestRunStops(t *testing.T) {
	stop := &Stop{Kind: Refused, Reason: "the target refused a write"}
	t.Run("in the snapshot, after a cut and an error", func(t *testing.T) {
		t.Parallel()
		src := newSource(t, 100, func(p *redistest.Peer, n int, _, _ string) {
			if n == 1 {
				p.Send("+FULLRESYNC " + testID + " 100\r\n$1000\r\nhalf")
				return
			}
			p.FullResync(100, "RDB")
			p.Hang()
		})
		sink := newSink(t)
		sink.onLoad = func(ctx context.Context, snap Snapshot) error {
			switch _, n := sink.counts(); n {
			case 1:
				if err := readRDB(1000)(ctx, snap); !errors.Is(err, io.EOF) {
					t.Errorf("the cut snapshot ends with %v", err)
					return err
				}
				return errBoom
			case 2:
				return fmt.Errorf("something that passes: %w", errBoom)
			}
			return fmt.Errorf("load: %w", stop)
		}
		r := startRun(t, src.endpoint(), sink)
		if err := r.wait(); !errors.Is(err, stop) {
			t.Errorf("got %v, want %v", err, stop)
		}
		if resumes, loads := sink.counts(); resumes != 3 || loads != 3 {
			t.Errorf("%d resumes and %d snapshots, want 3 of each", resumes, loads)
		}
	})
	t.Run("in the stream", func(t *testing.T) {
		t.Parallel()
		src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
			p.Send("+CONTINUE\r\n" + resp("INCR", "n"))
			p.Hang()
		})
		sink := newSink(t)
		sink.at = Position{ReplID: testID, Offset: 100}
		sink.onCommit = func(_ context.Context, offset int64) error {
			if offset > 100 {
				return stop
			}
			return nil
		}
		if err := startRun(t, src.endpoint(), sink).wait(); !errors.Is(err, stop) {
			t.Errorf("got %v, want %v", err, stop)
		}
	})
	t.Run("what the source sends cannot be (T40)", func(t *testing.T) {
		t.Parallel()
		src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, _ string) {
			p.Send("+CONTINUE\r\n" + resp("INCR", "n") + resp("EXEC"))
			p.Hang()
		})
		sink := newSink(t)
		sink.at = Position{ReplID: testID, Offset: 100}
		err := startRun(t, src.endpoint(), sink).wait()
		if stop := AsStop(err); stop == nil || stop.Kind != Failed || !strings.Contains(err.Error(), "at offset 122: EXEC without MULTI") {
			t.Errorf("got %v, want a Stop that names the place", err)
		}
		if at, _, _ := sink.seen(); at.Offset != 121 {
			t.Errorf("the target is at %d, want all before it, 121", at.Offset)
		}
	})
	t.Run("while the sink drains", func(t *testing.T) {
		t.Parallel()
		src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, _ string) {
			p.Send("+CONTINUE\r\n" + resp("INCR", "n"))
			p.Hang()
		})
		sink := newSink(t)
		sink.at = Position{ReplID: testID, Offset: 100}
		sink.onCommit = func(ctx context.Context, offset int64) error {
			if offset == 100 {
				return nil
			}
			<-ctx.Done()
			return stop
		}
		r := startRun(t, src.endpoint(), sink)
		eventually(t, "the unit is taken", func() bool { return r.status.Received.Load() == 121 })
		if err := r.stop(); !errors.Is(err, stop) {
			t.Errorf("got %v, want %v", err, stop)
		}
	})
}

// The end of the run lets go of whatever it waits for, at once and without an error.
func TestRunEndsWhereverItIs(t *testing.T) {
	tests := []struct {
		name string
		play func(p *redistest.Peer)
		when State
		why  string
	}{
		{"while the source prepares its BGSAVE", func(p *redistest.Peer) { p.Send("\n"); p.Hang() }, Waiting, "waiting for the source to start its BGSAVE"},
		{"before the RDB's length", func(p *redistest.Peer) { p.Send("+FULLRESYNC " + testID + " 100\r\n\n"); p.Hang() }, Waiting, "waiting for the source's BGSAVE"},
		{"in the middle of the RDB", func(p *redistest.Peer) { p.Send("+FULLRESYNC " + testID + " 100\r\n$1000\r\nhalf"); p.Hang() }, Loading, "full resync at"},
		{"in the stream", func(p *redistest.Peer) { p.FullResync(100, "RDB"); p.Hang() }, InSync, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) { test.play(p) })
			sink := newSink(t)
			sink.onLoad = func(ctx context.Context, snap Snapshot) error {
				n := int64(3)
				if snap.Size > 0 {
					n = snap.Size
				}
				return readRDB(n)(ctx, snap)
			}
			r := startRun(t, src.endpoint(), sink)
			eventually(t, test.name, func() bool { return r.saw(test.when, test.why) })
			began := time.Now()
			if err := r.stop(); err != nil {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// An attempt that comes to nothing is not repeated at once: least of all a full resync, for which the source forks (T18).
func TestRunDoesNotHammer(t *testing.T) {
	tests := []struct {
		name string
		at   Position
		play func(p *redistest.Peer)
		hurt func(*sinkDouble)
	}{
		{"the link breaks before anything comes", Position{ReplID: testID, Offset: 100}, func(p *redistest.Peer) { p.Send("+CONTINUE\r\n") }, func(*sinkDouble) {}},
		{"the target takes nothing", Position{ReplID: testID, Offset: 100}, func(p *redistest.Peer) {
			p.Send("+CONTINUE\r\n" + resp("INCR", "n"))
			p.Hang()
		}, func(s *sinkDouble) { s.onCommit = func(context.Context, int64) error { return errBoom } }},
		{"the snapshot breaks off", Position{}, func(p *redistest.Peer) {
			p.Send("+FULLRESYNC " + testID + " 100\r\n$1000\r\nhalf")
		}, func(s *sinkDouble) { s.onLoad = readRDB(1000) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, _ string) { test.play(p) })
			sink := newSink(t)
			sink.at = test.at
			test.hurt(sink)
			r := startRun(t, src.endpoint(), sink)
			time.Sleep(time.Second)
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			if n := len(src.asked()); n < 2 || n > 8 { // after 0.1 s, 0.15 s, 0.22 s…, each by a half more or less
				t.Errorf("%d PSYNCs in a second", n)
			}
		})
	}
}
