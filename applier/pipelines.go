package applier

import "sync"

// MaxPipelines is the most connections that load a snapshot.
const MaxPipelines = 64

// Pipelines is how many connections load a snapshot. It may be changed while one is loaded, by any goroutine.
type Pipelines struct {
	mu      sync.Mutex
	n       int
	changed chan struct{} // closed when n changes
}

// NewPipelines makes n of them, from 1 to MaxPipelines.
func NewPipelines(n int) *Pipelines { return &Pipelines{n: n, changed: make(chan struct{})} }

// Get is how many there are to be.
func (p *Pipelines) Get() int {
	n, _ := p.watch()
	return n
}

// Set changes that, to 1 up to MaxPipelines. One that is too many ends behind its present transaction.
func (p *Pipelines) Set(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n = n
	close(p.changed)
	p.changed = make(chan struct{})
}

// watch is Get, with a channel that is closed at the next Set.
func (p *Pipelines) watch() (n int, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n, p.changed
}
