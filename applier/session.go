package applier

import (
	"context"
	"errors"
	"fmt"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// session writes transactions that may be repeated: the snapshot's, and the changes of phase. They are fenced by the fence key. A session
// belongs to one goroutine; its zero value but for a is ready for use.
type session struct {
	a     *Applier
	conn  *conn
	doubt bool // what an earlier connection carried may still arrive
	// held is the history of the target that took what was written before, when that has to be there still.
	held string
	// still is asked before each try, when nothing of an earlier one can take effect any more; an error ends run.
	// nil for a transaction that nothing outside of the target speaks against.
	still func(ctx context.Context) error
	// patience is in how many tries in a row the target may hang up on one transaction; then run ends with a hungUpError. 0 is for ever.
	patience int
	hangs    hangUps // in a row, on the transaction that run tries
}

func (s *session) close() {
	if s.conn != nil {
		s.conn.close()
		s.conn = nil
	}
}

// run gets one transaction, which fill queues, into the target. It waits while the target is away or refuses it for the moment, and sends the
// same again after any doubt. The verdict is one that committed, or one that has the commands which the target refuses for good.
func (s *session) run(ctx context.Context, fill func(p *pipeline)) (verdict, error) {
	pause := newPause()
	for waited := false; ; waited = true {
		v, err := s.try(ctx, fill)
		if no := (*refusedTry)(nil); errors.As(err, &no) {
			return verdict{}, no.err
		}
		if no := (*hungUpError)(nil); errors.As(err, &no) {
			return verdict{}, no
		}
		if err == nil {
			if waited {
				s.a.Status.Go(replica.OnTarget)
			}
			return v, nil
		}
		if err := s.a.await(ctx, err, pause); err != nil {
			return verdict{}, err
		}
	}
}

func (s *session) try(ctx context.Context, fill func(p *pipeline)) (verdict, error) {
	if s.conn == nil {
		conn, err := s.a.dial(ctx, s.doubt)
		if err != nil {
			s.hangs = hangUps{}
			return verdict{}, err
		}
		if s.held != "" && conn.history != s.held {
			conn.close()
			return verdict{}, fmt.Errorf("the target was restarted, or has failed over: %w", errLost)
		}
		s.conn, s.doubt = conn, false
		if s.patience > 0 && s.hangs.among(conn, s.patience) {
			return verdict{}, s.hangs.end(conn)
		}
	}
	if s.still != nil {
		if err := s.still(ctx); err != nil {
			return verdict{}, &refusedTry{err}
		}
	}
	p := &pipeline{b: s.conn.B()}
	p.begin(checkpoint.FenceKey(s.a.Name), fenceGuard, s.conn.fence)
	fill(p)
	p.end(0)
	v := p.txns[0].judge(s.conn.DoMulti(context.WithoutCancel(ctx), p.cmds...))
	if v.committed || len(v.failed) > 0 {
		s.hangs = hangUps{}
		return v, nil
	}
	s.hangs.count(v.err, s.conn)
	s.doubt = errors.Is(v.err, errBroken)
	s.close()
	switch {
	case v.unguarded:
		// Its commands ran on their own, outside of a transaction; they may be repeated, but the checkpoint must not be believed before they are.
		return verdict{}, fmt.Errorf("the target refused MULTI: %w", v.err)
	case errors.Is(v.err, errOwnRefused):
		return verdict{}, s.a.ownStop(v.err)
	}
	return verdict{}, v.err
}

// refusedTry is what still says against a transaction.
type refusedTry struct{ err error }

func (e *refusedTry) Error() string { return e.err.Error() }

func (e *refusedTry) Unwrap() error { return e.err }
