package replica

import (
	"context"
	"errors"
	"sync"
)

// desk is where receiving and applying meet. The one knows the source and changes what the spool holds, the other knows the target and reads it; each
// goes on without the other for as long as it can.
//
// Applying lays down what its target says (offer) and begins as soon as the spool serves that. Receiving goes on from the spool's end without asking; before it drops or
// cuts what the spool holds, it has applying stop and say anew where the target is (hold).
type desk struct {
	serves func(Resume) bool // tells whether the spool has what a target needs that is there

	mu      sync.Mutex
	news    chan struct{}           // closed, and replaced, when something below has changed
	source  *SourceInfo             // as the source last described itself
	recall  context.CancelCauseFunc // ends the attempt at applying that is under way; nil while there is none
	offered *Resume                 // where the target is, while that attempt waits for the spool to serve it
	reading bool                    // that attempt reads the spool
	held    bool                    // none may begin to
}

func newDesk(serves func(Resume) bool) *desk { return &desk{serves: serves, news: make(chan struct{})} }

// errRecalled ends applying because the spool is about to change.
var errRecalled = errors.New("the spool is about to change")

// changed wakes those who wait. d.mu is held.
func (d *desk) changed() {
	close(d.news)
	d.news = make(chan struct{})
}

// await blocks until f, which is called with d.mu held, says yes.
func (d *desk) await(ctx context.Context, f func() bool) error {
	for {
		d.mu.Lock()
		ok, news := f(), d.news
		d.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// describe lays down what the source said of itself. What the target said to another server's description is void. Until release no attempt begins to read:
// what the spool holds may be of another source, or more than this one has.
func (d *desk) describe(si SourceInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.source != nil && d.source.RunID != si.RunID && d.recall != nil {
		d.recall(errRecalled)
		d.offered = nil
	}
	d.source, d.held = &si, true
	d.changed()
}

// begin opens an attempt at applying, as soon as the source has described itself. Its context ends when it is recalled; done is to be called at its end.
func (d *desk) begin(ctx context.Context) (_ context.Context, si SourceInfo, done func(), err error) {
	attempt, recall := context.WithCancelCause(ctx)
	err = d.await(ctx, func() bool {
		if d.source == nil {
			return false
		}
		si, d.recall = *d.source, recall
		return true
	})
	if err != nil {
		recall(nil)
		return nil, si, nil, err
	}
	return attempt, si, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		recall(nil)
		d.recall, d.offered, d.reading = nil, nil, false
	}, nil
}

// offer waits until the spool serves a target that is at resume. From then on the attempt reads it.
func (d *desk) offer(ctx context.Context, resume Resume) error {
	d.mu.Lock()
	d.offered = &resume
	d.changed()
	d.mu.Unlock()
	return d.await(ctx, func() bool {
		if d.held || !d.serves(resume) {
			return false
		}
		d.offered, d.reading = nil, true
		return true
	})
}

// hold stops applying and says where the target is then: until release nobody reads the spool. It waits for as long as the target is away.
func (d *desk) hold(ctx context.Context) (resume Resume, err error) {
	err = d.await(ctx, func() bool {
		d.held = true
		if d.reading {
			d.recall(errRecalled)
		}
		if d.offered != nil {
			resume = *d.offered
		}
		return d.offered != nil
	})
	return resume, err
}

// release ends a hold, or what describe began: what the spool holds is settled.
func (d *desk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = false
	d.changed()
}

// unserved waits until a target is somewhere that the spool does not serve.
func (d *desk) unserved(ctx context.Context) error { return d.await(ctx, d.strayed) }

// isUnserved tells the same of now.
func (d *desk) isUnserved() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.strayed()
}

// strayed is what both ask, with d.mu held.
func (d *desk) strayed() bool { return d.offered != nil && !d.serves(*d.offered) }
