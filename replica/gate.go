package replica

import (
	"context"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"redferry/replica/spool"
)

// Gate holds up applying while it is shut, between one unit and the next; in a snapshot, between one read of the RDB and the next; and it can have a rate beyond which nothing
// passes. Receiving goes on, and what was applied is committed as ever. It is opened, shut and narrowed at any time, by any goroutine, and forgotten with the process: a run that
// is started again is not paused. The zero value is wide open, and so is nil. A Gate serves one run at a time.
type Gate struct {
	rate atomic.Pointer[rate.Limiter] // nil for none

	mu     sync.Mutex
	shut   chan struct{}     // closed when the gate opens; nil while it is open
	notice func(paused bool) // the run's, of each change; called under mu
}

// Pause shuts the gate. What the sink has taken is still committed.
func (g *Gate) Pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
		g.tell()
	}
}

// Resume opens it.
func (g *Gate) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
		g.tell()
	}
}

// Paused tells whether it is shut.
func (g *Gate) Paused() bool { return g.wait() != nil }

// SetRate has no more pass than so many bytes of the source's data in a second; 0 lifts that.
func (g *Gate) SetRate(bytes int64) {
	if bytes <= 0 {
		g.rate.Store(nil)
		return
	}
	const often = 10 // bursts in a second: a change is felt as soon
	g.rate.Store(rate.NewLimiter(rate.Limit(bytes), int(max(1, min(bytes/often, math.MaxInt32)))))
}

// Rate is what SetRate was given; 0 for none.
func (g *Gate) Rate() int64 {
	l := g.rate.Load()
	if l == nil {
		return 0
	}
	return int64(l.Limit())
}

// watch has f hear whether the gate is shut, now and with each change, until end is called.
func (g *Gate) watch(f func(paused bool)) (end func()) {
	if g == nil {
		return func() {}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.notice = f
	g.tell()
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.notice = nil
	}
}

func (g *Gate) tell() {
	if g.notice != nil {
		g.notice(g.shut != nil)
	}
}

// wait is a channel that is closed when the gate opens; nil when it is open.
func (g *Gate) wait() <-chan struct{} {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// pass waits until the gate is open, or gives ctx's error.
func (g *Gate) pass(ctx context.Context) error {
	for {
		opened := g.wait()
		if opened == nil {
			return nil
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// spend waits until n bytes more may pass, or gives ctx's error.
func (g *Gate) spend(ctx context.Context, n int64) error {
	for g != nil && n > 0 {
		l := g.rate.Load()
		if l == nil {
			return nil
		}
		k := min(n, int64(l.Burst()))
		if err := l.WaitN(ctx, int(k)); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// gated is a reader behind a gate. It reads nothing while that is shut, and ends with ctx.
type gated struct {
	io.Reader
	gate *Gate
	ctx  context.Context // the attempt's: a Read has none
}

func (r *gated) Read(p []byte) (int, error) {
	if r.gate.pass(r.ctx) != nil {
		return 0, spool.ErrInterrupted
	}
	n, err := r.Reader.Read(p)
	if r.gate.spend(r.ctx, int64(n)) != nil {
		return n, spool.ErrInterrupted
	}
	return n, err
}
