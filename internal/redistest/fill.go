package redistest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// FillOptions say how much [Fill] writes.
type FillOptions struct {
	Keys      int    // about how many; 0 means 1000. Every shape is there at least once, however few
	Seed      uint64 // the same seed makes the same keys and values
	Databases int    // spread over so many; 0 means 16
	Big       bool   // one collection of 100 000 elements of each type, too
	NoTTL     bool   // no expiry times, of keys or of fields

	Volatile       float64       // the share of keys with a TTL; 0 means a fifth
	MinTTL, MaxTTL time.Duration // between which it lies; 0 means ten minutes and ten hours
	Expired        int           // so many keys that have expired and are still there, and as many hashes with such a field where the server knows them
}

// Fill writes a keyspace with every type and encoding that the server's version knows: see shapes. Some of the keys have a TTL, three of them of 60
// and 260 years and until the year 3000, some keys are binary, long, empty or look like numbers, and there are functions where the server has
// them. With Expired the server's active expiry is off afterwards, until DEBUG SET-ACTIVE-EXPIRE 1; a look at such a key deletes it.
func Fill(t TB, s *Server, o FillOptions) {
	t.Helper()
	if o.Keys == 0 {
		o.Keys = 1000
	}
	if o.Databases == 0 {
		o.Databases = 16
	}
	if o.Volatile == 0 {
		o.Volatile = 0.2
	}
	o.MinTTL, o.MaxTTL = cmp.Or(o.MinTTL, 10*time.Minute), cmp.Or(o.MaxTTL, 10*time.Hour)
	f := &filler{s: s, o: o, rng: rand.New(rand.NewPCG(o.Seed, 1)), queued: map[int][][]string{}}
	if err := f.run(); err != nil {
		t.Fatalf("fill %s: %v", s.Build.Name, err)
	}
}

type filler struct {
	s      *Server
	o      FillOptions
	rng    *rand.Rand
	db     int // of the key that is being made
	queued map[int][][]string
	bytes  int
	err    error // of the last flush
}

