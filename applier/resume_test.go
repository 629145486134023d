package applier_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// quiet is a source that does not PING its replicas while a test looks: its stream has only what the test writes.
var quiet = redistest.Config("repl-ping-replica-period 3600")

// patient is a source whose backlog outlasts a slow machine.
var patient = redistest.Config("repl-backlog-size 200mb")

// followFrom is follow for a source with settings of its own.
func followFrom(t *testing.T, src *redistest.Server) *following {
	t.Helper()
	f := &following{src: src, dst: redistest.Start(t, redistest.Latest(t))}
	f.m = newMigration(t, src.URL(), f.dst.URL())
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	return f
}

// T19: an idle source's PINGs move the checkpoint, and our acknowledgements keep the link beyond the source's patience.
func TestIdleSource(t *testing.T) {
	t.Parallel()
	f := followFrom(t, redistest.Start(t, redistest.Latest(t), redistest.Config("repl-timeout 10")))
	const ping = int64(len("*1\r\n$4\r\nPING\r\n"))
	from := mustRecord(t, f.dst).Offset
	eventually(t, "twelve PINGs in the checkpoint", func() bool { return mustRecord(t, f.dst).Offset >= from+12*ping })
	if got := (mustRecord(t, f.dst).Offset - from) % ping; got != 0 {
		t.Errorf("the checkpoint moved by PINGs and %d bytes", got)
	}
	eventually(t, "the source has heard of them", func() bool {
		return acknowledged(t, f.src) >= from+12*ping
	})
	if got := f.status.Reconnects.Load(); got != 0 {
		t.Errorf("reconnects: got %d", got)
	}
	f.equal(t)
}

// acknowledged is the offset that the source's only replica has acknowledged, -1 without one.
func acknowledged(t *testing.T, src *redistest.Server) int64 {
	t.Helper()
	for _, part := range strings.Split(src.Info(t, "replication")["slave0"], ",") {
		if offset, ok := strings.CutPrefix(part, "offset="); ok {
			n, err := strconv.ParseInt(offset, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return -1
}

// T20: a source that falls silent for longer than repl-timeout is left and found again.
func TestFrozenSource(t *testing.T) {
	t.Parallel()
	f := followFrom(t, redistest.Start(t, redistest.Latest(t), redistest.Config("repl-timeout 2"), patient))
	stop := redistest.StartLoad(t, f.src, redistest.LoadOptions{Seed: 20, Rate: 2000})
	eventually(t, "the load flows", func() bool { return f.status.Commands.Load() > 500 })
	f.src.Freeze()
	eventually(t, "the link is given up", func() bool { return f.status.Reconnects.Load() > 0 })
	f.src.Thaw()
	before := f.status.Commands.Load()
	eventually(t, "the load flows again", func() bool { return f.status.Commands.Load() > before+500 })
	if got := stop(); got.Refused > got.Acknowledged/2 {
		t.Errorf("load: %+v", got)
	}
	f.equal(t)
}

// T21: a partial resync goes on in the database of the checkpoint: the source does not repeat SELECT.
func TestResumeInADatabase(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b)
			say(t, f.src, "SELECT 5", "SET a 1")
			f.through(t)
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			if got := mustRecord(t, f.dst).DB; got != 5 {
				t.Errorf("database of the checkpoint: got %d, want 5", got)
			}
			say(t, f.src, "SELECT 5", "SET b 1")
			f.running = f.m.start(t)
			f.equal(t)
			if got := f.dst.DB(5).DoString(t, "GET", "b"); got != "1" {
				t.Errorf("b in database 5: got %q", got)
			}
		})
	}
}

// T22: a source that is itself a replica passes on what its primary sends, which need not say SELECT: the RDB says where the stream is.
func TestChainedSourceInADatabase(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			primary := redistest.Start(t, b)
			src, dst := redistest.Start(t, b, redistest.ReplicaOf(primary)), redistest.Start(t, b)
			eventually(t, "the chain stands", func() bool { return src.Info(t, "replication")["master_link_status"] == "up" })
			say(t, primary, "SELECT 7", "SET a 1")
			eventually(t, "the replica has it", func() bool { return src.DB(7).DoString(t, "GET", "a") == "1" })
			f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			say(t, primary, "SELECT 7", "SET b 1")
			eventually(t, "the replica has it", func() bool { return src.DB(7).DoString(t, "GET", "b") == "1" })
			f.equal(t)
			if got := dst.DB(7).DoString(t, "GET", "b"); got != "1" {
				t.Errorf("b in database 7: got %q", got)
			}
		})
	}
}

