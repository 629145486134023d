package applier_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/replica"
)

// elsewhere is the same migration as another machine would run it: with a directory, and so a lock, of its own.
func (m *migration) elsewhere(t *testing.T) *migration {
	t.Helper()
	other := *m
	other.dir = t.TempDir()
	return &other
}

// T48: a second process is refused as long as the first one lives, and told who it is.
func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	r := m.start(t)
	r.until(t, replica.InSync, "")
	wantStop(t, m.start(t).wait(t), replica.Fenced, "runs already on this machine: pid ")
	wantStop(t, m.elsewhere(t).start(t).wait(t), replica.Fenced, "is owned by pid ")

	src.Do(t, "SET", "still", "mine")
	if err := r.end(); err != nil {
		t.Fatalf("the first process was disturbed: %v", err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

func TestTakeoverEndsTheOther(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	old := m.start(t)
	old.until(t, replica.InSync, "")
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 7, Rate: 2000})
	taker := m.elsewhere(t)
	taker.apply.Takeover = true
	r := taker.start(t)
	wantStop(t, old.wait(t), replica.Fenced, "another process has taken over")
	stop()
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	taker.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// An owner that died without a word, on another machine: its lease is waited for, and no longer.
func TestLeaseOfADeadOwnerRunsOut(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	m.finish(t)
	rest := int64(6000)
	now := dst.DoStrings(t, "TIME")
	dst.Do(t, "HSET", "redferry:test:owner", "lease", fmt.Sprint(number(t, now[0])*1000+rest), "place", "another machine", "owner", "pid 1 on another")
	src.Do(t, "SET", "later", "1")
	begin := time.Now()
	next := m.elsewhere(t)
	next.apply.OnFullResync = m.apply.OnFullResync
	r := next.start(t)
	r.once(t, replica.Waiting, "its lease runs out")
	r.until(t, replica.InSync, "")
	if took := time.Since(begin); took < time.Second {
		t.Errorf("took the migration after %v, before the lease ran out", took)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// A process that ended leaves no lease to wait for; one that was killed on this machine leaves a lock that is free.
func TestNextProcessStartsAtOnce(t *testing.T) {
	t.Parallel()
	_, dst, m := pair(t)
	m.finish(t)
	now := dst.DoStrings(t, "TIME")
	dst.Do(t, "HSET", "redferry:test:owner", "lease", fmt.Sprint(number(t, now[0])*1000+600_000)) // as if killed just now
	begin := time.Now()
	m.finish(t)
	if took := time.Since(begin); took > 2*time.Minute {
		t.Errorf("waited %v for the lease of a process whose lock is free", took)
	}
}

// The claim of a process that is dead reaches the target only now, behind that of the next one, which holds its lock: the live one claims again and goes on.
func TestClaimOfTheDeadArrivesLate(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	late := func() {
		epoch := number(t, dst.DoString(t, "HGET", "redferry:test:owner", "epoch")) + 1
		dst.Do(t, "EVAL", `redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'owner', 'the dead')
			redis.call('SET', KEYS[3], ARGV[1] .. ':0')
			redis.call('HSET', KEYS[2], 'epoch', ARGV[1])`, "3", "redferry:test:owner", "redferry:test", "redferry:test:fence", fmt.Sprint(epoch))
	}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 11, Rate: 2000})
	late()
	eventually(t, "it claims the migration again", func() bool { return dst.DoString(t, "HGET", "redferry:test:owner", "owner") != "the dead" })
	stop()
	src.Do(t, "SET", "the", "last")
	eventually(t, "it goes on", func() bool { return dst.DoInt(t, "EXISTS", "the") == 1 })
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

func number(t *testing.T, s string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// zombie holds what a writer sends until another process has taken the migration over and written on; then lets it through. The target does
// not permit CLIENT KILL, so that the fence alone stands between the two.
func zombie(t *testing.T, inSnapshot bool) {
	b := redistest.Latest(t)
	// From disk: a diskless source would have the second process wait until the first has read its RDB.
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb", "repl-diskless-sync no"))
	dst := redistest.Start(t, b, redistest.Config("user default on nopass ~* &* +@all -client|kill"))
	proxy := redistest.NewProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	if inSnapshot {
		redistest.Fill(t, src, redistest.FillOptions{Keys: 30000})
		proxy.Throttle(redistest.FromClient, 2_000_000)
	}
	old := m.start(t)
	if inSnapshot {
		eventually(t, "some of the snapshot is in", func() bool { return old.status.SnapshotKeys.Load() > 2000 })
	} else {
		old.until(t, replica.InSync, "")
	}
	proxy.Hold(redistest.FromClient, true)
	held := make(chan struct{})
	go func() {
		defer close(held)
		load(t, src, redistest.LoadOptions{Seed: 8, Commands: 4000}) // the old one sends some of it, into the proxy
	}()
	<-held
	time.Sleep(300 * time.Millisecond)

	taker := m.elsewhere(t)
	taker.target = dst.URL()
	taker.apply.Takeover = true
	r := taker.start(t)
	r.until(t, replica.InSync, "")
	load(t, src, redistest.LoadOptions{Seed: 9, Commands: 1000})
	proxy.Throttle(redistest.FromClient, 0)
	proxy.Hold(redistest.FromClient, false) // the old one's writes arrive now
	wantStop(t, old.wait(t), replica.Fenced, "another process has taken over")
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	taker.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := mustRecord(t, dst).Diverged; got != 0 {
		t.Errorf("diverged: got %d", got)
	}
}

func TestZombieCannotWriteInTheStream(t *testing.T)   { t.Parallel(); zombie(t, false) }
func TestZombieCannotWriteInTheSnapshot(t *testing.T) { t.Parallel(); zombie(t, true) }

// T87: TLS on both ends, a client's certificate, IPv6, unix sockets, passwords.
func TestWaysToConnect(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	ways := map[string]struct {
		option redistest.Option
		url    func(*redistest.Server) string
	}{
		"tls":      {redistest.TLS(), (*redistest.Server).URL},
		"unix":     {redistest.Unix(), func(s *redistest.Server) string { return "unix://" + s.Socket() }},
		"ipv6":     {redistest.IPv6(), (*redistest.Server).URL},
		"password": {redistest.Password("p@ss/wörd"), (*redistest.Server).URL},
		"acl user": {redistest.Config("user ferry on >secret ~* &* +@all"), func(s *redistest.Server) string { return "redis://ferry:secret@" + s.Addr() }},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b, way.option), redistest.Start(t, b, way.option)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 500})
			m := newMigration(t, way.url(src), way.url(dst))
			if c := src.Certificates(); c != nil {
				m.srcTLS = replica.TLSFiles{CA: c.CA, Cert: c.ClientCert, Key: c.ClientKey}
			}
			if c := dst.Certificates(); c != nil {
				m.dstTLS = replica.TLSFiles{CA: c.CA, Cert: c.ClientCert, Key: c.ClientKey}
			}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			load(t, src, redistest.LoadOptions{Commands: 300})
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

func TestUntrustedCertificateIsRefused(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.TLS())
	m := newMigration(t, src.URL(), dst.URL())
	err := m.start(t).wait(t)
	wantStop(t, err, replica.Config, "certificate")
	if !strings.Contains(err.Error(), dst.Addr()) {
		t.Errorf("the error does not name the server: %v", err)
	}
}
