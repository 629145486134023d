package applier_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidwall/redcon"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// following is a migration in sync, of which the stream is what matters.
type following struct {
	src, dst *redistest.Server
	m        *migration
	*running
}

// follow starts a source and a target and has the target follow.
func follow(t *testing.T, b redistest.Build, change ...func(*migration)) *following {
	t.Helper()
	f := &following{src: redistest.Start(t, b), dst: redistest.Start(t, b)}
	f.m = newMigration(t, f.src.URL(), f.dst.URL())
	for _, c := range change {
		c(f.m)
	}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	return f
}

// through waits until the target has all that the source has now.
func (f *following) through(t *testing.T) {
	t.Helper()
	f.reach(t, f.src)
}

// reach waits until the target has all that this source has now.
func (r *running) reach(t *testing.T, src *redistest.Server) {
	t.Helper()
	want := src.Offset(t)
	eventually(t, "the target has offset "+strconv.FormatInt(want, 10), func() bool {
		select {
		case <-r.done:
			t.Fatalf("the run ended: %v", r.err)
		default:
		}
		return r.status.Checkpointed.Load() >= want
	})
}

// equal compares both sides once the target has everything, and makes sure that nothing was refused and that there was one snapshot only.
func (f *following) equal(t *testing.T) {
	t.Helper()
	f.through(t)
	redistest.AssertEqual(t, f.src, f.dst, redistest.CompareOptions{})
	if got := f.status.Rejected.Load(); got != 0 {
		t.Errorf("refused writes: got %d", got)
	}
	if got := fullResyncs(t, f.src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// restart ends the run as SIGTERM does and starts the next one.
func (f *following) restart(t *testing.T) {
	t.Helper()
	if err := f.end(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	f.running = f.m.start(t)
}

// say sends commands to a server on one connection, so that MULTI and SELECT hold, and fails the test when one is refused. Each line is a
// command, its arguments apart by spaces.
func say(t *testing.T, s *redistest.Server, lines ...string) {
	t.Helper()
	var raw []byte
	for _, line := range lines {
		args := strings.Fields(line)
		raw = redcon.AppendArray(raw, len(args))
		for _, arg := range args {
			raw = redcon.AppendBulkString(raw, arg)
		}
	}
	replay(t, s, raw)
}

// ours fails the test unless the target has the checkpoint and the owner in database 0, and nothing of redferry's elsewhere.
func ours(t *testing.T, dst *redistest.Server) {
	t.Helper()
	if got := dst.DoInt(t, "EXISTS", checkpoint.Key("test"), checkpoint.OwnerKey("test")); got != 2 {
		t.Errorf("database 0 has %d of checkpoint and owner", got)
	}
	for db := 1; db < 16; db++ {
		if got := dst.DB(db).DoStrings(t, "KEYS", checkpoint.Prefix+"*"); len(got) != 0 {
			t.Errorf("keys of redferry in database %d: %q", db, got)
		}
	}
}

// T24: SELECT inside a transaction holds for what comes behind its EXEC.
func TestSelectInsideTransaction(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b)
			say(t, f.src,
				"SET a 0", "MULTI", "INCR a", "SELECT 3", "INCR a", "SELECT 9", "INCR a", "EXEC",
				"INCR a", "MULTI", "INCR a", "INCR b", "EXEC", "SELECT 0", "INCR a")
			f.equal(t)
			f.restart(t) // the database is in the checkpoint, too
			f.until(t, replica.InSync, "")
			say(t, f.src, "INCR a", "SELECT 9", "INCR a")
			f.equal(t)
			if got := f.dst.DB(9).DoString(t, "GET", "a"); got != "4" {
				t.Errorf("a in database 9: got %s, want 4", got)
			}
		})
	}
}

