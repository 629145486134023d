package applier_test

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"redferry/internal/redistest"
	"redferry/replica"
)

// What a shifted expiry is later by.
const (
	keyShift   = 1 << 52
	fieldShift = 1 << 45
)

// expiring are the forms in which a client can give an expiry, as far as a server knows them. FAR is a moment in seconds; each line's key is its own.
func expiring(b redistest.Build) []string {
	lines := []string{
		"SETEX k1 1000 v", "PSETEX k2 1000000 v", "SET k3 v EX 1000", "SET k4 v px 1000000 NX", "SET k5 v", "set k5 w ex 1000 xx",
		"SET k6 v", "EXPIRE k6 1000", "SET k7 v", "PEXPIRE k7 1000000", "SET k8 v", "EXPIREAT k8 FAR", "SET k9 v", "pexpireat k9 FAR000",
		"SETEX k10 1000 v", "EXPIRE k10 2000", "SETEX k11 1000 v", "PERSIST k11", "SETEX k12 1000 v", "SET k12 w", "SETEX k13 1000 1", "INCR k13",
		"MULTI", "SETEX k14 1000 v", "EXPIRE k14 500", "SELECT 3", "SETEX k15 1000 v", "EXEC", "SELECT 0",
		"SETEX PXAT 1000 EX", "SET k16 v EX 1900000000", "SET k17 v EX 8200000000", "SADD k18 a", "EXPIRE k18 1000", "SETEX k19 1000 v", "RENAME k19 k20",
		"SETEX k21 1000 v", "EXPIRE k21 -1", "PEXPIREAT k20 17592186044416",
	}
	if b.Has70() {
		lines = append(lines,
			"SET t1 v EXAT FAR", "SET t2 v PXAT FAR000 GET", "SET t3 v", "GETEX t3 EX 1000", "GETEX t3 PX 2000000", "SET t4 v", "GETEX t4 EXAT FAR",
			"SET t5 v", "GETEX t5 PXAT FAR000", "SETEX t6 1000 v", "GETEX t6 PERSIST", "SET t7 v", "EXPIRE t7 1000 NX", "EXPIRE t7 2000 GT", "PEXPIRE t7 500000 LT",
			"EXPIREAT t7 FAR XX", "SETEX t8 1000 v", "COPY t8 t9", "SETEX t8 2000 v")
	}
	if b.AtLeast("valkey", 8, 1) {
		lines = append(lines, "SET v1 PXAT", "SET v1 v IFEQ PXAT EX 1000")
	}
	if b.AtLeast("valkey", 9, 1) {
		lines = append(lines, "MSETEX 2 v2 EX v3 PX EX 1000", "MSETEX 1 v4 v EXAT FAR NX", "MSETEX 1 v4 v XX PX 1000000")
	}
	if b.HasFieldTTL() {
		lines = append(lines,
			"HSET h1 a 1 b 2 c 3 NX 4", "HEXPIRE h1 1000 FIELDS 2 a NX", "HPEXPIRE h1 1000000 NX FIELDS 2 a b", "HEXPIRE h1 500 GT FIELDS 2 a b", "HEXPIREAT h1 FAR LT FIELDS 2 a c",
			"HSETEX h2 EX 1000 FIELDS 1 PX 1", "HSETEX h2 PX 1000000 FIELDS 2 a 1 b 2", "HSETEX h2 FXX EXAT FAR FIELDS 1 b 3", "HSETEX h2 FNX PXAT FAR000 FIELDS 1 c 3",
			"HGETEX h2 EX 500 FIELDS 1 a", "HSETEX h2 KEEPTTL FIELDS 1 a 5", "HPERSIST h2 FIELDS 1 b", "HINCRBY h2 c 1", "EXPIRE h2 1000", "HPEXPIREAT h2 17592186044416 FIELDS 1 a")
	}
	far := strconv.FormatInt(time.Now().Unix()+5000, 10)
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(line, "FAR", far)
	}
	return lines
}

// expiryOf is a key's expiry, a Unix time in ms; -1 for none, -2 for no key. Before 7.0 it is off by some ms: what is left is known, and what time it was just before and just behind.
func expiryOf(t *testing.T, b redistest.Build, d *redistest.Database, key string) int64 {
	t.Helper()
	if b.Has70() {
		return d.DoInt(t, "PEXPIRETIME", key)
	}
	var at int64
	eventually(t, "the time stands still meanwhile, nearly", func() bool {
		replies, err := d.Pipeline([]string{"TIME"}, []string{"PTTL", key}, []string{"TIME"})
		if err != nil {
			t.Fatal(err)
		}
		if at, err = replies[1].AsInt64(); err != nil {
			t.Fatal(err)
		} else if at < 0 {
			return true
		}
		var ms [2]int64
		for i, r := range []rueidis.RedisResult{replies[0], replies[2]} {
			now, err := r.AsIntSlice()
			if err != nil || len(now) != 2 {
				t.Fatalf("TIME: %v, %v", now, err)
			}
			ms[i] = now[0]*1000 + now[1]/1000
		}
		at += ms[0]
		return ms[1]-ms[0] <= 5
	})
	return at
}

