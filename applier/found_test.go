package applier_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// What a review found and each test here would show again.
//
// A value that takes longer than a second on the way to the target.
func TestSlowLineLoadsALargeValue(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	src.Do(t, "SET", "large", string(incompressible(6<<20)))
	proxy := redistest.NewProxy(t, dst.Addr())
	proxy.Throttle(redistest.FromClient, 2<<20) // 3 s for the value
	m.target = dst.URLAt(proxy.Addr())
	m.start(t).until(t, replica.InSync, "")
}

func incompressible(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// gateProxy forwards the client's commands one by one and waits for nothing; before chosen ones it lets what was sent be carried out.
type gateProxy struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
	n      int
}

func newGateProxy(t *testing.T, target string, client func(p *gateProxy, id int, client, server net.Conn)) *gateProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &gateProxy{l: l, target: target}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", target)
			if err != nil {
				c.Close()
				continue
			}
			p.mu.Lock()
			p.n++
			id := p.n
			p.conns = append(p.conns, c, s)
			p.mu.Unlock()
			p.wg.Go(func() { io.Copy(c, s); c.Close() })
			p.wg.Go(func() { client(p, id, c, s) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// A real target that answers NOREPLICAS from within transaction 1 to behind the guard of transaction 2.
func TestCommitBehindARefusalIsRecorded(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	var armed atomic.Bool
	settle := func() { time.Sleep(60 * time.Millisecond) } // for the target to carry out what it was sent
	gathered := make(chan struct{})                        // closed when redferry has received all that is written
	var fired atomic.Bool
	p := newGateProxy(t, dst.Addr(), func(_ *gateProxy, _ int, c, s net.Conn) {
		buf := make([]byte, 1<<20)
		var held []byte
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if !armed.Load() || fired.Load() {
				s.Write(buf[:n])
				continue
			}
			held = append(held, buf[:n]...)
			// wait for a whole round trip with two transactions: two EXECs
			exec := []byte("$4\r\nEXEC\r\n")
			if !bytes.Contains(held, []byte("APPEND")) { // the lease, other connections, and the opening of this one
				time.Sleep(20 * time.Millisecond) // a long line, which takes several transactions to a round trip
				s.Write(held)
				held = nil
				continue
			}
			if bytes.Count(held, exec) < 2 {
				if bytes.HasSuffix(held, exec) {
					select { // a large batch gathers meanwhile
					case <-gathered:
					case <-t.Context().Done():
					}
					time.Sleep(200 * time.Millisecond)
					s.Write(held)
					held = nil
				}
				continue
			}
			fired.Store(true)
			first := bytes.Index(held, exec) + len(exec)
			multi := first + bytes.Index(held[first:], []byte("*1\r\n$5\r\nMULTI\r\n")) // of transaction 2: its guard is before
			dst.Do(t, "CONFIG", "SET", "min-replicas-to-write", "3")
			s.Write(held[:multi])
			settle()
			dst.Do(t, "CONFIG", "SET", "min-replicas-to-write", "0")
			s.Write(held[multi:])
			held = nil
		}
	})
	m.target = dst.URLAt(p.l.Addr().String())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	armed.Store(true)
	// several transactions to a batch
	var args [][]string
	for i := range 30000 {
		args = append(args, []string{"APPEND", "k" + fmt.Sprint(i), "x"})
	}
	pipeline(t, src, args)
	end := src.Offset(t)
	eventually(t, "all is received", func() bool { return r.status.Received.Load() >= end })
	close(gathered)
	eventually(t, "all is in the target, or the run has ended", func() bool {
		select {
		case <-r.done:
			return true
		default:
			return r.status.Checkpointed.Load() >= end
		}
	})
	r.end()
	if !fired.Load() {
		t.Fatal("the scenario did not happen")
	}
	get := make([][]string, len(args))
	for i := range get {
		get[i] = []string{"GET", args[i][1]}
	}
	values, err := dst.Pipeline(get...)
	if err != nil {
		t.Fatal(err)
	}
	missing := 0
	for _, v := range values {
		if text, _ := v.ToString(); text != "x" {
			missing++
		}
	}
	rec := mustRecord(t, dst)
	t.Logf("run: %v; missing writes: %d; checkpoint: %+v", r.err, missing, rec)
	if missing > 0 && rec.Diverged == 0 {
		t.Errorf("%d writes are lost below the checkpoint and it does not say diverged", missing)
	}
}

func pipeline(t *testing.T, s *redistest.Server, cmds [][]string) {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b bytes.Buffer
	for _, cmd := range cmds {
		fmt.Fprintf(&b, "*%d\r\n", len(cmd))
		for _, a := range cmd {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
		}
	}
	c.Write(b.Bytes())
	want := len(cmds)
	buf := make([]byte, 64<<10)
	for want > 0 {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		want -= bytes.Count(buf[:n], []byte("\n"))
	}
}

// the transaction that completes the snapshot is held up on the way, its connection ends, and it arrives later all the same.
func TestLateCompletionDoublesNothing(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	late := make(chan func(), 1)
	var once atomic.Bool
	p := newGateProxy(t, dst.Addr(), func(_ *gateProxy, _ int, c, s net.Conn) {
		buf := make([]byte, 1<<20)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			data := bytes.Clone(buf[:n])
			if bytes.Contains(data, []byte("$5\r\nphase\r\n$6\r\nstream\r\n")) && once.CompareAndSwap(false, true) {
				c.Close() // the client sees a broken connection; the bytes are still on their way
				late <- func() { s.Write(data) }
				return
			}
			s.Write(data)
		}
	})
	m.target = dst.URLAt(p.l.Addr().String())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	for range 50 {
		src.Do(t, "INCR", "counter")
	}
	eventually(t, "all is in", func() bool { return r.status.Checkpointed.Load() >= src.Offset(t) })
	if got := dst.DoString(t, "GET", "counter"); got != "50" {
		t.Fatalf("before: %s", got)
	}
	before := mustRecord(t, dst)
	(<-late)()
	time.Sleep(200 * time.Millisecond)
	t.Logf("checkpoint before %d, after the late completion %d", before.Offset, mustRecord(t, dst).Offset)
	src.Do(t, "INCR", "counter")
	eventually(t, "the last one is in", func() bool { return r.status.Checkpointed.Load() >= src.Offset(t) })
	time.Sleep(300 * time.Millisecond)
	err := r.end()
	if got := dst.DoString(t, "GET", "counter"); got != "51" {
		t.Errorf("counter: got %s, want 51 (run: %v)", got, err)
	}
}

