package applier

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"redferry/replica"
)

// warnEvery is how often a run says that its target goes on evicting keys.
const warnEvery = 10 * time.Minute

// evictions is what is known of keys that the target drops by itself. warned belongs to who resumes, the rest to who looks.
type evictions struct {
	warned string // the policy that was warned of

	runID string    // of the server that was looked at last
	seen  int64     // its evicted_keys then
	said  time.Time // when a run last said that they grow
}

// warnOfEviction says once that the target may drop keys, if it may.
func (a *Applier) warnOfEviction() {
	policy := a.target.eviction
	if policy != "" && policy != a.evictions.warned {
		a.Log.Warn().Str("target", a.Target.String()).Str("maxmemory_policy", policy).
			Msg("the target may evict keys when its maxmemory is reached: they are lost there, while the source keeps them; " +
				"CONFIG SET maxmemory-policy noeviction on it until the migration is done (writes then wait for memory), or give it more maxmemory")
	}
	a.evictions.warned = policy
}

// lookAtEvictions counts the keys that the target has evicted. It runs on the lease's goroutine, now and then.
func (a *Applier) lookAtEvictions(ctx context.Context, c rueidis.Client) {
	text, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		a.Log.Debug().Err(err).Msg("cannot look at the target's evictions")
		return
	}
	info, e := replica.ParseInfo(text), &a.evictions
	more := e.grown(info["run_id"], parseInt(info["evicted_keys"]))
	if more == 0 {
		return
	}
	total := a.Status.Evicted.Add(more)
	if time.Since(e.said) < warnEvery {
		return
	}
	e.said = time.Now()
	a.Log.Warn().Int64("evicted", total).Str("maxmemory_policy", info["maxmemory_policy"]).Str("maxmemory", info["maxmemory_human"]).
		Msg("the target evicts keys: the source has them, and the target has not. Give it more maxmemory and maxmemory-policy noeviction; " +
			"then compare both sides, or load it again: `redferry reset`, and run with --on-target-not-empty=flush")
}

// grown is how many keys a server has evicted since the last look at it: none at the first one, or when it is another server.
func (e *evictions) grown(runID string, n int64) int64 {
	before := e.seen
	if runID != e.runID {
		e.runID, before = runID, n
	}
	if n < before { // CONFIG RESETSTAT
		before = 0
	}
	e.seen = n
	return n - before
}
