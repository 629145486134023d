package applier_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// oldestAndNewest are the builds for what does not depend on one.
func oldestAndNewest(t *testing.T) []redistest.Build {
	t.Helper()
	builds := redistest.Servers(t)
	return slices.Compact([]redistest.Build{builds[0], builds[len(builds)-1]})
}

// behind has a target follow its source through a line that can be held.
func behind(t *testing.T, src, dst *redistest.Server, expiry applier.Expiry) (*following, *redistest.Proxy) {
	t.Helper()
	line := redistest.NewProxy(t, dst.Addr())
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URLAt(line.Addr()))}
	f.m.apply.Expiry = expiry
	f.running = f.m.start(t)
	f.until(t, replica.InSync, "")
	return f, line
}

// lagging has the target behind its source for so long, while f writes.
func lagging(line *redistest.Proxy, lag time.Duration, f func()) {
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

// T59: what lives four seconds, and is renewed all the time, lives through a snapshot of six. Where the target expires it by itself, it is lost.
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
			renew("4000")
			line := redistest.NewProxy(t, f.dst.Addr())
			line.Throttle(redistest.FromClient, 250_000)
			f.m = newMigration(t, f.src.URL(), f.dst.URLAt(line.Addr()))
			f.m.apply.Expiry, f.m.apply.Pipelines = expiry, applier.NewPipelines(1)
			f.running = f.m.start(t)
			next := time.Now()
			eventually(t, "the snapshot is loaded", func() bool {
				if time.Now().After(next) {
					renew("4000")
					next = time.Now().Add(300 * time.Millisecond)
				}
				return f.saw(replica.CatchingUp, "")
			})
			line.Throttle(redistest.FromClient, 0)
			renew("600000")
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
		if i < len(builds)-1 {
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
	run := func(t *testing.T, b redistest.Build, expiry applier.Expiry) *following {
		t.Helper()
		f, line := behind(t, redistest.Start(t, b), redistest.Start(t, b), expiry)
		sayTo := func(key, text, ms string) { say(t, f.src, strings.NewReplacer("@", key, "MS", ms).Replace(text)) }
		for i, w := range nearExpiries(b) {
			for _, key := range []string{fmt.Sprint("renewed:", i), fmt.Sprint("expiring:", i)} {
				sayTo(key, w.before, "")
				sayTo(key, w.expire, "3000")
			}
		}
		f.through(t)
		lagging(line, 4*time.Second, func() {
			for i, w := range nearExpiries(b) {
				sayTo(fmt.Sprint("renewed:", i), w.write, "")
				sayTo(fmt.Sprint("expiring:", i), w.write, "")
				sayTo(fmt.Sprint("renewed:", i), w.expire, "600000")
			}
		})
		f.through(t)
		return f
	}
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := run(t, b, applier.Shift)
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
		f := run(t, redistest.Latest(t), applier.AsIs)
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
			f, line := behind(t, redistest.Start(t, b), redistest.Start(t, b), applier.Shift)
			say(t, f.src, "SET string v", "RPUSH list a b", "HSET hash f 1 g 2", "SET there v")
			if b.HasFieldTTL() {
				say(t, f.src, "HPEXPIRE hash 3000 FIELDS 1 f")
			}
			now := time.Now()
			lagging(line, 4*time.Second, func() {
				soon := strconv.FormatInt(now.Add(3*time.Second).UnixMilli(), 10)
				for _, key := range []string{"string", "list", "hash"} {
					dump := f.src.DoString(t, "DUMP", key)
					f.src.Do(t, "RESTORE", "span:"+key, "3000", dump)
					f.src.Do(t, "RESTORE", "moment:"+key, soon, dump, "ABSTTL")
					f.src.Do(t, "RESTORE", "expiring:"+key, soon, dump, "ABSTTL")
					say(t, f.src, "PEXPIRE span:"+key+" 600000", "PEXPIRE moment:"+key+" 700000")
				}
				f.src.Do(t, "RESTORE", "there", "1", f.src.DoString(t, "DUMP", "string"), "ABSTTL", "REPLACE") // it was over before it came
				if b.HasFieldTTL() {
					say(t, f.src, "HPEXPIRE span:hash 600000 FIELDS 1 f", "HPEXPIRE moment:hash 700000 FIELDS 1 f")
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

// moments are the expiries of all keys and hash fields, but redferry's own, by database, key and field.
func moments(t *testing.T, s *redistest.Server) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for i := range 16 {
		db := s.DB(i)
		for _, key := range db.DoStrings(t, "KEYS", "*") {
			if strings.HasPrefix(key, checkpoint.Prefix) {
				continue
			}
			all[fmt.Sprintf("%d %q", i, key)] = expiryOf(t, s.Build, db, key)
			if !s.Build.HasFieldTTL() || db.DoString(t, "TYPE", key) != "hash" {
				continue
			}
			fields := db.DoStrings(t, "HKEYS", key)
			reply := db.Do(t, append([]string{"HPEXPIRETIME", key, "FIELDS", strconv.Itoa(len(fields))}, fields...)...)
			ms, err := reply.AsIntSlice()
			if err != nil {
				t.Fatal(err)
			}
			for j, field := range fields {
				all[fmt.Sprintf("%d %q %q", i, key, field)] = ms[j]
			}
		}
	}
	return all
}

// settled fails the test unless both sides are equal, with nothing in the target that is shifted, and no reply was unexpected.
func settled(t *testing.T, src, dst *redistest.Server) {
	t.Helper()
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{Settled: true})
	if rec := mustRecord(t, dst); rec.Expiry != string(applier.AsIs) || len(rec.Divergence) != 0 {
		t.Errorf("the checkpoint: %+v", rec)
	}
}

// T63: a run that stops by itself leaves the source's expiries; the next one has nothing to settle.
func TestSettledInTheEnd(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Seed: 63, Big: b == redistest.Latest(t), Volatile: 0.5, Expired: 40})
			m := newMigration(t, src.URL(), dst.URL())
			m.finish(t)
			settled(t, src, dst)
			for i := range 2 { // in 60 years, and in 260
				key := fmt.Sprint("far:", i)
				if got, want := expiryOf(t, b, dst.Database, key), expiryOf(t, b, src.Database, key); got < want-50 || got > want+50 {
					t.Errorf("%s: the expiry is %d, want %d", key, got, want)
				}
			}
			before := moments(t, dst)
			m.finish(t)
			for place, ms := range moments(t, dst) {
				if was, ok := before[place]; !ok || ms < was-50 || ms > was+50 {
					t.Errorf("%s: the expiry is %d, and was %d", place, ms, was)
				}
			}
			settled(t, src, dst)
		})
	}
}