// flushesAndSwaps are T49 and T50: commands that remove or move the checkpoint itself, alone, in transactions and among other commands.
var flushesAndSwaps = map[string][]string{
	"FLUSHALL":                     {"FLUSHALL"},
	"FLUSHALL SYNC, other writes":  {"INCR n", "FLUSHALL SYNC", "INCR n", "SELECT 3", "INCR n"},
	"FLUSHALL in a transaction":    {"MULTI", "INCR n", "FLUSHALL", "INCR n", "EXEC", "INCR n"},
	"FLUSHDB 0":                    {"INCR n", "FLUSHDB", "INCR n"},
	"FLUSHDB of another database":  {"SELECT 2", "INCR n", "FLUSHDB ASYNC", "SELECT 0", "INCR n"},
	"FLUSHDB in a transaction":     {"MULTI", "INCR n", "FLUSHDB", "SELECT 2", "FLUSHDB", "INCR n", "EXEC", "INCR n"},
	"SWAPDB 0 1":                   {"INCR n", "SWAPDB 0 1", "INCR n"},
	"SWAPDB 1 0":                   {"SELECT 1", "INCR n", "SWAPDB 1 0", "INCR n"},
	"SWAPDB 2 3":                   {"SELECT 2", "INCR n", "SWAPDB 2 3", "INCR n"},
	"SWAPDB 0 0":                   {"INCR n", "SWAPDB 0 0", "INCR n"},
	"SWAPDB in a transaction":      {"MULTI", "INCR n", "SWAPDB 0 1", "INCR n", "SELECT 1", "INCR n", "EXEC", "INCR n"},
	"SWAPDB twice":                 {"SWAPDB 0 1", "INCR n", "SWAPDB 0 1", "INCR n"},
	"SWAPDB in a ring":             {"MULTI", "SWAPDB 0 1", "INCR n", "SWAPDB 0 2", "INCR n", "SWAPDB 2 1", "EXEC", "INCR n"},
	"SWAPDB, then FLUSHDB":         {"MULTI", "SWAPDB 0 2", "FLUSHDB", "INCR n", "EXEC", "SWAPDB 0 2", "INCR n"},
	"FLUSHALL, then SWAPDB":        {"MULTI", "FLUSHALL", "INCR n", "SWAPDB 0 2", "SELECT 2", "INCR n", "EXEC"},
	"MOVE and COPY to a database":  {"SET m 1", "MOVE m 4", "SET c 1", "COPY c c2 DB 6", "COPY c c2 DB 6 REPLACE"},
	"MOVE and COPY, transaction":   {"MULTI", "SET m 1", "MOVE m 4", "SELECT 4", "INCR m", "COPY m n DB 0 REPLACE", "EXEC"},
	"MOVE into a swapped database": {"SET m 1", "MOVE m 4", "SWAPDB 4 0", "INCR m"},
}

// seed gives every case something to lose in four databases.
func seed(t *testing.T, src *redistest.Server) {
	t.Helper()
	say(t, src, "FLUSHALL", "MSET n 10 zero 0", "SELECT 1", "MSET n 20 one 1", "SELECT 2", "MSET n 30 two 2", "SELECT 3", "MSET n 40 three 3")
}

func TestFlushAndSwap(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b)
			for name, commands := range flushesAndSwaps {
				if !b.Has70() && strings.Contains(strings.Join(commands, " "), "COPY") || b.Name == "redis-6.0" && strings.Contains(name, "SYNC") {
					continue // came with 6.2
				}
				t.Run(name, func(t *testing.T) {
					seed(t, f.src)
					say(t, f.src, commands...)
					f.equal(t)
					ours(t, f.dst)
				})
			}
			f.restart(t)
			f.until(t, replica.InSync, "")
			f.equal(t)
		})
	}
}

// T49, T50: the target's connection ends at the EXEC of such a transaction, before the target heard it or before its reply was heard.
func TestFlushAndSwapWithLostEXEC(t *testing.T) {
	t.Parallel()
	for at, answer := range map[string]redistest.Answer{"before EXEC": redistest.CutBeforeCommand(), "reply to EXEC lost": redistest.LoseReply()} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			b := redistest.Latest(t)
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))}
			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			for name, commands := range flushesAndSwaps {
				t.Run(name, func(t *testing.T) {
					seed(t, src)
					f.through(t)
					done := failAtEXEC(proxy, answer, "FLUSHALL", "FLUSHDB", "SWAPDB", "MOVE", "COPY")
					say(t, src, commands...)
					f.equal(t)
					ours(t, dst)
					if !done.Load() {
						t.Error("no connection was cut")
					}
				})
			}
		})
	}
}

// failAtEXEC gives the answer, once, to the EXEC of the first transaction that has one of the commands, and tells whether it did.
func failAtEXEC(proxy *redistest.CommandProxy, answer redistest.Answer, commands ...string) (done *atomic.Bool) {
	done = &atomic.Bool{}
	var has atomic.Int64 // the connection whose transaction it is
	proxy.Handle(func(conn int, args [][]byte) redistest.Answer {
		name := strings.ToUpper(string(args[0]))
		for _, c := range commands {
			if name == c {
				has.Store(int64(conn))
			}
		}
		if name == "EXEC" && has.Load() == int64(conn) && done.CompareAndSwap(false, true) {
			return answer
		}
		return redistest.Forward()
	})
	return done
}

// A database that only a command's argument names is looked for before anything of its unit is applied, too.
func TestTargetWithoutTheOtherDatabase(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	for _, command := range []string{"MOVE k 9", "COPY k k2 DB 9", "COPY DB DB DB 9 REPLACE", "SWAPDB 2 9"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.Config("databases 4"))
			m := newMigration(t, src.URL(), dst.URL())
			r := m.start(t)
			r.until(t, replica.InSync, "")
			say(t, src, "MSET k 1 DB 1")
			r.reach(t, src)
			say(t, src, command, "SET after 1")
			wantStop(t, r.wait(t), replica.Decide, "database 9")
			if got := dst.DoInt(t, "EXISTS", "k", "DB", "after"); got != 2 {
				t.Errorf("the target has %d of the two keys that it had", got)
			}
		})
	}
}

