package applier_test

import (
	"testing"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// Keys that begin with redferry: are the program's own: a source's, left there by a migration into it, are never copied.
func TestSourceWithKeysLikeOurs(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	say(t, src, "HSET redferry:test format 1 offset 99", "HSET redferry:test:owner epoch 1", "SET redferry:x 1", "SET a 1", "SELECT 3", "SET redferry:y 1", "SET b 1")
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	f.equal(t)
	ours(t, dst)
	for name, commands := range map[string][]string{
		"single":                 {"SET redferry:test 1", "INCR redferry:x", "DEL redferry:test", "EXPIRE redferry:x 1000", "PERSIST redferry:x"},
		"in a transaction":       {"MULTI", "SET redferry:test 1", "INCR a", "DEL redferry:test", "EXEC", "MULTI", "SET redferry:test 2", "INCR redferry:x", "EXEC"},
		"among others in DEL":    {"MSET k1 1 k2 2 redferry:k 3", "DEL k1 redferry:k nokey", "UNLINK k2 redferry:x"},
		"among others in MSET":   {"MSET redferry:test 1 m1 1 redferry:k 2 m2 2", "MSETNX n1 1 redferry:nx 1 n2 2"},
		"renamed to another":     {"SET redferry:test 1", "RENAME redferry:test redferry:other", "COPY redferry:other redferry:test", "RENAME redferry:test redferry:x"},
		"as values":              {"SET v redferry:test", "RPUSH l redferry:test x", "HSET h redferry:test redferry:test", "SADD s redferry:x"},
		"moved to database 0":    {"SELECT 3", "SET redferry:moved 1", "MOVE redferry:moved 0"},
		"swapped to database 0":  {"SELECT 3", "SET redferry:test 1", "SET b 2", "SWAPDB 3 0", "SWAPDB 0 3"},
		"by a script's effects":  {"EVAL redis.call('set',KEYS[1],1)return(redis.call('incr',KEYS[2])) 2 redferry:test a"},
		"only ours, transaction": {"MULTI", "SET redferry:test 1", "SELECT 3", "DEL redferry:test", "EXEC", "INCR b"},
	} {
		t.Run(name, func(t *testing.T) {
			say(t, src, commands...)
			f.equal(t)
			ours(t, dst)
		})
	}
	f.restart(t)
	f.until(t, replica.InSync, "")
	f.equal(t)
}

// A command that mixes such keys with others, and cannot be taken apart, stops the run in front of it: there is no right answer.
func TestKeysLikeOursMixedWithOthers(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Latest(t))
	say(t, f.src, "SET redferry:a 1", "SET before 1")
	f.through(t)
	say(t, f.src, "RENAME redferry:a b")
	wantStop(t, f.wait(t), replica.Refused, `RENAME mixes keys that begin with "redferry:"`)
	if got := f.dst.DoString(t, "GET", "b") + f.dst.DoString(t, "GET", "before"); got != "1" {
		t.Errorf("the target has %q", got)
	}
	ours(t, f.dst)
}

// Scripts and functions arrive by their effects; libraries as they are.
func TestScriptsAndFunctions(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			if b.Has70() {
				src.Do(t, "FUNCTION", "LOAD", library)
			}
			f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			const script = "redis.call('select', 2) for i = 1, 10 do redis.call('incr', KEYS[1]) redis.call('rpush', KEYS[2], math.random()) end return 1"
			src.Do(t, "EVAL", script, "2", "n", "l")
			sha := src.DoString(t, "SCRIPT", "LOAD", script)
			src.Do(t, "EVALSHA", sha, "2", "n", "l")
			src.Do(t, "EVAL", "return redis.call('set', KEYS[1], 1)", "1", "single")
			src.Do(t, "SCRIPT", "FLUSH")
			f.equal(t)
			if !b.Has70() {
				return
			}
			const second = "#!lua name=second\nredis.register_function('g', function(keys) redis.call('incr', keys[1]) return redis.call('incr', keys[1]) end)"
			src.Do(t, "FUNCTION", "LOAD", second)
			src.Do(t, "FCALL", "g", "1", "n")
			f.equal(t)
			src.Do(t, "FUNCTION", "LOAD", "REPLACE", second+" -- changed")
			src.Do(t, "FUNCTION", "DELETE", "lib")
			f.equal(t)
			dump := src.DoString(t, "FUNCTION", "DUMP")
			src.Do(t, "FUNCTION", "FLUSH")
			f.equal(t)
			src.Do(t, "FUNCTION", "RESTORE", dump)
			src.Do(t, "FLUSHALL")
			f.equal(t)
		})
	}
}

