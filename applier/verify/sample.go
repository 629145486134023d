package verify

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/redis/rueidis"

	"redferry/replica"
)

// A sample is drawn by SCAN from random cursors, never by RANDOMKEY: that draws until it finds a key that is not expired, and a paused server of Redis 7.0 that has none, and
// must not delete one, draws for ever, in the thread that serves everybody. SCAN looks at ten times COUNT of the hash table's buckets at most, whatever is in them.
//
// Any 64-bit number is a cursor: a server takes as many of its bits as the table is wide, the highest first, which is what SCAN's reverse binary order counts. So a random cursor is a random
// bucket, and what follows it there are keys in the order of a hash with a secret seed, which has nothing to do with what they are called or hold. The bias is this: a stretch of SCAN begins at
// a bucket, not at a key, so keys behind a run of empty buckets are drawn somewhat more often, which shrinks with the stretch's length; and keys of one stretch come together. In cluster
// mode, where Redis 7.4 and Valkey 8 have a table for each slot, the lowest bits choose the slot: there keys of slots with few keys are drawn more often than those of full slots.
const (
	// stretch is how many keys are asked for behind one random cursor.
	stretch = 20
	// stretches are asked for in one round trip.
	stretches = 25
	// maxDraws are so many more round trips than a sample should take, for a table that is mostly empty gives few keys.
	maxDraws = 20
	// wholly is from how many times the sample on a database is not listed whole any more, to draw from all of it.
	wholly = 4
)

// sample gives n keys of a database, about; all that it has where those are fewer.
func (c *conn) sample(ctx context.Context, db, n int) ([]string, error) {
	size, err := c.do(ctx, db, c.cmd("DBSIZE"))
	if err != nil {
		return nil, err
	}
	have, err := size[0].AsInt64()
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	if have <= int64(max(wholly*n, pageKeys)) {
		whole, err := c.list(ctx, db, keys)
		if err != nil {
			return nil, err
		}
		if whole {
			return some(keys, n), nil
		}
	}
	for draws := n/(stretch*stretches) + maxDraws; len(keys) < n && draws > 0; draws-- {
		cmds := make(rueidis.Commands, min(stretches, (n-len(keys)+stretch-1)/stretch))
		for i := range cmds {
			cmds[i] = c.cmd("SCAN", replica.RandomCursor(), "COUNT", strconv.Itoa(stretch))
		}
		replies, err := c.do(ctx, db, cmds...)
		if err != nil {
			return nil, err
		}
		for _, reply := range replies {
			if _, err := gather(keys, reply); err != nil {
				return nil, err
			}
		}
	}
	return some(keys, n), nil
}

// list gives all keys of a database, where that takes few round trips: a server may keep a large table for few keys.
func (c *conn) list(ctx context.Context, db int, keys map[string]bool) (whole bool, err error) {
	cursor := "0"
	for range maxDraws {
		replies, err := c.do(ctx, db, c.cmd("SCAN", cursor, "COUNT", strconv.Itoa(pageKeys)))
		if err != nil {
			return false, err
		}
		next, err := gather(keys, replies[0])
		if err != nil || next == 0 {
			return err == nil, err
		}
		cursor = strconv.FormatUint(next, 10)
	}
	return false, nil
}

// gather adds the keys of a reply to SCAN, and gives the cursor behind them.
func gather(keys map[string]bool, reply rueidis.RedisResult) (cursor uint64, err error) {
	entry, err := reply.AsScanEntry()
	if err != nil {
		return 0, err
	}
	for _, key := range entry.Elements {
		if !reserved(key) {
			keys[key] = true
		}
	}
	return entry.Cursor, nil
}

// some are n of these keys at most, drawn at random.
func some(keys map[string]bool, n int) []string {
	list := slices.Collect(maps.Keys(keys))
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	list = list[:min(n, len(list))]
	slices.Sort(list)
	return list
}
