package redistest

import (
	"strconv"
	"time"
)

// ttl is a time to live: mostly of one to ten seconds, so that a key that is not renewed expires while the load runs; some are over at once, some
// last for hours or for 60 years.
func (w *writer) ttl() time.Duration {
	switch w.rng.IntN(16) {
	case 0:
		return 60 * 365 * 24 * time.Hour
	case 1, 2:
		return time.Hour + time.Duration(w.rng.IntN(1_000_000))*time.Millisecond
	case 3, 4:
		return time.Duration(1+w.rng.IntN(300)) * time.Millisecond
	}
	return time.Duration(1000+w.rng.IntN(9000)) * time.Millisecond
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// at is a TTL as a moment in Unix ms.
func (w *writer) at() string { return strconv.FormatInt(time.Now().Add(w.ttl()).UnixMilli(), 10) }

// expiry is a write that has to do with TTLs: one command, or a few where the others make sure that the last one finds something.
func (w *writer) expiry() [][]string {
	kind := []string{"counter", "string", "list", "zset", "hash"}[w.rng.IntN(5)]
	key := w.key(kind)
	ms := milliseconds(w.ttl())
	seconds := strconv.Itoa(1 + int(w.ttl().Seconds()))
	one := func(args ...string) [][]string { return [][]string{args} }
	volatile := [][]string{w.create(kind, key), {"PEXPIRE", key, ms}}
	switch n := w.rng.IntN(20); {
	case n < 6 && w.s.Build.HasFieldTTL():
		return w.fieldExpiry()
	case n < 8 && w.s.Build.Has70():
		return w.newerExpiry(kind, key)
	case n == 8:
		return one("SET", w.key("string"), w.word(), "PX", ms)
	case n == 9:
		return one("SETEX", w.key("string"), seconds, w.word())
	case n == 10:
		return one("EXPIRE", key, seconds)
	case n == 11:
		return one("PEXPIREAT", key, w.at())
	case n == 12:
		return one("PERSIST", key)
	case n == 13:
		return one("SET", w.key("string"), w.word(), "KEEPTTL")
	case n == 14:
		return append(volatile, []string{"RENAME", key, w.key(kind)})
	case n == 15:
		return append(volatile, []string{"MOVE", key, w.otherDB()})
	case n == 16:
		return one("UNLINK", key)
	case n == 17:
		return append(volatile, w.restore(key, w.key(kind), ms))
	default:
		return one("PEXPIRE", key, ms)
	}
}

// newerExpiry is a write with a command or an option that came after 6.0.
func (w *writer) newerExpiry(kind, key string) [][]string {
	ms := milliseconds(w.ttl())
	volatile := [][]string{w.create(kind, key), {"PEXPIRE", key, ms}}
	condition := []string{"NX", "XX", "GT", "LT"}[w.rng.IntN(4)]
	n := w.rng.IntN(7)
	if n >= 5 && kind == "hash" && w.s.Build.AtLeast("valkey", 9, 0) { // its copy has no fields that are over and not deleted yet, and its replicas' copies have them
		n = 4
	}
	switch n {
	case 0:
		return [][]string{{"PEXPIRE", key, ms, condition}}
	case 1:
		return [][]string{{"PEXPIREAT", key, w.at(), condition}}
	case 2:
		return [][]string{{"GETEX", w.key("string"), "PX", ms}}
	case 3:
		return [][]string{{"GETEX", w.key("string"), "PERSIST"}}
	case 4:
		return [][]string{{"SET", w.key("string"), w.word(), "PXAT", w.at()}}
	case 5:
		return append(volatile, []string{"COPY", key, w.key(kind), "DB", w.otherDB(), "REPLACE"})
	default:
		return append(volatile, []string{"COPY", key, w.key(kind), "REPLACE"})
	}
}

// restore copies a key by its DUMP, with a TTL. It is a script because the load never waits for a reply to make a command of it; what the server
// replicates is the RESTORE.
func (w *writer) restore(from, to, ms string) []string {
	return []string{
		"EVAL", "redis.replicate_commands(); local dump = redis.call('DUMP', KEYS[1]); " +
			"if dump then return redis.call('RESTORE', KEYS[2], ARGV[1], dump, 'REPLACE') end", "2", from, to, ms,
	}
}

// fieldExpiry is a write that has to do with TTLs of hash fields: in the hashes that other commands write to, too, and in wide ones.
func (w *writer) fieldExpiry() [][]string {
	key, fields := w.key("hash"), strconv.Itoa(1+w.rng.IntN(3))
	args := func(before []string, values bool) [][]string {
		cmd := append(before, "FIELDS", fields)
		n, _ := strconv.Atoi(fields)
		first := w.rng.IntN(27)
		for i := range n {
			if cmd = append(cmd, strconv.Itoa(first+i)); values {
				cmd = append(cmd, strconv.Itoa(w.rng.IntN(100)))
			}
		}
		return [][]string{cmd}
	}
	ms := milliseconds(w.ttl())
	condition := []string{"NX", "XX", "GT", "LT"}[w.rng.IntN(4)]
	n := w.rng.IntN(24)
	if n < 6 && !(w.s.Build.AtLeast("redis", 8, 0) || w.s.Build.AtLeast("valkey", 9, 0)) { // 7.4 has no HSETEX and HGETEX
		n = 6
	}
	switch n {
	case 0, 1:
		return args([]string{"HSETEX", key, "PX", ms}, true)
	case 2:
		return args([]string{"HSETEX", key, []string{"FNX", "FXX"}[w.rng.IntN(2)], "PXAT", w.at()}, true)
	case 3:
		return args([]string{"HSETEX", key, "KEEPTTL"}, true)
	case 4:
		return args([]string{"HGETEX", key, "PX", ms}, false)
	case 5:
		return args([]string{"HGETEX", key, "PERSIST"}, false)
	case 6, 7, 8, 9:
		return args([]string{"HPEXPIRE", key, ms}, false)
	case 10, 11:
		return args([]string{"HPEXPIRE", key, ms, condition}, false)
	case 12:
		return args([]string{"HEXPIRE", key, strconv.Itoa(1 + int(w.ttl().Seconds()))}, false)
	case 13:
		return args([]string{"HPEXPIREAT", key, w.at(), condition}, false)
	case 14, 15:
		return args([]string{"HPERSIST", key}, false)
	case 16:
		return [][]string{{"HSET", key, strconv.Itoa(w.rng.IntN(30)), "1", strconv.Itoa(w.rng.IntN(30)), "2"}}
	case 17:
		return [][]string{{"HDEL", key, strconv.Itoa(w.rng.IntN(30))}}
	case 18:
		return w.wideHash(ms)
	default:
		return [][]string{{"HINCRBY", key, strconv.Itoa(w.rng.IntN(30)), "3"}}
	}
}

// wideHash writes to a hash of more fields than a listpack takes, and gives some of them a TTL. There are few of these.
func (w *writer) wideHash(ms string) [][]string {
	const width = 640
	key := "load:wide:" + strconv.Itoa(w.rng.IntN(min(w.o.Keys, 3)))
	set, expire := []string{"HSET", key}, []string{"HPEXPIRE", key, ms, "FIELDS", "40"}
	for i := range width {
		set = append(set, strconv.Itoa(i), w.word())
	}
	first := w.rng.IntN(width - 40)
	for i := range 40 {
		expire = append(expire, strconv.Itoa(first+i))
	}
	if w.rng.IntN(4) == 0 {
		return [][]string{set, expire}
	}
	return [][]string{expire}
}