// T51: a transaction larger than any batch stays one transaction, also when the link breaks inside.
func TestLargeTransaction(t *testing.T) {
	t.Parallel()
	const commands = 300_000
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, quiet, patient), redistest.Start(t, b)
	proxy := redistest.NewProxy(t, src.Addr())
	f := &following{src: src, dst: dst, m: newMigration(t, src.URLAt(proxy.Addr()), dst.URL())}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	raw := redcon.AppendArray(nil, 1)
	raw = redcon.AppendBulkString(raw, "MULTI")
	for i := range commands {
		raw = redcon.AppendArray(raw, 2)
		raw = redcon.AppendBulkString(raw, "INCR")
		raw = redcon.AppendBulkString(raw, fmt.Sprintf("key:%d", i%50_000))
	}
	raw = redcon.AppendArray(raw, 1)
	raw = redcon.AppendBulkString(raw, "EXEC")
	proxy.CutAfter(redistest.FromServer, int64(len(raw)/2))
	replay(t, src, raw)
	f.equal(t)
	if proxy.Cuts() != 1 {
		t.Errorf("cuts: got %d, want 1", proxy.Cuts())
	}
	if got := dst.DoString(t, "GET", "key:0"); got != "6" {
		t.Errorf("a counter of the transaction: got %s, want 6", got)
	}
	// All of it was one transaction, so nobody can have seen a part; beside it, what a run writes of itself.
	if got := f.status.Transactions.Load(); got > 5 {
		t.Errorf("transactions: got %d", got)
	}
}

// Several giants, one behind the other, in the snapshot and in the stream, as values and as transactions; and the target's connection breaks in one of each.
func TestGiants(t *testing.T) {
	t.Parallel()
	const size = "20000000" // beyond what is called giant
	b := redistest.Latest(t)
	roomy := redistest.Config("rdbcompression no", "repl-backlog-size 300mb", "client-output-buffer-limit replica 0 0 0")
	src, dst := redistest.Start(t, b, roomy), redistest.Start(t, b)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 2000, Volatile: 0.2})
	const set = "redis.call('SET', KEYS[1], string.rep(ARGV[2], ARGV[1]))"
	for i := range 3 {
		src.Do(t, "EVAL", set, "1", fmt.Sprint("snapshot:", i), size, fmt.Sprint(i))
	}
	src.Do(t, "EVAL", "for i = 1, 20000 do redis.call('RPUSH', KEYS[1], string.rep('x', 1000)) end", "1", "list")
	proxy := redistest.NewProxy(t, dst.Addr())
	proxy.CutAfter(redistest.FromClient, 35_000_000)
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	proxy.CutAfter(redistest.FromClient, 35_000_000)
	for i := range 3 {
		src.Do(t, "EVAL", set, "1", fmt.Sprint("stream:", i), size, fmt.Sprint(i))
		src.Do(t, "INCR", "between")
	}
	proxy.CutAfter(redistest.FromClient, 35_000_000)
	for i := range 3 {
		src.Do(t, "EVAL", "for i = 1, 20000 do redis.call('SET', KEYS[1] .. i, string.rep('x', 1000)) end redis.call('INCR', KEYS[1])", "1", fmt.Sprint("transaction:", i))
	}
	f.equal(t)
	if proxy.Cuts() < 2 {
		t.Errorf("cuts: got %d, want 2 at least", proxy.Cuts())
	}
}

// T23: the source's link breaks at a byte between MULTI and EXEC.
func TestCutInsideTransaction(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	src.DB(5).Do(t, "SET", "n", "0")
	proxy := redistest.NewProxy(t, src.Addr())
	f := &following{src: src, dst: dst, m: newMigration(t, src.URLAt(proxy.Addr()), dst.URL())}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	inside := []string{"SELECT 5", "MULTI", "INCR n", "APPEND s x", "SELECT 6", "LPUSH l x", "EXEC"}
	before := src.Offset(t)
	say(t, src, inside...)
	size := src.Offset(t) - before
	const times = 31
	for i := range int64(times - 1) {
		f.through(t)
		proxy.CutAfter(redistest.FromServer, i*size/times)
		say(t, src, inside...)
	}
	proxy.CutAfter(redistest.FromServer, -1)
	f.equal(t)
	if got := dst.DB(5).DoString(t, "GET", "n"); got != strconv.Itoa(times) {
		t.Errorf("counter: got %s, want %d", got, times)
	}
	if proxy.Cuts() < times/2 { // a cut may meet a connection that is ending already
		t.Errorf("cuts: got %d, want nearly %d", proxy.Cuts(), times)
	}
}
