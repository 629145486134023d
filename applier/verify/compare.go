package verify

import (
	"context"

	"github.com/redis/rueidis"

	"redferry/rdbstream"
)

const (
	// smallValue is up to how many bytes, by MEMORY USAGE, a value is asked for whole.
	smallValue = 64 << 10
	// sampled is of how many elements MEMORY USAGE takes the mean. A value that has more of them is over smallValue, since none takes less than 16 bytes; so one below is known
	// exactly, and a list of small elements cannot hide a large one.
	sampled = smallValue / 16
	// dumpBytes are asked for at a time.
	dumpBytes = 2 << 20
)

// worker compares keys, with a connection to each side. It belongs to one goroutine at a time.
type worker struct {
	r              *run
	source, target *conn
}

func (w *worker) open(ctx context.Context) (err error) {
	if w.source, err = dial(ctx, "source", w.r.Source); err != nil {
		return err
	}
	w.target, err = dial(ctx, "target", w.r.Target)
	return err
}

func (w *worker) close() {
	for _, c := range []*conn{w.source, w.target} {
		if c != nil {
			c.close()
		}
	}
}

// outline is what one side says of a key before its value is asked for.
type outline struct {
	there  bool
	size   int64 // of the value, in memory
	expiry int64 // in Unix ms
}

// outlines asks one side for the outlines of keys, and for its clock.
func (c *conn) outlines(ctx context.Context, db int, keys []string) (list []outline, now int64, err error) {
	ttl := c.expiryCommand()
	b := c.dedicated.B()
	cmds := make(rueidis.Commands, 0, 2*len(keys)+1)
	for _, key := range keys {
		cmds = append(cmds, b.MemoryUsage().Key(key).Samples(sampled).Build(), b.Arbitrary(ttl).Keys(key).Build())
	}
	replies, err := c.do(ctx, db, append(cmds, b.Time().Build())...)
	if err != nil {
		return nil, 0, err
	}
	if now, err = clock(replies[len(cmds)]); err != nil {
		return nil, 0, err
	}
	list = make([]outline, len(keys))
	for i := range keys {
		o := &list[i]
		if o.expiry, err = c.expiry(replies[2*i+1], now); err != nil {
			return nil, 0, err
		}
		size, err := replies[2*i].AsInt64()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, 0, err
		}
		o.size, o.there = size, err == nil && o.expiry != noKey
	}
	return list, now, nil
}

// expiryCommand asks for a key's expiry: before 7.0 for how long that is from now.
func (c *conn) expiryCommand() string {
	if c.has70 {
		return "PEXPIRETIME"
	}
	return "PTTL"
}

// expiry is the reply to expiryCommand as a moment in Unix ms; a negative one is none. now is the server's clock.
func (c *conn) expiry(reply rueidis.RedisResult, now int64) (int64, error) {
	ms, err := reply.AsInt64()
	if ms >= 0 && !c.has70 {
		ms += now
	}
	return ms, err
}

// pair is a key as both sides have it.
type pair struct {
	key            string
	source, target outline
}

func (p *pair) small() bool { return p.source.size <= smallValue && p.target.size <= smallValue }

// compare gives in what keys of a database differ, one difference at most of each key.
func (w *worker) compare(ctx context.Context, db int, keys []string) (found []Difference, err error) {
	var source, target []outline
	var now int64 // by the source's clock, which decides what has expired
	if err := both(
		func() (err error) { source, now, err = w.source.outlines(ctx, db, keys); return err },
		func() (err error) { target, _, err = w.target.outlines(ctx, db, keys); return err },
	); err != nil {
		return nil, err
	}
	var small, large, unlike []pair
	size := int64(0) // of what small has
	flush := func() error {
		more, differ, err := w.dumps(ctx, db, small)
		found, unlike = append(found, differ...), append(unlike, more...)
		small, size = small[:0], 0
		return err
	}
	for i, key := range keys {
		p := pair{key, source[i], target[i]}
		switch {
		case !p.source.there && !p.target.there:
		case p.source.there && p.target.there && p.small():
			small = append(small, p)
			if size += max(p.source.size, p.target.size); size > dumpBytes {
				if err := flush(); err != nil {
					return nil, err
				}
			}
		case p.source.there && p.target.there:
			large = append(large, p)
		case p.source.there && w.r.over(p.source.expiry, now, ofKey), p.target.there && w.r.over(p.target.expiry, now, ofKey):
			w.r.expired.Add(1)
		default:
			found = append(found, lone(db, key, p.source.there, max(p.source.expiry, p.target.expiry)))
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	byMeaning, err := w.values(ctx, db, unlike)
	if err != nil {
		return nil, err
	}
	found = append(found, byMeaning...)
	for _, p := range large {
		d, err := w.large(ctx, db, &p)
		if err != nil {
			return nil, err
		}
		if d != nil {
			found = append(found, *d)
		}
	}
	return found, nil
}

// dumps compares keys of small values by their DUMPs. It gives those that have to be compared by meaning.
func (w *worker) dumps(ctx context.Context, db int, pairs []pair) (unlike []pair, found []Difference, err error) {
	if len(pairs) == 0 {
		return nil, nil, nil
	}
	dump := func(c *conn, out *[]rueidis.RedisResult) func() error {
		return func() (err error) {
			b := c.dedicated.B()
			cmds := make(rueidis.Commands, len(pairs))
			for i := range pairs {
				cmds[i] = b.Dump().Key(pairs[i].key).Build()
			}
			*out, err = c.do(ctx, db, cmds...)
			return err
		}
	}
	var source, target []rueidis.RedisResult
	if err := both(dump(w.source, &source), dump(w.target, &target)); err != nil {
		return nil, nil, err
	}
	for i, p := range pairs {
		s, err := source[i].ToString()
		t, err2 := target[i].ToString()
		switch {
		case err != nil && err2 != nil:
		case err != nil || err2 != nil: // gone meanwhile
			found = append(found, lone(db, p.key, err == nil, max(p.source.expiry, p.target.expiry)))
		case !w.sameDump(s, t):
			unlike = append(unlike, p)
		case !w.sameExpiry(p.source.expiry, p.target.expiry, ofKey):
			found = append(found, ttlDifference(db, p.key, "", p.source.expiry, p.target.expiry, ofKey))
		}
	}
	return unlike, found, nil
}

// dumpFooter is the end of a DUMP: RDB version and CRC. Servers of different versions differ in it alone.
const dumpFooter = 2 + 8

// sameDump tells that two DUMPs surely mean the same. Where the fields of a hash have expiries, the target's may be shifted.
func (w *worker) sameDump(source, target string) bool {
	s, t := len(source)-dumpFooter, len(target)-dumpFooter
	if s < 1 || t < 1 {
		return source == target
	}
	own := source[0] >= firstOwnType
	switch {
	case own && source[s:s+2] != target[t:t+2]: // of different families, perhaps
		return false
	case source[:s] == target[:t]:
		return true
	case !own || source[0] != target[0]:
		return false
	}
	back, ok, err := rdbstream.MapDump(nil, []byte(target), func(ms int64) int64 { was, _ := ofField(ms); return was })
	if err != nil || !ok || len(back) < dumpFooter || string(back[:len(back)-dumpFooter]) != source[:s] {
		return false
	}
	w.r.shifted.Add(1)
	return true
}

// firstOwnType is the first type of an RDB value that Redis and Valkey do not give the same meaning. The fields of older ones have no expiries.
const firstOwnType = 22
