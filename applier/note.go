package applier

import (
	"context"
	"slices"
)

// note is a text about the source on its way into the target's record.
type note struct {
	text   string
	change int64         // of the record, once Commit has taken it; 0 before
	stored chan struct{} // closed when the target has it
}

// Refusal implements [replica.RefusalRecord].
func (a *Applier) Refusal() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusal
}

// NoteRefusal implements [replica.RefusalRecord].
func (a *Applier) NoteRefusal(ctx context.Context, text string) error {
	n := &note{text: text, stored: make(chan struct{})}
	a.mu.Lock()
	a.notes = append(a.notes, n)
	a.mu.Unlock()
	wake(a.queue.asked)
	select {
	case <-n.stored:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeNotes takes the notes that wait into the record, and tells those who wrote the ones that the target has by now.
// It is for Commit, whose the record is.
func (a *Applier) takeNotes() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.notes {
		if n.change == 0 {
			a.changes++
			a.rec.Refusal, n.change = n.text, a.changes
			a.refusal = n.text
		}
	}
	a.notes = slices.DeleteFunc(a.notes, func(n *note) bool {
		if n.change > a.written {
			return false
		}
		close(n.stored)
		return true
	})
}
