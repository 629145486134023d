package applier_test

import (
	"crypto/sha1"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"testing"

	"redferry/internal/redistest"
	"redferry/replica"
)

// sentForm is a way to have a source send a command in a form that a client may not say, or that
// means something else when a client says it (docs/internals/propagation.md). Its keys begin with
// its name.
type sentForm struct {
	name string
	on   func(b redistest.Build) bool // which sources know it; nil for all
	send func(t *testing.T, s *redistest.Server)
}

// says sends these commands.
func says(cmds ...[]string) func(*testing.T, *redistest.Server) {
	return func(t *testing.T, s *redistest.Server) {
		t.Helper()
		for _, cmd := range cmds {
			s.Do(t, cmd...)
		}
	}
}

// tries is says past what a server does not know.
func tries(cmds ...[]string) func(*testing.T, *redistest.Server) {
	return func(_ *testing.T, s *redistest.Server) {
		for _, cmd := range cmds {
			_ = s.TryDo(cmd...)
		}
	}
}

func c(args ...string) []string { return args }

// many is a command so many times, with a number behind it.
func many(n int, args ...string) (cmds [][]string) {
	for i := range n {
		cmds = append(cmds, append(slices.Clone(args), strconv.Itoa(i)))
	}
	return cmds
}

func has62(b redistest.Build) bool  { return b.Has70() }
func only60(b redistest.Build) bool { return b.AtLeast("redis", 6, 0) && !b.AtLeast("redis", 6, 2) }

const farMs = "9223372036854775807"