// sameShifted fails the test unless the target has the source's keys, each with its expiry, shifted. slack is by how much a moment may be later, as those are that
// became one only on their way.
func sameShifted(t *testing.T, src, dst *redistest.Server, db int, slack int64) {
	t.Helper()
	s, d := src.DB(db), dst.DB(db)
	shifted := func(ms, by int64) int64 {
		if ms < 0 || ms >= 1<<44 {
			return ms
		}
		return ms + by
	}
	volatile := 0
	for _, key := range s.DoStrings(t, "KEYS", "*") {
		want, got := shifted(expiryOf(t, src.Build, s, key), keyShift), expiryOf(t, dst.Build, d, key)
		early := int64(0)
		if slack > 0 {
			early = 50
		}
		if got < want-early || got > want+slack {
			t.Errorf("key %s in database %d: the expiry is %d, want %d, which is %d less", key, db, got, want, got-want)
		}
		if want > 0 {
			volatile++
		}
		switch s.DoString(t, "TYPE", key) {
		case "string":
			if got, want := d.DoString(t, "GET", key), s.DoString(t, "GET", key); got != want {
				t.Errorf("key %s in database %d is %q, want %q", key, db, got, want)
			}
		case "hash":
			if !src.Build.HasFieldTTL() {
				continue
			}
			reply := s.Do(t, "HGETALL", key)
			fields, err := reply.AsStrMap()
			if err != nil {
				t.Fatal(err)
			}
			reply = d.Do(t, "HGETALL", key)
			if theirs, err := reply.AsStrMap(); err != nil || !maps.Equal(fields, theirs) {
				t.Errorf("hash %s is %v (%v), want %v", key, theirs, err, fields)
			}
			for field := range fields {
				at := func(d *redistest.Database) int64 {
					reply := d.Do(t, "HPEXPIRETIME", key, "FIELDS", "1", field)
					ms, err := reply.AsIntSlice()
					if err != nil || len(ms) != 1 {
						t.Fatalf("HPEXPIRETIME: %v, %v", ms, err)
					}
					return ms[0]
				}
				if got, want := at(d), shifted(at(s), fieldShift); got != want {
					t.Errorf("field %s of %s: the expiry is %d, want %d", field, key, got, want)
				}
			}
		}
	}
	if volatile == 0 {
		t.Errorf("no key in database %d has an expiry", db)
	}
	if got, want := len(d.DoStrings(t, "KEYS", "[^r]*")), len(s.DoStrings(t, "KEYS", "*")); got != want { // not redferry's own
		t.Errorf("the target has %d keys in database %d, want %d", got, db, want)
	}
}

// Every way to give an expiry ends, through snapshot or stream, in the source's moment, shifted.
func TestEveryExpiryIsShifted(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			say(t, src, "SETEX snap 1000 v", "SET snapfar v PX 20000000000000", "SET snapnone v", "SETEX again 1000 v")
			f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			say(t, src, expiring(b)...)
			say(t, src, "EXPIRE again 3000")
			dump := src.DoString(t, "DUMP", "k12")
			src.Do(t, "RESTORE", "d1", "1000000", dump)
			src.Do(t, "RESTORE", "d2", "0", dump)
			src.Do(t, "RESTORE", "d3", strconv.FormatInt(time.Now().UnixMilli()+1_000_000, 10), dump, "ABSTTL", "IDLETIME", "5")
			src.Do(t, "RESTORE", "d3", "2000000", dump, "REPLACE")
			f.through(t)
			slack := int64(0)
			if !b.Has70() { // its spans count from when they were received
				slack = 60_000
			}
			sameShifted(t, src, dst, 0, slack)
			sameShifted(t, src, dst, 3, slack)
			if got := f.status.Rejected.Load(); got != 0 {
				t.Errorf("refused writes: got %d", got)
			}
		})
	}
}

// A target before 6.2 gets a SET and its expiry as two commands: what the key had before is gone, and it has its moment.
func TestExpiryToATargetWithoutPXAT(t *testing.T) {
	t.Parallel()
	from, to := redistest.ServerNamed(t, "redis-7.0"), redistest.ServerNamed(t, "redis-6.0")
	src, dst := redistest.Start(t, from), redistest.Start(t, to)
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	for i, line := range []string{
		"SETEX k 1000 v", "SET k w EX 2000", "SET k x", "SET k y PX 3000000 GET", "GETEX k EX 500", "EXPIRE k 700 GT", "SADD s a", "SET s v EX 1000", "SET k z PXAT 17592186044416",
	} {
		say(t, src, line)
		if strings.HasPrefix(line, "SADD") {
			continue
		}
		f.through(t)
		t.Run(fmt.Sprint(i, " ", line), func(t *testing.T) {
			say(t, src, "SETEX other 1000 v")
			f.through(t)
			sameShifted(t, src, dst, 0, 50)
		})
	}
	say(t, src, "MULTI", "SETEX k 1000 a", "INCR n", "SETEX k 2000 b", "SELECT 3", "SETEX k 1000 c", "EXEC")
	f.through(t)
	sameShifted(t, src, dst, 0, 50)
	sameShifted(t, src, dst, 3, 50)
	if got := f.status.Rejected.Load(); got != 0 {
		t.Errorf("refused writes: got %d", got)
	}
}

// A migration that is gone on with after its end has expiries in its target that are not shifted, and new ones that are. A command with a condition compares them nevertheless.
func TestConditionsBehindASettledTarget(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if !b.HasFieldTTL() {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			say(t, src, "HSET h a 1 b 2 c 3 d 4", "HEXPIRE h 1000 FIELDS 1 a", "HEXPIRE h 100 FIELDS 2 b c")
			m := newMigration(t, src.URL(), dst.URL())
			m.finish(t)
			f := &following{src: src, dst: dst, m: m, running: m.start(t)}
			f.until(t, replica.InSync, "")
			say(t, src, "HEXPIRE h 500 GT FIELDS 2 a b", "HEXPIRE h 50 LT FIELDS 1 c", "HEXPIRE h 400 LT FIELDS 2 a c", "HEXPIRE h 600 NX FIELDS 2 a d")
			f.equal(t)
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{Settled: true})
			if rec := mustRecord(t, dst); rec.Divergence.Total() != 0 {
				t.Errorf("divergence: %v", rec.Divergence)
			}
		})
	}
}
