package applier_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// duo is a target with a replica that may take its place, and a source.
type duo struct {
	src, dst, spare *redistest.Server
}

func newDuo(t *testing.T, b redistest.Build, opts ...redistest.Option) *duo {
	t.Helper()
	p := &duo{src: redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), dst: redistest.Start(t, b, opts...)}
	p.spare = redistest.Start(t, b, append(opts, redistest.ReplicaOf(p.dst))...)
	eventually(t, "the target's replica is up", func() bool { return p.spare.Info(t, "replication")["master_link_status"] == "up" })
	return p
}

// list is the URL of both, the replica first.
func (p *duo) list() string { return "redis://" + redistest.Addrs(p.spare, p.dst) }

// flows waits until the target has what the source has now. It asks no target: sentinels end the connections of all clients when they promote one.
func (p *duo) flows(t *testing.T, r *running) {
	t.Helper()
	now := p.src.Offset(t)
	eventually(t, "the stream flows into the other one", func() bool { return r.status.Checkpointed.Load() > now })
}

// end stops the run, has the migration catch up, and fails the test unless the new target equals the source and it took one full resync.
func (p *duo) end(t *testing.T, m *migration, r *running) {
	t.Helper()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, p.src, p.spare, redistest.CompareOptions{})
	if got := fullResyncs(t, p.src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// The target dies under load, and its replica, behind by a few writes, takes over. The URL knows both.
func TestTargetOfSeveralHostsFailsOver(t *testing.T) {
	t.Parallel()
	p := newDuo(t, redistest.Latest(t))
	m := newMigration(t, p.src.URL(), p.list())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	stop := redistest.StartLoad(t, p.src, redistest.LoadOptions{Seed: 7, Writers: 2, Rate: 4000, SwapDB: true, Flush: true})
	eventually(t, "the replica has a checkpoint of the stream", func() bool { rec, _ := record(t, p.spare); return rec.Phase == checkpoint.PhaseStream })
	p.dst.Kill()
	r.until(t, replica.Waiting, "takes no writes")
	p.spare.Do(t, "REPLICAOF", "NO", "ONE")
	p.flows(t, r)
	stop()
	p.end(t, m, r)
}

// The target changes places with its replica and keeps its connections: all of them leave it, the lease's too.
func TestTargetOfSeveralHostsIsDemoted(t *testing.T) {
	t.Parallel()
	p := newDuo(t, redistest.Latest(t))
	m := newMigration(t, p.src.URL(), p.list())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	load(t, p.src, redistest.LoadOptions{Seed: 8, Commands: 2000})
	p.spare.Do(t, "REPLICAOF", "NO", "ONE")
	p.dst.Do(t, "REPLICAOF", "127.0.0.1", strconv.Itoa(p.spare.Port()))
	load(t, p.src, redistest.LoadOptions{Seed: 9, Commands: 2000})
	lease := func() string { return p.spare.DoString(t, "HGET", checkpoint.OwnerKey("test"), "lease") }
	was := lease()
	eventually(t, "the lease is renewed at the new target", func() bool { return lease() != was })
	r.until(t, replica.InSync, "")
	p.end(t, m, r)
}

// Sentinels fail the target over under load, of whatever its replica has not got.
func TestTargetBehindSentinelsFailsOver(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			users := redistest.Config("user ferry on >secret ~* +@all", "masteruser ferry", "masterauth secret")
			p := newDuo(t, b, users)
			sentinels := redistest.StartSentinels(t, p.dst, 3)
			m := newMigration(t, p.src.URL(), redistest.SentinelURL("ferry:secret@", sentinels...))
			r := m.start(t)
			r.until(t, replica.InSync, "")
			stop := redistest.StartLoad(t, p.src, redistest.LoadOptions{Seed: 10, Writers: 2, Rate: 2000, SwapDB: true, Flush: true})
			eventually(t, "the replica has a checkpoint of the stream", func() bool { rec, _ := record(t, p.spare); return rec.Phase == checkpoint.PhaseStream })
			p.dst.Kill()
			sentinels[0].Kill()
			redistest.AwaitMaster(t, sentinels[1], p.spare)
			p.flows(t, r)
			stop()
			p.end(t, m, r)
		})
	}
}