var sentForms = []sentForm{
	{"xadd maxlen limit", has62, says(many(120, "XADD", "xadd maxlen limit", "MAXLEN", "~", "20", "LIMIT", "30", "*", "n")...)},
	{"xadd maxlen limit 0", has62, says(many(60, "XADD", "xadd maxlen limit 0", "nomkstream", "LIMIT", "0", "maxlen", "~", "20", "*", "n")...)},
	{"xadd minid limit", has62, says(many(60, "XADD", "xadd minid limit", "MINID", "~", "99999999999999", "LIMIT", "20", "*", "n")...)},
	{"xtrim limit", has62, says(append(many(60, "XADD", "xtrim limit", "*", "n"),
		c("XTRIM", "xtrim limit", "MAXLEN", "~", "5", "LIMIT", "20"),
		c("XTRIM", "xtrim limit", "minid", "~", "99999999999999", "limit", "10"))...)},
	{"xadd limit as data", nil, says(c("XADD", "xadd limit as data", "MAXLEN", "~", "5", "*", "LIMIT", "5"),
		c("XADD", "xadd limit as data", "*", "limit", "limit"))},
	{"xadd maxlen twice", only60, says(many(30, "XADD", "xadd maxlen twice", "MAXLEN", "2", "MAXLEN", "~", "15", "*", "n")...)},
	{"pfcount", nil, says(c("PFADD", "pfcount", "a", "b", "c"), c("PFCOUNT", "pfcount"),
		c("PFADD", "pfcount", "d"), c("PFCOUNT", "pfcount"),
		c("PFADD", "pfcount 2", "a"), c("PFMERGE", "pfcount 3", "pfcount", "pfcount 2"), c("PFCOUNT", "pfcount 3"),
		c("PFCOUNT", "pfcount 3"))},
	{"consumers", nil, says(c("XGROUP", "CREATE", "consumers", "g", "$", "MKSTREAM"),
		c("XADD", "consumers", "*", "f", "v"), c("XADD", "consumers", "*", "f", "v"),
		c("XREADGROUP", "GROUP", "g", "c1", "COUNT", "1", "STREAMS", "consumers", ">"),
		c("XREADGROUP", "GROUP", "g", "c2", "NOACK", "STREAMS", "consumers", ">"))},
	{"spop", nil, says(c("SADD", "spop", "a", "b", "c", "d", "e"), c("SPOP", "spop"), c("SPOP", "spop", "2"),
		c("SADD", "spop 2", "a", "b"), c("SPOP", "spop 2", "5"))},
	{"set get", has62, says(c("SET", "set get", "1"), c("SET", "set get", "2", "GET"),
		c("SET", "set get", "3", "XX", "GET", "GET"), c("SET", "set get 2", "4", "GET", "EX", "1000"))},
	{"set ifeq", func(b redistest.Build) bool { return b.AtLeast("valkey", 8, 1) }, says(c("SET", "set ifeq", "1"),
		c("SET", "set ifeq", "2", "IFEQ", "1"), c("SET", "set ifeq", "3", "IFEQ", "2", "GET"),
		c("SET", "set ifeq 2", "1", "PX", "1000000"), c("SET", "set ifeq 2", "2", "IFEQ", "1", "KEEPTTL"),
		c("SET", "set ifeq", "4", "IFEQ", "no"))},
	{"msetex", func(b redistest.Build) bool { return b.AtLeast("valkey", 9, 1) }, says(c("MSETEX", "2", "msetex", "1", "msetex 2", "2", "EX", "1000"),
		c("MSETEX", "2", "msetex", "3", "msetex 3", "4"),
		c("MSETEX", "1", "msetex 2", "5", "KEEPTTL"), c("MSETEX", "1", "msetex 2", "6", "XX", "PX", "1000000"))},
	{"ttl over", nil, says(c("SET", "ttl over", "v"), c("EXPIRE", "ttl over", "0"), c("SET", "ttl over 2", "v"),
		c("EXPIRE", "ttl over 2", "-1"),
		c("SET", "ttl over 3", "v"), c("PEXPIREAT", "ttl over 3", "-5"))},
	{"ttl overflows", only60, func(t *testing.T, s *redistest.Server) {
		says(c("SET", "ttl overflows", "v", "PX", farMs), c("SET", "ttl overflows 2", "v", "EX", farMs),
			c("PSETEX", "ttl overflows 3", farMs, "v"),
			c("SETEX", "ttl overflows 4", "9223372036854775", "v"),
			c("SET", "far", "v", "PX", "9223370000000000000"))(t, s)
		eventually(t, "the source has taken them for over", func() bool {
			return s.DoInt(t, "EXISTS", "ttl overflows", "ttl overflows 2", "ttl overflows 3", "ttl overflows 4") == 0
		})
	}},
	{"strings", nil, tries(c("SET", "strings", "1", "EX", "1000"), c("INCRBYFLOAT", "strings", "0.5"),
		c("APPEND", "strings", "x"), c("SETRANGE", "strings", "2", "y"), c("SETEX", "strings 2", "1000", "v"),
		c("GETEX", "strings 2", "PX", "2000000"), c("SET", "strings 3", "v"), c("GETDEL", "strings 3"),
		c("GETSET", "strings", "v"), c("MSETNX", "strings 4", "v", "strings 5", "v"),
		c("GETEX", "strings 2", "PERSIST"), c("SET", "strings 6", "v", "NX"),
		c("SET", "strings 6", "w", "XX", "KEEPTTL"),
		c("BITFIELD", "strings 7", "SET", "u8", "0", "9", "INCRBY", "u8", "0", "1"),
		c("SETBIT", "strings 7", "100", "1"), c("BITOP", "NOT", "strings 8", "strings 7"),
		c("COPY", "strings 2", "strings 9"), c("RENAME", "strings 9", "strings 10"),
		c("SET", "strings 11", "v"), c("DELIFEQ", "strings 11", "v"), c("DELEX", "strings 11", "IFEQ", "v"),
		c("PFADD", "strings 12", "a"), c("PFDEBUG", "TODENSE", "strings 12"))},
	{"lists", nil, tries(c("RPUSH", "lists", "a", "b", "c", "d", "e", "f"),
		c("LMPOP", "2", "lists none", "lists", "LEFT", "COUNT", "2"),
		c("LMOVE", "lists", "lists 2", "LEFT", "RIGHT"), c("RPOPLPUSH", "lists", "lists 2"),
		c("BLPOP", "lists", "1"), c("BRPOPLPUSH", "lists 2", "lists 3", "1"),
		c("LINSERT", "lists 3", "BEFORE", "a", "z"), c("SORT", "lists 3", "ALPHA", "STORE", "lists 4"),
		c("LPOP", "lists 4", "1"))},
	{"zsets", nil, tries(c("ZADD", "zsets", "1", "a", "2", "b", "3", "c"),
		c("ZADD", "zsets", "GT", "CH", "5", "a"), c("ZADD", "zsets", "INCR", "1.5", "b"),
		c("BZPOPMIN", "zsets", "1"), c("ZMPOP", "1", "zsets", "MAX"),
		c("ZRANGESTORE", "zsets 2", "zsets", "0", "-1"), c("GEOADD", "zsets 3", "13.361389", "38.115556", "p"),
		c("GEORADIUS", "zsets 3", "15", "37", "200", "km", "STORE", "zsets 4"),
		c("GEOSEARCHSTORE", "zsets 5", "zsets 3", "FROMLONLAT", "15", "37", "BYRADIUS", "200", "km", "STOREDIST"),
		c("ZUNIONSTORE", "zsets 6", "2", "zsets", "zsets 3", "WEIGHTS", "2", "3"))},
	{"field ttls", redistest.Build.HasFieldTTL, tries(c("HSET", "field ttls", "a", "1", "b", "2", "c", "3", "d", "4", "e", "5", "f", "6"),
		c("HEXPIRE", "field ttls", "1000", "FIELDS", "2", "a", "b"),
		c("HPEXPIRE", "field ttls", "1000000", "NX", "FIELDS", "2", "a", "c"),
		c("HEXPIRE", "field ttls", "0", "FIELDS", "2", "d", "none"),
		c("HPERSIST", "field ttls", "FIELDS", "1", "b"), c("HINCRBY", "field ttls", "a", "5"),
		c("HSETEX", "field ttls", "EX", "1000", "FIELDS", "1", "g", "7"),
		c("HSETEX", "field ttls", "FNX", "KEEPTTL", "FIELDS", "1", "h", "8"),
		c("HGETEX", "field ttls", "PX", "2000000", "FIELDS", "2", "g", "h"),
		c("HGETEX", "field ttls", "PERSIST", "FIELDS", "1", "h"),
		c("HGETDEL", "field ttls", "FIELDS", "1", "e"))},
	{"hashes", nil, tries(c("HSET", "hashes", "a", "1"), c("HINCRBYFLOAT", "hashes", "a", "0.1"),
		c("HSETNX", "hashes", "b", "1"), c("HMSET", "hashes", "c", "1"), c("HDEL", "hashes", "c"))},
	{"streams", nil, tries(c("XADD", "streams", "1-1", "f", "v"), c("XADD", "streams", "1-*", "f", "v"),
		c("XADD", "streams", "2-1", "f", "v"), c("XGROUP", "CREATE", "streams", "g", "0"),
		c("XREADGROUP", "GROUP", "g", "c", "STREAMS", "streams", ">"), c("XDEL", "streams", "1-1"),
		c("XAUTOCLAIM", "streams", "g", "d", "0", "0"), c("XCLAIM", "streams", "g", "e", "0", "2-1"),
		c("XACK", "streams", "g", "2-1"),
		c("XSETID", "streams", "9-9"), c("XSETID", "streams", "99-9", "ENTRIESADDED", "50", "MAXDELETEDID", "5-0"),
		c("XGROUP", "SETID", "streams", "g", "1-0", "ENTRIESREAD", "2"),
		c("XGROUP", "CREATECONSUMER", "streams", "g", "x"))},
	{"functions", redistest.Build.Has70, tries(c("FUNCTION", "LOAD", "#!lua name=one\nredis.register_function('f', function(k) return redis.call('SET', k[1], 'v') end)"),
		c("FCALL", "f", "1", "functions"),
		c("FUNCTION", "LOAD", "REPLACE", "#!lua name=one\nredis.register_function('f', function(k) return redis.call('INCR', k[1]) end)"),
		c("FCALL", "f", "1", "functions 2"),
		c("FUNCTION", "LOAD", "#!lua name=two\nredis.register_function('g', function(k) return 1 end)"),
		c("FUNCTION", "DELETE", "two"))},
	{"scripts", nil, tries(c("EVAL", "redis.call('SET', KEYS[1], 'v') redis.call('INCR', KEYS[2]) return redis.call('LPUSH', KEYS[1], 'v')", "2", "scripts", "scripts 2"))},
	{"sent out", nil, tries(c("PUBLISH", "sent out", "m"), c("SPUBLISH", "sent out", "m"))},
	{"restore", nil, func(t *testing.T, s *redistest.Server) {
		s.Do(t, "SET", "restore", "v")
		dump := s.DoString(t, "DUMP", "restore")
		s.Do(t, "RESTORE", "restore 2", "0", dump)
		s.Do(t, "RESTORE", "restore", "100000", dump, "REPLACE")
		s.Do(t, "RESTORE", "restore 3", "5000000000000", dump, "ABSTTL", "IDLETIME", "100")
		s.Do(t, "RESTORE", "restore 2", "1", dump, "ABSTTL", "REPLACE") // over already
	}},
}

