package applier_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// pausable are the servers that can stop their writes.
func pausable(t *testing.T) (builds []redistest.Build) {
	for _, b := range redistest.Servers(t) {
		if b.Name != "redis-6.0" {
			builds = append(builds, b)
		}
	}
	return builds
}

// tombstone fails the test unless the target has nothing of the migration but the mark that it is completed.
func tombstone(t *testing.T, dst *redistest.Server) {
	t.Helper()
	if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseCompleted {
		t.Errorf("the checkpoint's phase is %q", rec.Phase)
	}
	if keys := dst.DoStrings(t, "KEYS", checkpoint.Prefix+"*"); len(keys) != 1 {
		t.Errorf("the target has %q", keys)
	}
}

// cutoverOf is a migration that can be cut over, with a TTL in it, in sync.
func cutoverOf(t *testing.T, src, dst *redistest.Server) (*migration, *running) {
	t.Helper()
	src.Do(t, "SET", "volatile", "x", "PX", "3600000")
	m := newMigration(t, src.URL(), dst.URL())
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders(), Completed: func(context.Context, replica.CutoverReport) error {
		if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseCompleted {
			t.Errorf("the hook finds the phase %q in the target", rec.Phase)
		}
		return nil
	}}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	return m, r
}

// Every write that the source has ever acknowledged, before, during and after the cutover, is in the target; those that it refused are not.
func TestCutover(t *testing.T) {
	for _, b := range pausable(t) {
		t.Run(b.Name, func(t *testing.T) {
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			m, r := cutoverOf(t, src, dst)
			clients := redistest.StartCounters(t, src, 4, 50, 5*time.Millisecond)
			eventually(t, "all clients count", func() bool { return dst.DoInt(t, "EXISTS", "counter:0", "counter:1", "counter:2", "counter:3") == 4 })
			report, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{Compare: func(context.Context) error {
				before := src.DoInt(t, "GET", "counter:0")
				time.Sleep(50 * time.Millisecond)
				if after := src.DoInt(t, "GET", "counter:0"); after != before || before != dst.DoInt(t, "GET", "counter:0") {
					t.Errorf("the source counted from %d to %d while its writes were stopped", before, after)
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.wait(t); err != nil {
				t.Errorf("the run ended with %v", err)
			}
			clients.AwaitRefused(t)
			clients.End()
			clients.Check(t, dst)
			clients.CheckRefused(t)
			tombstone(t, dst)
			t.Logf("writes were stopped for %v", report.WritesStopped())
			if report.WritesStopped() <= 0 || report.At.Offset == 0 {
				t.Errorf("%+v", report)
			}
			if ttl := dst.DoInt(t, "PTTL", "volatile"); ttl <= 0 || ttl > 3_600_000 {
				t.Errorf("a TTL of an hour is %d ms", ttl)
			}
			if !r.saw(replica.Completed, "refuses writes") {
				t.Error("it did not say what has become of the source")
			}

			if err := m.start(t).wait(t); !errors.Is(err, replica.ErrCompleted) {
				t.Errorf("a run on a completed migration: %v", err)
			}
			tombstone(t, dst)

			source, err := replica.ParseEndpoint(src.URL(), replica.TLSFiles{})
			if err != nil {
				t.Fatal(err)
			}
			note := filepath.Join(m.dir, "test", "cutover")
			for _, want := range []bool{true, false} {
				if done, err := replica.UndoCutover(t.Context(), source, note, nil); err != nil || done != want {
					t.Errorf("undo: %v, %v; want %v", done, err, want)
				}
			}
			src.Do(t, "SET", "again", "x")
		})
	}
}

// diverge has a DEL of the stream find nothing in the target.
func diverge(t *testing.T, src, dst *redistest.Server) {
	t.Helper()
	src.Do(t, "SET", "victim", "x")
	eventually(t, "it is there", func() bool { return dst.DoInt(t, "DEL", "victim") == 1 })
	src.Do(t, "DEL", "victim")
	eventually(t, "it is counted", func() bool { return dst.DoString(t, "HGET", checkpoint.Key("test"), "divergence") != "" })
}

// What speaks against a cutover leaves all as it was, and replication goes on.
func TestNoCutover(t *testing.T) {
	b := redistest.Latest(t)
	tests := []struct {
		name  string
		order replica.Cutover
		spoil func(t *testing.T, src, dst *redistest.Server)
		mend  func(t *testing.T, src, dst *redistest.Server)
		kind  replica.Kind
		text  string
	}{
		{name: "the ends differ", order: replica.Cutover{Compare: func(context.Context) error { return errors.New("db0 has a key more") }}, text: "db0 has a key more"},
		{
			name: "timeout", order: replica.Cutover{Timeout: 3 * time.Second, Compare: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
			text: "stopped for 3s",
		},
		{
			name: "divergence", kind: replica.Refused, text: "found nothing to change", spoil: diverge,
		},
		{
			name: "no CONFIG", kind: replica.Decide, text: "refuse writes",
			spoil: func(t *testing.T, src, _ *redistest.Server) { src.Do(t, "ACL", "SETUSER", "default", "-config") },
			mend:  func(t *testing.T, src, _ *redistest.Server) { src.Do(t, "ACL", "SETUSER", "default", "+config") },
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			m, r := cutoverOf(t, src, dst)
			if test.spoil != nil {
				test.spoil(t, src, dst)
			}
			_, err := m.cutover.Orders.Cutover(t.Context(), test.order)
			if test.mend != nil {
				test.mend(t, src, dst)
			}
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("got %v", err)
			}
			if stop := replica.AsStop(err); (stop == nil) != (test.kind == 0) || stop != nil && stop.Kind != test.kind {
				t.Errorf("got %#v", stop)
			}
			src.Do(t, "SET", "later", "x", "PX", "3600000") // at once: nothing is paused
			eventually(t, "a later write arrives", func() bool { return dst.DoString(t, "GET", "later") == "x" })
			eventually(t, "expiries are shifted again", func() bool {
				src.Do(t, "SET", "shifted", "x", "PX", "3600000")
				return dst.DoInt(t, "PTTL", "shifted") > 1<<50
			})
			if got := src.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1]; got != "0" {
				t.Errorf("min-replicas-to-write is %s", got)
			}
			if _, err := os.Stat(filepath.Join(m.dir, "test", "cutover")); !os.IsNotExist(err) {
				t.Errorf("a note is left: %v", err)
			}
			if err := r.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Where replies were lost the ends are compared, before settling: a target that is settled must not be kept waiting. Only what was lost before the comparison is made good by it.
func TestCutoverAfterLostReplies(t *testing.T) {
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	src.Do(t, "SET", "k", "v")
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
	r := m.start(t)
	r.until(t, replica.InSync, "")

	var losing, filled atomic.Bool // filled: something of the stream is on its way, and not only a note about it
	settles, let := make(chan struct{}, 100), make(chan struct{})
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if len(args) > 1 && string(args[1]) == "lost" {
			filled.Store(true)
		}
		switch {
		case strings.EqualFold(string(args[0]), "exec") && filled.Load() && losing.CompareAndSwap(true, false):
			return redistest.LoseReply()
		case strings.EqualFold(string(args[0]), "eval") && strings.Contains(string(args[1]), "'SCAN'"): // which settles
			settles <- struct{}{}
			<-let
		}
		return redistest.Forward()
	})
	unchecked := func() string { return dst.DoString(t, "HGET", checkpoint.Key("test"), "unchecked") }
	lose := func() {
		before := unchecked()
		filled.Store(false)
		losing.Store(true)
		src.Do(t, "INCR", "lost")
		eventually(t, "a reply is lost", func() bool { return unchecked() != before })
	}
	compared := 0
	shifts := func() { // expiries that come now, or soon: who has asked hears of the end before it has begun anew
		eventually(t, "a later expiry is shifted", func() bool {
			src.Do(t, "SET", "volatile", "x", "PX", "3600000")
			return dst.DoInt(t, "PTTL", "volatile") > 1<<50
		})
	}
	order := func(meanwhile func()) error {
		_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{CompareAll: func(context.Context) error {
			compared++
			shifts()
			meanwhile()
			return nil
		}})
		return err
	}

	ended := make(chan error, 1)
	go func() { ended <- order(func() {}) }()
	<-settles
	lose()
	close(let)
	wantStop(t, <-ended, replica.Failed, "lost meanwhile")
	if compared != 0 {
		t.Error("it was compared behind settling")
	}
	r.until(t, replica.InSync, "")
	shifts()

	wantStop(t, order(lose), replica.Failed, "lost meanwhile")
	r.until(t, replica.InSync, "")
	if err := order(func() {}); err != nil || compared != 2 {
		t.Errorf("%v, compared %d times", err, compared)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	tombstone(t, dst)
}

// A pause of the operator's own is not ended by a cutover, where the server tells of it; one that is over soon is waited for.
func TestCutoverOfAPausedSource(t *testing.T) {
	b := redistest.ServerNamed(t, "valkey-8.1")
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	m, r := cutoverOf(t, src, dst)
	src.Do(t, "CLIENT", "PAUSE", "60000", "WRITE")
	_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
	wantStop(t, err, replica.Decide, "CLIENT UNPAUSE")
	if left := src.Info(t, "clients")["paused_timeout_milliseconds"]; len(left) < 5 {
		t.Errorf("of the pause %s ms are left", left)
	}
	src.Do(t, "CLIENT", "UNPAUSE")
	r.until(t, replica.InSync, "")
	began := time.Now()
	src.Do(t, "CLIENT", "PAUSE", "1000", "WRITE")
	if _, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{}); err != nil || time.Since(began) < 900*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	tombstone(t, dst)
}

// A source that cannot stop its writes needs the operator's word.
func TestCutoverOfASourceThatCannotPause(t *testing.T) {
	b := redistest.ServerNamed(t, "redis-6.0")
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	m, r := cutoverOf(t, src, dst)
	_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
	wantStop(t, err, replica.Decide, "6.2.7")
	if _, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{WritesStopped: true}); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if err := src.TryDo("SET", "x", "y"); err == nil {
		t.Error("the source takes writes")
	}
	tombstone(t, dst)
}

// --auto needs nobody to ask; what fails is tried again.
func TestCutoverByItself(t *testing.T) {
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	src.Do(t, "SET", "k", "v")
	m := newMigration(t, src.URL(), dst.URL())
	hooks := 0
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders(), Auto: &replica.Cutover{After: replica.SourceOpen}, Completed: func(_ context.Context, r replica.CutoverReport) error {
		hooks++
		if r.WritesStopped() <= 0 || len(r.At.ReplID) != 40 || !strings.Contains(r.Source, "takes writes") {
			t.Errorf("the hook hears %+v", r)
		}
		return errors.New("it fails")
	}}
	r := m.start(t)
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	tombstone(t, dst)
	src.Do(t, "SET", "k", "w") // it is open
	if got := dst.DoString(t, "GET", "k"); got != "v" || hooks != 1 || r.said("run it by hand") != 1 {
		t.Errorf("the target has %q, %d hooks", got, hooks)
	}
}

