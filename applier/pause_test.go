package applier_test

import (
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/replica"
)

// pausedAt waits until nothing moves in the target any more, and gives the checkpoint's offset then.
func (r *running) pausedAt(t testing.TB, target *redistest.Server) int64 {
	t.Helper()
	r.until(t, replica.Paused, "by the operator")
	at := int64(-1)
	eventually(t, "the checkpoint stands still, with all that was taken", func() bool {
		before := at
		at = mustRecord(t, target).Offset
		time.Sleep(200 * time.Millisecond)
		return at == before && at == r.status.Taken.Load()
	})
	return at
}

// A paused run receives and does not apply: the spool grows, the checkpoint stands still, and resuming brings all of it, once. It ends at once when it is told to, and is
// not paused when it is started again.
func TestPauseTheStream(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 16kb")), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	m.run.Gate = &replica.Gate{}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	stop := flood(t, src, 1<<20)
	eventually(t, "something is applied", func() bool { return dst.DoInt(t, "EXISTS", "flood") == 1 })

	m.run.Gate.Pause()
	at := r.pausedAt(t, dst)
	if !m.run.Gate.Paused() {
		t.Error("the gate says that it is open")
	}
	eventually(t, "the spool has another megabyte", func() bool { return r.status.Received.Load() > at+1<<20 })
	r.follows(t, src)
	if got := mustRecord(t, dst).Offset; got != at {
		t.Errorf("the checkpoint went from %d to %d", at, got)
	}
	if acked := src.Info(t, "replication")["connected_slaves"]; acked != "1" {
		t.Errorf("the source has %s replicas, want the paused one", acked)
	}

	m.run.Gate.Resume()
	eventually(t, "it catches up", func() bool { return mustRecord(t, dst).Offset > at+1<<20 })

	m.run.Gate.Pause()
	at = r.pausedAt(t, dst)
	stop() // the source's backlog is too small for anything but what is in the spool
	r.follows(t, src)
	began := time.Now()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a paused run took %v to end", took)
	}
	if got := mustRecord(t, dst).Offset; got != at {
		t.Errorf("the checkpoint went from %d to %d at the end", at, got)
	}
	m.run.Gate = nil // another process
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("%s full resyncs", got)
	}
}

// In a snapshot pausing holds up the RDB behind the spool: all of it arrives, and no more keys get into the target than were underway.
func TestPauseTheSnapshot(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 6_000, NoTTL: true})
	proxy := redistest.NewProxy(t, dst.Addr())
	proxy.Throttle(redistest.FromClient, 256<<10) // else it is over before it can be paused
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.run.Gate = &replica.Gate{}
	r := m.start(t)
	eventually(t, "some of the snapshot is in", func() bool { return r.status.SnapshotKeys.Load() > 0 })
	m.run.Gate.Pause()
	proxy.Throttle(redistest.FromClient, 0)
	r.until(t, replica.Paused, "")
	eventually(t, "the whole RDB is received", func() bool { return r.spool.Contents().Complete })
	settle := func() int64 { // what was underway
		for n := int64(-1); ; {
			if now := r.status.SnapshotKeys.Load(); now == n {
				return n
			} else {
				n = now
			}
			time.Sleep(300 * time.Millisecond)
		}
	}
	keys := settle()
	if total := src.DoInt(t, "DBSIZE"); keys == 0 || r.status.Base() != replica.Loading {
		t.Fatalf("%d of %d keys are in, and it is %s: want a part of the snapshot", keys, total, r.status.Base())
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}

	r = m.start(t) // the same gate: an operator who pauses at once
	r.until(t, replica.Paused, "")
	m.run.Gate.Resume()
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("%s full resyncs", got)
	}
}