// a refusal that shows while the run drains after SIGTERM.
func TestRefusalInTheDrain(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	proxy := redistest.NewProxy(t, dst.Addr())
	m.target = dst.URLAt(proxy.Addr())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	dst.Do(t, "SET", "q", "a string")
	src.Do(t, "SET", "warm", "1") // the stream's connection is open after it
	eventually(t, "warm", func() bool { return r.status.Checkpointed.Load() >= src.Offset(t) })
	proxy.Hold(redistest.FromClient, true)
	src.Do(t, "SET", "x", "1")
	time.Sleep(100 * time.Millisecond)
	src.Do(t, "LPUSH", "q", "v")
	eventually(t, "taken", func() bool { return r.status.Taken.Load() >= src.Offset(t) })
	r.stop()
	time.Sleep(100 * time.Millisecond)
	proxy.Hold(redistest.FromClient, false)
	<-r.done
	rec := mustRecord(t, dst)
	t.Logf("run: %v; rejected in the checkpoint: %d; offset %d of %d", r.err, rec.Rejected, rec.Offset, src.Offset(t))
	if r.err == nil {
		t.Errorf("a write was refused and the run ended without an error (rejected in this run: %d)", r.status.Rejected.Load())
	}
	if rec.Rejected != 1 {
		t.Errorf("rejected in the checkpoint: got %d, want 1", rec.Rejected)
	}
	if err := m.start(t).wait(t); replica.AsStop(err) == nil {
		t.Errorf("the next run goes on: %v", err)
	}
}

