package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/redis/rueidis"

	"redferry/internal/redistest"
)

// streamKeys is how many keys the commands of the stream are spread over, about.
const streamKeys = 100_000

// databases that hold keys.
const databases = 2

// sender writes commands to a server in large pipelines. The same seed makes the same commands.
type sender struct {
	b    *bench
	s    *redistest.Server
	rng  *rand.Rand
	db   int
	cmds [][]string
	sent int
}

func (w *sender) do(args ...string) {
	w.cmds = append(w.cmds, args)
	if len(w.cmds) >= 2000 && args[0] != "MULTI" {
		w.flush()
	}
}

func (w *sender) flush() {
	w.b.Helper()
	select {
	case <-w.b.interrupted:
		w.b.Fatalf("interrupted")
	default:
	}
	replies, err := w.s.DB(w.db).Pipeline(w.cmds...)
	if err != nil {
		w.b.Fatalf("write: %v", err)
	}
	for i, r := range replies {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			w.b.Fatalf("%.100q: %v", w.cmds[i], err)
		}
	}
	w.sent += len(w.cmds)
	w.cmds = w.cmds[:0]
}

func (w *sender) number(n int) string { return strconv.Itoa(w.rng.IntN(n)) }

// noise is n letters and digits, which do not compress well.
func (w *sender) noise(n int) string {
	text := make([]byte, 0, n+13)
	for len(text) < n {
		text = strconv.AppendUint(text, w.rng.Uint64(), 36)
	}
	return string(text[:n])
}

// fill writes n keys: half of them strings, the rest hashes, lists, sets, sorted sets and streams of a few elements, one in twenty thousand of
// two thousand elements. A fifth has a TTL of one to ten hours.
func (b *bench) fill(s *redistest.Server, n int) {
	b.Helper()
	w := &sender{b: b, s: s, rng: rand.New(rand.NewPCG(1, 1))}
	for i := range n {
		if db := i * databases / n; db != w.db {
			w.flush()
			w.db = db
		}
		size := 3 + w.rng.IntN(10)
		if w.rng.IntN(20_000) == 0 {
			size = 2000
		}
		key := w.key(i, size)
		if w.rng.IntN(5) == 0 {
			w.do("EXPIRE", key, strconv.Itoa(3600+w.rng.IntN(32_400)))
		}
	}
	w.flush()
}

// key makes key i, a collection of that many elements or a string.
func (w *sender) key(i, size int) string {
	name := func(kind string) string { return kind + ":" + strconv.Itoa(i) }
	many := func(cmd, kind string, element func(i int) []string) string {
		args := []string{cmd, name(kind)}
		for i := range size {
			args = append(args, element(i)...)
		}
		w.do(args...)
		return name(kind)
	}
	switch r := w.rng.IntN(100); {
	case r < 30:
		w.do("SET", name("string"), w.noise(8+w.rng.IntN(120)))
		return name("string")
	case r < 40:
		w.do("SET", name("int"), w.number(1<<40))
		return name("int")
	case r < 50:
		w.do("SET", name("text"), fmt.Sprintf(`{"id":%d,"name":"customer %d","address":"%s","orders":[%d,%d,%d],"note":"%0200d"}`,
			i, i, w.noise(30), i, i+1, i+2, i))
		return name("text")
	case r < 67:
		return many("HSET", "hash", func(i int) []string { return []string{"field" + strconv.Itoa(i), w.noise(10 + w.rng.IntN(20))} })
	case r < 77:
		return many("RPUSH", "list", func(int) []string { return []string{w.noise(10 + w.rng.IntN(20))} })
	case r < 82:
		return many("SADD", "intset", func(int) []string { return []string{w.number(1 << 30)} })
	case r < 87:
		return many("SADD", "set", func(int) []string { return []string{w.noise(12)} })
	case r < 97:
		return many("ZADD", "zset", func(int) []string { return []string{w.number(100_000), w.noise(12)} })
	}
	for range min(size, 6) {
		w.do("XADD", name("stream"), "*", "sensor", w.number(100), "value", w.number(10_000))
	}
	return name("stream")
}

// load writes about n commands of all kinds to streamKeys keys, one in fifty a transaction of five commands.
func (b *bench) load(s *redistest.Server, n int, seed uint64) {
	b.Helper()
	w := &sender{b: b, s: s, rng: rand.New(rand.NewPCG(seed, 2))}
	for w.sent+len(w.cmds) < n {
		if len(w.cmds) == 0 { // a pipeline was sent: the next one may go to another database
			w.db = w.rng.IntN(databases)
		}
		if w.rng.IntN(200) == 0 {
			w.transaction()
		} else {
			w.do(w.command()...)
		}
	}
	w.flush()
}

// transaction sends MULTI … EXEC in one pipeline.
func (w *sender) transaction() {
	cmds := [][]string{{"MULTI"}}
	for range 5 {
		cmds = append(cmds, w.command())
	}
	w.cmds = append(w.cmds, cmds...)
	w.do("EXEC")
}

// command is a random write. Collections stay small, because their keys are deleted now and then.
func (w *sender) command() []string {
	k := func(kind string) string { return "load:" + kind + ":" + w.number(streamKeys/10) }
	switch w.rng.IntN(20) {
	case 0, 1, 2, 3:
		return []string{"SET", k("string"), w.noise(10 + w.rng.IntN(100))}
	case 4, 5, 6:
		return []string{"INCR", k("counter")}
	case 7, 8, 9:
		return []string{"HSET", k("hash"), "f" + w.number(20), w.noise(20)}
	case 10, 11:
		return []string{"LPUSH", k("list"), w.noise(20)}
	case 12:
		return []string{"RPOP", k("list")}
	case 13, 14:
		return []string{"ZADD", k("zset"), w.number(100_000), "member" + w.number(50)}
	case 15:
		return []string{"SADD", k("set"), w.number(1000)}
	case 16:
		return []string{"XADD", k("stream"), "MAXLEN", "~", "100", "*", "value", w.number(10_000)}
	case 17:
		return []string{"EXPIRE", k("string"), strconv.Itoa(3600 + w.rng.IntN(32_400))}
	case 18:
		return []string{"APPEND", k("log"), w.noise(10)}
	}
	return []string{"DEL", k("log"), k("string")}
}