// T63: whatever a run loses of its settling, it, or the next one, settles the rest.
func TestSettlingBreaksOff(t *testing.T) {
	t.Parallel()
	for _, b := range oldestAndNewest(t) {
		for name, tt := range map[string]struct {
			answer redistest.Answer // to a step of the pass
			killed bool             // nothing that the process says is heard any more
		}{
			"cut before a step":    {redistest.CutBeforeCommand(), false},
			"cut after a step":     {redistest.LoseReply(), false},
			"killed before a step": {redistest.CutBeforeCommand(), true},
			"killed after a step":  {redistest.LoseReply(), true},
		} {
			t.Run(b.Name+", "+name, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b), redistest.Start(t, b)
				redistest.Fill(t, src, redistest.FillOptions{Keys: 400, Seed: 64, Volatile: 0.9})
				proxy := redistest.NewCommandProxy(t, dst.Addr())
				var steps atomic.Int64
				proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
					step := string(args[0]) == "EVAL" && strings.Contains(string(args[1]), "'SCAN'")
					switch {
					case step && steps.Add(1) == 5:
						return tt.answer
					case tt.killed && steps.Load() >= 5:
						return redistest.CutBeforeCommand()
					}
					return redistest.Forward()
				})
				m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
				if tt.killed {
					m.run.StopAt.CaughtUp = true
					r := m.start(t)
					eventually(t, "it is settling", func() bool { return steps.Load() >= 5 })
					if err := r.end(); err != nil {
						t.Fatal(err)
					}
					proxy.Handle(nil)
					shifted, asTheyAre := 0, 0
					for _, ms := range moments(t, dst) {
						switch {
						case ms >= fieldShift:
							shifted++
						case ms > 0:
							asTheyAre++
						}
					}
					if shifted < 50 || asTheyAre < 50 {
						t.Errorf("%d expiries are shifted and %d are not, want some of both", shifted, asTheyAre)
					}
					if rec := mustRecord(t, dst); rec.Expiry != checkpoint.Mixed {
						t.Errorf("the checkpoint says that expiries are %q", rec.Expiry)
					}
				}
				m.finish(t)
				settled(t, src, dst)
				if got := fullResyncs(t, src); got != "1" {
					t.Errorf("full resyncs: got %s, want 1", got)
				}
			})
		}
	}
}

// T63: the source goes on while the target is settled, and swaps databases; and while what was settled is shifted again, for settling breaks off.
func TestSettlingBesideALoad(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 5000, Seed: 65, Databases: 4, Volatile: 0.9})
			stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 65, Writers: 2, Rate: 2000, TTL: true, SwapDB: true})
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			var steps atomic.Int64
			proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
				settles := string(args[0]) == "EVAL" && strings.Contains(string(args[1]), "'SCAN'") && string(args[8]) != fmt.Sprint(1<<44)
				if settles && steps.Add(1) > 3 {
					return redistest.CutBeforeCommand()
				}
				return redistest.Forward()
			})
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.run.StopAt.CaughtUp = true
			for range 3 {
				steps.Store(0)
				r := m.start(t)
				eventually(t, "settling has broken off", func() bool { return steps.Load() > 3 })
				if err := r.end(); err != nil {
					t.Fatal(err)
				}
			}
			if got := stop(); got.Acknowledged < 500 {
				t.Errorf("the load: %+v", got)
			}
			proxy.Handle(nil)
			m.finish(t)
			settled(t, src, dst)
		})
	}
}

