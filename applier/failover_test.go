package applier_test

import (
	"strings"
	"testing"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// failover is a source that will fail over: a primary with a replica, and a migration from wherever its proxy points to.
type failover struct {
	*following
	primary, second *redistest.Server
	proxy           *redistest.Proxy
}

// replicated starts them, has the target follow, and gives them some load.
func replicated(t *testing.T, b redistest.Build) *failover {
	t.Helper()
	s := &failover{primary: redistest.Start(t, b, quiet)}
	s.second = redistest.Start(t, b, quiet, redistest.ReplicaOf(s.primary))
	s.proxy = redistest.NewProxy(t, s.primary.Addr())
	s.following = &following{src: s.primary, dst: redistest.Start(t, b)}
	s.m = newMigration(t, s.primary.URLAt(s.proxy.Addr()), s.dst.URL())
	eventually(t, "the replica follows", func() bool { return s.second.Info(t, "replication")["master_link_status"] == "up" })
	load(t, s.primary, redistest.LoadOptions{Seed: 29, Commands: 1000})
	s.running = s.m.start(t)
	s.until(t, replica.InSync, "")
	load(t, s.primary, redistest.LoadOptions{Seed: 30, Commands: 1000})
	s.through(t)
	return s
}

// failOver makes the replica the primary, and the proxy lead there.
func (s *failover) failOver(t *testing.T) {
	t.Helper()
	s.primary.Kill()
	s.second.Do(t, "REPLICAOF", "NO", "ONE")
	s.src = s.second
	s.proxy.SetTarget(s.second.Addr())
	s.proxy.Cut()
}

// T29: a promoted replica continues the history under a new replication ID, which is in the checkpoint at once.
func TestFailoverOfTheSource(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			s := replicated(t, b)
			old := mustRecord(t, s.dst).ReplID
			eventually(t, "the replica has all", func() bool { return s.second.Offset(t) == s.primary.Offset(t) })
			s.failOver(t)
			id := s.second.Info(t, "replication")["master_replid"]
			if id == old {
				t.Fatal("the promoted replica has kept its replication ID")
			}
			eventually(t, "the new ID is in the checkpoint", func() bool { return mustRecord(t, s.dst).ReplID == id })
			s.restart(t)
			s.until(t, replica.InSync, "")
			load(t, s.second, redistest.LoadOptions{Seed: 31, Commands: 1000})
			s.reach(t, s.second)
			redistest.AssertEqual(t, s.second, s.dst, redistest.CompareOptions{})
			if got := fullResyncs(t, s.second); got != "0" {
				t.Errorf("full resyncs of the new primary: got %s, want 0", got)
			}
		})
	}
}

// The old primary comes back empty, and is still named for a moment before its replica is promoted: nothing is decided meanwhile.
func TestOldPrimaryComesBackEmpty(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	primary := redistest.Start(t, b, quiet)
	second := redistest.Start(t, b, quiet, redistest.ReplicaOf(primary))
	dst := redistest.Start(t, b)
	m := newMigration(t, "redis://"+redistest.Addrs(primary, second), dst.URL())
	eventually(t, "the replica follows", func() bool { return second.Info(t, "replication")["master_link_status"] == "up" })
	load(t, primary, redistest.LoadOptions{Seed: 29, Commands: 1000})
	r := m.start(t)
	r.until(t, replica.InSync, "")
	eventually(t, "the replica has all", func() bool { return second.Offset(t) == primary.Offset(t) })
	second.Freeze() // it must not follow the empty one
	primary.Kill()
	primary.Restart(t)
	r.until(t, replica.Waiting, "cannot go on from where the target is")
	primary.Kill()
	second.Thaw()
	second.Do(t, "REPLICAOF", "NO", "ONE")
	load(t, second, redistest.LoadOptions{Seed: 30, Commands: 1000})
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, second, dst, redistest.CompareOptions{})
}

// A source whose replication ID is changed keeps its links, and repeats nothing of the old history to anybody: the state says so, and the operator decides.
func TestSourceBeginsAnotherHistory(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, b, quiet)
			dst := redistest.Start(t, b)
			m := newMigration(t, src.URL(), dst.URL())
			src.Do(t, "SET", "k", "v")
			r := m.start(t)
			r.until(t, replica.InSync, "")
			src.Do(t, "DEBUG", "CHANGE-REPL-ID")
			wantStop(t, r.wait(t), replica.Decide, "the source cannot continue from")
			r.once(t, replica.Waiting, "another history")
		})
	}
}

