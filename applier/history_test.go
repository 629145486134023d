package applier_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// The source fails over to a replica that lacks what only the spool has: that is cut off, and the target gets what the new primary says instead.
func TestFailoverOfTheSourceCutsTheSpoolBack(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			primary := redistest.Start(t, b, quiet)
			line := redistest.NewProxy(t, primary.Addr()) // to the primary's replica
			host, port, _ := strings.Cut(line.Addr(), ":")
			second := redistest.Start(t, b, quiet, redistest.Config("replicaof "+host+" "+port))
			eventually(t, "the replica follows", func() bool { return second.Info(t, "replication")["master_link_status"] == "up" })
			up := redistest.NewProxy(t, primary.Addr())
			dst := redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
			m := newMigration(t, primary.URLAt(up.Addr()), dst.URL())
			r := m.start(t)
			r.until(t, replica.InSync, "")
			load(t, primary, redistest.LoadOptions{Seed: 60, Commands: 1000})
			r.reach(t, primary)

			dst.Kill()
			load(t, primary, redistest.LoadOptions{Seed: 61, Commands: 1000})
			eventually(t, "the replica has all", func() bool { return second.Offset(t) == primary.Offset(t) })
			line.Hold(redistest.FromServer, true)
			say(t, primary, "SET lost 1", "INCR n", "MULTI", "SET lost 2", "INCR n", "EXEC")
			r.follows(t, primary)
			before := r.spool.Contents()
			primary.Kill()
			second.Do(t, "REPLICAOF", "NO", "ONE")
			say(t, second, "SET instead 1", "INCR n")
			if shared := second.Offset(t); shared >= before.End {
				t.Fatalf("the new primary is at %d, and the spool at %d: not far enough for this test", shared, before.End)
			}
			second.Do(t, "CONFIG", "RESETSTAT")
			up.SetTarget(second.Addr())
			asked := -1
			eventually(t, "receiving has asked the new primary twice, and waits", func() bool { // before the target gets what is still in memory
				var infos int
				_, _ = fmt.Sscanf(second.Info(t, "commandstats")["cmdstat_info"], "calls=%d,", &infos)
				asked++
				return infos-asked >= 2
			})
			dst.Restart(t)
			r.until(t, replica.InSync, "")
			r.reach(t, second)
			redistest.AssertEqual(t, second, dst, redistest.CompareOptions{})
			if got := r.spool.Contents().First; got != before.First {
				t.Errorf("the spool begins at %d now, not at %d: it was not cut back, but dropped", got, before.First)
			}
			if got := dst.DoInt(t, "EXISTS", "lost", "instead"); got != 1 {
				t.Errorf("the target has %d of a write that is lost and one that came instead", got)
			}
			stats := second.Info(t, "stats")
			if stats["sync_full"] != "0" || stats["sync_partial_ok"] != "1" {
				t.Errorf("resyncs of the new primary: %s full, %s partial; want 0 and 1", stats["sync_full"], stats["sync_partial_ok"])
			}
		})
	}
}

// T43 with a backlog that no longer has what the target lost: the spool does.
func TestTargetGoesBackBeyondTheBacklog(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 16kb"))
	dst := redistest.Start(t, b)
	line := redistest.NewProxy(t, dst.Addr()) // to the target's replica
	host, port, _ := strings.Cut(line.Addr(), ":")
	spare := redistest.Start(t, b, redistest.Config("replicaof "+host+" "+port))
	eventually(t, "the target's replica is up", func() bool { return spare.Info(t, "replication")["master_link_status"] == "up" })
	proxy := redistest.NewProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	r := m.start(t)
	r.until(t, replica.InSync, "")
	load(t, src, redistest.LoadOptions{Seed: 70, Commands: 1000})
	r.reach(t, src)
	eventually(t, "the replica has the checkpoint", func() bool { rec, ok := record(t, spare); return ok && rec.Offset == mustRecord(t, dst).Offset })
	line.Hold(redistest.FromServer, true)
	load(t, src, redistest.LoadOptions{Seed: 71, Commands: 2000, SwapDB: true})
	stop, most := flood(t, src, 8<<20), src.Offset(t)+6<<20
	eventually(t, "more is written than would stay in memory", func() bool { return r.status.Checkpointed.Load() > most })
	stop()
	r.reach(t, src)
	dst.Kill()
	spare.Do(t, "REPLICAOF", "NO", "ONE")
	back, first := mustRecord(t, spare).Offset, backlogBegins(t, src)
	if back+32<<10 > first {
		t.Fatalf("the replica is at %d, and the backlog begins at %d: not far enough for this test", back, first)
	}
	proxy.SetTarget(spare.Addr())
	proxy.Cut()
	load(t, src, redistest.LoadOptions{Seed: 72, Commands: 500})
	r.reach(t, src)
	eventually(t, "the replica is where the source is", func() bool { return mustRecord(t, spare).Offset >= r.status.Checkpointed.Load() })
	redistest.AssertEqual(t, src, spare, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// The invariant, under faults of the link, of the target's connections and of the target itself. What stands further to the right is looked at later, because
// all of it only grows as long as the target loses nothing.
func TestInvariant(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, patient), redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
	up, down := redistest.NewProxy(t, src.Addr()), redistest.NewProxy(t, dst.Addr())
	f := &following{src: src, dst: dst, m: newMigration(t, src.URLAt(up.Addr()), dst.URLAt(down.Addr()))}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 12, Writers: 2, Rate: 4000, SwapDB: true, Flush: true})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var moved [5]map[int64]bool
	for i := range moved {
		moved[i] = map[int64]bool{}
	}
	often := func() bool { // each number was seen with many values
		return !slices.ContainsFunc(moved[:], func(values map[int64]bool) bool { return len(values) < 10 })
	}
	for i, end := 0, time.Now().Add(2*time.Minute); i < 200 || !often() && time.Now().Before(end); i++ {
		if i >= 200 { // a busy machine gets to few values between the disturbances
			i = 200
		}
		switch i % 50 {
		case 5:
			up.CutAfter(redistest.FromServer, 777)
		case 15:
			down.CutAfter(redistest.FromServer, 777)
		case 25:
			src.Do(t, "CLIENT", "KILL", "TYPE", "replica")
		case 35:
			dst.Kill()
		case 40:
			dst.Restart(t)
		}
		for j, n := range f.ordered(t) {
			moved[j][n] = true
		}
		<-tick.C
	}
	stop()
	f.equal(t)
	for j, values := range moved {
		if len(values) < 10 {
			t.Errorf("number %d of the invariant was seen with %d values only", j, len(values))
		}
	}
}

// ordered fails the test unless acked ≤ checkpointed ≤ taken ≤ received ≤ master_repl_offset; it gives what it saw.
func (f *following) ordered(t *testing.T) (seen [5]int64) {
	t.Helper()
	seen[0] = acknowledged(t, f.src)
	seen[1] = seen[0]
	if at, err := f.dst.Pipeline([]string{"HGET", checkpoint.Key("test"), "offset"}); err == nil { // else the target is away
		if n, err := at[0].AsInt64(); err == nil {
			seen[1] = n
		}
	}
	for j, counter := range []func() int64{f.status.Taken.Load, f.status.Received.Load} {
		eventually(t, "the next is told, which is a moment later than it is so", func() bool {
			seen[2+j] = counter()
			return seen[2+j] >= seen[1+j]
		})
	}
	seen[4] = f.src.Offset(t)
	for j := range 4 {
		if seen[j] > seen[j+1] {
			t.Errorf("acked, checkpointed, taken, received and the source's offset are not in order: %d", seen)
			break
		}
	}
	return seen
}
