package applier_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// pair is a source with some keys in it, a target, and a migration between them.
func pair(t *testing.T, lines ...string) (src, dst *redistest.Server, m *migration) {
	t.Helper()
	b := redistest.Latest(t)
	src, dst = redistest.Start(t, b, redistest.Config(lines...)), redistest.Start(t, b)
	src.Do(t, "MSET", "a", "1", "b", "2", "c", "3")
	src.DB(5).Do(t, "SET", "five", "5")
	return src, dst, newMigration(t, src.URL(), dst.URL())
}

// T86: a target that holds anything is refused, and left as it was.
func TestTargetNotEmpty(t *testing.T) {
	t.Parallel()
	fills := map[string]func(*redistest.Server){
		"keys":           func(s *redistest.Server) { s.DB(3).Do(t, "SET", "mine", "1") },
		"functions":      func(s *redistest.Server) { s.Do(t, "FUNCTION", "LOAD", library) },
		"other redferry": func(s *redistest.Server) { s.Do(t, "HSET", "redferry:other", "format", "1") },
	}
	for name, fill := range fills {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst, m := pair(t)
			fill(dst)
			before := dst.DoString(t, "DEBUG", "DIGEST")
			wantStop(t, m.start(t).wait(t), replica.Decide, "--on-target-not-empty")
			if got := dst.DoString(t, "DEBUG", "DIGEST"); got != before {
				t.Error("the refused target was changed")
			}
			if got := fullResyncs(t, src); got != "0" {
				t.Errorf("the source was made to fork %s times for nothing", got)
			}
			m.apply.OnNotEmpty = applier.Flush
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

const library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)"

func TestMergeKeepsOtherKeys(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	dst.Do(t, "MSET", "mine", "1", "a", "old")
	m.apply.OnNotEmpty = applier.Merge
	m.finish(t)
	if got := dst.DoString(t, "GET", "mine"); got != "1" {
		t.Errorf("a key of the target's own: got %q", got)
	}
	dst.Do(t, "DEL", "mine")
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := mustRecord(t, dst).Origin; got != "merge" {
		t.Errorf("origin: got %q", got)
	}
}

// T85: a checkpoint that this source does not continue.
func TestCheckpointOfAnotherSource(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	m.finish(t)
	other := redistest.Start(t, redistest.Latest(t))
	other.Do(t, "SET", "only", "here")
	m.source = other.URL()
	wantStop(t, m.start(t).wait(t), replica.Decide, "cannot continue from the checkpoint")
	if got := fullResyncs(t, other); got != "0" {
		t.Errorf("the other source was made to fork %s times", got)
	}
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})

	m.apply.OnFullResync = applier.Flush
	m.finish(t)
	redistest.AssertEqual(t, other, dst, redistest.CompareOptions{})
}

func TestCheckpointGone(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	m.finish(t)
	dst.Do(t, "FLUSHALL")
	wantStop(t, m.start(t).wait(t), replica.Decide, "is gone from the target")
	m.apply.OnFullResync = applier.Flush
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

func TestCheckpointOfAnotherFormat(t *testing.T) {
	t.Parallel()
	_, dst, m := pair(t)
	m.finish(t)
	dst.Do(t, "HSET", "redferry:test", "format", "99")
	wantStop(t, m.start(t).wait(t), replica.Decide, `format "99"`)
}

func TestCompletedMigrationStaysSo(t *testing.T) {
	t.Parallel()
	_, dst, m := pair(t)
	m.finish(t)
	dst.Do(t, "HSET", "redferry:test", "phase", "completed")
	if err := m.start(t).wait(t); err != replica.ErrCompleted {
		t.Errorf("got %v, want ErrCompleted", err)
	}
}

func TestSourceAndTargetThatAreOne(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	m.target = m.source
	wantStop(t, m.start(t).wait(t), replica.Decide, "the same server")

	dst.Do(t, "REPLICAOF", "127.0.0.1", strings.Split(src.Addr(), ":")[1])
	eventually(t, "the target replicates the source", func() bool { return dst.Info(t, "replication")["master_link_status"] == "up" })
	m.target = dst.URL()
	wantStop(t, m.start(t).wait(t), replica.Decide, "one replicates the other")

	m.source, m.target = dst.URL(), src.URL()
	wantStop(t, m.start(t).wait(t), replica.Decide, "one replicates the other")
}

func TestTargetThatIsAReplica(t *testing.T) {
	t.Parallel()
	_, dst, m := pair(t)
	third := redistest.Start(t, redistest.Latest(t))
	dst.Do(t, "REPLICAOF", "127.0.0.1", strings.Split(third.Addr(), ":")[1])
	wantStop(t, m.start(t).wait(t), replica.Decide, "is a replica of")
}

func TestTargetWithoutEnoughDatabases(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.Config("databases 4"))
	m := newMigration(t, src.URL(), dst.URL())
	src.Do(t, "SET", "zero", "0")
	src.DB(9).Do(t, "SET", "nine", "9")
	wantStop(t, m.start(t).wait(t), replica.Decide, "database 9")

	// In the stream, too; and nothing lands in another database.
	m.forget(t)
	src.DB(9).Do(t, "DEL", "nine")
	r := m.start(t)
	r.until(t, replica.InSync, "")
	src.DB(9).Do(t, "SET", "nine", "9")
	wantStop(t, r.wait(t), replica.Decide, "database 9")
	if got := dst.DoStrings(t, "KEYS", "nine"); len(got) != 0 {
		t.Errorf("a write into a database that is not there went into database 0: %q", got)
	}
}