// Consumer groups: what is read, claimed and acknowledged reaches the target as XCLAIM and XGROUP SETID.
func TestConsumerGroups(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b)
			say(t, f.src, "XGROUP CREATE x g $ MKSTREAM", "XGROUP CREATE x h 0")
			for range 40 {
				say(t, f.src, "XADD x * f v", "XADD x MAXLEN ~ 60 * f w g x", "XREADGROUP GROUP g alice COUNT 2 STREAMS x >", "XREADGROUP GROUP h bob COUNT 1 NOACK STREAMS x >")
			}
			ids := streamIDs(t, f.src, "x")
			for i, id := range ids {
				switch i % 5 {
				case 0:
					say(t, f.src, "XACK x g "+id)
				case 1:
					say(t, f.src, "XCLAIM x g carol 0 "+id)
				case 2:
					say(t, f.src, "XDEL x "+id)
				case 3:
					say(t, f.src, "XCLAIM x g carol 0 "+id+" JUSTID", "XCLAIM x g alice 0 "+id+" RETRYCOUNT 7 FORCE")
				}
			}
			if b.Name != "redis-6.0" { // came with 6.2
				say(t, f.src, "XAUTOCLAIM x g dave 0 0 COUNT 5", "XGROUP CREATECONSUMER x h eve", "XTRIM x MINID "+ids[5])
			}
			say(t, f.src, "XGROUP DELCONSUMER x h bob", "XGROUP SETID x h 0", "XTRIM x MAXLEN 20", "XSETID x 99999999999999-1", "XGROUP DESTROY x h")
			f.equal(t)
		})
	}
}

// streamIDs are the IDs of a stream's entries.
func streamIDs(t *testing.T, s *redistest.Server, key string) (ids []string) {
	t.Helper()
	reply := s.Do(t, "XRANGE", key, "-", "+")
	entries, err := reply.AsXRange()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// TTLs of hash fields, on the servers that have them.
func TestFieldTTLs(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if !b.HasFieldTTL() {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b)
			say(t, f.src, "HSET h a 1 b 2 c 3 d 4 e 5 f 6 n 1", "HEXPIRE h 1000 FIELDS 2 a b", "HPEXPIRE h 2000000 FIELDS 1 c", "HEXPIREAT h 4102444800 FIELDS 1 d",
				"HPEXPIREAT h 4102444800000 NX FIELDS 2 d e", "HPERSIST h FIELDS 1 a", "HEXPIRE h 5000 GT FIELDS 2 b c", "HINCRBY h n 4", "HEXPIRE h 300 FIELDS 1 n", "HINCRBY h n 1",
				"HSET h b 9", "HEXPIRE h 0 FIELDS 1 f", "HSETEX h EX 500 FIELDS 2 x 1 y 2", "HGETEX h EX 700 FIELDS 1 x", "HGETEX h PERSIST FIELDS 1 y",
				"HPEXPIRE h 30 FIELDS 1 e", "HSET short a 1", "HPEXPIRE short 20 FIELDS 1 a")
			if b.Server == "redis" {
				say(t, f.src, "HGETDEL h FIELDS 1 y", "HINCRBYFLOAT h y 1.5")
			} else { // Redis 8.0 streams it as a plain HSET: on its own replicas, too, the field loses its TTL
				say(t, f.src, "HINCRBYFLOAT h n 1.5")
			}
			eventually(t, "fields expire on the source", func() bool { return f.src.DoInt(t, "HLEN", "short") == 0 && f.src.DoInt(t, "HEXISTS", "h", "e") == 0 })
			f.equal(t)
		})
	}
}

// The choice of the operator holds for a write that is refused, too: with KeepGoing, what cannot be applied is left out and the rest goes on.
func TestUnknownCommandIsLeftOut(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("rename-command INCR hidden:incr")), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	m.apply.KeepGoing = true
	m.apply.Rename = applier.RenameMap{}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	say(t, src, "SET n 1", "MULTI", "SET a 1", "hidden:incr n", "SET b 1", "EXEC", "SET c 1")
	r.reach(t, src)
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if got := dst.DoStrings(t, "MGET", "n", "a", "b", "c"); len(got) != 4 || got[0]+got[1]+got[2]+got[3] != "1111" {
		t.Errorf("the target has %q", got)
	}
	if got := mustRecord(t, dst).Rejected; got != 1 {
		t.Errorf("rejected: got %d, want 1", got)
	}
}