// a source that continues and then closes, again and again.
func TestLinkThatBreaksAtOnceIsNotHammered(t *testing.T) {
	t.Parallel()
	src, _, m := pair(t)
	m.finish(t)
	proxy := redistest.NewProxy(t, src.Addr())
	var cont atomic.Bool
	proxy.OnData(redistest.FromServer, func(b []byte) redistest.Verdict {
		if bytes.Contains(b, []byte("+CONTINUE")) {
			cont.Store(true)
		}
		return redistest.Pass
	})
	proxy.OnData(redistest.FromClient, func(b []byte) redistest.Verdict {
		if cont.Load() && bytes.Contains(b, []byte("\r\nACK\r\n")) {
			cont.Store(false)
			return redistest.CutBefore
		}
		return redistest.Pass
	})
	m.source = src.URLAt(proxy.Addr())
	r := m.start(t)
	time.Sleep(4 * time.Second)
	r.end()
	if n := src.Info(t, "stats")["sync_partial_ok"]; len(n) > 2 {
		t.Errorf("%s partial resyncs in 4 s", n)
	}
}

// the note cannot be written (a full disk): each try is a full resync.
func TestNoteThatCannotBeWrittenForksOnce(t *testing.T) {
	t.Parallel()
	src, _, m := pair(t)
	dir := filepath.Join(m.dir, "test")
	os.MkdirAll(dir, 0o700)
	os.Symlink("/nonexistent/dir/x", filepath.Join(dir, "migration"))
	r := m.start(t)
	eventually(t, "a full resync", func() bool { return fullResyncs(t, src) != "0" })
	time.Sleep(5 * time.Second)
	r.end()
	if n := fullResyncs(t, src); n != "1" {
		t.Errorf("%s full resyncs in 5 s (run: %v)", n, r.err)
	}
}

// a directory that is new, a migration that is not, and a target that is emptied.
func TestEmptiedTargetUnderANewDirectory(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	m.finish(t)
	other := m.elsewhere(t)
	r := other.start(t)
	r.until(t, replica.InSync, "")
	dst.Do(t, "FLUSHALL")
	src.Do(t, "SET", "one", "more")
	err := r.wait(t)
	if s := replica.AsStop(err); s == nil || s.Kind != replica.Decide {
		t.Errorf("got %v, want exit 3; full resyncs: %s", err, fullResyncs(t, src))
	}
}

// A source that does not permit INFO: nobody can tell when the target is caught up, and redferry does not pretend to.
func TestCaughtUpWithABlindSource(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	src.Do(t, "ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info")
	m.source = strings.Replace(src.URL(), "redis://", "redis://blind:pw@", 1)
	m.run.StopAt = replica.StopAt{CaughtUp: true}
	wantStop(t, m.start(t).wait(t), replica.Config, "does not permit INFO")

	m.run.StopAt = replica.StopAt{}
	r := m.start(t)
	src.Do(t, "SET", "later", "1")
	eventually(t, "the write arrives", func() bool { return dst.DoString(t, "GET", "later") == "1" })
	if r.saw(replica.InSync, "") {
		t.Error("a blind run says that it is in sync")
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}

// a key refused in the snapshot, the target mended, the same command again.
func TestMendedTarget(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	src.Do(t, "SET", "large", strings.Repeat("x", 2<<20))
	src.Do(t, "SETRANGE", "large", "0", string(incompressible(2<<20)))
	dst.Do(t, "CONFIG", "SET", "proto-max-bulk-len", "1mb")
	err := m.start(t).wait(t)
	t.Logf("first: %v", err)
	dst.Do(t, "CONFIG", "SET", "proto-max-bulk-len", "512mb")
	m.run.StopAt = replica.StopAt{CaughtUp: true}
	if err := m.start(t).wait(t); err != nil {
		t.Errorf("the target was mended, and the same command says: %v", err)
	}
}

// a merge into a target that holds other keys; the link breaks once during the snapshot.
func TestMergeSurvivesACutInTheSnapshot(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("rdb-key-save-delay 2000")), redistest.Start(t, b)
	var cmds [][]string
	for i := range 5000 {
		cmds = append(cmds, []string{"SET", fmt.Sprint("k", i), "v"})
	}
	pipeline(t, src, cmds)
	dst.Do(t, "SET", "mine", "1")
	m := newMigration(t, src.URL(), dst.URL())
	m.apply.OnNotEmpty = applier.Merge
	m.run.StopAt = replica.StopAt{CaughtUp: true}
	r := m.start(t)
	r.until(t, replica.Loading, "full resync at")
	time.Sleep(300 * time.Millisecond)
	src.Do(t, "CONFIG", "SET", "rdb-key-save-delay", "0") // of the next one
	src.Do(t, "CLIENT", "KILL", "TYPE", "replica")
	if err := r.wait(t); err != nil {
		t.Errorf("one cut of the link: %v", err)
	}
}

