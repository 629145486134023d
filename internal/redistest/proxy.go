package redistest

import (
	"io"
	"sync"
	"time"
)

// Direction is one of the two ways through a proxy.
type Direction int

// The directions of a proxy.
const (
	FromClient Direction = iota // what the client sends to the server
	FromServer                  // what the server sends to the client
)

// Verdict is what a hook says about the bytes it has seen.
type Verdict int

// The verdicts of a hook.
const (
	// Pass sends the bytes on.
	Pass Verdict = iota
	// CutBefore cuts all connections; the bytes are lost.
	CutBefore
	// PassThenLose sends the bytes on and lets the server carry out all that it was sent, but the client hears nothing more: its
	// connection ends at once. In the direction from the server it is the same as CutBefore.
	PassThenLose
)

// Proxy is a TCP proxy on loopback in front of a server that passes bytes without understanding them. All that it is told to do holds for
// all of its connections, those there are and those to come. Its methods are safe for concurrent use, hooks excepted: see [Proxy.OnData].
type Proxy struct {
	relay
	wake *sync.Cond // of relay.mu: a hold has ended, or a connection has
	ways [2]way     // guarded by relay.mu
}

// way is what a proxy does in one direction.
type way struct {
	passed int64 // bytes, since the beginning
	budget int64 // bytes until the cut; -1: no cut
	piece  int   // largest write; 0: no limit
	rate   int   // bytes a second; 0: no limit
	held   bool
	hook   func([]byte) Verdict
}

// NewProxy starts a proxy in front of target, which is host:port or the path of a unix socket. It ends in the test's cleanup.
func NewProxy(t TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{}
	p.wake = sync.NewCond(&p.mu)
	p.ways[FromClient].budget, p.ways[FromServer].budget = -1, -1
	p.start(t, target, p.serve)
	return p
}

// CutAfter cuts all connections once n more bytes have passed in a direction, counted over all connections: exactly n are passed on. It
// happens once. A negative n takes it back.
func (p *Proxy) CutAfter(dir Direction, n int64) {
	p.set(dir, func(w *way) { w.budget = max(n, -1) })
}

// Fragment passes at most n bytes with each write in a direction; 0 ends it. The kernel may still join them for a slow reader.
func (p *Proxy) Fragment(dir Direction, n int) { p.set(dir, func(w *way) { w.piece = n }) }

// Throttle passes at most that many bytes a second in a direction, on each connection; 0 ends it.
func (p *Proxy) Throttle(dir Direction, bytesPerSecond int) {
	p.set(dir, func(w *way) { w.rate = bytesPerSecond })
}

// Hold keeps back what comes in a direction until it is called with false. Connections stay open, and nothing is lost.
func (p *Proxy) Hold(dir Direction, on bool) {
	p.set(dir, func(w *way) { w.held = on })
}

// OnData has hook look at what passes in a direction, in pieces as the network delivers them, before it passes. The hook is called by
// several connections' goroutines and must not keep the slice or call the proxy. nil ends it.
func (p *Proxy) OnData(dir Direction, hook func(data []byte) Verdict) {
	p.set(dir, func(w *way) { w.hook = hook })
}

// Passed counts the bytes that have passed in a direction since the beginning.
func (p *Proxy) Passed(dir Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ways[dir].passed
}

func (p *Proxy) set(dir Direction, change func(*way)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.ways[dir])
	p.wake.Broadcast()
}

// serve pumps one connection in both directions until it ends.
func (p *Proxy) serve(c *pair) {
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(c, FromClient, c.client, c.server) })
	wg.Go(func() {
		p.pump(c, FromServer, c.server, c.client)
		if c.lost.Load() {
			_, _ = io.Copy(io.Discard, c.server) // until it has read the end
		}
		c.close()
	})
	wg.Go(func() { // a pump that waits for the end of a hold must hear of the connection's end
		<-c.closed
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wake.Broadcast()
	})
	wg.Wait()
}

func (p *Proxy) pump(c *pair, dir Direction, src io.Reader, dst io.Writer) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && !p.pass(c, dir, buf[:n], dst) {
			return
		}
		if err != nil {
			if dir == FromClient {
				closeWrite(c.server) // what the server still says is for the client
			}
			return
		}
	}
}

// pass sends data on as far as it may, and tells whether the connection goes on.
func (p *Proxy) pass(c *pair, dir Direction, data []byte, dst io.Writer) bool {
	p.mu.Lock()
	hook := p.ways[dir].hook
	p.mu.Unlock()
	verdict := Pass
	if hook != nil {
		verdict = hook(data)
	}
	if verdict == CutBefore || verdict == PassThenLose && dir == FromServer {
		p.cutAll(true)
		return false
	}
	for len(data) > 0 {
		n, rate, cut := p.grant(c, dir, len(data))
		if n > 0 {
			if _, err := dst.Write(data[:n]); err != nil {
				return false
			}
			data = data[n:]
		}
		if cut {
			p.cutAll(true)
			return false
		}
		if n == 0 || rate > 0 && !pause(c, time.Duration(n)*time.Second/time.Duration(rate)) {
			return false
		}
	}
	if verdict == PassThenLose {
		p.lose(c)
		return false
	}
	return true
}

// grant waits while the direction is held and gives how much of n bytes may pass at once, how fast, and whether to cut after them. It gives 0
// bytes and no cut when the connection has ended.
func (p *Proxy) grant(c *pair, dir Direction, n int) (granted, rate int, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &p.ways[dir]
	for w.held {
		select {
		case <-c.closed:
			return 0, 0, false
		default:
			p.wake.Wait()
		}
	}
	if w.piece > 0 {
		n = min(n, w.piece)
	}
	if w.rate > 0 {
		n = min(n, max(1, w.rate/50)) // fifty writes a second
	}
	if w.budget >= 0 && int64(n) >= w.budget {
		n, w.budget, cut = int(w.budget), -1, true
	} else if w.budget >= 0 {
		w.budget -= int64(n)
	}
	w.passed += int64(n)
	return n, w.rate, cut
}

// pause waits, and tells whether the connection is still there.
func pause(c *pair, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.closed:
		return false
	}
}

// lose ends the client's side and lets the server finish: it reads all that it was sent, then the end, and what it says goes nowhere.
func (p *Proxy) lose(c *pair) {
	p.mu.Lock()
	p.cuts++
	p.mu.Unlock()
	c.lost.Store(true)
	_ = c.client.Close()
	closeWrite(c.server)
}