// T30: the new primary never had some of what is in the target: it cannot be taken back one by one, so the operator decides.
func TestFailoverOfTheSourceWithLoss(t *testing.T) {
	t.Parallel()
	s := replicated(t, redistest.Latest(t))
	eventually(t, "the replica has all", func() bool { return s.second.Offset(t) == s.primary.Offset(t) })
	s.second.Freeze()
	say(t, s.primary, "SET lost 1", "INCR n")
	s.through(t)
	if got := s.dst.DoString(t, "GET", "lost"); got != "1" {
		t.Fatalf("the target has %q", got)
	}
	s.primary.Kill()
	s.second.Kill() // what was in its socket is lost with it
	s.second.Restart(t)
	s.second.Do(t, "REPLICAOF", "NO", "ONE")
	s.src = s.second
	s.proxy.SetTarget(s.second.Addr())
	s.proxy.Cut()
	wantStop(t, s.wait(t), replica.Decide, "cannot continue from the checkpoint")
	if got := fullResyncs(t, s.second); got != "0" {
		t.Errorf("full resyncs: got %s, want 0", got)
	}
	s.m.apply.OnFullResync = applier.Flush
	s.m.finish(t)
	redistest.AssertEqual(t, s.second, s.dst, redistest.CompareOptions{})
	if got := s.dst.DoString(t, "GET", "lost"); got != "" {
		t.Errorf("a write that the source has lost is still in the target")
	}
}

// T31: the source becomes a replica of a server with other data.
func TestSourceIsGivenOtherData(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	f := followFrom(t, redistest.Start(t, b))
	say(t, f.src, "SET mine 1")
	f.through(t)
	other := redistest.Start(t, b)
	redistest.Fill(t, other, redistest.FillOptions{Keys: 300})
	line := redistest.NewProxy(t, other.Addr())
	line.Hold(redistest.FromServer, true) // the source has no link to its primary for a while
	host, port, _ := strings.Cut(line.Addr(), ":")
	say(t, f.src, "REPLICAOF "+host+" "+port, "CLIENT KILL TYPE replica") // else our link stays until the new data is there
	eventually(t, "the run waits for the source's own synchronisation", func() bool {
		return f.saw(replica.Waiting, "NOMASTERLINK") || f.saw(replica.Waiting, "lost its own primary")
	})
	line.Hold(redistest.FromServer, false)
	wantStop(t, f.wait(t), replica.Decide, "cannot continue from the checkpoint")
	// Once more at most: between INFO and PSYNC the source may have become another one (docs/limitations.md).
	if got := fullResyncs(t, f.src); got != "1" && got != "2" {
		t.Errorf("full resyncs: got %s, want 1, or 2", got)
	}
	if got := f.dst.DoString(t, "GET", "mine"); got != "1" {
		t.Errorf("the refused target has lost its data")
	}
	f.m.apply.OnFullResync = applier.Flush
	f.m.finish(t)
	redistest.AssertEqual(t, other, f.dst, redistest.CompareOptions{})
}

// T88: a source that was shut down and started again with its RDB goes on with its history.
func TestSourceRestarts(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if !b.Has70() {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := followFrom(t, redistest.Start(t, b))
			load(t, f.src, redistest.LoadOptions{Seed: 88, Commands: 2000})
			f.src.Stop(t, "SAVE")
			f.src.Restart(t)
			load(t, f.src, redistest.LoadOptions{Seed: 89, Commands: 2000})
			f.through(t)
			redistest.AssertEqual(t, f.src, f.dst, redistest.CompareOptions{})
			if got := fullResyncs(t, f.src); got != "0" {
				t.Errorf("full resyncs since the restart: got %s, want 0", got)
			}
		})
	}
}

// A replica that is read from, and is behind what the target has from elsewhere, will get there: it is waited for. One that came back from a file is behind
// for a moment, too.
func TestReplicaIsBehind(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	primary := redistest.Start(t, b)
	line := redistest.NewProxy(t, primary.Addr())
	second := redistest.Start(t, b, redistest.Config("replicaof "+strings.Replace(line.Addr(), ":", " ", 1)))
	eventually(t, "the replica follows", func() bool { return second.Info(t, "replication")["master_link_status"] == "up" })
	f := followFrom(t, primary)
	line.Hold(redistest.FromServer, true)
	say(t, primary, "SET new 1")
	f.through(t)
	f.end()
	if second.DoString(t, "GET", "new") != "" {
		t.Fatal("the replica is not behind")
	}

	f.m.source = second.URL()
	f.running = f.m.start(t)
	f.until(t, replica.Waiting, "still behind")
	line.Hold(redistest.FromServer, false)
	f.until(t, replica.InSync, "")
	say(t, primary, "SET newer 1")
	eventually(t, "the target has what came by the replica", func() bool { return f.dst.DoString(t, "GET", "newer") == "1" })
	if got := fullResyncs(t, second); got != "0" {
		t.Errorf("full resyncs: got %s, want 0", got)
	}
}

// A source that crashed and came back from an older RDB has forgotten writes that are in the target.
func TestSourceGoesBackInTime(t *testing.T) {
	t.Parallel()
	f := followFrom(t, redistest.Start(t, redistest.Latest(t)))
	say(t, f.src, "SET kept 1")
	f.src.Do(t, "SAVE")
	say(t, f.src, "SET lost 1", "DEL kept")
	f.through(t)
	f.src.Kill()
	f.src.Restart(t)
	wantStop(t, f.wait(t), replica.Decide, "cannot continue from the checkpoint")
	f.m.apply.OnFullResync = applier.Flush
	f.m.finish(t)
	redistest.AssertEqual(t, f.src, f.dst, redistest.CompareOptions{})
	if got := f.dst.DoString(t, "GET", "lost"); got != "" {
		t.Errorf("a write that the source has lost is still in the target")
	}
}
