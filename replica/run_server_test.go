package replica

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/rdbstream"
)

// loadRDB is an onLoad that reads a real RDB.
func loadRDB(_ context.Context, snap Snapshot) error {
	r := rdbstream.NewReader(snap.RDB)
	var e rdbstream.Entry
	for {
		if err := r.Next(&e); err != nil {
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
	}
}

// With real sources: a full resync of either kind, a stream that survives the loss of its link again and again with every command once, WAIT,
// and the end of the run, whose offset the source has heard.
func TestRunWithRealServers(t *testing.T) {
	const commands, kills = 3000, 5
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		for _, diskless := range []string{"yes", "no"} {
			t.Run("diskless "+diskless, func(t *testing.T) {
				t.Parallel()
				s := redistest.Start(t, b, redistest.Config("repl-diskless-sync "+diskless, "repl-ping-replica-period 3600"))
				s.Do(t, "SET", "there", "before")
				sink := newSink(t)
				sink.onLoad = loadRDB
				r := startRun(t, endpoint(t, s.URL(), TLSFiles{}), sink)
				eventually(t, "in sync", func() bool { return r.saw(InSync, "") })
				for i := range commands {
					if i%(commands/kills) == 0 {
						s.Do(t, "CLIENT", "KILL", "TYPE", "replica")
					}
					if got := s.DoInt(t, "INCR", "n"); got != int64(i+1) {
						t.Fatalf("the source counts %d", got)
					}
				}
				written := s.Offset(t)
				eventually(t, "WAIT", func() bool { return s.DoInt(t, "WAIT", "1", "1000") == 1 })
				if at, _, _ := sink.seen(); at.Offset < written {
					t.Errorf("WAIT returned with %d durable of %d", at.Offset, written)
				}
				if err := r.stop(); err != nil {
					t.Fatal(err)
				}
				_, units, _ := sink.seen()
				n := 0
				for _, u := range units {
					n += strings.Count(strings.Join(u.Cmds, "\n"), "db0 INCR n")
				}
				if n != commands {
					t.Errorf("%d of %d commands arrived", n, commands)
				}
				if _, loads := sink.counts(); loads != 1 || s.Info(t, "stats")["sync_full"] != "1" {
					t.Errorf("%d snapshots, of %s full resyncs; want 1", loads, s.Info(t, "stats")["sync_full"])
				}
			})
		}
	})
}

// A source that does not permit INFO is asked for the checkpoint's position blindly, and for what only INFO tells, not at all.
func TestRunBlind(t *testing.T) {
	s := redistest.Start(t, redistest.Latest(t), redistest.Config("user ferry on >pass +psync +replconf +ping +hello +client"))
	first := newSink(t)
	first.onLoad = loadRDB
	if err := startRun(t, endpoint(t, s.URL(), TLSFiles{}), first, stopAtCaughtUp).wait(); err != nil {
		t.Fatal(err)
	}
	e := endpoint(t, "redis://ferry:pass@"+s.Addr(), TLSFiles{})

	sink := newSink(t)
	sink.at, _, _ = first.seen()
	s.Do(t, "INCR", "n")
	r := startRun(t, e, sink)
	eventually(t, "the command", func() bool { _, units, _ := sink.seen(); return len(units) == 1 })
	time.Sleep(200 * time.Millisecond)
	if r.saw(InSync, "") {
		t.Error("it says in_sync, which nobody can know")
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}

	err := startRun(t, e, sink, stopAtCaughtUp).wait()
	if stop := AsStop(err); stop == nil || stop.Kind != Config || !strings.Contains(stop.Hint, "+info") {
		t.Errorf("caught up without INFO: got %v, want a Stop", err)
	}
}