// TestSentForms has real sources send each form, to targets that should take it. A native replica
// shows that the source itself says enough.
func TestSentForms(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, b, redistest.Config("stream-node-max-entries 10"))
			control := redistest.Start(t, b, redistest.ReplicaOf(src))
			targets := []*following{into(t, src, b)}
			for _, newest := range []redistest.Build{redistest.Latest(t), newestValkey(t)} {
				if newest != b {
					targets = append(targets, into(t, src, newest))
				}
			}
			for _, f := range sentForms {
				if f.on == nil || f.on(b) {
					f.send(t, src)
				}
			}
			eventually(t, "the native replica has everything", func() bool {
				return control.Info(t, "replication")["slave_repl_offset"] == strconv.FormatInt(src.Offset(t), 10)
			})
			redistest.AssertEqual(t, src, control, redistest.CompareOptions{})
			for _, f := range targets {
				f.through(t)
				redistest.AssertEqual(t, src, f.dst, redistest.CompareOptions{})
				if got := f.status.Rejected.Load(); got != 0 {
					t.Errorf("%s refused %d commands: %q", f.dst.Build.Name, got, f.lines("refused"))
				}
				if got := f.status.Divergence.Load(); got != 0 {
					t.Errorf("%s: divergence %d: %s", f.dst.Build.Name, got, *f.status.DivergenceKinds.Load())
				}
			}
		})
	}
}

