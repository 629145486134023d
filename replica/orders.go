package replica

import (
	"context"
	"errors"
	"fmt"
)

// Orders are how a cutover, or its end, is asked for while a run goes on. Its zero value is not ready for use: see NewOrders.
type Orders struct {
	cutovers chan *order
	undos    chan *undo
}

// NewOrders makes the Orders of one run.
func NewOrders() *Orders { return &Orders{cutovers: make(chan *order), undos: make(chan *undo)} }

// order is one cutover on its way to the run that carries it out.
type order struct {
	Cutover
	ctx    context.Context // of who asks, and may take it back
	answer chan answer     // has room for one
}

type answer struct {
	report CutoverReport
	err    error
}

// undo asks a run to give up its cutover, and to let the source take writes again.
type undo struct {
	answer chan undone // has room for one
}

// undone is the answer to it.
type undone struct {
	had bool // there was a cutover to give up
	err error
}

// errUndone ends a cutover that was undone.
var errUndone = errors.New("the cutover was undone")

// Cutover asks for a cutover, and waits for its end. Until the source is made to refuse writes, ctx can take it back. After an error the run goes on as if nothing had been asked for.
func (o *Orders) Cutover(ctx context.Context, c Cutover) (CutoverReport, error) {
	it := &order{c, ctx, make(chan answer, 1)}
	select {
	case o.cutovers <- it:
	case <-ctx.Done():
		return CutoverReport{}, fmt.Errorf("the run has not come to a cutover: it has to follow the source's stream first: %w", context.Cause(ctx))
	}
	a := <-it.answer // it comes soon when ctx ends
	return a.report, a.err
}

// Undo has the run give up the cutover that it is at, whoever asked for it, and open the source. Nil means that the source
// takes writes, which it was asked, and that the migration goes on; had reports whether there was anything to undo.
//
// While nobody can tell whether the target is the one to write to already, Undo waits for the target: ctx ends that.
func (o *Orders) Undo(ctx context.Context) (had bool, err error) {
	it := &undo{make(chan undone, 1)}
	select {
	case o.undos <- it:
	case <-ctx.Done():
		return false, fmt.Errorf("the run cannot tell yet whether the cutover has come to its end; nothing was undone: %w", context.Cause(ctx))
	}
	a := <-it.answer
	return a.had, a.err
}