// T25: there is nothing to catch up with: the source continues with no byte.
func TestResumeAtTheBacklogsEnd(t *testing.T) {
	t.Parallel()
	f := followFrom(t, redistest.Start(t, redistest.Latest(t), quiet))
	say(t, f.src, "SET a 1")
	f.through(t)
	f.restart(t)
	f.until(t, replica.InSync, "")
	if got, want := mustRecord(t, f.dst).Offset, f.src.Offset(t); got != want {
		t.Errorf("checkpoint: got %d, want %d", got, want)
	}
	if got := f.src.Info(t, "stats")["sync_partial_ok"]; got != "1" {
		t.Errorf("partial resyncs: got %s, want 1", got)
	}
	say(t, f.src, "SET b 1")
	f.equal(t)
}

// T27, T28: while the run was away the source has lost what came next. It is not asked for a snapshot until the operator says so; then
// nothing stays in the target that the source has deleted meanwhile.
func TestBacklogLost(t *testing.T) {
	t.Parallel()
	ways := map[string]struct {
		config string
		lose   func(*following)
		reason string
	}{
		"overrun": {"repl-backlog-size 64kb", func(f *following) {
			load(t, f.src, redistest.LoadOptions{Seed: 27, Commands: 20_000})
		}, "repl-backlog-size is too small for the outage"},
		"freed": {"repl-backlog-ttl 1", func(f *following) {
			eventually(t, "the source drops its backlog", func() bool { return f.src.Info(t, "replication")["repl_backlog_active"] == "0" })
		}, "the checkpoint belongs to the replication ID"},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := followFrom(t, redistest.Start(t, redistest.Latest(t), redistest.Config(way.config)))
			say(t, f.src, "SET orphan 1", "SET a 1", "SELECT 3", "SET orphan 3")
			f.through(t)
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			way.lose(f)
			say(t, f.src, "DEL orphan", "SELECT 3", "DEL orphan")
			wantStop(t, f.m.start(t).wait(t), replica.Decide, way.reason)
			if got := fullResyncs(t, f.src); got != "1" {
				t.Errorf("full resyncs: got %s, want 1: the source was made to fork for nothing", got)
			}
			if got := f.dst.DoString(t, "GET", "a"); got != "1" {
				t.Errorf("the refused target has lost its data")
			}
			f.m.apply.OnFullResync = applier.Flush
			f.m.finish(t)
			redistest.AssertEqual(t, f.src, f.dst, redistest.CompareOptions{})
			if got := fullResyncs(t, f.src); got != "2" {
				t.Errorf("full resyncs: got %s, want 2", got)
			}
		})
	}
}

// T32: the source throws its replicas out again and again.
func TestReplicasKilled(t *testing.T) {
	t.Parallel()
	f := followFrom(t, redistest.Start(t, redistest.Latest(t), patient))
	stop := redistest.StartLoad(t, f.src, redistest.LoadOptions{Seed: 32, Rate: 4000, Writers: 2})
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	killed := int64(0)
	rounds := 0
	for end := time.Now().Add(2 * time.Minute); rounds < 20 || (killed < 10 || f.status.Reconnects.Load() < 10) && time.Now().Before(end); rounds++ {
		killed += f.src.DoInt(t, "CLIENT", "KILL", "TYPE", "replica")
		say(t, f.src, "INCR killed")
		<-tick.C
	}
	if got := stop(); got.Acknowledged < 1000 {
		t.Errorf("load: %+v", got)
	}
	f.equal(t)
	if got := f.dst.DoInt(t, "GET", "killed"); got != int64(rounds) {
		t.Errorf("counter: got %d, want %d", got, rounds)
	}
	if killed < 10 || f.status.Reconnects.Load() < 10 {
		t.Errorf("killed %d connections, and there were %d reconnects", killed, f.status.Reconnects.Load())
	}
}

