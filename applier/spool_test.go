package applier_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/replica"
)

// heavy starts a source whose RDB has about so many bytes, in values of 8 KiB, and some keys of every type.
func heavy(t testing.TB, size int, config ...string) *redistest.Server {
	t.Helper()
	src := redistest.Start(t, redistest.Latest(t), redistest.Config(append([]string{"rdbcompression no", "repl-backlog-size 64mb"}, config...)...))
	redistest.Fill(t, src, redistest.FillOptions{Keys: 300})
	src.Do(t, "DEBUG", "POPULATE", strconv.Itoa(size/floodValue), "heavy", strconv.Itoa(floodValue))
	return src
}

// An RDB three times as large as the spool may be passes through it, whether the source sends it from its disk or not.
func TestRDBLargerThanTheSpool(t *testing.T) {
	t.Parallel()
	for name, diskless := range map[string]string{"disk": "no", "diskless": "yes"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const rate = 1 << 20 // bytes a second of the target, on each of three pipelines
			f, proxy := throughSmallSpool(t, rate, "repl-diskless-sync "+diskless)
			if most := f.mostSpooled(t, func() bool { return f.status.SnapshotReceived.Load() > 2*f.m.spool.Max }); most < f.m.spool.Max/2 || most > f.m.spool.Max+f.m.spool.Segment {
				t.Errorf("the spool had %d bytes at most, of %d", most, f.m.spool.Max)
			}
			if !f.saw(replica.Waiting, "the spool is full") {
				t.Error("nothing was said of the full spool")
			}
			proxy.Throttle(redistest.FromClient, 0)
			f.until(t, replica.InSync, "")
			f.equal(t)
		})
	}
}

// That the spool is full is one event, though the disk's free space changes all the time: each event calls the operator's command, and takes the place of another in the history.
func TestFullSpoolIsOneEvent(t *testing.T) {
	t.Parallel()
	src := heavy(t, 4<<20)
	dst := redistest.Start(t, src.Build)
	m := newMigration(t, src.URL(), dst.URL())
	m.spool.Max, m.spool.Segment = 1<<20, 1<<18
	m.run.Gate = &replica.Gate{}
	m.run.Gate.Pause()
	r := m.start(t)
	r.until(t, replica.Waiting, "the spool is full")
	had := r.spool.Usage().Free
	if err := os.WriteFile(filepath.Join(m.dir, "other"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk has less room", func() bool { return r.spool.Usage().Free != had })
	time.Sleep(500 * time.Millisecond) // it is looked at ten times a second
	if state, why, _ := r.status.Now(); state != replica.Waiting {
		t.Fatalf("the run is %s: %s", state, why)
	}
	said := map[string]bool{}
	r.mu.Lock()
	for _, s := range r.states {
		if _, why, ok := strings.Cut(s, "the spool is full"); ok {
			why, _, _ = strings.Cut(why, ":")
			said[why] = true
		}
	}
	r.mu.Unlock()
	if len(said) != 1 {
		t.Errorf("the reason was another one each time: %v", said)
	}
}

// A target that takes what comes at once must not make the spool exceed its bound.
func TestSpoolMaxWithAFastTarget(t *testing.T) {
	t.Parallel()
	f, _ := throughSmallSpool(t, 0)
	if most := f.mostSpooled(t, func() bool { return f.status.Base() == replica.InSync }); most > f.m.spool.Max+f.m.spool.Segment {
		t.Errorf("the spool had %d bytes at most, of %d", most, f.m.spool.Max)
	}
	f.equal(t)
}

// throughSmallSpool starts a migration whose RDB is three times as large as the spool may be, into a target that takes so many bytes a second on each
// connection; 0: as fast as it can.
func throughSmallSpool(t *testing.T, rate int, config ...string) (*following, *redistest.Proxy) {
	t.Helper()
	const size = 8 << 20
	src := heavy(t, 3*size, config...)
	dst := redistest.Start(t, src.Build)
	proxy := redistest.NewProxy(t, dst.Addr())
	proxy.Throttle(redistest.FromClient, rate)
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))}
	f.m.spool.Max, f.m.spool.Segment = size, 1<<20
	f.running = f.m.start(t)
	return f, proxy
}