// into has a new target follow a source that is there, past refused commands.
func into(t *testing.T, src *redistest.Server, b redistest.Build) *following {
	t.Helper()
	f := &following{src: src, dst: redistest.Start(t, b)}
	f.m = newMigration(t, src.URL(), f.dst.URL())
	f.m.apply.KeepGoing = true
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	return f
}

func newestValkey(t *testing.T) (newest redistest.Build) {
	t.Helper()
	newest = redistest.Latest(t)
	for _, b := range redistest.Servers(t) {
		if b.Server == "valkey" {
			newest = b
		}
	}
	return newest
}

// The payload of a RESTORE, or of a FUNCTION RESTORE, comes with the source's RDB version, which an
// older server, or one of the other family, refuses.
func TestRestoreIntoOther(t *testing.T) {
	t.Parallel()
	fill := [][]string{
		c("SET", "string", "v"), c("RPUSH", "list", "a", "b"), c("HSET", "hash", "f", "v"), c("ZADD", "zset", "1", "a"),
		c("SADD", "ints", "1", "2"), c("XADD", "stream", "1-1", "f", "v"),
	}
	for _, pair := range []struct {
		src, dst  string
		functions bool
		keys      int // of fill that cross
	}{{"redis-8.0", "redis-7.0", true, 5}, {"redis-8.0", "valkey-8.1", true, 6}, {"valkey-9", "redis-7.0", true, 5}, {"valkey-9", "redis-8.0", true, 6}, {"redis-7.0", "redis-6.0", false, 1}} {
		t.Run(pair.src+" to "+pair.dst, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, redistest.ServerNamed(t, pair.src))
			f := into(t, src, redistest.ServerNamed(t, pair.dst))
			if pair.functions {
				src.Do(t, "FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 1 end)")
				dump := src.DoString(t, "FUNCTION", "DUMP")
				src.Do(t, "FUNCTION", "FLUSH")
				src.Do(t, "FUNCTION", "RESTORE", dump, "APPEND")
			}
			for _, cmd := range fill[:pair.keys] {
				other := redistest.Start(t, src.Build)
				other.Do(t, cmd...)
				src.Do(t, "RESTORE", cmd[1], "0", other.DoString(t, "DUMP", cmd[1]))
			}
			f.equal(t)
		})
	}
}

func sha1Of(script string) string {
	sum := sha1.Sum([]byte(script))
	return hex.EncodeToString(sum[:])
}

// A source before 7.0 sends the scripts that its clients load, and has them in its RDB: after the
// cutover they are called by their SHA1 only.
func TestScriptsCross(t *testing.T) {
	t.Parallel()
	for _, dst := range redistest.Servers(t) {
		t.Run(dst.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, redistest.ServerNamed(t, "redis-6.0"))
			const before, called, after, flushed = "return 'before'", "return 'called'", "return 'after'", "return 'flushed'"
			src.Do(t, "SCRIPT", "LOAD", before)
			src.Do(t, "EVAL", called, "0")
			f := into(t, src, dst)
			src.Do(t, "SCRIPT", "LOAD", after)
			f.through(t)
			for script, want := range map[string]string{before: "before", called: "called", after: "after"} {
				if got := f.dst.DoString(t, "EVALSHA", sha1Of(script), "0"); got != want {
					t.Errorf("%s: got %q", script, got)
				}
			}
			src.Do(t, "SCRIPT", "FLUSH")
			src.Do(t, "SCRIPT", "LOAD", flushed)
			f.through(t)
			if got := f.dst.DoString(t, "EVALSHA", sha1Of(flushed), "0"); got != "flushed" {
				t.Errorf("got %q", got)
			}
			if err := f.dst.TryDo("EVALSHA", sha1Of(after), "0"); err == nil {
				t.Error("SCRIPT FLUSH has not flushed")
			}
			f.equal(t)
		})
	}
}