// A process that dies between the source's refusal and the tombstone leaves a cutover which the next one finishes without being asked, and which can be undone.
func TestCutoverIsFinished(t *testing.T) {
	b := redistest.Latest(t)
	for _, then := range []string{"finished", "finished by force", "asked to leave the source open", "undone", "opened by hand"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			m, r := cutoverOf(t, src, dst)
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			m.target = dst.URLAt(proxy.Addr())
			var tried atomic.Bool
			proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
				for _, arg := range args {
					if string(arg) == string(checkpoint.PhaseCompleted) {
						tried.Store(true)
						return redistest.CutBeforeCommand() // the tombstone never arrives
					}
				}
				return redistest.Forward()
			})
			r = m.start(t)
			r.until(t, replica.InSync, "")
			if then == "finished by force" {
				diverge(t, src, dst)
			}
			asked := make(chan error, 1)
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			go func() {
				_, err := m.cutover.Orders.Cutover(ctx, replica.Cutover{Force: then == "finished by force"})
				asked <- err
			}()
			eventually(t, "the source refuses writes", func() bool { return src.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1] != "0" })
			eventually(t, "the tombstone was tried", tried.Load)
			wantStop(t, r.end(), replica.Failed, "in the midst of a cutover")
			if err := <-asked; !errors.Is(err, replica.ErrCutoverBegun) {
				t.Errorf("who has asked hears %v", err)
			}
			if src.TryDo("SET", "x", "y") == nil {
				t.Fatal("the source takes writes")
			}
			if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseStream {
				t.Fatalf("the checkpoint's phase is %q", rec.Phase)
			}
			if then == "opened by hand" {
				src.Do(t, "CONFIG", "SET", "min-replicas-to-write", "0")
				m.target = dst.URL()
				r = m.start(t)
				eventually(t, "it says that nothing is finished", func() bool { return r.said("nothing is finished") == 1 })
				src.Do(t, "SET", "x", "y")
				eventually(t, "replication goes on", func() bool { return dst.DoString(t, "GET", "x") == "y" })
				if _, err := os.Stat(filepath.Join(m.dir, "test", "cutover")); !os.IsNotExist(err) {
					t.Errorf("the note is still there: %v", err)
				}
				return
			}
			if then == "undone" {
				source, err := replica.ParseEndpoint(src.URL(), replica.TLSFiles{})
				if err != nil {
					t.Fatal(err)
				}
				if done, err := replica.UndoCutover(t.Context(), source, filepath.Join(m.dir, "test", "cutover"), nil); err != nil || !done {
					t.Fatalf("%v, %v", done, err)
				}
				src.Do(t, "SET", "x", "y")
				m.target = dst.URL()
				m.start(t)
				eventually(t, "replication goes on", func() bool { return dst.DoString(t, "GET", "x") == "y" })
				return
			}
			m.target = dst.URL()
			m.run.Gate = &replica.Gate{}
			if then == "asked to leave the source open" {
				m.run.Gate.Pause() // so that it is not finished before that is asked
			}
			r = m.start(t)
			if then == "asked to leave the source open" {
				eventually(t, "it cannot be finished yet", func() bool { return r.said("cannot be finished yet") == 1 })
				m.run.Gate.Resume()
				report, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{After: replica.SourceOpen})
				if err != nil || !report.Resumed || !strings.Contains(report.Source, "refuses writes") {
					t.Errorf("%+v, %v", report, err)
				}
			}
			if err := r.wait(t); err != nil {
				t.Fatal(err)
			}
			tombstone(t, dst)
			if then == "asked to leave the source open" { // it refuses, and can be opened
				source, err := replica.ParseEndpoint(src.URL(), replica.TLSFiles{})
				if err != nil {
					t.Fatal(err)
				}
				if done, err := replica.UndoCutover(t.Context(), source, filepath.Join(m.dir, "test", "cutover"), nil); err != nil || !done {
					t.Errorf("undo: %v, %v", done, err)
				}
				src.Do(t, "SET", "x", "y")
			}
		})
	}
}

// A replica that has lost its primary lacks what that acknowledges: the operator's word is not enough.
func TestCutoverOfAReplica(t *testing.T) {
	b := redistest.Latest(t)
	primary, dst := redistest.Start(t, b), redistest.Start(t, b)
	src := redistest.Start(t, b, redistest.Config("replicaof "+strings.Replace(primary.Addr(), ":", " ", 1)))
	up := func() bool { return src.Info(t, "replication")["master_link_status"] == "up" }
	eventually(t, "the replica follows", up)
	primary.Do(t, "SET", "k", "v")
	m := newMigration(t, src.URL(), dst.URL())
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
	wantStop(t, err, replica.Decide, "is a replica, and its primary's writes")
	primary.Freeze()
	src.Do(t, "CLIENT", "KILL", "TYPE", "master")
	eventually(t, "the link is down", func() bool { return !up() })
	_, err = m.cutover.Orders.Cutover(t.Context(), replica.Cutover{WritesStopped: true})
	wantStop(t, err, replica.Decide, "without a link to its primary")
	primary.Thaw()
	eventually(t, "the replica follows again", up)
	if _, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{WritesStopped: true}); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	tombstone(t, dst)
}