func TestClusterTargetIsRefused(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.Cluster())
	m := newMigration(t, src.URL(), dst.URL())
	wantStop(t, m.start(t).wait(t), replica.Config, "cluster mode")
}

func TestWrongPasswords(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	locked, open := redistest.Start(t, b, redistest.Password("right")), redistest.Start(t, b)
	for _, end := range []string{"source", "target"} {
		m := newMigration(t, open.URL(), open.URL())
		wrong := "redis://:wrong@" + locked.Addr()
		if end == "source" {
			m.source = wrong
		} else {
			m.target = wrong
		}
		err := m.start(t).wait(t)
		wantStop(t, err, replica.Config, "password")
		if strings.Contains(err.Error(), "wrong@") || strings.Contains(err.Error(), ":wrong") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

// An interrupted first snapshot leaves only what is our own: it is flushed and loaded again without asking (promise 3).
func TestHalfSnapshotIsLoadedAgain(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 20000})
	proxy := redistest.NewProxy(t, src.Addr())
	m.source = src.URLAt(proxy.Addr())
	proxy.CutAfter(redistest.FromServer, 300_000)
	r := m.start(t)
	eventually(t, "the source link was cut", func() bool { return proxy.Cuts() > 0 })
	src.Do(t, "DEL", "a") // an orphan, if the second snapshot only went over the first
	m.run.StopAt = replica.StopAt{CaughtUp: true}
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// Over other keys nothing is flushed: what was allowed for the first try is needed for the second, too, and holds while it is given.
func TestHalfSnapshotOverOtherKeysAsks(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 20000})
	dst.Do(t, "SET", "mine", "1")
	m.apply.OnNotEmpty = applier.Merge
	proxy := redistest.NewProxy(t, src.Addr())
	m.source = src.URLAt(proxy.Addr())
	proxy.CutAfter(redistest.FromServer, 300_000)
	r := m.start(t)
	eventually(t, "the source link was cut", func() bool { return proxy.Cuts() > 0 })
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	dst.Do(t, "HSET", "redferry:test", "phase", "snapshot") // as if killed in the middle
	m.apply.OnNotEmpty = applier.Refuse
	wantStop(t, m.start(t).wait(t), replica.Decide, "broke off")
	if got := dst.DoString(t, "GET", "mine"); got != "1" {
		t.Errorf("a key of the target's own: got %q", got)
	}
}

func TestRefusedWritesAreReplayable(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	r := m.start(t)
	r.until(t, replica.InSync, "")
	dst.Do(t, "SET", "list", "not a list")
	src.DB(0).Do(t, "RPUSH", "list", "x\r\n", "")
	src.Do(t, "SET", "after", "1")
	wantStop(t, r.wait(t), replica.Refused, "WRONGTYPE")

	// The next run stops, too, until the operator says go on.
	wantStop(t, m.start(t).wait(t), replica.Refused, "refused 1 writes")
	m.apply.KeepGoing = true
	m.finish(t)
	if got := dst.DoString(t, "GET", "after"); got != "1" {
		t.Errorf("the write after the refused one: got %q", got)
	}
	if got := mustRecord(t, dst).Rejected; got != 1 {
		t.Errorf("rejected: got %d, want 1", got)
	}
	// The file mends it, as redis-cli --pipe would.
	raw, err := os.ReadFile(filepath.Join(m.dir, "test", "rejected.resp"))
	if err != nil {
		t.Fatal(err)
	}
	dst.Do(t, "DEL", "list")
	replay(t, dst, raw)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}