// T83: a run that is told to stop has everything in the target that it has read, says so to the source, and the next goes on from there.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, patient), redistest.Start(t, b)
	proxy := redistest.NewProxy(t, src.Addr())
	var heard atomic.Int64 // the last acknowledgement
	ack := regexp.MustCompile(`ACK\r\n\$\d+\r\n(\d+)\r\n`)
	proxy.OnData(redistest.FromClient, func(data []byte) redistest.Verdict {
		for _, m := range ack.FindAllSubmatch(data, -1) {
			n, _ := strconv.ParseInt(string(m[1]), 10, 64)
			heard.Store(n)
		}
		return redistest.Pass
	})
	f := &following{src: src, dst: dst, m: newMigration(t, src.URLAt(proxy.Addr()), dst.URL())}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 83, Writers: 2, Rate: 10_000})
	for i := range 5 {
		before := f.status.Commands.Load()
		eventually(t, "the load flows", func() bool {
			select {
			case <-f.done:
				t.Fatalf("the run ended: %v", f.err)
			default:
			}
			return f.status.Commands.Load() > before+2000
		})
		if err := f.end(); err != nil {
			t.Fatal(err)
		}
		read, rec := f.status.Taken.Load(), mustRecord(t, dst)
		if rec.Offset != read || rec.Phase != checkpoint.PhaseStream {
			t.Errorf("stop %d: took all up to %d, checkpoint is %d", i, read, rec.Offset)
		}
		eventually(t, "the source hears the last word", func() bool { return heard.Load() == rec.Offset })
		f.running = f.m.start(t)
	}
	stop()
	f.equal(t)
	if got := src.Info(t, "stats")["sync_partial_ok"]; got != "5" {
		t.Errorf("partial resyncs: got %s, want 5", got)
	}
}

// T12: a source that dies in the middle of its RDB leaves nothing that passes for a whole one.
func TestSourceDiesInTheSnapshot(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 3000})
	src.Do(t, "SET", "orphan", "1")
	src.Do(t, "CONFIG", "SET", "rdb-key-save-delay", "3000", "rdbcompression", "no")
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	eventually(t, "some keys are in", func() bool { return r.status.SnapshotKeys.Load() > 0 })
	src.Do(t, "DEL", "orphan")
	src.Do(t, "CONFIG", "SET", "rdb-key-save-delay", "0")
	if src.Info(t, "persistence")["rdb_bgsave_in_progress"] != "1" {
		t.Fatal("the RDB was complete too soon for this test")
	}
	src.Kill()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseSnapshot {
		t.Errorf("phase: got %s, want %s", rec.Phase, checkpoint.PhaseSnapshot)
	}
	src.Restart(t) // empty: nothing was saved
	redistest.Fill(t, src, redistest.FillOptions{Keys: 500, Seed: 2})
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// T6: the source's child dies, or cannot write: the run asks again until there is a snapshot.
func TestFailingBGSAVE(t *testing.T) {
	t.Parallel()
	for name, diskless := range map[string]string{"child killed, diskless": "yes", "child killed, disk": "no", "disk unusable": "no"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := redistest.Latest(t)
			src, dst := redistest.Start(t, b, redistest.Config("repl-diskless-sync "+diskless, "enable-protected-configs yes")), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 2000})
			m := newMigration(t, src.URL(), dst.URL())
			mend := breakBGSAVE(t, src, name == "disk unusable")
			r := m.start(t)
			failed := regexp.MustCompile(`(?i)Background (saving|transfer) (error|terminated by signal)`)
			eventually(t, "a BGSAVE fails", func() bool { return failed.MatchString(src.Log()) })
			eventually(t, "the run starts over", func() bool { return r.status.Reconnects.Load() > 0 })
			mend()
			r.until(t, replica.InSync, "")
			r.reach(t, src)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

// breakBGSAVE has the source's snapshots fail until mend is called.
func breakBGSAVE(t *testing.T, src *redistest.Server, disk bool) (mend func()) {
	t.Helper()
	if disk {
		dir := filepath.Join(t.TempDir(), "gone")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		src.Do(t, "CONFIG", "SET", "dir", dir)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		return func() { src.Do(t, "CONFIG", "SET", "dir", src.Dir) }
	}
	src.Do(t, "CONFIG", "SET", "rdb-key-save-delay", "5000")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	child := regexp.MustCompile(`(?:Background saving started by pid|Background RDB transfer started by pid) (\d+)`)
	go func() {
		defer close(done)
		killed := 0
		for ctx.Err() == nil {
			found := child.FindAllStringSubmatch(src.Log(), -1)
			for _, m := range found[min(killed, len(found)):] {
				if pid, err := strconv.Atoi(m[1]); err == nil {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					killed++
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	end := func() {
		cancel()
		<-done
	}
	t.Cleanup(end)
	return func() {
		end()
		src.Do(t, "CONFIG", "SET", "rdb-key-save-delay", "0")
	}
}
