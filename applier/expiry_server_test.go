package applier_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// behind starts a source and a target, and has the target follow through a line that can be slow.
func behind(t *testing.T, b redistest.Build, change ...func(*migration)) (*following, *redistest.Proxy) {
	t.Helper()
	f := &following{src: redistest.Start(t, b), dst: redistest.Start(t, b)}
	line := redistest.NewProxy(t, f.dst.Addr())
	f.m = newMigration(t, f.src.URL(), f.dst.URLAt(line.Addr()))
	for _, c := range change {
		c(f.m)
	}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	return f, line
}

// lagging has the target behind its source for two seconds, in which f writes.
func lagging(line *redistest.Proxy, f func()) {
	const lag = 2 * time.Second
	line.Hold(redistest.FromClient, true)
	over := time.After(lag)
	f()
	<-over
	line.Hold(redistest.FromClient, false)
}

// agrees fails the test unless both sides are equal, and each command has found in the target what it found in the source.
func (f *following) agrees(t *testing.T) {
	t.Helper()
	f.equal(t)
	if got := f.status.Divergence.Load(); got != 0 {
		t.Errorf("divergence: %s", *f.status.DivergenceKinds.Load())
	}
}

// T59: what lives two seconds, and is renewed each second, lives through a snapshot of six. Where the target expires it by itself, it is lost.
func TestRenewedThroughASlowSnapshot(t *testing.T) {
	t.Parallel()
	builds := redistest.Servers(t)
	for i, b := range builds {
		run := func(t *testing.T, expiry applier.Expiry) *following {
			t.Parallel()
			f := &following{src: redistest.Start(t, b, redistest.Config("rdbcompression no")), dst: redistest.Start(t, b)}
			for i := range 15 {
				f.src.Do(t, "SET", fmt.Sprint("ballast:", i), strings.Repeat("x", 100_000))
			}
			renew := func(ms string) {
				say(t, f.src, "PEXPIRE renewed "+ms, "INCR counted", "PEXPIRE counted "+ms)
				if b.HasFieldTTL() {
					say(t, f.src, "HPEXPIRE fields "+ms+" FIELDS 1 renewed")
				}
			}
			say(t, f.src, "SET renewed value", "SET counted 100", "HSET fields renewed value lasting value", "HSET plain renewed value")
			renew("2000")
			line := redistest.NewProxy(t, f.dst.Addr())
			line.Throttle(redistest.FromClient, 250_000)
			f.m = newMigration(t, f.src.URL(), f.dst.URLAt(line.Addr()))
			f.m.apply.Expiry, f.m.apply.Pipelines = expiry, 1
			f.running = f.m.start(t)
			next := time.Now().Add(time.Second)
			eventually(t, "the snapshot is loaded", func() bool {
				if time.Now().After(next) {
					renew("2000")
					next = next.Add(time.Second)
				}
				state, _, _ := f.status.Now()
				return state == replica.CatchingUp
			})
			line.Throttle(redistest.FromClient, 0)
			renew("60000")
			f.until(t, replica.InSync, "")
			f.through(t)
			return f
		}
		t.Run(b.Name, func(t *testing.T) {
			f := run(t, applier.Shift)
			for _, key := range []string{"renewed", "counted", "fields"} {
				if f.src.DoInt(t, "EXISTS", key) == 0 {
					t.Errorf("the source has lost %s: it was not renewed in time", key)
				}
			}
			f.agrees(t)
		})
		if i > 0 && i < len(builds)-1 {
			continue
		}
		t.Run(b.Name+", as it is", func(t *testing.T) {
			f := run(t, applier.AsIs)
			if f.dst.DoInt(t, "EXISTS", "renewed") != 0 || f.dst.DoInt(t, "INCR", "counted") > 100 {
				t.Error("the keys were not lost: this test cannot fail")
			}
			if b.HasFieldTTL() && f.dst.DoInt(t, "HEXISTS", "fields", "renewed") != 0 {
				t.Error("the field was not lost: this test cannot fail")
			}
			if f.status.Divergence.Load() == 0 {
				t.Error("no divergence was counted")
			}
		})
	}
}

// nearExpiry are writes to something that expires: a key, or the field n of a hash.
type nearExpiry struct{ before, write, expire string } // "@" stands for the key, and "MS" for the TTL

func nearExpiries(b redistest.Build) []nearExpiry {
	const key, field = "PEXPIRE @ MS", "HPEXPIRE @ MS FIELDS 1 n"
	writes := []nearExpiry{
		{"SET @ 5", "INCR @", key},
		{"SET @ abc", "APPEND @ def", key},
		{"SET @ abc", "SETRANGE @ 1 xyz", key},
		{"SET @ abc", "SET @ other KEEPTTL", key},
		{"HSET @ n 5 m 6", "HINCRBY @ n 3", key},
		{"RPUSH @ a b", "LPUSH @ c", key},
		{"SADD @ a b", "SADD @ c", key},
		{"ZADD @ 1 a", "ZINCRBY @ 3 a", key},
	}
	if b.HasFieldTTL() {
		writes = append(writes, nearExpiry{"HSET @ n 5 m 6", "HINCRBY @ n 3", field}, nearExpiry{"HSET @ n 5 m 6", "HSET @ n 7", field},
			nearExpiry{"HSET @ n 5 m 6", "HSETEX @ KEEPTTL FIELDS 1 n 8", field}, nearExpiry{"HSET @ n 5", "HINCRBY @ n 3", field})
	}
	return writes
}

