package replica

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// clocks is what is known of when things were: receiving writes it, applying asks.
type clocks struct {
	skew  atomic.Int64 // how far the source's clock is ahead of ours, in ns
	fresh atomic.Int64 // the last time of ours, in ns, up to which all that the source wrote has arrived; 0 before the first
}

// atSource is what the source's clock says at a time of ours; here is the reverse.
func (c *clocks) atSource(t time.Time) time.Time { return t.Add(time.Duration(c.skew.Load())) }
func (c *clocks) here(t time.Time) time.Time     { return t.Add(-time.Duration(c.skew.Load())) }

// arrived notes that all has arrived that the source had then.
func (c *clocks) arrived(then time.Time) { c.fresh.Store(then.UnixNano()) }

// received is when the stream came up to an offset, by the source's clock; now where nobody knows.
func (r *run) received(offset int64) time.Time {
	if at, ok := r.Spool.TimeAt(offset); ok {
		return at
	}
	return r.clocks.atSource(time.Now())
}

// age is how long ago the first byte came that the target does not have; 0 when it has all that came.
func (r *run) age(have int64) time.Duration {
	came, ok := r.Spool.TimeAt(have + 1)
	if !ok || have >= r.Spool.Contents().End {
		return 0
	}
	return max(0, time.Since(r.clocks.here(came)))
}

// lag is how old the source's last state is that the target certainly has: what may not have arrived counts as well as what is not applied.
func (r *run) lag() time.Duration {
	have, _ := r.sink.Checkpointed()
	return r.age(have) + time.Since(time.Unix(0, r.clocks.fresh.Load()))
}

// reached says that the run is in sync, and that it is to end.
func (r *run) reached() { r.inSync.Do(func() { close(r.caughtUp) }) }

// errLags ends settling because the target is further behind the source than what expires there may be put off.
var errLags = errors.New("the target is too far behind the source")

// settle ends a run that stops when it is caught up.
func (r *run) settle(ctx context.Context) error {
	select {
	case <-r.caughtUp:
	case <-ctx.Done():
		return nil
	}
	if err := r.recheck(ctx); err != nil { // for there is no later
		return err
	}
	if err := r.settleBeside(ctx); err != nil {
		return err
	}
	return errStopAt
}

// settleBeside has the sink settle, beside the stream, and begins anew whenever the target is too far behind.
func (r *run) settleBeside(ctx context.Context) error {
	r.closingUp.Store(true)
	defer r.closingUp.Store(false)
	for {
		if err := r.closeUp(ctx); err != nil {
			return err
		}
		r.Status.Set(Settling, "in sync; from now on keys expire in the target as they do in the source")
		err := r.settleOnce(ctx)
		if !errors.Is(err, errLags) {
			return err
		}
		r.Status.Set(CatchingUp, err.Error())
		r.Log.Warn().Dur("ttl_grace", r.TTLGrace).Msg("the target is further behind the source than --ttl-grace while its keys' expiries are brought back: that is undone until it has caught up; " +
			"a key that has expired here, and was renewed there in time, is lost and counted as divergence")
	}
}

const (
	lagLooks   = 50 * time.Millisecond // how often the lag is looked at
	sayTooLong = 5 * time.Second       // how long it may be too large before that is said
)

// closeUp waits until the target is well within the grace behind the source. A line may be too slow for that.
func (r *run) closeUp(ctx context.Context) error {
	tooLong := time.After(sayTooLong)
	for {
		lag := r.lag()
		if lag <= r.TTLGrace/2 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tooLong:
			r.Log.Warn().Dur("lag", lag).Dur("ttl_grace", r.TTLGrace).Msg("settling waits until the lag is less than half of --ttl-grace: give a larger one if the line is too slow for that")
		case <-time.After(lagLooks):
		}
	}
}

// settleOnce has the sink settle for as long as the lag is within the grace.
func (r *run) settleOnce(ctx context.Context) error {
	g, gctx := newGroup(ctx)
	g.Go(func() error {
		defer g.stop()
		return r.sink.Settle(gctx)
	})
	g.Go(func() error {
		return every(gctx, lagLooks, func() error {
			if lag := r.lag(); lag > r.TTLGrace {
				return fmt.Errorf("%w: by %v, with a grace of %v", errLags, lag.Round(10*time.Millisecond), r.TTLGrace)
			}
			return nil
		})
	})
	return g.Wait()
}
