package verify

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
)

// mostListed is how many keys of a database are listed on each side, to find out how many of those that its server counts are only there because it has not deleted them yet. Where there are more, these
// stand for all: SCAN gives keys in the order of a hash.
const mostListed = 100_000

// recount finds out whether numbers differ that were read while nobody wrote. They may for two reasons: keys that are redferry's own, of another migration; and keys whose time is over, which
// count until their server comes to delete them, and a source that is paused does not.
func (r *run) recount(ctx context.Context, db int, source, target numbers) (*Difference, error) {
	w := r.scanner
	if source.lasting != target.lasting {
		for c, n := range map[*conn]*numbers{w.source: &source, w.target: &target} {
			own, err := c.own(ctx, db, r.Name)
			if err != nil {
				return nil, err
			}
			n.lasting -= own
		}
	}
	d := &Difference{DB: db, Kind: Keys, Source: countText(source.all()), Target: countText(target.all())}
	if source.lasting != target.lasting {
		return d, nil
	}
	if source.volatile == target.volatile {
		return nil, nil
	}
	var theirs, ours *census
	if err := both(
		func() (err error) { theirs, err = w.source.census(ctx, db); return err },
		func() (err error) { ours, err = w.target.census(ctx, db); return err },
	); err != nil {
		return nil, err
	}
	var now int64
	for _, c := range []*conn{w.source, w.target} { // whose clock is ahead has deleted more
		at, err := c.now(ctx)
		if err != nil {
			return nil, err
		}
		now = max(now, at)
	}
	for c, n := range map[*census]*numbers{theirs: &source, ours: &target} {
		if c.whole() {
			n.volatile = int64(len(c.expiries))
		}
	}
	// What both have is at least what lives on in one of them, and at most all that one of them has.
	fewest := max(r.living(theirs, now), r.living(ours, now))
	if most := min(source.volatile, target.volatile); fewest > most {
		d.Source, d.Target = countText(source.all()), countText(target.all())
		return d, nil
	}
	if !theirs.whole() || !ours.whole() {
		r.report.Note = strings.TrimPrefix(fmt.Sprintf("%s; of database %d the source counts %s, and the target %s: as far as a sample of %d tells, the rest is over and not deleted yet; --mode=full looks at each",
			r.report.Note, db, countText(source.all()), countText(target.all()), mostListed), "; ")
	}
	return nil, nil
}

// census is when the keys of a database expire that do, in Unix ms. Those that are over are not among them: SCAN leaves them out.
type census struct {
	expiries []int64
	part     float64 // of the database that was looked at; 1 when it is all
}

func (c *census) whole() bool { return c.part == 1 }

// living is how many keys with an expiry a database has that are not over, nor will be soon: at least, where a part of it has to tell.
func (r *run) living(c *census, now int64) int64 {
	var n float64
	for _, ms := range c.expiries {
		if !r.over(ms, now, ofKey) {
			n++
		}
	}
	doubt := 5 * math.Sqrt(n*(1-c.part)) // so far from the truth chance comes once in millions of times
	return int64(max(n-doubt, 0) / c.part)
}

// census lists a database's keys with an expiry.
func (c *conn) census(ctx context.Context, db int) (*census, error) {
	found := map[uint64]int64{} // by a hash of the key, for SCAN may give one twice
	seed := maphash.MakeSeed()
	for cursor, listed := "0", 0; ; {
		replies, err := c.do(ctx, db, c.cmd("SCAN", cursor, "COUNT", strconv.Itoa(pageKeys)))
		if err != nil {
			return nil, err
		}
		entry, err := replies[0].AsScanEntry()
		if err != nil {
			return nil, err
		}
		keys := slices.DeleteFunc(entry.Elements, reserved)
		moments, err := c.moments(ctx, db, keys)
		if err != nil {
			return nil, err
		}
		for i, ms := range moments {
			if ms >= 0 {
				found[maphash.String(seed, keys[i])] = ms
			}
		}
		listed += len(keys)
		part := 1.0
		if entry.Cursor != 0 { // it counts in reverse binary: its bits, the other way round, are how far it has come (dictScan in dict.c)
			part = math.Ldexp(float64(bits.Reverse64(entry.Cursor)), -64)
		}
		if part == 1 || listed >= mostListed {
			return &census{expiries: slices.Collect(maps.Values(found)), part: part}, nil
		}
		cursor = strconv.FormatUint(entry.Cursor, 10)
	}
}

// moments are when keys expire, in Unix ms; a negative one is none.
func (c *conn) moments(ctx context.Context, db int, keys []string) ([]int64, error) {
	cmds := make(rueidis.Commands, 0, len(keys)+1)
	for _, key := range keys {
		cmds = append(cmds, c.dedicated.B().Arbitrary(c.expiryCommand()).Keys(key).Build())
	}
	replies, err := c.do(ctx, db, append(cmds, c.dedicated.B().Time().Build())...)
	if err != nil {
		return nil, err
	}
	now, err := clock(replies[len(keys)])
	if err != nil {
		return nil, err
	}
	moments := make([]int64, len(keys))
	for i := range keys {
		if moments[i], err = c.expiry(replies[i], now); err != nil {
			return nil, err
		}
	}
	return moments, nil
}

// now is the server's clock, in Unix ms.
func (c *conn) now(ctx context.Context) (int64, error) {
	replies, err := c.do(ctx, c.db, c.dedicated.B().Time().Build())
	if err != nil {
		return 0, err
	}
	return clock(replies[0])
}

// own is how many keys of a database are redferry's, but for those of one migration. SCAN alone finds them.
func (c *conn) own(ctx context.Context, db int, but string) (int64, error) {
	own := map[string]bool{}
	for cursor, began := "0", false; !began || cursor != "0"; began = true {
		replies, err := c.do(ctx, db, c.cmd("SCAN", cursor, "MATCH", checkpoint.Prefix+"*", "COUNT", "1000"))
		if err != nil {
			return 0, err
		}
		entry, err := replies[0].AsScanEntry()
		if err != nil {
			return 0, err
		}
		for _, key := range entry.Elements {
			if !slices.Contains(checkpoint.Keys(but), key) {
				own[key] = true
			}
		}
		cursor = strconv.FormatUint(entry.Cursor, 10)
	}
	return int64(len(own)), nil
}
