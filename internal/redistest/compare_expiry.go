package redistest

import (
	"fmt"
	"slices"

	"github.com/redis/rueidis"
)

// A migration writes expiry times shifted by a constant, so that the target expires nothing by itself, and brings them back when it settles.
// These are the numbers that it has promised to use, in milliseconds.
const (
	keyShift   = 1 << 52
	fieldShift = 1 << 45
	// distant is from which moment on an expiry time is written as it is.
	distant = 1 << 44
)

// What servers say of the expiry time of a key or a field that is not there.
const noKey, noField = -2, -2

// logical is the moment that an expiry time of got stands for, and whether it is shifted.
func logical(ms, shift int64) (int64, bool) {
	if ms >= shift && ms < shift+distant {
		return ms - shift, true
	}
	return ms, false
}

// agree compares two expiry times, of which a negative one is none. Got's is want's: shifted, or as it is. One
// so distant that it is not shifted is the same on both, but an original in the shift's own range comes through as that range's end.
func (c *comparison) agree(want, got, shift int64) bool {
	tolerance := c.o.TTLTolerance.Milliseconds()
	near := func(a, b int64) bool { return max(a-b, b-a) <= tolerance }
	if want < 0 || got < 0 {
		return want < 0 && got < 0
	}
	if _, mistakable := logical(want, shift); mistakable {
		return near(got, shift+distant)
	}
	if want >= distant {
		return near(got, want)
	}
	if moment, shifted := logical(got, shift); shifted {
		return near(moment, want)
	}
	return near(got, want)
}

// sameKeyTTL compares a key's expiry time.
func (c *comparison) sameKeyTTL(db int, p keyPair) {
	want, got := p.want.expire, p.got.expire
	if c.o.IgnoreTTL {
		return
	}
	if c.o.Settled && c.shifted.key(db, p.name, got) {
		return
	}
	if !c.agree(want, got, keyShift) {
		c.add(db, p.name, "TTL %s, want %s", timeText(got, keyShift), timeText(want, keyShift))
	}
}

// sameFieldTTLs compares the expiry times of a hash's fields, which are the same. It reports one.
func (c *comparison) sameFieldTTLs(db int, key string, want, got value) {
	if c.o.IgnoreTTL {
		return
	}
	reported := false
	for _, line := range want.lines {
		w, g := want.ttl(line), got.ttl(line)
		if c.o.Settled && c.shifted.field(db, key, g) {
			continue
		}
		if !c.agree(w, g, fieldShift) && !reported {
			c.add(db, key, "field TTL of %.60q: %s, want %s", line, timeText(g, fieldShift), timeText(w, fieldShift))
			reported = true
		}
	}
}

// excused tells whether two servers may differ in a key because a time is over: in the whole key, or in some fields of a hash. It is not when
// what one of them lacks should live on: a key that has died early on got, or never dies there, is a difference.
func (c *comparison) excused(p keyPair, want, got value, now int64) bool {
	if p.lonely() && (p.want.kind != "none" && c.overOnWant(p.want.expire, now) || p.got.kind != "none" && c.overOnGot(p.got.expire, keyShift, now)) {
		return true
	}
	if p.kind() != "hash" {
		return false
	}
	lives := func(line string, in, other value, over func(ms int64) bool) bool {
		_, has := slices.BinarySearch(other.lines, line) // a hash's lines are sorted
		return !has && !over(in.ttl(line))
	}
	return !slices.ContainsFunc(want.lines, func(line string) bool {
		return lives(line, want, got, func(ms int64) bool { return c.overOnWant(ms, now) })
	}) && !slices.ContainsFunc(got.lines, func(line string) bool {
		return lives(line, got, want, func(ms int64) bool { return c.overOnGot(ms, fieldShift, now) })
	})
}

// overOnWant tells whether an expiry time of want is over.
func (c *comparison) overOnWant(ms, now int64) bool {
	return ms >= 0 && ms <= now+c.o.TTLTolerance.Milliseconds()
}

// overOnGot tells whether want's expiry time may be over, judged by that of got, which may be shifted.
func (c *comparison) overOnGot(ms, shift, now int64) bool {
	moment, _ := logical(ms, shift)
	return ms >= 0 && moment <= now+2*c.o.TTLTolerance.Milliseconds()
}

// now is want's clock in Unix ms: only the source decides what has expired.
func (c *comparison) now() (int64, error) { return clockOf(c.want) }

// clockOf is a server's clock in Unix ms.
func clockOf(s *Server) (int64, error) {
	replies, err := s.Pipeline([]string{"TIME"})
	if err != nil {
		return 0, err
	}
	return unixMilli(replies[0])
}

// unixMilli reads the reply to TIME.
func unixMilli(reply rueidis.RedisResult) (int64, error) {
	time, err := reply.AsIntSlice()
	if err != nil {
		return 0, fmt.Errorf("TIME: %w", err)
	}
	return time[0]*1000 + time[1]/1000, nil
}

func timeText(ms, shift int64) string {
	if ms < 0 {
		return "none"
	}
	if moment, shifted := logical(ms, shift); shifted {
		return fmt.Sprintf("at %d (shifted)", moment)
	}
	return fmt.Sprintf("at %d", ms)
}

// shiftedCount counts the expiry times of got that are shifted.
type shiftedCount struct {
	keys, fields int
	first        Difference // the place of the first one
}

// key counts a key's expiry time, and tells whether it is shifted.
func (s *shiftedCount) key(db int, name string, ms int64) bool {
	return s.count(&s.keys, db, name, ms, keyShift)
}

// field counts that of a field of the named key.
func (s *shiftedCount) field(db int, name string, ms int64) bool {
	return s.count(&s.fields, db, name, ms, fieldShift)
}

func (s *shiftedCount) count(n *int, db int, name string, ms, shift int64) bool {
	_, shifted := logical(ms, shift)
	if !shifted {
		return false
	}
	if !s.any() {
		s.first = Difference{DB: db, Key: name}
	}
	*n++
	return true
}

func (s *shiftedCount) any() bool { return s.keys+s.fields > 0 }

// difference is what a settled target differs in.
func (s *shiftedCount) difference() Difference {
	d := s.first
	d.What = fmt.Sprintf("shifted, the first of %d keys and %d hash fields whose expiry times are", s.keys, s.fields)
	return d
}
