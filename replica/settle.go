package replica

import (
	"context"
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

// received is when the stream came up to an offset, by the source's clock, or up to 100 ms later;
// now where nobody knows. It is never too early: TTLs count from it, and a lock must not expire
// before its holder takes it for expired.
func (r *run) received(offset int64) time.Time {
	now := r.clocks.atSource(time.Now())
	if _, latest, ok := r.Spool.TimeAt(offset); ok && latest.Before(now) {
		return latest
	}
	return now
}

// age is how long ago the first byte came that the target does not have; 0 when it has all that came.
func (r *run) age(have int64) time.Duration {
	came, _, ok := r.Spool.TimeAt(have + 1)
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
	if err := r.settleBeside(ctx, 0); err != nil {
		return err
	}
	return errStopAt
}

// settleBeside has the sink settle, beside the stream. rest is how long what follows may take until the source's writes are over.
func (r *run) settleBeside(ctx context.Context, rest time.Duration) error {
	r.Status.Set(Settling, "in sync; the target is given the source's TTLs, but for those of keys that expire soon")
	return r.sink.Settle(ctx, rest)
}

// settleBefore settles for a cutover that may stop the source's writes for so long. Before and after, it waits until the target is near enough
// to the source: only what it is behind by makes the stop longer.
func (r *run) settleBefore(ctx context.Context, timeout time.Duration) error {
	r.closingUp.Store(true)
	defer r.closingUp.Store(false)
	if err := r.closeUp(ctx, timeout); err != nil {
		return err
	}
	if err := r.settleBeside(ctx, stopsIn*timeout); err != nil {
		return err
	}
	return r.closeUp(ctx, timeout)
}

const (
	lagLooks   = 50 * time.Millisecond  // how often the lag is looked at
	sayTooLong = 5 * time.Second        // how long it may be too large before that is said
	lagShare   = 20                     // what part of a cutover's timeout the target may be behind by when the source's writes are stopped
	lagAlways  = 500 * time.Millisecond // and at least this, which is as exactly as it is known
	stopsIn    = 3                      // how many timeouts there are, at most, between the end of settling and that of the source's writes
)

// closeUp waits until the target is not much behind the source. A line may be too slow for that.
func (r *run) closeUp(ctx context.Context, timeout time.Duration) error {
	tooLong := time.After(sayTooLong)
	for {
		lag := r.lag()
		if lag <= max(lagAlways, timeout/lagShare) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tooLong:
			r.Log.Warn().Dur("lag", lag).Dur("timeout", timeout).Msg("the cutover waits until the target is less than a twentieth of its timeout behind the source: give a longer --timeout if the line is too slow for that")
		case <-time.After(lagLooks):
		}
	}
}
