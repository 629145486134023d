package replica

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// look is an error when the source is not what it was when this cutover began: a replica by now, restarted, or another server
// because its name, its Sentinel or its address leads elsewhere. It asks over a new connection, as a client would find it.
func (w *sourceWrites) look(ctx context.Context, source Endpoint) error {
	src, server, info, err := openSource(ctx, source)
	if err != nil {
		return fmt.Errorf("look at the source again: %w", err)
	}
	defer src.close()
	if err := w.same(server, info); err != nil {
		return err
	}
	w.looked = time.Now()
	return nil
}

// same compares what a server says of itself with what the source said.
func (w *sourceWrites) same(server Endpoint, info map[string]string) error {
	why := ""
	switch {
	case info["run_id"] != w.info["run_id"] && server.Addr != w.server.Addr:
		why = fmt.Sprintf("the source was %s when the cutover began and is %s now: it has failed over", w.server, server)
	case info["run_id"] != w.info["run_id"]:
		why = fmt.Sprintf("the source %s is another server process than when the cutover began: it was restarted or replaced", server)
	case w.primary && info["role"] != rolePrimary:
		why = fmt.Sprintf("the source %s was made a replica of %s:%s since the cutover began", server, info["master_host"], info["master_port"])
	case !w.primary && info["role"] == rolePrimary:
		why = fmt.Sprintf("the source %s was a replica when the cutover began and is a primary now", server)
	default:
		return failingOver(server, info)
	}
	return &Stop{
		Kind: Failed, Reason: why,
		Hint: "run redferry cutover again once redferry status says in_sync; where --source names one host, give the one that is the primary now",
	}
}

// failingOver is an error when the source is handing its role to a replica of its own, by FAILOVER: it says that it is the primary
// until the replica has all, and what the replica takes then the target does not get.
func failingOver(server Endpoint, info map[string]string) error {
	state := info["master_failover_state"]
	if state == "" || state == "no-failover" {
		return nil
	}
	return &Stop{
		Kind: Failed, Reason: fmt.Sprintf("the source %s is being failed over: its master_failover_state is %s", server, state),
		Hint: "run redferry cutover again once that is over and redferry status says in_sync; FAILOVER ABORT on the source ends it",
	}
}

// stillRefuses is an error when the source is not the server that was made to refuse writes, or does not refuse them any more.
func (w *sourceWrites) stillRefuses(ctx context.Context) error {
	note, err := w.notes.read()
	switch {
	case err != nil:
		return err
	case note == nil || !note.Refuses:
		return errUndone
	}
	info, err := w.src.info(ctx)
	if err != nil {
		return err
	}
	if err := w.same(w.server, info); err != nil {
		return err
	}
	refuses, err := w.refuses(ctx)
	if err == nil && !refuses {
		err = errors.New("the source takes writes again: somebody has set its " + minReplicas)
	}
	return err
}

// undo opens the source, as a note says that it was.
func (w *sourceWrites) undo(note *cutoverNote) error {
	if !note.of(w) {
		return &Stop{
			Kind: Decide, Reason: fmt.Sprintf("it is %s that refuses writes since %s, and %s is another server", note.Addr, note.Since.Format(time.RFC3339), w.server),
			Hint: fmt.Sprintf("give that one as --source; or run there: %s", note.byHand()),
		}
	}
	return w.reopen()
}

// UndoCutover lets a source take writes again that a cutover has made refuse them, as the note in path says, or the target's
// record, which is nil where the target is not asked. Nil means that the source takes writes, which it was asked; had reports
// whether there was anything to undo. Nobody may be carrying out that cutover meanwhile.
func UndoCutover(ctx context.Context, source Endpoint, path string, record RefusalRecord) (had bool, err error) {
	n := notes{path, record}
	note, err := n.read()
	if err != nil {
		return false, err
	}
	w, err := dialWrites(ctx, source, n)
	if err != nil {
		return false, err
	}
	defer w.close()
	if note == nil || !note.Refuses {
		refuses, err := w.refuses(ctx)
		if err == nil && refuses {
			err = w.foreign()
		}
		return false, err
	}
	if err := w.undo(note); err != nil {
		return true, err
	}
	if err := n.forget(ctx); err != nil {
		return true, fmt.Errorf("the source takes writes again, and the target could not be told so, which does no harm: %w", err)
	}
	return true, nil
}

// openLast opens the server that a note is of, where that is not the source any more: it may become the primary again. It
// reports whether that was done.
func (r *run) openLast(ctx context.Context, note *cutoverNote) bool {
	ctx, cancel := context.WithTimeout(ctx, limitsTimeout)
	defer cancel()
	w, err := dialWrites(ctx, r.Source.at(note.Addr), r.notes())
	if err != nil {
		return false
	}
	defer w.close()
	return note.of(w) && w.reopen() == nil
}

// giveUp carries out what has ended c, which somebody wanted undone, and tells who has.
func (r *run) giveUp(ctx context.Context, c *closing, committing bool) error {
	did := r.openAgain(ctx, committing)
	did.had = true
	c.undo.answer <- did
	return did.err
}

// openAgain lets the source take writes again, if a cutover has made it refuse them. committing tells that Commit runs, which
// the record is changed by; else the next attempt finds a record that speaks of a source which is open, and mends it.
func (r *run) openAgain(ctx context.Context, committing bool) undone {
	note, err := r.notes().read()
	if err != nil || note == nil || !note.Refuses {
		return undone{err: err}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), limitsTimeout)
	defer cancel()
	w, err := dialWrites(last, r.Source, r.notes())
	if err != nil {
		return undone{true, err}
	}
	defer w.close()
	if err = w.undo(note); err == nil && committing {
		err = r.notes().forget(ctx)
	}
	if err == nil {
		r.Log.Warn().Msg("the cutover was undone: the source takes writes again, and replication goes on")
	}
	return undone{true, err}
}
