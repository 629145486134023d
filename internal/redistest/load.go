package redistest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// LoadOptions say what [Load] and [StartLoad] write.
type LoadOptions struct {
	Seed      uint64 // the same seed makes the same commands, but for moments as PEXPIREAT takes them, which follow the clock
	Writers   int    // connections that write at the same time; 0 means 1
	Keys      int    // of each type; 0 means 20: few, so that commands meet
	Databases int    // written to in turn; 0 means 4
	Rate      int    // commands a second, all writers together; 0 means as fast as it goes
	Commands  int64  // end after about so many acknowledged commands; 0 means until ctx ends
	TTL       bool   // expiry times of keys, and of fields where they exist: a few are long, most pass within ten seconds
	SwapDB    bool   // SWAPDB now and then
	Flush     bool   // FLUSHDB now and then
}

// LoadResult counts what a load did.
type LoadResult struct {
	Acknowledged int64 // commands that the server has answered without an error
	Refused      int64 // answered with an error
	Unknown      int64 // sent, but the connection ended before the answer
}

// Load writes to s until ctx ends, or as many commands as o says: commands that show it when one is lost or done twice (INCR, APPEND, LPUSH,
// RENAME, SPOP, XADD *…), single and in MULTI/EXEC, by scripts, in several databases. It lives through restarts of the server.
func Load(ctx context.Context, s *Server, o LoadOptions) (LoadResult, error) {
	if o.Writers == 0 {
		o.Writers = 1
	}
	if o.Keys == 0 {
		o.Keys = 20
	}
	if o.Databases == 0 {
		o.Databases = 4
	}
	results, errs := make([]LoadResult, o.Writers), make([]error, o.Writers)
	var wg sync.WaitGroup
	for i := range o.Writers {
		wg.Go(func() {
			w := &writer{s: s, o: o, rng: rand.New(rand.NewPCG(o.Seed, uint64(i)))}
			errs[i] = w.run(ctx)
			results[i] = w.result
		})
	}
	wg.Wait()
	var sum LoadResult
	for _, r := range results {
		sum.Acknowledged += r.Acknowledged
		sum.Refused += r.Refused
		sum.Unknown += r.Unknown
	}
	return sum, errors.Join(errs...)
}

// StartLoad runs [Load] beside the test. The function that it returns stops the load, waits for its end and gives the counts; the test's
// cleanup does, too.
func StartLoad(t TB, s *Server, o LoadOptions) (stop func() LoadResult) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var result LoadResult
	var err error
	go func() {
		defer close(done)
		result, err = Load(ctx, s, o)
	}()
	stop = func() LoadResult {
		cancel()
		<-done
		return result
	}
	t.Cleanup(func() {
		if stop(); err != nil {
			t.Errorf("load: %v", err)
		}
	})
	return stop
}

// writer is one connection of a load.
type writer struct {
	s      *Server
	o      LoadOptions
	rng    *rand.Rand
	db     int
	result LoadResult
}

func (w *writer) run(ctx context.Context) error {
	batch := 32 // commands in a pipeline
	var every time.Duration
	if w.o.Rate > 0 {
		perWriter := float64(w.o.Rate) / float64(w.o.Writers)
		batch = min(batch, max(1, int(perWriter/20)))
		every = time.Duration(float64(batch) / perWriter * float64(time.Second))
	}
	var client rueidis.Client
	defer func() {
		if client != nil {
			client.Close()
		}
	}()
	next := time.Now()
	for ctx.Err() == nil && (w.o.Commands == 0 || w.result.Acknowledged*int64(w.o.Writers) < w.o.Commands) {
		if client == nil {
			var err error
			if client, err = w.s.Client(w.db); err != nil { // the server is away
				client = nil
				wait(ctx, 20*time.Millisecond)
				continue
			}
		}
		if alive := w.write(client, batch); !alive {
			client.Close()
			client = nil
		}
		if every > 0 {
			next = next.Add(every)
			wait(ctx, time.Until(next))
		}
	}
	return nil
}

// wait returns after d or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// write sends at least n commands in one pipeline, counts the answers, and tells whether the connection still works.
func (w *writer) write(client rueidis.Client, n int) bool {
	var cmds rueidis.Commands
	for len(cmds) < n {
		for _, args := range w.next() {
			cmds = append(cmds, client.B().Arbitrary(args...).Build())
		}
	}
	alive := true
	for _, reply := range client.DoMulti(context.Background(), cmds...) { // a command that is sent is waited for, also when ctx ends
		err := reply.Error()
		_, answered := rueidis.IsRedisErr(err) // nil is an answer, too
		switch {
		case err == nil || rueidis.IsRedisNil(err):
			w.result.Acknowledged++
		case answered:
			w.result.Refused++
		default:
			w.result.Unknown++
			alive = false
		}
	}
	return alive
}