// mostSpooled is how much the spool has at most until enough says so.
func (r *running) mostSpooled(t testing.TB, enough func() bool) (most int64) {
	t.Helper()
	eventually(t, "enough of the snapshot", func() bool {
		most = max(most, r.spool.Usage().Used)
		return enough()
	})
	return most
}

// T17: two replicas share a diskless transfer. A target that takes nothing does not hold up the other one.
func TestDisklessTransferIsNotHeldUp(t *testing.T) {
	t.Parallel()
	src := heavy(t, 48<<20, "repl-diskless-sync yes", "repl-diskless-sync-delay 120", "repl-diskless-sync-max-replicas 2")
	dst := redistest.Start(t, src.Build)
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
	f.running = f.m.start(t)
	eventually(t, "ours waits for its BGSAVE", func() bool { return src.Info(t, "replication")["connected_slaves"] == "1" })
	eventually(t, "the target is claimed", func() bool { return dst.DoInt(t, "EXISTS", "redferry:test:owner") == 1 })
	dst.Freeze()
	began := time.Now()
	config := []string{"repl-diskless-load disabled"}
	if src.Build.AtLeast("redis", 8, 0) {
		config = append(config, "repl-rdb-channel no") // else it gets an RDB of its own
	}
	other := redistest.Start(t, src.Build, redistest.ReplicaOf(src), redistest.Config(config...))
	eventually(t, "the other replica is up", func() bool { return other.Info(t, "replication")["master_link_status"] == "up" })
	took := time.Since(began)
	eventually(t, "the RDB is in the spool", func() bool { return f.spool.Contents().Complete })
	if got := f.status.SnapshotRead.Load(); got > 8<<20 {
		t.Errorf("the frozen target has %d bytes", got)
	}
	if forks := src.Info(t, "stats")["total_forks"]; forks != "1" || fullResyncs(t, src) != "2" {
		t.Errorf("forks: got %s, want 1 for both replicas", forks)
	}
	if took > time.Minute {
		t.Errorf("the other replica was held up: it took %v", took)
	}
	dst.Thaw()
	f.until(t, replica.InSync, "")
	f.through(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// smallDisk gives a migration a --dir on a file system of its own.
func smallDisk(t *testing.T, m *migration, size int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	if err := syscall.Mount("tmpfs", m.dir, "tmpfs", 0, "size="+strconv.Itoa(size)); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { // before the folder is removed, and after the run has ended
		if err := syscall.Unmount(m.dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// ballast fills a migration's disk until only so many bytes are free. The first function that it returns does so again, because the spool makes room for itself; the other takes
// the ballast away.
func (m *migration) ballast(t *testing.T, free int64) (again, remove func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(m.dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // before the disk is unmounted
	again = func() {
		var st syscall.Statfs_t
		if err := syscall.Statfs(m.dir, &st); err != nil {
			t.Fatal(err)
		}
		size := max(0, int64(st.Bavail)*st.Bsize-free)
		if _, err := f.Write(make([]byte, size)); err != nil && (free > 0 || !errors.Is(err, syscall.ENOSPC)) { // others may write at the same time
			t.Fatal(err)
		}
	}
	again()
	return again, func() {
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
	}
}

// T81: the disk is full to the brim. The link to the source is closed, and the reason said; what is in the spool goes on into the target. When there is room the link goes on.
func TestDiskFullInTheStream(t *testing.T) {
	t.Parallel()
	src := redistest.Start(t, redistest.Latest(t), patient)
	f := &following{src: src, dst: redistest.Start(t, src.Build), m: newMigration(t, src.URL(), "")}
	f.m.target = f.dst.URL()
	smallDisk(t, f.m, 64<<20)
	f.m.spool.Max, f.m.spool.Segment = 32<<20, 1<<20
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	stop := flood(t, src, 4<<20)
	eventually(t, "the stream flows", func() bool { return f.status.Checkpointed.Load() > 2<<20 })
	fill, room := f.m.ballast(t, 0)
	eventually(t, "the source is ahead", func() bool {
		fill()
		return src.Offset(t) > f.spool.Contents().End+4<<20
	})
	eventually(t, "the target has all that was received", func() bool { // but for a command of which the disk took a part only
		return f.spool.Contents().End-f.status.Checkpointed.Load() < 2*floodValue
	})
	eventually(t, "the reason is said", func() bool {
		fill() // the spool makes room for itself
		return f.saw(replica.Waiting, "no space left on device") && f.saw(replica.Waiting, "make room in --dir")
	})
	room()
	stop()
	f.equal(t)
	f.until(t, replica.InSync, "")
}

// A disk that others fill while the RDB arrives: the transfer pauses, and goes on when there is room.
func TestDiskFullInTheSnapshot(t *testing.T) {
	t.Parallel()
	for name, diskless := range map[string]string{"disk": "no", "diskless": "yes"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := heavy(t, 32<<20, "repl-diskless-sync "+diskless)
			f := &following{src: src, dst: redistest.Start(t, src.Build), m: newMigration(t, src.URL(), "")}
			proxy := redistest.NewProxy(t, f.dst.Addr())
			proxy.Throttle(redistest.FromClient, 256<<10)
			f.m.target = f.dst.URLAt(proxy.Addr())
			smallDisk(t, f.m, 128<<20)
			f.m.spool.Max, f.m.spool.Segment = 64<<20, 1<<20
			_, room := f.m.ballast(t, 24<<20)
			f.running = f.m.start(t)
			f.until(t, replica.Waiting, "the spool is full")
			had := f.status.SnapshotReceived.Load()
			if had > 16<<20 {
				t.Errorf("received %d bytes of the RDB", had)
			}
			room()
			eventually(t, "more of the RDB", func() bool { return f.status.SnapshotReceived.Load() > had+8<<20 })
			proxy.Throttle(redistest.FromClient, 0)
			f.until(t, replica.InSync, "")
			f.equal(t)
			if got := f.status.Reconnects.Load(); got != 0 {
				t.Errorf("reconnects: got %d, want none", got)
			}
		})
	}
}

// A disk that is full before the RDB is asked for: the source is not made to fork for what cannot be kept.
func TestDiskFullBeforeTheSnapshot(t *testing.T) {
	t.Parallel()
	src := redistest.Start(t, redistest.Latest(t))
	say(t, src, "SET k v")
	f := &following{src: src, dst: redistest.Start(t, src.Build), m: newMigration(t, src.URL(), "")}
	f.m.target = f.dst.URL()
	smallDisk(t, f.m, 64<<20)
	_, room := f.m.ballast(t, 256<<10)
	f.running = f.m.start(t)
	f.until(t, replica.Waiting, "cannot keep a snapshot, hence asking for none: the disk is full")
	eventually(t, "two more tries", func() bool { return f.status.Reconnects.Load() > 2 })
	if got := fullResyncs(t, src); got != "0" {
		t.Errorf("full resyncs while the disk is full: got %s, want 0", got)
	}
	room()
	f.until(t, replica.InSync, "")
	f.equal(t)
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// A run that goes on with a snapshot which an earlier one has received is caught up when it has loaded that, even if the source has written nothing since: its offset, 0, is then
// all that the target has before, too.
func TestCaughtUpWithAnIdleSource(t *testing.T) {
	t.Parallel()
	src := heavy(t, 4<<20, "repl-ping-replica-period 3600")
	src.Restart(t) // its offset is 0
	src.Do(t, "DEBUG", "POPULATE", "500", "heavy", strconv.Itoa(floodValue))
	dst := redistest.Start(t, src.Build)
	proxy := redistest.NewProxy(t, dst.Addr())
	proxy.Throttle(redistest.FromClient, 500<<10) // on each of three pipelines
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	r := m.start(t)
	eventually(t, "the RDB is in the spool", func() bool { return r.spool.Contents().Complete })
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.run.StopAt.CaughtUp = true
	if err := m.start(t).wait(t); err != nil {
		t.Fatal(err)
	}
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := src.Offset(t); got != 0 {
		t.Errorf("the source is at %d: not what this test is about", got)
	}
}
