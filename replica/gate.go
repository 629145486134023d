package replica

import (
	"context"
	"io"
	"sync"

	"redferry/replica/spool"
)

// Gate holds up applying while it is shut, between one unit and the next; in a snapshot, between one read of the RDB and the next. Receiving goes on, and what was applied is
// committed as ever. It is opened and shut at any time, by any goroutine, and forgotten with the process: a run that is started again is not paused. The zero value is open,
// and so is nil. A Gate serves one run at a time.
type Gate struct {
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
	return r.Reader.Read(p)
}