// A source before 7.0 that replicates scripts by their text sends also those that fail half-way,
// and calls known ones by their SHA1.
func TestVerbatimScripts(t *testing.T) {
	t.Parallel()
	for _, dst := range redistest.Servers(t) {
		t.Run(dst.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, redistest.ServerNamed(t, "redis-6.0"), redistest.Config("lua-replicate-commands no"))
			const count, fails, late = "return redis.call('INCR', KEYS[1])", "redis.call('INCR', KEYS[1]) return redis.call('LPUSH', KEYS[1], 'v')", "return redis.call('INCRBY', KEYS[1], 10)"
			// Without any replica, as between two runs, the source forgets each second what replicas know, and
			// sends texts again.
			other := redistest.Start(t, src.Build, redistest.Config("replicaof "+strings.Replace(src.Addr(), ":", " ", 1)))
			eventually(t, "another replica follows", func() bool { return other.Info(t, "replication")["master_link_status"] == "up" })
			src.Do(t, "CONFIG", "RESETSTAT") // its full resync is not ours
			src.Do(t, "SCRIPT", "LOAD", late)
			f := into(t, src, dst)
			src.Do(t, "EVAL", count, "1", "n")
			src.Do(t, "EVALSHA", sha1Of(count), "1", "n")
			src.Do(t, "EVALSHA", sha1Of(late), "1", "n")
			for range 2 {
				if err := src.TryDo("EVAL", fails, "1", "n"); err == nil {
					t.Fatal("the script did not fail")
				}
				if err := src.TryDo("EVALSHA", sha1Of(fails), "1", "n"); err == nil {
					t.Fatal("the script did not fail")
				}
			}
			f.equal(t)
			src.Do(t, "EVAL", "redis.call('SET', KEYS[1], 'v') return redis.call('PEXPIRE', KEYS[1], ARGV[1])", "1", "volatile", "1000000")
			f.equal(t)
			if dst.Has70() && f.dst.DoInt(t, "PEXPIRETIME", "volatile") < 1<<52 {
				t.Error("an expiry that a script has set is not shifted")
			}
			// It does not matter that the target has lost its scripts, as long as redferry knows
			// them.
			f.dst.Do(t, "SCRIPT", "FLUSH")
			src.Do(t, "EVALSHA", sha1Of(count), "1", "n")
			src.Do(t, "EVALSHA", strings.ToUpper(sha1Of(late)), "1", "n")
			f.equal(t)
			if got := f.dst.DoString(t, "GET", "n"); got != "27" {
				t.Errorf("n: got %s", got)
			}
			// Another process knows only what the target has.
			f.restart(t)
			f.until(t, replica.InSync, "")
			src.Do(t, "EVALSHA", sha1Of(count), "1", "n")
			f.through(t)
			f.dst.Do(t, "SCRIPT", "FLUSH")
			f.restart(t)
			src.Do(t, "EVALSHA", sha1Of(late), "1", "n")
			wantStop(t, f.wait(t), replica.Refused, "SCRIPT LOAD")
			f.dst.Do(t, "SCRIPT", "LOAD", late)
			f.running = f.m.start(t)
			f.equal(t)
			if got := f.dst.DoString(t, "GET", "n"); got != "38" {
				t.Errorf("n: got %s", got)
			}
		})
	}
}

// CLUSTER FLUSHSLOT (Valkey 9) reaches replicas as it is. A target that is no cluster cannot carry
// it out, and must not be taken for equal.
func TestFlushSlotStopsTheRun(t *testing.T) {
	t.Parallel()
	b := newestValkey(t)
	if !b.AtLeast("valkey", 9, 0) {
		t.Skip("no CLUSTER FLUSHSLOT before Valkey 9")
	}
	src, dst := redistest.StartCluster(t, b, 1)[0], redistest.Start(t, b)
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	src.Do(t, "SET", "k", "v")
	f.through(t)
	src.Do(t, "CLUSTER", "FLUSHSLOT", strconv.FormatInt(src.DoInt(t, "CLUSTER", "KEYSLOT", "k"), 10))
	wantStop(t, f.wait(t), replica.Refused, "CLUSTER")
	dst.Do(t, "DEL", "k")
	f.m.apply.KeepGoing = true
	f.running = f.m.start(t)
	src.Do(t, "SET", "l", "v")
	f.through(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}
