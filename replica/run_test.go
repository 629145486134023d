package replica

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
	"redferry/replica/spool"
)

const otherID = "fedcba9876543210fedcba9876543210fedcba98"

// From nothing to the end: a full resync, what comes after it, and the run is over once that is durable.
func TestRunFromNothing(t *testing.T) {
	stream := resp("SELECT", "2") + resp("SET", "a", "1") + resp("MULTI") + resp("INCR", "n") + resp("DEL", "a") + resp("EXEC") + resp("SET", "b", "2")
	end := 100 + int64(len(stream))
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.FullResync(100, fakeRDB)
		p.WaitAck() // a diskless source streams only then
		p.Send(stream)
		p.Hang()
	})
	sink := newSink(t)
	sink.onLoad = readRDB
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
		p.FullResync(100, fakeRDB)
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
			p.FullResync(100, fakeRDB)
			p.Hang()
		})
		sink := newSink(t)
		sink.onLoad = func(ctx context.Context, snap Snapshot) error {
			switch _, n := sink.counts(); n {
			case 1:
				if err := readRDB(ctx, snap); !errors.Is(err, spool.ErrDropped) {
					t.Errorf("the cut snapshot ends with %v", err)
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
		if _, loads := sink.counts(); loads != 3 || len(src.asked()) != 2 {
			t.Errorf("%d snapshots and %q asked for, want 3, of 2 RDBs", loads, src.asked())
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
		text := resp("INCR", "n") + resp("EXEC")
		src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, next string) {
			from, _ := strconv.Atoi(next)
			p.Send("+CONTINUE\r\n" + text[from-101:])
			p.Hang()
		})
		sink := newSink(t)
		sink.at = Position{ReplID: testID, Offset: 100}
		err := startRun(t, src.endpoint(), sink).wait()
		if stop := AsStop(err); stop == nil || stop.Kind != Failed || !strings.Contains(err.Error(), "at offset 122: EXEC without MULTI") {
			t.Errorf("got %v, want a Stop that names the place", err)
		}
		if n := len(src.asked()); n != 2 {
			t.Errorf("the source was asked %d times, want twice: the spool's copy might have been the culprit", n)
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
		eventually(t, "the unit is taken", func() bool { return r.status.Taken.Load() == 121 })
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
		{"in the stream", func(p *redistest.Peer) { p.FullResync(100, fakeRDB); p.Hang() }, InSync, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) { test.play(p) })
			sink := newSink(t)
			sink.onLoad = readRDB
			r := startRun(t, src.endpoint(), sink)
			eventually(t, test.name, func() bool { return r.saw(test.when, test.why) })
			began := time.Now()
			if err := r.stop(); err != nil {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}
