package redistest

import (
	"fmt"
	"strconv"
)

// shape is a kind of value: a type in one of its encodings. make queues the commands that build it.
type shape struct {
	name string
	make func(f *filler, key string)
}

// shapes are the kinds of value that a build knows: light ones make up most of a keyspace, heavy ones are a few in a thousand.
func shapes(b Build, o FillOptions) (light, heavy []shape) {
	light = []shape{
		{"raw", func(f *filler, k string) { f.do("SET", k, f.noise(f.rng.IntN(200))) }},
		{"int", func(f *filler, k string) { f.do("SET", k, strconv.FormatInt(f.rng.Int64()>>f.rng.UintN(63), 10)) }},
		{"negative", func(f *filler, k string) { f.do("SET", k, strconv.Itoa(-1-f.rng.IntN(70000))) }},
		{"lzf", func(f *filler, k string) { f.do("SET", k, f.text(100+f.rng.IntN(2000))) }},
		{"list", func(f *filler, k string) { f.words(k, "RPUSH", 1+f.rng.IntN(20)) }},
		{"intset", (*filler).intset},
		{"set", func(f *filler, k string) { f.words(k, "SADD", 1+f.rng.IntN(20)) }},
		{"zset", func(f *filler, k string) { f.zset(k, 1+f.rng.IntN(20)) }},
		{"hash", func(f *filler, k string) { f.hash(k, 1+f.rng.IntN(20), 20) }},
		{"stream", func(f *filler, k string) { f.stream(k, 1+f.rng.IntN(10)) }},
		{"group", (*filler).streamWithGroups},
		{"emptystream", func(f *filler, k string) { f.do("XGROUP", "CREATE", k, "group", "$", "MKSTREAM") }},
		{"emptied", (*filler).emptiedStream},
		{"hyperloglog", func(f *filler, k string) { f.words(k, "PFADD", 1+f.rng.IntN(50)) }},
		{"bitmap", func(f *filler, k string) {
			for range 5 {
				f.do("SETBIT", k, strconv.Itoa(f.rng.IntN(10000)), "1")
			}
		}},
		{"geo", func(f *filler, k string) {
			for range 5 {
				f.do("GEOADD", k, fmt.Sprintf("%.6f", f.rng.Float64()*360-180), fmt.Sprintf("%.6f", f.rng.Float64()*160-80), f.word())
			}
		}},
	}
	heavy = []shape{
		{"bigstring", func(f *filler, k string) { f.do("SET", k, f.noise(100_000+f.rng.IntN(900_000))) }},
		{"biglzf", func(f *filler, k string) { f.do("SET", k, f.text(100_000+f.rng.IntN(900_000))) }},
		{"quicklist", func(f *filler, k string) {
			f.elements(2000, "RPUSH", k, func(int) []string { return []string{f.text(f.rng.IntN(100))} })
		}},
		{"plainlist", func(f *filler, k string) {
			f.do("RPUSH", k, "small", f.noise(5000), f.text(20_000), "small again", f.noise(300_000))
		}},
		{"hashset", func(f *filler, k string) {
			f.elements(700, "SADD", k, func(i int) []string { return []string{fmt.Sprintf("%s-%d", f.word(), i)} })
		}},
		{"bigintset", func(f *filler, k string) {
			f.elements(500, "SADD", k, func(i int) []string { return []string{strconv.Itoa(i * i * i)} })
		}},
		{"skiplist", func(f *filler, k string) { f.zset(k, 600) }},
		{"hashtable", func(f *filler, k string) { f.hash(k, 700, 20) }},
		{"bigfields", func(f *filler, k string) { f.hash(k, 20, 20_000) }},
		{"longstream", func(f *filler, k string) { f.stream(k, 1000) }},
	}
	if b.HasFieldTTL() && !o.NoTTL {
		light = append(light, shape{"fieldttl", func(f *filler, k string) { f.hash(k, 10, 20); f.fieldTTL(k, 1+f.rng.IntN(10)) }})
		heavy = append(heavy, shape{"bigfieldttl", func(f *filler, k string) { f.hash(k, 700, 20); f.fieldTTL(k, 350) }})
	}
	return light, heavy
}