// A SWAPDB takes keys to where the pass has been already: they are settled all the same.
func TestSwapBehindThePass(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	for db := range 3 {
		src.DB(db).Do(t, "SET", "lasting", "v")
	}
	src.DB(3).Do(t, "SET", "volatile", "v", "PX", "3600000") // before it gets here the pass finds nothing: there would not be another one
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	there, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if string(args[0]) == "EVAL" && strings.Contains(string(args[1]), "'SCAN'") && string(args[6]) == "2" { // database 2 is next
			once.Do(func() { close(there); <-goOn })
		}
		return redistest.Forward()
	})
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.run.StopAt.CaughtUp = true
	r := m.start(t)
	<-there
	src.Do(t, "SWAPDB", "1", "3")
	r.reach(t, src)
	close(goOn)
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	settled(t, src, dst)
}

// T64: clocks that are a minute apart matter to nobody before the end.
func TestClocksApartLoseNothing(t *testing.T) {
	t.Parallel()
	for _, b := range oldestAndNewest(t) {
		for _, ahead := range []time.Duration{time.Minute, -time.Minute} {
			t.Run(fmt.Sprint(b.Name, ", the target is ahead by ", ahead), func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.ClockOffset(ahead))
				redistest.Fill(t, src, redistest.FillOptions{Keys: 300, Seed: 66, MinTTL: time.Second, MaxTTL: time.Minute, Volatile: 0.8})
				f, line := behind(t, src, dst, applier.Shift)
				lagging(line, time.Second, func() {
					load(t, src, redistest.LoadOptions{Seed: 66, Writers: 2, Commands: 3000, TTL: true})
				})
				f.through(t)
				// A server takes no delivery time of a pending entry that lies in its future.
				inTheFuture := func(d redistest.Difference) bool {
					return ahead < 0 && strings.HasPrefix(d.What, "value of the stream") && strings.Contains(d.What, "pending")
				}
				if diff := slices.DeleteFunc(redistest.Compare(t, src, dst, redistest.CompareOptions{Max: 1000}), inTheFuture); len(diff) != 0 {
					t.Errorf("the target differs: %v", diff)
				}
				if got := f.status.Divergence.Load(); got != 0 {
					t.Errorf("divergence: %s", *f.status.DivergenceKinds.Load())
				}
				if got := f.said("s ahead of the"); got != 1 || f.said("clock is 1m0")+f.said("clock is 59.") != 1 { // as near as a busy machine measures it
					t.Errorf("it was said %d times that the clocks are apart", got)
				}
			})
		}
	}
}

// T66: a source before 7.0 sends spans of time. They count from when they were received, by the source's clock, however late they are applied.
func TestRelativeTTLsOnALateTarget(t *testing.T) {
	t.Parallel()
	from := redistest.ServerNamed(t, "redis-6.0")
	for _, to := range []redistest.Build{from, redistest.Latest(t)} {
		for _, ahead := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprint(to.Name, ", the source is ahead by ", ahead), func(t *testing.T) {
				t.Parallel()
				f, line := behind(t, redistest.Start(t, from, redistest.ClockOffset(ahead)), redistest.Start(t, to), applier.Shift)
				say(t, f.src, "SET a v", "SADD b v", "SETEX c 1000 v")
				f.through(t)
				var late time.Duration // by how much a span may count from later than it was said
				lagging(line, 0, func() {
					for i := range 40 { // more than Apply takes: what follows waits in the spool
						f.src.Do(t, "SET", fmt.Sprint("ballast:", i), strings.Repeat("x", 200_000))
					}
					said := time.Now()
					say(t, f.src, "EXPIRE a 100", "PEXPIRE b 100000", "EXPIRE c 50", "SETEX d 100 v", "PSETEX e 100000 v", "SET f v EX 100", "SET g v PX 100000 NX",
						"MULTI", "SETEX h 100 v", "SADD i v", "EXPIRE i 100", "EXEC")
					f.follows(t, f.src)
					late = time.Since(said)
					time.Sleep(2500*time.Millisecond + late) // it is applied far later than received
				})
				f.through(t)
				redistest.AssertEqual(t, f.src, f.dst, redistest.CompareOptions{TTLTolerance: 200*time.Millisecond + late})
			})
		}
	}
}