// next makes the next step of the load: one command, a few that belong together, or a transaction.
func (w *writer) next() [][]string {
	switch r := w.rng.IntN(1000); {
	case r < 60:
		w.db = w.rng.IntN(w.o.Databases)
		return [][]string{{"SELECT", strconv.Itoa(w.db)}}
	case r < 160:
		cmds := [][]string{{"MULTI"}}
		for range 1 + w.rng.IntN(6) {
			if w.o.TTL && w.rng.IntN(4) == 0 {
				cmds = append(cmds, w.expiry()...)
			} else {
				cmds = append(cmds, w.command()...)
			}
		}
		if w.rng.IntN(5) == 0 { // a transaction may go on in another database
			w.db = w.rng.IntN(w.o.Databases)
			cmds = append(cmds, []string{"SELECT", strconv.Itoa(w.db)}, []string{"INCR", w.key("counter")})
		}
		return append(cmds, []string{"EXEC"})
	case r == 160 && w.o.SwapDB:
		return [][]string{{"SWAPDB", strconv.Itoa(w.rng.IntN(w.o.Databases)), strconv.Itoa(w.rng.IntN(w.o.Databases))}}
	case r == 161 && w.o.Flush:
		return [][]string{{"FLUSHDB"}}
	case r < 400 && w.o.TTL:
		return w.expiry()
	}
	return w.command()
}

func (w *writer) key(kind string) string {
	return fmt.Sprintf("load:%s:%d", kind, w.rng.IntN(w.o.Keys))
}

func (w *writer) word() string { return strconv.FormatUint(uint64(w.rng.Uint32()), 36) }

// command is a random write; two commands where the second needs the first.
func (w *writer) command() [][]string {
	one := func(args ...string) [][]string { return [][]string{args} }
	switch w.rng.IntN(24) {
	case 0, 1, 2, 3:
		return one("INCR", w.key("counter"))
	case 4:
		return one("INCRBYFLOAT", w.key("float"), "0.25")
	case 5, 6:
		return one("APPEND", w.key("string"), w.word())
	case 7:
		return one("SETRANGE", w.key("string"), strconv.Itoa(w.rng.IntN(200)), w.word())
	case 8, 9:
		return one("RPUSH", w.key("list"), w.word(), w.word())
	case 10:
		return one("LPUSH", w.key("list"), w.word())
	case 11:
		return one("RPOPLPUSH", w.key("list"), w.key("list"))
	case 12:
		return one("LPOP", w.key("list"))
	case 13:
		return one("ZINCRBY", w.key("zset"), "1.5", strconv.Itoa(w.rng.IntN(30)))
	case 14:
		return one("HINCRBY", w.key("hash"), strconv.Itoa(w.rng.IntN(30)), "3")
	case 15:
		return one("SADD", w.key("set"), w.word(), w.word(), w.word())
	case 16:
		return one("SPOP", w.key("set"))
	case 17:
		return w.stream()
	case 18:
		kind := []string{"counter", "string", "list", "zset", "hash"}[w.rng.IntN(5)]
		return [][]string{w.create(kind, w.key(kind)), {"RENAME", w.key(kind), w.key(kind)}}
	case 19:
		return one("DEL", w.key("list"), w.key("string"), w.key("counter"))
	case 20:
		return one("MOVE", w.key("counter"), w.otherDB())
	case 21:
		if w.s.Build.Has70() { // COPY came with 6.2
			return one("COPY", w.key("list"), w.key("list"), "REPLACE")
		}
		return one("SUNIONSTORE", w.key("set"), w.key("set"), w.key("set"))
	default:
		return one("EVAL", "redis.call('INCR', KEYS[1]); redis.call('RPUSH', KEYS[2], ARGV[1]); return redis.call('HINCRBY', KEYS[3], 'f', 1)",
			"3", w.key("counter"), w.key("list"), w.key("hash"), w.word())
	}
}

// otherDB is one of the load's databases in which the writer is not, if there are several.
func (w *writer) otherDB() string {
	return strconv.Itoa((w.db + 1 + w.rng.IntN(max(1, w.o.Databases-1))) % w.o.Databases)
}

// create is a command after which the key is there.
func (w *writer) create(kind, key string) []string {
	switch kind {
	case "counter":
		return []string{"INCR", key}
	case "string":
		return []string{"APPEND", key, w.word()}
	case "list":
		return []string{"RPUSH", key, w.word()}
	case "zset":
		return []string{"ZINCRBY", key, "1", w.word()}
	default:
		return []string{"HINCRBY", key, "f", "1"}
	}
}

// stream is a write to a stream with a group and pending entries.
func (w *writer) stream() [][]string {
	key := w.key("stream")
	add := []string{"XADD", key, "MAXLEN", "~", "500", "*", "n", w.word()}
	if w.rng.IntN(4) > 0 {
		return [][]string{add}
	}
	return [][]string{
		{"XGROUP", "DESTROY", key, "group"},
		add, // which makes the key, so the group can be created
		{"XGROUP", "CREATE", key, "group", "0"},
		{"XREADGROUP", "GROUP", "group", w.word(), "COUNT", "5", "STREAMS", key, ">"},
	}
}
