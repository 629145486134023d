package applier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

var _ replica.Closer = (*Applier)(nil)

// doubts is what speaks against the target's being equal to the source, by the record.
type doubts struct {
	rejected, diverged, divergence int64
	differ                         int64 // keys, where replies were lost
	unchecked                      bool
	lost                           string // the record's Unchecked
	expired                        int64  // the record's Expired
	kinds                          checkpoint.Divergence
}

func doubtsOf(r *checkpoint.Record) doubts {
	differ := r.Divergence[checkpoint.LostReply]
	return doubts{
		r.Rejected, r.Diverged, r.Divergence.Total() - differ, differ, r.Unchecked != "" || r.Checked < r.Offset, r.Unchecked,
		r.Expired, maps.Clone(r.Divergence),
	}
}

// Doubts implements [replica.Closer].
func (a *Applier) Doubts() (why []string, unchecked bool) {
	a.mu.Lock()
	d := a.doubts
	a.mu.Unlock()
	add := func(n int64, what string) {
		if n > 0 {
			why = append(why, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(d.rejected, "writes were refused by the target (they are in "+a.Home.RejectedPath()+")")
	add(d.diverged, "transactions took effect though their guard had not agreed")
	add(d.divergence, "commands of the stream found nothing to change in the target, where the source had")
	add(d.differ, "keys differ to which replies were lost")
	if n := a.Status.Evicted.Load(); n > 0 {
		add(n, "keys were evicted by the target")
	}
	return why, d.unchecked
}

// Expired implements [replica.Closer].
func (a *Applier) Expired() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.doubts.expired != 0
}

// Complete implements [replica.Closer]: the checkpoint becomes a tombstone. The owner's keys go in the same transaction, unless Release has
// something to do: that stays fenced by them.
func (a *Applier) Complete(ctx context.Context, still func(ctx context.Context) error) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = lasting(ctx)
		defer cancel()
	}
	if a.Expiry != Shift {
		if err := a.changeExpiry(ctx, AsIs); err != nil {
			return err
		}
	}
	rec := a.rec
	rec.Phase, rec.Time = checkpoint.PhaseCompleted, time.Now().UnixMilli()
	if a.Expiry == Shift {
		rec.Expiry, rec.RealFrom = checkpoint.Mixed, 0
	}
	s := session{a: a, held: a.target.history, doubt: true}
	s.still = func(ctx context.Context) error {
		// No earlier try can take effect any more; one may have, whose reply was lost.
		there, ok, err := ReadCheckpoint(ctx, s.conn, a.Name)
		switch {
		case err != nil:
			return err
		case ok && there.Phase == checkpoint.PhaseCompleted:
			return replica.ErrCompleted
		}
		return still(ctx)
	}
	defer s.close()
	v, err := s.run(ctx, func(p *pipeline) {
		p.hset(checkpoint.Key(a.Name), rec.Fields())
		if a.Expiry != Shift {
			p.queue(0, p.b.Del().Key(checkpoint.OwnerKey(a.Name), checkpoint.FenceKey(a.Name)).Build(), refOwn)
		}
	})
	if errors.Is(err, replica.ErrCompleted) {
		a.rec = rec
		return nil
	}
	if err != nil {
		return err
	}
	if v.unguarded || len(v.failed) > 0 {
		return a.diverge(ctx, v)
	}
	a.rec = rec
	return nil
}

// Release implements [replica.Sink].
func (a *Applier) Release(ctx context.Context) error {
	for pause := newPause(); ; {
		err := a.release(ctx)
		if err == nil || replica.AsStop(err) != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.Status.Wait(replica.OnTarget, "target "+a.Target.String()+": "+err.Error())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause.NextBackOff()):
		}
		if err := a.connect(ctx); err == nil { // it may be another server now
			a.Status.Go(replica.OnTarget)
		}
	}
}

func (a *Applier) release(ctx context.Context) error {
	if a.client == nil {
		return errors.New("the target cannot be reached")
	}
	rec, ok, err := ReadCheckpoint(ctx, a.client, a.Name)
	if err != nil {
		return err
	}
	if ok && rec.Expiry == checkpoint.AsIs || !ok && a.owner == nil || rec.Phase == checkpoint.PhaseSnapshot {
		return nil
	}
	if err := a.claim(ctx); err != nil {
		return err
	}
	if rec.Phase == checkpoint.PhaseStream {
		if a.Expiry != Shift {
			return a.changeExpiry(ctx, AsIs)
		}
		if err := a.changeExpiry(ctx, checkpoint.Mixed); err != nil {
			return err
		}
	}
	s := &settler{target: a.Target, report: a.reportSettling()}
	for _, run := range a.near.nearest() {
		if err := s.list(ctx, a.client, a.owner, run.db, run.keys); err != nil {
			return err
		}
	}
	a.queue.mu.Lock()
	a.near = nil
	a.queue.mu.Unlock()
	if err := s.run(ctx, a.client, a.owner); err != nil {
		return err
	}
	if err := a.owner.change(ctx, a.client, a.Target, "store that all expiries are brought back", settledScript); err != nil {
		return err
	}
	a.rec.Expiry, a.rec.RealFrom = checkpoint.AsIs, 0
	a.Log.Info().Int64("keys", s.at.Settled).Int64("fields", s.at.Fields).Msg("the rest of the TTLs is brought back: all are the source's")
	return nil
}

// notCompleted is ErrCompleted when a cutover has ended the migration: then the target must not even be claimed, which would leave keys there.
func (a *Applier) notCompleted(ctx context.Context) error {
	rec, ok, err := ReadCheckpoint(ctx, a.client, a.Name)
	if ok && rec.Phase == checkpoint.PhaseCompleted {
		return replica.ErrCompleted
	}
	return err
}
