package applier_test

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"redferry/internal/redistest"
	"redferry/replica"
)

// A value of 5 MB, in the snapshot and in the stream, to a target that reads no more than 1 MB of a command: every server closes the connection on it, without
// a word that arrives. The run ends in front of it, and names the value, the limit and the way out. After that has been gone, the same command finishes.
func TestTargetHangsUpOnLargeValue(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		for _, phase := range []string{"snapshot", "stream"} {
			t.Run(b.Name+" in the "+phase, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b, redistest.Config("client-query-buffer-limit 1mb"))
				m := newMigration(t, src.URL(), dst.URL())
				small(t, src, "before")
				if phase == "snapshot" {
					src.Do(t, "SET", "large", string(incompressible(5<<20)))
				}
				r := m.start(t)
				if phase == "stream" {
					r.until(t, replica.InSync, "")
					putLarge(t, src, 5<<20)
				}
				err := r.wait(t)
				wantHungUp(t, err, "large", "client-query-buffer-limit is 1.0 MiB (1048576)")
				wantStop(t, err, replica.Refused, "(5242")
				wantStop(t, err, replica.Refused, "CONFIG SET client-query-buffer-limit 16777216 on the target")
				dst.Do(t, "CONFIG", "SET", "client-query-buffer-limit", "16777216")
				m.finish(t)
				redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
			})
		}
	}
}

// One transaction of several values, each of which is small enough: some servers count them together.
func TestTargetHangsUpOnTransaction(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b, redistest.Config("client-query-buffer-limit 1mb"))
			m := newMigration(t, src.URL(), dst.URL())
			r := m.start(t)
			r.until(t, replica.InSync, "")
			part := string(incompressible(700 << 10))
			if _, err := src.Pipeline([]string{"MULTI"}, []string{"SET", "one", part[:100]}, []string{"SET", "two", part[1:]}, []string{"SET", "three", part}, []string{"EXEC"}); err != nil {
				t.Fatal(err)
			}
			if r.settled(t, src) {
				if b.AtLeast("redis", 7, 4) || b.Server == "valkey" {
					t.Error("this server used to count the commands of a transaction together")
				}
				return
			}
			wantHungUp(t, r.err, "three", "its transaction of 3 commands has 1.4 MiB")
			wantHungUp(t, r.err, "three", "client-query-buffer-limit is 1.0 MiB")
			dst.Do(t, "CONFIG", "SET", "client-query-buffer-limit", "4mb")
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

// The same where the target may not be asked for its limits: the value is named after some seconds of tries alone.
func TestTargetHangsUpForUnknownReason(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		for _, phase := range []string{"snapshot", "stream"} {
			t.Run(b.Name+" in the "+phase, func(t *testing.T) {
				t.Parallel()
				src := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb"))
				dst := redistest.Start(t, b, redistest.Config("client-query-buffer-limit 1mb", "user ferry on >secret ~* +@all -config"))
				m := newMigration(t, src.URL(), strings.Replace(dst.URL(), "redis://", "redis://ferry:secret@", 1))
				small(t, src, "before")
				if phase == "snapshot" {
					src.Do(t, "SET", "large", string(incompressible(5<<20)))
				}
				r := m.start(t)
				if phase == "stream" {
					r.until(t, replica.InSync, "")
					putLarge(t, src, 5<<20)
				}
				err := r.wait(t)
				wantHungUp(t, err, "large", "times in a row")
				if b.AtLeast("redis", 7, 4) || b.Server == "valkey" {
					wantHungUp(t, err, "large", "counts it as over its client-query-buffer-limit")
				}
				wantStop(t, err, replica.Refused, "client-query-buffer-limit")
			})
		}
	}
}

// A target whose clients may take less memory than a value evicts the client that sends it.
func TestTargetEvictsItsClient(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if !b.Has70() {
			continue
		}
		for _, phase := range []string{"snapshot", "stream"} {
			t.Run(b.Name+" in the "+phase, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b, redistest.Config("maxmemory-clients 4mb"))
				m := newMigration(t, src.URL(), dst.URL())
				small(t, src, "before")
				if phase == "snapshot" {
					src.Do(t, "SET", "large", string(incompressible(5<<20)))
				}
				r := m.start(t)
				if phase == "stream" {
					r.until(t, replica.InSync, "")
					putLarge(t, src, 5<<20)
				}
				err := r.wait(t)
				wantHungUp(t, err, "large", "maxmemory-clients is 4.0 MiB")
				dst.Do(t, "CONFIG", "SET", "maxmemory-clients", "0")
				m.finish(t)
				redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
			})
		}
	}
}

