package applier

import (
	"context"
	"fmt"
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
}

func doubtsOf(r *checkpoint.Record) doubts {
	differ := r.Divergence[checkpoint.LostReply]
	return doubts{r.Rejected, r.Diverged, r.Divergence.Total() - differ, differ, r.Unchecked != "" || r.Checked < r.Offset, r.Unchecked}
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

// Complete implements [replica.Closer]: the checkpoint becomes a tombstone, and the owner's keys go in the same transaction.
func (a *Applier) Complete(ctx context.Context, still func(ctx context.Context) error) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = lasting(ctx)
		defer cancel()
	}
	rec := a.rec
	rec.Phase, rec.Time = checkpoint.PhaseCompleted, time.Now().UnixMilli()
	s := session{a: a, held: a.target.history, still: still}
	defer s.close()
	v, err := s.run(ctx, func(p *pipeline) {
		p.hset(checkpoint.Key(a.Name), rec.Fields())
		p.queue(0, p.b.Del().Key(checkpoint.OwnerKey(a.Name), checkpoint.FenceKey(a.Name)).Build(), refOwn)
	})
	if err != nil {
		return err
	}
	if v.unguarded || len(v.failed) > 0 {
		return a.diverge(ctx, v)
	}
	a.rec = rec
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
