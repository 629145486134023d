package applier_test

import (
	"testing"

	"redferry/internal/redistest"
	"redferry/replica"
)

// tight starts a Redis 6.0 whose buffer for a replica is smaller than a value that its backlog holds: it closes the link on the value, and each later link
// before a byte of it has arrived.
func tight(t *testing.T) (src, dst *redistest.Server) {
	t.Helper()
	b := redistest.ServerNamed(t, "redis-6.0")
	return redistest.Start(t, b, redistest.Config("client-output-buffer-limit replica 1mb 0 0", "repl-backlog-size 64mb")), redistest.Start(t, b)
}

// The run ends with the reason and the way out, and once that has been gone the same command finishes, without another full resync.
func TestSourceThatClosesEachLink(t *testing.T) {
	t.Parallel()
	src, dst := tight(t)
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	putLarge(t, src, 5<<20)
	err := r.wait(t)
	wantStop(t, err, replica.Decide, "client-output-buffer-limit for replicas (1.0 MiB)")
	wantStop(t, err, replica.Decide, "3rd time in a row")
	wantStop(t, err, replica.Decide, "--raise-source-limits")
	wantStop(t, err, replica.Decide, `CONFIG SET client-output-buffer-limit "slave 12mb 0 0"`)
	src.Do(t, "CONFIG", "SET", "client-output-buffer-limit", "slave 12mb 0 0")
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// Where the operator allows it, the limit is lifted until the value has arrived, and put back.
func TestSourceLimitIsRaisedForOneValue(t *testing.T) {
	t.Parallel()
	src, dst := tight(t)
	m := newMigration(t, src.URL(), dst.URL())
	m.run.RaiseLimits = true
	r := m.start(t)
	r.until(t, replica.InSync, "")
	for range 2 {
		putLarge(t, src, 5<<20)
		if !r.settled(t, src) {
			t.Fatalf("the run ended: %v", r.err)
		}
		eventually(t, "the limit is put back", func() bool {
			return src.DoStrings(t, "CONFIG", "GET", "client-output-buffer-limit")[1] == "normal 0 0 0 slave 1048576 0 0 pubsub 33554432 8388608 60"
		})
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// Links that ended for another reason, before they brought anything, are not the limit's: it is lifted all the same.
func TestIdleLinksDoNotCountAgainstTheLimit(t *testing.T) {
	t.Parallel()
	src, dst := tight(t)
	src.Do(t, "CONFIG", "SET", "repl-ping-replica-period", "3600")
	m := newMigration(t, src.URL(), dst.URL())
	m.run.RaiseLimits = true
	r := m.start(t)
	r.until(t, replica.InSync, "")
	for range 4 {
		before := r.status.Reconnects.Load()
		eventually(t, "the link is cut", func() bool { return src.DoInt(t, "CLIENT", "KILL", "TYPE", "replica") > 0 })
		eventually(t, "the next link", func() bool {
			return r.status.Reconnects.Load() > before && src.Info(t, "replication")["connected_slaves"] == "1"
		})
	}
	src.Do(t, "SET", "large", string(incompressible(5<<20)))
	if !r.settled(t, src) {
		t.Fatalf("the run ended: %v", r.err)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// Later versions count no limit below the backlog: what the backlog holds arrives.
func TestSourceWithSharedBufferKeepsTheLink(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if !b.Has70() {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, b, redistest.Config("client-output-buffer-limit replica 1mb 0 0", "repl-backlog-size 64mb"))
			dst := redistest.Start(t, b)
			m := newMigration(t, src.URL(), dst.URL())
			r := m.start(t)
			r.until(t, replica.InSync, "")
			putLarge(t, src, 5<<20)
			if !r.settled(t, src) {
				t.Fatalf("the run ended: %v", r.err)
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			if got := r.status.Reconnects.Load(); got != 0 {
				t.Errorf("%d reconnects; want none", got)
			}
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

// A value that neither the source's buffer nor its backlog holds costs the link, and what would be needed to go on: the end says why, on every version.
func TestSourceLosesWhatItCannotHold(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, b, redistest.Config("client-output-buffer-limit replica 1mb 0 0", "repl-backlog-size 1mb"))
			dst := redistest.Start(t, b)
			m := newMigration(t, src.URL(), dst.URL())
			r := m.start(t)
			r.until(t, replica.InSync, "")
			putLarge(t, src, 5<<20)
			err := r.wait(t)
			wantStop(t, err, replica.Decide, "the source cannot continue from the checkpoint")
			wantStop(t, err, replica.Decide, "client-output-buffer-limit for replicas (1.0 MiB)")
			wantStop(t, err, replica.Decide, "repl-backlog-size")
		})
	}
}