// A command of more arguments than Redis 6.0 reads, from a source that has no such limit.
func TestMoreArgumentsThanOldTargetsRead(t *testing.T) {
	t.Parallel()
	old := redistest.ServerNamed(t, "redis-6.0")
	for _, b := range redistest.Servers(t) {
		if !b.Has70() {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, old)
			m := newMigration(t, src.URL(), dst.URL())
			r := m.start(t)
			r.until(t, replica.InSync, "")
			args := make([]string, 1_200_000)
			for i := range args {
				args[i] = "x"
			}
			src.Do(t, append([]string{"RPUSH", "before"}, args[:1000]...)...)
			src.Do(t, append([]string{"RPUSH", "large"}, args...)...)
			err := r.wait(t)
			wantHungUp(t, err, "large", "1,200,002 arguments, and a server before 7.0 takes 1,048,576 arguments")
			if got := dst.DoInt(t, "LLEN", "before"); got != 1000 {
				t.Errorf("the target has %d elements of what came before; want 1000", got)
			}
		})
	}
}

// With --on-error=continue the value is left out and kept, in the snapshot and in the stream, and nothing else is.
func TestValueLeftOutWhereTargetHangsUp(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b, redistest.Config("client-query-buffer-limit 1mb"))
	m := newMigration(t, src.URL(), dst.URL())
	m.apply.KeepGoing = true
	small(t, src, "before")
	src.Do(t, "SET", "large", string(incompressible(5<<20)))
	src.Do(t, "SET", "second", string(incompressible(3<<20)))
	r := m.start(t)
	r.until(t, replica.InSync, "")
	putLarge(t, src, 4<<20)
	if !r.settled(t, src) {
		t.Fatalf("the run has ended: %v", r.err)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if got := mustRecord(t, dst).Rejected; got != 3 {
		t.Errorf("%d writes were refused; want 3", got)
	}
	src.Do(t, "DEL", "large", "second")
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// What is left of a transaction of which a value was left out is small: a connection that is cut on it says nothing against it.
func TestRestOfTransactionIsNotTooLarge(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b, redistest.Config("proto-max-bulk-len 1mb"))
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.apply.KeepGoing = true
	r := m.start(t)
	r.until(t, replica.InSync, "")
	var cut atomic.Bool
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if len(args) > 1 && string(args[1]) == "rest" && cut.CompareAndSwap(false, true) {
			return redistest.CutBeforeCommand()
		}
		return redistest.Forward()
	})
	if _, err := src.Pipeline([]string{"MULTI"}, []string{"SET", "large", string(incompressible(2 << 20))}, []string{"SET", "rest", "small"}, []string{"EXEC"}); err != nil {
		t.Fatal(err)
	}
	if !r.settled(t, src) {
		t.Fatalf("the run has ended: %v", r.err)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if !cut.Load() {
		t.Fatal("the connection was not cut")
	}
	if got := mustRecord(t, dst).Rejected; got != 1 {
		t.Errorf("%d writes were refused; want 1", got)
	}
	src.Do(t, "DEL", "large")
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// On some servers a command of many arguments may be larger than client-query-buffer-limit, or a transaction may: a connection that is cut on one says
// nothing against it.
func TestLargeWriteThatTheTargetTakes(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if b.Server == "valkey" {
			continue // it counts all together
		}
		writes := map[string][][]string{"command": {append([]string{"RPUSH", "large"}, slices.Repeat([]string{string(incompressible(20 << 10))}, 100)...)}}
		if !b.AtLeast("redis", 7, 4) {
			part := string(incompressible(700 << 10))
			writes["transaction"] = [][]string{{"MULTI"}, {"SET", "large", part}, {"SET", "large", part}, {"EXEC"}}
		}
		for name, write := range writes {
			t.Run(b.Name+" "+name, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b, redistest.Config("client-query-buffer-limit 1mb"))
				proxy := redistest.NewCommandProxy(t, dst.Addr())
				m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
				r := m.start(t)
				r.until(t, replica.InSync, "")
				var cuts atomic.Int64
				proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
					if len(args) > 1 && string(args[1]) == "large" && cuts.Add(1) <= 2 {
						return redistest.CutBeforeCommand()
					}
					return redistest.Forward()
				})
				if _, err := src.Pipeline(write...); err != nil {
					t.Fatal(err)
				}
				if !r.settled(t, src) {
					t.Fatalf("the run has ended: %v", r.err)
				}
				if err := r.end(); err != nil {
					t.Fatal(err)
				}
				if cuts.Load() < 3 {
					t.Errorf("%d tries; want two that were cut, and one more", cuts.Load())
				}
				m.finish(t)
				redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
			})
		}
	}
}