// A client of the target writes between the first look and the snapshot's first byte: the target is not empty then, and is not loaded into.
func TestForeignKeyWrittenWhileTheSourceForks(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-diskless-sync yes", "repl-diskless-sync-delay 3600"))
	dst := redistest.Start(t, b)
	src.Do(t, "SET", "a", "1")
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.Waiting, "BGSAVE") // the source waits for other replicas before it forks
	dst.Do(t, "SET", "mine", "1")
	src.Do(t, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	wantStop(t, r.wait(t), replica.Decide, "is not empty")
	if got := dst.DoString(t, "GET", "mine"); got != "1" {
		t.Errorf("the client's key: got %q", got)
	}
}

// the source's address moves to another server while the link hangs: its smaller offset reads as "in sync".
func TestOffsetOfAnotherHistoryIsNotInSync(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	other := redistest.Start(t, redistest.Latest(t))
	m.finish(t)
	var moved atomic.Bool
	var mu sync.Mutex
	side := map[net.Conn]*atomic.Bool{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var all []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to := src.Addr()
			if moved.Load() {
				to = other.Addr()
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			mu.Lock()
			all = append(all, c, s)
			mu.Unlock()
			var link atomic.Bool
			wg.Go(func() { // from the client
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						s.Close()
						return
					}
					if bytes.Contains(buf[:n], []byte("REPLCONF")) {
						link.Store(true)
					} else if !link.Load() {
						mu.Lock()
						side[c] = &link
						mu.Unlock()
					}
					s.Write(buf[:n])
				}
			})
			wg.Go(func() { // from the server; the link goes silent when the address has moved
				buf := make([]byte, 64<<10)
				for {
					n, err := s.Read(buf)
					if err != nil {
						c.Close()
						return
					}
					if link.Load() && moved.Load() {
						continue
					}
					c.Write(buf[:n])
				}
			})
		}
	})
	defer func() {
		l.Close()
		mu.Lock()
		for _, c := range all {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	}()
	m.source = src.URLAt(l.Addr().String())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	moved.Store(true)
	for range 100 {
		src.Do(t, "INCR", "behind")
	}
	r.until(t, replica.CatchingUp, "") // the source's own connection still answers
	mu.Lock()
	for c, isLink := range side {
		if !isLink.Load() {
			c.Close()
		}
	}
	mu.Unlock()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		if state, why, _ := r.status.Now(); state == replica.InSync {
			t.Errorf("in sync (%s) with 100 writes missing; --stop-at caught-up would end with 0 here", why)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.end()
	t.Logf("%v; received %d source %d", r.states, r.status.Received.Load(), r.status.SourceOffset.Load())
	_ = dst
}