func (f *filler) run() error {
	// Since 7.0 a list element of at least this size gets a quicklist node of its own, a plain one; without this, of 1 GB in 7.0.
	lowered := f.s.Build.Has70() && f.s.TryDo("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "4096b") == nil
	light, heavy := shapes(f.s.Build, f.o)
	for i, shape := range heavy {
		f.key(i, shape)
	}
	for i := range f.o.Keys - len(heavy) {
		switch {
		case i < len(light):
			f.key(len(heavy)+i, light[i])
		case f.rng.IntN(200) == 0:
			f.key(len(heavy)+i, heavy[f.rng.IntN(len(heavy))])
		default:
			f.key(len(heavy)+i, light[f.rng.IntN(len(light))])
		}
		if f.err != nil {
			return f.err
		}
	}
	for _, db := range []int{0, f.o.Databases - 1} {
		f.db = db
		f.do("SET", "", "the empty key")
	}
	if f.o.Big {
		f.db = 0
		f.big()
	}
	if !f.o.NoTTL {
		f.db = 0
		f.farTTLs()
	}
	if f.s.Build.Has70() {
		f.db = 0
		for i := range 3 {
			f.do("FUNCTION", "LOAD", "REPLACE", fmt.Sprintf(
				"#!lua name=library%d\nredis.register_function('f%d', function(keys, args) return redis.call('INCRBY', keys[1], %d) end)", i, i, f.rng.IntN(100)))
		}
	}
	f.expired()
	f.flush()
	if f.err == nil && lowered {
		f.err = f.s.TryDo("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "0")
	}
	return f.err
}

// farTTLs makes keys, and fields, that outlive any migration.
func (f *filler) farTTLs() {
	const year = 365 * 24 * time.Hour / time.Millisecond
	const in3000 = 32_503_680_000_000
	now := time.Now().UnixMilli()
	for i, ms := range []int64{now + 60*int64(year), now + 260*int64(year), in3000} {
		key, at := fmt.Sprint("far:", i), strconv.FormatInt(ms, 10)
		f.do("SET", key, "v")
		f.do("PEXPIREAT", key, at)
		if f.s.Build.HasFieldTTL() {
			key := fmt.Sprint("far:field:", i)
			f.hash(key, 3, 20)
			f.do("HPEXPIREAT", key, at, "FIELDS", "1", "f1")
		}
	}
}

// expired makes keys, and fields, whose time is over when it returns, and which nobody deletes.
func (f *filler) expired() {
	if f.o.Expired == 0 || f.err != nil {
		return
	}
	if f.err = f.s.TryDo("DEBUG", "SET-ACTIVE-EXPIRE", "0"); f.err != nil {
		return
	}
	for i := range f.o.Expired {
		f.db = i % f.o.Databases
		f.do("SET", fmt.Sprint("expired:", i), "v", "PX", "1")
		if f.s.Build.HasFieldTTL() {
			key := fmt.Sprint("expired:field:", i)
			f.hash(key, 3, 20)
			f.do("HPEXPIRE", key, "1", "FIELDS", "1", "f1")
		}
	}
	f.flush()
	time.Sleep(5 * time.Millisecond) // no server can be asked without deleting them
}

// key makes key i with a value of that shape, and perhaps a TTL.
func (f *filler) key(i int, s shape) {
	f.db = i % f.o.Databases
	name := f.name(i, s.name)
	s.make(f, name)
	if !f.o.NoTTL && f.rng.Float64() < f.o.Volatile {
		f.do("PEXPIRE", name, f.ttl())
	}
}

// ttl is a TTL in ms.
func (f *filler) ttl() string {
	return milliseconds(f.o.MinTTL + time.Duration(f.rng.Int64N(int64(max(1, f.o.MaxTTL-f.o.MinTTL)))))
}

// name makes a key: most are plain, some are what a program may stumble over.
func (f *filler) name(i int, kind string) string {
	switch f.rng.IntN(20) {
	case 0:
		return fmt.Sprintf("\r\n%d\x00\xff\xfe$3\r\n%s", i, kind)
	case 1:
		return strconv.Itoa(1_000_000 + i) // saved as an integer
	case 2:
		return fmt.Sprintf("%s:%d:%s", kind, i, f.noise(100+f.rng.IntN(2000)))
	case 3:
		return fmt.Sprintf("{tag%d}ключ:%d", f.rng.IntN(10), i)
	}
	return fmt.Sprintf("%s:%06d", kind, i)
}

// do queues a command for the database of the current key.
func (f *filler) do(args ...string) {
	f.queued[f.db] = append(f.queued[f.db], args)
	for _, a := range args {
		f.bytes += len(a) + 16
	}
	if f.bytes > 4<<20 {
		f.flush()
	}
}

func (f *filler) flush() {
	for db, cmds := range f.queued {
		replies, err := f.s.DB(db).Pipeline(cmds...)
		if err != nil {
			f.err = err
		}
		for i, r := range replies {
			if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) && f.err == nil {
				f.err = fmt.Errorf("%.100q in database %d: %w", cmds[i], db, err)
			}
		}
	}
	clear(f.queued)
	f.bytes = 0
}

// noise is n random bytes, which do not compress.
func (f *filler) noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(f.rng.UintN(256))
	}
	return string(b)
}

// word is a short string, sometimes a number, sometimes binary.
func (f *filler) word() string {
	switch f.rng.IntN(6) {
	case 0:
		return strconv.FormatInt(f.rng.Int64()-f.rng.Int64(), 10)
	case 1:
		return strconv.Itoa(f.rng.IntN(100))
	case 2:
		return f.noise(1 + f.rng.IntN(40))
	}
	return fmt.Sprintf("word-%x", f.rng.Uint32())
}

// text is n compressible bytes.
func (f *filler) text(n int) string {
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of a text that compresses well; ", f.rng.IntN(1000))
	}
	return b.String()[:n]
}

// elements queues commands that add n elements to a key, some hundreds with each.
func (f *filler) elements(n int, cmd, key string, element func(i int) []string) {
	args := []string{cmd, key}
	for i := range n {
		args = append(args, element(i)...)
		if len(args) > 1000 || i == n-1 {
			f.do(args...)
			args = []string{cmd, key}
		}
	}
}

// big makes one large collection of each type.
func (f *filler) big() {
	const n = 100_000
	f.elements(n, "RPUSH", "big:list", func(i int) []string { return []string{fmt.Sprint("element-", i)} })
	f.elements(n, "SADD", "big:set", func(i int) []string { return []string{fmt.Sprint("member-", i)} })
	f.elements(n, "ZADD", "big:zset", func(i int) []string { return []string{fmt.Sprint(f.rng.Float64()), fmt.Sprint("member-", i)} })
	f.elements(n, "HSET", "big:hash", func(i int) []string { return []string{fmt.Sprint("field-", i), fmt.Sprint("value-", i)} })
	for i := range n {
		f.do("XADD", "big:stream", fmt.Sprintf("%d-1", i+1), "n", strconv.Itoa(i))
	}
	f.do("XGROUP", "CREATE", "big:stream", "group", "0")
	f.do("XREADGROUP", "GROUP", "group", "consumer", "COUNT", "5000", "STREAMS", "big:stream", ">")
}