// T60, T61: what is written to a key, or to a field, before it expires in the source finds it, however late it arrives; and what expires there expires.
func TestWrittenNearItsExpiry(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, b redistest.Build, change ...func(*migration)) *following {
		t.Helper()
		f, line := behind(t, b, change...)
		sayTo := func(key, text, ms string) { say(t, f.src, strings.NewReplacer("@", key, "MS", ms).Replace(text)) }
		for i, w := range nearExpiries(b) {
			for _, key := range []string{fmt.Sprint("renewed:", i), fmt.Sprint("expiring:", i)} {
				sayTo(key, w.before, "")
				sayTo(key, w.expire, "1200")
			}
		}
		f.through(t)
		lagging(line, func() {
			for i, w := range nearExpiries(b) {
				sayTo(fmt.Sprint("renewed:", i), w.write, "")
				sayTo(fmt.Sprint("expiring:", i), w.write, "")
				sayTo(fmt.Sprint("renewed:", i), w.expire, "60000")
			}
		})
		f.through(t)
		return f
	}
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := run(t, b)
			f.agrees(t)
			for i, w := range nearExpiries(b) {
				renewed, expiring := fmt.Sprint("renewed:", i), fmt.Sprint("expiring:", i)
				if f.dst.DoInt(t, "EXISTS", renewed) != 1 {
					t.Errorf("%q: the key is lost", w.write)
				}
				if strings.HasPrefix(w.expire, "PEXPIRE") && f.dst.DoInt(t, "EXISTS", expiring) != 0 {
					t.Errorf("%q: the key lives on", w.write)
				}
			}
		})
	}
	t.Run("as it is", func(t *testing.T) {
		t.Parallel()
		f := run(t, redistest.Latest(t), func(m *migration) { m.apply.Expiry = applier.AsIs })
		if n, text := f.dst.DoString(t, "GET", "renewed:0"), f.dst.DoString(t, "GET", "renewed:1"); n != "1" || text != "def" {
			t.Errorf("there is still %s and %s: this test cannot fail", n, text)
		}
	})
}

// T62: a RESTORE that is over when it arrives, and was renewed meanwhile.
func TestRestoredKeyIsRenewedInTime(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f, line := behind(t, b)
			say(t, f.src, "SET string v", "RPUSH list a b", "HSET hash f 1 g 2", "SET there v")
			if b.HasFieldTTL() {
				say(t, f.src, "HPEXPIRE hash 900 FIELDS 1 f")
			}
			now := time.Now()
			lagging(line, func() {
				soon := strconv.FormatInt(now.Add(900*time.Millisecond).UnixMilli(), 10)
				for _, key := range []string{"string", "list", "hash"} {
					dump := f.src.DoString(t, "DUMP", key)
					f.src.Do(t, "RESTORE", "span:"+key, "900", dump)
					f.src.Do(t, "RESTORE", "moment:"+key, soon, dump, "ABSTTL")
					f.src.Do(t, "RESTORE", "expiring:"+key, soon, dump, "ABSTTL")
					say(t, f.src, "PEXPIRE span:"+key+" 60000", "PEXPIRE moment:"+key+" 70000")
				}
				f.src.Do(t, "RESTORE", "there", "1", f.src.DoString(t, "DUMP", "string"), "ABSTTL", "REPLACE") // it was over before it came
				if b.HasFieldTTL() {
					say(t, f.src, "HPEXPIRE span:hash 60000 FIELDS 1 f", "HPEXPIRE moment:hash 70000 FIELDS 1 f")
				}
			})
			f.agrees(t)
			if got := f.dst.DoInt(t, "EXISTS", "span:string", "moment:list", "span:hash", "there", "expiring:list"); got != 3 {
				t.Errorf("the target has %d of the keys, want 3", got)
			}
		})
	}
}

// T62: keys of the snapshot that have expired, and which the source has not deleted yet, are the source's to delete.
func TestExpiredKeysOfASnapshot(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			const expired = 40
			f := &following{src: redistest.Start(t, b), dst: redistest.Start(t, b)}
			redistest.Fill(t, f.src, redistest.FillOptions{Keys: 200, Databases: 2, Expired: expired, Seed: 62})
			f.m = newMigration(t, f.src.URL(), f.dst.URL())
			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			have := func(s *redistest.Server) (n int) {
				for db := range 2 {
					n += len(s.DB(db).DoStrings(t, "KEYS", "expired:[0-9]*"))
				}
				return n
			}
			if got := have(f.dst); got != expired {
				t.Errorf("the target was given %d keys that have expired, want %d", got, expired)
			}
			if b.HasFieldTTL() {
				if got := f.dst.DoInt(t, "HEXISTS", "expired:field:0", "f1"); got != 1 {
					t.Error("the target was not given a field that has expired")
				}
			}
			f.src.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "1")
			eventually(t, "the source has deleted them, and so has the target", func() bool { return have(f.dst) == 0 })
			f.agrees(t)
			if b.HasFieldTTL() {
				eventually(t, "the field is deleted", func() bool { return f.dst.DoInt(t, "HEXISTS", "expired:field:0", "f1") == 0 })
			}
		})
	}
}
