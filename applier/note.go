package applier

import (
	"context"

	"redferry/applier/checkpoint"
)

// Refusal implements [replica.RefusalRecord].
func (a *Applier) Refusal() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusal
}

// NoteRefusal implements [replica.RefusalRecord].
func (a *Applier) NoteRefusal(ctx context.Context, text string) error {
	return a.have(ctx, func(r *checkpoint.Record) { r.Refusal = text })
}
