package verify

import (
	"fmt"
	"time"

	"redferry/applier"
)

// What servers say of the expiry of a key, or a hash field, that has none or is not there.
const (
	noExpiry = -1
	noKey    = -2
)

// An original gives the expiry that the source has for one that the target has, and tells whether that was shifted.
type original func(ms int64) (int64, bool)

// sameExpiry compares two expiries in Unix ms, of which a negative one is none. The target's may be shifted, as a migration writes it.
func (w *worker) sameExpiry(source, target int64, of original) bool {
	if source < 0 || target < 0 {
		return source < 0 && target < 0
	}
	if w.near(source, target) {
		return true
	}
	moment, shifted := of(target)
	if shifted {
		w.r.shifted.Add(1)
		return w.near(source, moment)
	}
	_, mistakable := of(source) // which a migration puts off to behind all shifted ones
	_, still := of(target - 1)
	return mistakable && still
}

func (w *worker) near(a, b int64) bool {
	return max(a-b, b-a) <= w.r.TTLTolerance.Milliseconds()
}

// over tells whether the time of what only one side has is over, or all but over: the other side has noticed first.
func (r *run) over(ms, now int64, of original) bool {
	if ms < 0 {
		return false
	}
	moment, _ := of(ms)
	return moment <= now+r.TTLTolerance.Milliseconds()
}

func momentText(ms int64, of original) string {
	if ms < 0 {
		return "none"
	}
	moment, shifted := of(ms)
	text := time.UnixMilli(moment).UTC().Format("2006-01-02T15:04:05.000Z")
	if shifted {
		return text + " (shifted)"
	}
	return text
}

func ttlDifference(db int, key, what string, source, target int64, of original) Difference {
	return Difference{DB: db, Key: key, Kind: TTL, What: what, Source: momentText(source, of), Target: momentText(target, of)}
}

var (
	ofKey   original = applier.OriginalExpiry
	ofField original = applier.OriginalFieldExpiry
)

// lone is the difference of a key that only one side has.
func lone(db int, key string, inSource bool, expiry int64) Difference {
	have := "has it"
	if expiry >= 0 {
		have = fmt.Sprintf("has it until %s", momentText(expiry, ofKey))
	}
	if inSource {
		return Difference{DB: db, Key: key, Kind: Missing, Source: have, Target: "has not"}
	}
	return Difference{DB: db, Key: key, Kind: Extra, Source: "has not", Target: have}
}