// The target fails over in the midst of the snapshot to a replica that lacks keys which were acknowledged: they are loaded again.
func TestTargetFailsOverInTheSnapshot(t *testing.T) {
	t.Parallel()
	p := newDuo(t, redistest.Latest(t))
	redistest.Fill(t, p.src, redistest.FillOptions{Keys: 4000, Databases: 1})
	p.src.Do(t, "CONFIG", "SET", "rdb-key-save-delay", "2000") // µs
	m := newMigration(t, p.src.URL(), p.list())
	r := m.start(t)
	eventually(t, "the replica knows of the snapshot", func() bool { _, ok := record(t, p.spare); return ok })
	p.spare.Freeze()
	eventually(t, "half of it is in the target", func() bool { return r.status.SnapshotKeys.Load() > 2000 })
	p.src.Do(t, "CONFIG", "SET", "rdb-key-save-delay", "0") // of the next one
	p.dst.Kill()
	p.spare.Thaw()
	p.spare.Do(t, "REPLICAOF", "NO", "ONE")
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	redistest.AssertEqual(t, p.src, p.spare, redistest.CompareOptions{})
	if !r.saw(replica.Waiting, "was restarted, or has failed over") {
		t.Error("the run did not notice")
	}
}

// The source dies, and its replica, which has all, takes over: the history goes on there.
func TestSourceOfSeveralHostsFailsOver(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	primary := redistest.Start(t, b, quiet)
	second := redistest.Start(t, b, quiet, redistest.ReplicaOf(primary))
	eventually(t, "the replica follows", func() bool { return second.Info(t, "replication")["master_link_status"] == "up" })
	dst := redistest.Start(t, b)
	r := newMigration(t, "redis://"+redistest.Addrs(second, primary), dst.URL()).start(t)
	r.until(t, replica.InSync, "")
	load(t, primary, redistest.LoadOptions{Seed: 11, Commands: 2000})
	r.reach(t, primary)
	eventually(t, "the replica has all", func() bool { return second.Offset(t) == primary.Offset(t) })
	if got := fullResyncs(t, primary); got != "2" {
		t.Errorf("full resyncs of the primary: got %s, want 2", got)
	}
	primary.Kill()
	second.Do(t, "REPLICAOF", "NO", "ONE")
	load(t, second, redistest.LoadOptions{Seed: 12, Commands: 2000})
	r.reach(t, second)
	redistest.AssertEqual(t, second, dst, redistest.CompareOptions{})
	if got := fullResyncs(t, second); got != "0" {
		t.Errorf("full resyncs of the new primary: got %s, want 0", got)
	}
}

// None of the hosts is a primary at the first start: a failover that is waited out.
func TestTargetOfSeveralHostsHasNoPrimaryYet(t *testing.T) {
	t.Parallel()
	p := newDuo(t, redistest.Latest(t))
	p.dst.Kill()
	m := newMigration(t, p.src.URL(), p.list())
	r := m.start(t)
	r.until(t, replica.Waiting, "is a replica of "+p.dst.Addr())
	p.spare.Do(t, "REPLICAOF", "NO", "ONE")
	r.until(t, replica.InSync, "")
	p.end(t, m, r)
}

// What no other try can mend ends the run, behind several hosts as behind one.
func TestTargetOfSeveralHostsRefusesUs(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b)
	dst := redistest.Start(t, b, redistest.Password("secret"))
	sentinels := redistest.StartSentinels(t, dst, 1)
	for name, test := range map[string]struct{ url, want string }{
		"list":           {"redis://:wrong@127.0.0.1:1," + dst.Addr(), "WRONGPASS"},
		"sentinel":       {redistest.SentinelURL(":wrong@", sentinels...), "WRONGPASS"},
		"unknown master": {strings.Replace(redistest.SentinelURL("", sentinels...), redistest.Master, "other", 1), `knows no master "other" it knows mymaster`},
	} {
		began := time.Now()
		wantStop(t, newMigration(t, src.URL(), test.url).start(t).wait(t), replica.Config, test.want)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
}