// A target that closes every connection on small writes, too, is waited for: it is not the write.
func TestHangUpsOnSmallWritesAreWaitedFor(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"snapshot", "stream"} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			b := redistest.Latest(t)
			src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b)
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			var cut atomic.Int64
			hangUp := func(_ int, args [][]byte) redistest.Answer {
				if len(args) > 1 && strings.HasPrefix(string(args[1]), "here") {
					cut.Add(1)
					return redistest.CutBeforeCommand()
				}
				return redistest.Forward()
			}
			small(t, src, "before")
			if phase == "snapshot" {
				proxy.Handle(hangUp)
				small(t, src, "here")
			}
			r := m.start(t)
			if phase == "stream" {
				r.until(t, replica.InSync, "")
				proxy.Handle(hangUp)
				small(t, src, "here")
			}
			eventually(t, "the connection was cut more often than a large write is given", func() bool { return cut.Load() > 9 })
			select {
			case <-r.done:
				t.Fatalf("the run ended: %v", r.err)
			default:
			}
			proxy.Handle(nil)
			r.until(t, replica.InSync, "")
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

// Trouble that is over after some tries is no reason to name the large write that met it.
func TestShortTroubleWithLargeWriteIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"snapshot", "stream"} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			b := redistest.Latest(t)
			src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b)
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			var tries atomic.Int64
			trouble := func(_ int, args [][]byte) redistest.Answer {
				if len(args) > 1 && string(args[1]) == "large" && tries.Add(1) <= 4 {
					return redistest.CutBeforeCommand()
				}
				return redistest.Forward()
			}
			large := string(incompressible(2 << 20))
			if phase == "snapshot" {
				proxy.Handle(trouble)
				src.Do(t, "SET", "large", large)
			}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			if phase == "stream" {
				proxy.Handle(trouble)
				src.Do(t, "SET", "large", large)
			}
			if !r.settled(t, src) {
				t.Fatalf("the run has ended: %v", r.err)
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			if tries.Load() != 5 {
				t.Errorf("%d tries; want 5", tries.Load())
			}
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

// A target that dies on a large write, again and again, is another process each time: it is waited for.
func TestTargetThatRestartsOnLargeWriteIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb"))
	dst := redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	r := m.start(t)
	r.until(t, replica.InSync, "")
	deaths := make(chan struct{}, 100)
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if len(args) > 1 && string(args[1]) == "large" {
			deaths <- struct{}{}
			return redistest.CutBeforeCommand()
		}
		return redistest.Forward()
	})
	putLarge(t, src, 2<<20)
	for range 5 {
		<-deaths
		dst.Kill()
		dst.Restart(t)
	}
	select {
	case <-r.done:
		t.Fatalf("the run ended: %v", r.err)
	default:
	}
	proxy.Handle(nil)
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// wantHungUp fails the test unless a run has stopped in front of a write to this key, and says this of it.
func wantHungUp(t testing.TB, err error, key, why string) {
	t.Helper()
	wantStop(t, err, replica.Refused, strconv.Quote(key))
	wantStop(t, err, replica.Refused, why)
}

// settled waits until the target has all that the source has now, or the run has ended, and tells which.
func (r *running) settled(t testing.TB, src *redistest.Server) (all bool) {
	t.Helper()
	end := src.Offset(t)
	eventually(t, "the target has all, or the run has ended", func() bool {
		select {
		case <-r.done:
			return true
		default:
		}
		all = r.status.Checkpointed.Load() >= end
		return all
	})
	return all
}

// putLarge writes one large value to the key large, between small ones.
func putLarge(t testing.TB, s *redistest.Server, size int) {
	t.Helper()
	small(t, s, "next")
	s.Do(t, "SET", "large", string(incompressible(size)))
	small(t, s, "after")
}

// small writes some small keys of a name.
func small(t testing.TB, s *redistest.Server, name string) {
	t.Helper()
	var cmds [][]string
	for i := range 300 {
		cmds = append(cmds, []string{"SET", name + strconv.Itoa(i), strings.Repeat(name, 10)})
	}
	if _, err := s.Pipeline(cmds...); err != nil {
		t.Fatal(err)
	}
}