// words adds n words with one command.
func (f *filler) words(key, cmd string, n int) {
	f.elements(n, cmd, key, func(int) []string { return []string{f.word()} })
}

// intset makes a set of integers of 16, 32 or 64 bits.
func (f *filler) intset(key string) {
	shift := []uint{48, 32, 0}[f.rng.IntN(3)]
	f.elements(1+f.rng.IntN(30), "SADD", key, func(int) []string {
		return []string{strconv.FormatInt(int64(f.rng.Uint64())>>shift, 10)}
	})
}

// zset makes a sorted set with scores of all kinds, equal ones among them.
func (f *filler) zset(key string, n int) {
	f.do("ZADD", key, "inf", "last", "-inf", "first")
	f.elements(n, "ZADD", key, func(i int) []string {
		score := strconv.FormatFloat((f.rng.Float64()-0.5)*1e6, 'g', -1, 64)
		switch f.rng.IntN(4) {
		case 0:
			score = strconv.Itoa(f.rng.IntN(5))
		case 1:
			score = "1e300"
		}
		return []string{score, fmt.Sprintf("%s-%d", f.word(), i)}
	})
}

// hash makes fields f0, f1, … with values of up to size bytes.
func (f *filler) hash(key string, n, size int) {
	f.elements(n, "HSET", key, func(i int) []string {
		return []string{fmt.Sprint("f", i), f.noise(f.rng.IntN(size))}
	})
}

// fieldTTL gives the first n fields of hash a TTL each.
func (f *filler) fieldTTL(key string, n int) {
	for i := range n {
		f.do("HPEXPIRE", key, f.ttl(), "FIELDS", "1", fmt.Sprint("f", i))
	}
}

// stream makes n entries: most with the same fields, which are stored once, some with others, some with a field twice; some are deleted again.
func (f *filler) stream(key string, n int) {
	for i := range n {
		id := fmt.Sprintf("%d-%d", 1000+i/3, i%3+1)
		switch {
		case i%7 == 3:
			f.do("XADD", key, id, "twice", f.word(), "twice", f.word())
		case i%5 == 4:
			f.do("XADD", key, id, f.word(), f.word())
		default:
			f.do("XADD", key, id, "a", f.word(), "b", strconv.Itoa(i))
		}
	}
	for i := 1; i < n; i += 4 {
		f.do("XDEL", key, fmt.Sprintf("%d-%d", 1000+i/3, i%3+1))
	}
}

// streamWithGroups makes a stream with pending, acknowledged, claimed and deleted pending entries, and a group that has read nothing. Nothing in
// it depends on the clock.
func (f *filler) streamWithGroups(key string) {
	for i := range 10 {
		f.do("XADD", key, fmt.Sprintf("%d-0", i+1), "n", strconv.Itoa(i))
	}
	f.do("XGROUP", "CREATE", key, "idle", "5-0")
	f.do("XGROUP", "CREATE", key, "busy", "0")
	f.do("XREADGROUP", "GROUP", "busy", "alice", "COUNT", "4", "STREAMS", key, ">")
	f.do("XREADGROUP", "GROUP", "busy", "bob", "COUNT", "3", "STREAMS", key, ">")
	f.do("XACK", key, "busy", "2-0", "6-0")
	f.do("XCLAIM", key, "busy", "alice", "0", "1-0", "4-0", "TIME", "1700000000000")
	f.do("XCLAIM", key, "busy", "bob", "0", "5-0", "7-0", "TIME", "1700000000001")
	f.do("XCLAIM", key, "busy", "carol", "0", "3-0", "TIME", "1700000000002", "RETRYCOUNT", "3")
	f.do("XDEL", key, "4-0", "9-0")
}

// emptiedStream makes a stream without entries that remembers its last id.
func (f *filler) emptiedStream(key string) {
	f.do("XADD", key, "77-7", "a", "b")
	f.do("XDEL", key, "77-7")
}
