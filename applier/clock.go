package applier

import (
	"context"
	"time"

	"redferry/replica"
)

// maxSkew is what two clocks may differ by before anybody has to know.
const maxSkew = time.Second

// clocks is how far the target's clock was ahead of the source's when that was said last; 0 when there was nothing to say.
type clocks struct{ said time.Duration }

// say tells whether a difference is to be said: it matters, and has not been said. unsure is by how much the measure may be wrong.
func (c *clocks) say(ahead, unsure time.Duration) bool {
	if ahead.Abs() <= maxSkew+unsure {
		ahead = 0
	}
	if (ahead - c.said).Abs() <= maxSkew+unsure {
		return false
	}
	c.said = ahead
	return ahead != 0
}

// compareClocks warns when source and target do not agree on the time: an expiry is a moment, which comes on each side when its own clock says so.
func (a *Applier) compareClocks(ctx context.Context, src replica.SourceInfo) {
	asked := time.Now()
	skew, ok := replica.ClockSkew(ctx, a.client)
	ahead := skew - src.Skew
	if !ok || !src.HasSkew || !a.clocks.say(ahead, time.Since(asked)/2) {
		return
	}
	first, second, when := "target", "source", "early"
	if ahead < 0 {
		first, second, when = "source", "target", "late"
	}
	by := ahead.Abs().Round(100 * time.Millisecond)
	a.Log.Warn().Float64("seconds", ahead.Seconds()).Msgf("the %s's clock is %v ahead of the %s's: once the target expires keys by itself, they die there %v %s; set both clocks by NTP before that",
		first, by, second, by, when)
}
