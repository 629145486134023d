package applier_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

const (
	nearTTL  = 6 * time.Second // of what expires while the target is away
	renewals = 200
)

// nearly writes what is about to expire: counters, and values that others will be made from.
func nearly(t *testing.T, src *redistest.Server) (over time.Time) {
	t.Helper()
	ms := fmt.Sprint(nearTTL.Milliseconds())
	cmds := [][]string{{"SADD", "set", "3", "1", "2"}, {"PEXPIRE", "set", ms}, {"SET", "copied", "v", "PX", ms}}
	if src.Build.HasFieldTTL() {
		cmds = append(cmds, []string{"HSET", "hash", "n", "50", "m", "1"}, []string{"HPEXPIRE", "hash", ms, "FIELDS", "1", "n"})
	}
	for i := range renewals {
		cmds = append(cmds, []string{"SET", fmt.Sprint("counter:", i), "50", "PX", ms})
	}
	sendAll(t, src, cmds)
	return time.Now().Add(nearTTL)
}

// renew renews it, and makes others from it, before it is over.
func renew(t *testing.T, src *redistest.Server) {
	t.Helper()
	cmds := [][]string{{"SUNIONSTORE", "union", "set", "copied:set"}, {"SORT", "set", "STORE", "sorted"}, {"SDIFFSTORE", "rest", "set", "nothing"}}
	if src.Build.AtLeast("redis", 6, 2) || src.Build.Server == "valkey" {
		cmds = append(cmds, []string{"COPY", "copied", "copy"}, []string{"PERSIST", "copy"})
	}
	if src.Build.HasFieldTTL() {
		cmds = append(cmds, []string{"HINCRBY", "hash", "n", "1"}, []string{"HPEXPIRE", "hash", "600000", "FIELDS", "1", "n"})
	}
	for i := range renewals {
		key := fmt.Sprint("counter:", i)
		cmds = append(cmds, []string{"INCR", key}, []string{"PEXPIRE", key, "600000"})
	}
	cmds = append(cmds, []string{"PEXPIRE", "set", "600000"})
	sendAll(t, src, cmds)
	if got := src.DoString(t, "GET", "counter:0"); got != "51" {
		t.Errorf("the source has lost its counter, and says %s: it was not renewed in time", got)
	}
}

func sendAll(t *testing.T, s *redistest.Server, cmds [][]string) {
	t.Helper()
	results, err := s.Pipeline(cmds...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if err := r.Error(); err != nil {
			t.Fatalf("%q: %v", cmds[i], err)
		}
	}
}

// renewed fails the test unless the target has all that was renewed.
func renewed(t *testing.T, src, dst *redistest.Server) {
	t.Helper()
	right := 0
	for i := range renewals {
		if dst.DoInt(t, "EXISTS", fmt.Sprint("counter:", i)) == 1 && dst.DoString(t, "GET", fmt.Sprint("counter:", i)) == "51" {
			right++
		}
	}
	if right != renewals {
		t.Errorf("%d of %d counters are right", right, renewals)
	}
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{Settled: true})
}

// ballast is what the pass comes to when it is done with database 0.
func ballast(t *testing.T, src *redistest.Server) {
	t.Helper()
	src.DB(1).Do(t, "EVAL", "for i = 1, 3000 do redis.call('SET', 'ballast:' .. i, 'v', 'PX', 3600000) end", "0")
}

// inBallast tells a step of settling there: what is in database 0 has been settled by then.
func inBallast(args [][]byte) bool {
	return string(args[0]) == "EVAL" && strings.Contains(string(args[1]), "'SCAN'") && string(args[6]) == "1"
}

// atStep has f called when settling comes to the ballast, and holds the pass up until f returns.
func atStep(proxy *redistest.CommandProxy, f func()) {
	var once sync.Once
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if inBallast(args) {
			once.Do(f)
		}
		return redistest.Forward()
	})
}

// A target that stalls while it settles loses nothing that is renewed meanwhile, nor what is made from it.
func TestTargetStallsWhileItSettles(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			ballast(t, src)
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			over := nearly(t, src)
			r.reach(t, src)
			atStep(proxy, func() {
				dst.Freeze()
				renew(t, src)
				time.Sleep(time.Until(over) + 1500*time.Millisecond)
				dst.Thaw()
			})
			if _, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{WritesStopped: b.Name == "redis-6.0"}); err != nil {
				t.Fatal(err)
			}
			if err := r.wait(t); err != nil {
				t.Fatal(err)
			}
			renewed(t, src, dst)
			tombstone(t, dst)
		})
	}
}

// Nor does one whose redferry dies while it settles, and is away until all that was near its expiry is over in the source, or renewed.
func TestKilledWhileItSettles(t *testing.T) {
	t.Parallel()
	for _, b := range oldestAndNewest(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			ballast(t, src)
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.finishInSync(t)
			over := nearly(t, src)
			m.run.StopAt.CaughtUp = true
			r := m.start(t)
			var killed atomic.Bool
			proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
				if killed.Load() || inBallast(args) { // nothing that it says is heard any more
					killed.Store(true)
					return redistest.CutBeforeCommand()
				}
				return redistest.Forward()
			})
			eventually(t, "it is settling", killed.Load)
			renew(t, src)
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(over) + 1500*time.Millisecond)
			proxy.Handle(nil)
			m.finish(t)
			renewed(t, src, dst)
			if rec := mustRecord(t, dst); rec.Divergence.Total() != 0 {
				t.Errorf("divergence: %v", rec.Divergence)
			}
		})
	}
}

// finishInSync runs the migration until it is in sync, and stops it as an operator does.
func (m *migration) finishInSync(t *testing.T) {
	t.Helper()
	r := m.start(t)
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}

// Behind a cutover every expiry is the source's.
func TestExpiriesAreExactAfterACutover(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 3000, Seed: 69, Databases: 2, Volatile: 0.9, MinTTL: 20 * time.Second, MaxTTL: time.Hour})
			m := newMigration(t, src.URL(), dst.URL())
			m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			if _, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{WritesStopped: b.Name == "redis-6.0"}); err != nil {
				t.Fatal(err)
			}
			want, wrong, first := moments(t, src), 0, ""
			for place, got := range moments(t, dst) {
				if was, ok := want[place]; ok && max(got-was, was-got) > 50 {
					wrong, first = wrong+1, fmt.Sprintf("%s: %d, want %d", place, got, was)
				}
			}
			if wrong > 0 {
				t.Errorf("%d of %d expiries are not the source's: %s", wrong, len(want), first)
			}
			if err := r.wait(t); err != nil {
				t.Fatal(err)
			}
			tombstone(t, dst)
			if rec := mustRecord(t, dst); rec.Expiry != checkpoint.AsIs {
				t.Errorf("the checkpoint says that expiries are %q", rec.Expiry)
			}
		})
	}
}

// What the target may have lost by itself after --stop-at is compared before a cutover goes on, and what is equal is not compared again.
func TestGoingOnAfterStopAtIsCompared(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	m.finishInSync(t)
	src.Do(t, "SET", "counter", "50", "PX", "2000")
	m.finish(t)
	say(t, src, "INCR counter", "PEXPIRE counter 600000") // INCR re-creates it: no reply shows that anything is lost
	eventually(t, "the target has expired it", func() bool { return dst.DoInt(t, "EXISTS", "counter") == 0 })
	var found error
	compared := 0
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
	order := replica.Cutover{CompareAll: func(context.Context) error {
		compared++
		return found
	}}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	found = &replica.Stop{Kind: replica.Refused, Reason: "they differ"}
	_, err := m.cutover.Orders.Cutover(t.Context(), order)
	wantStop(t, err, replica.Refused, "they differ")
	_, err = m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
	wantStop(t, err, replica.Refused, "may have expired keys by itself")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	r = m.start(t) // which knows it, too
	r.until(t, replica.InSync, "")
	if got := dst.DoString(t, "GET", "counter"); got != "1" || compared != 1 {
		t.Errorf("the counter is %s, compared %d times", got, compared)
	}
	dst.Do(t, "SET", "counter", "51", "PXAT", fmt.Sprint(src.DoInt(t, "PEXPIRETIME", "counter")))
	found = nil
	if _, err = m.cutover.Orders.Cutover(t.Context(), order); err != nil || compared != 2 {
		t.Errorf("compared %d times, then %v", compared, err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	tombstone(t, dst)
	if rec := mustRecord(t, dst); rec.Expired != 0 {
		t.Errorf("the record says that keys may have expired up to %d", rec.Expired)
	}
}

// A stall that is longer than what was allowed for is noticed before the source refuses writes, and said until all keys were compared.
func TestStallOfTheTargetIsTooLong(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	ballast(t, src)
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.apply.TTLGrace, m.apply.SettleFor = time.Second, time.Second
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	const timeout = time.Second
	const real = 8 * time.Second // from when on expiries are real at the latest: a second for the grace, three timeouts, and what 3,000 keys take
	counters := 80
	for i := range counters {
		src.Do(t, "SET", fmt.Sprint("counter:", i), "50", "PX", fmt.Sprint(real.Milliseconds()+int64(i)*250))
	}
	r.reach(t, src)
	atStep(proxy, func() {
		over := time.Now().Add(real + time.Second)
		dst.Freeze()
		for i := range counters {
			say(t, src, fmt.Sprint("INCR counter:", i), fmt.Sprint("PEXPIRE counter:", i, " 600000"))
		}
		time.Sleep(time.Until(over))
		dst.Thaw()
	})
	compared := 0
	order := replica.Cutover{Timeout: timeout, CompareAll: func(context.Context) error {
		compared++
		lost := 0
		for i := range counters {
			if dst.DoString(t, "GET", fmt.Sprint("counter:", i)) == "1" && src.DoString(t, "GET", fmt.Sprint("counter:", i)) == "51" {
				lost++
			}
		}
		if lost == 0 {
			t.Error("nothing was lost, and this test cannot fail")
		}
		return &replica.Stop{Kind: replica.Refused, Reason: "they differ"}
	}}
	_, err := m.cutover.Orders.Cutover(t.Context(), order)
	wantStop(t, err, replica.Failed, "may have expired keys")
	if got := src.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1]; got != "0" {
		t.Errorf("min-replicas-to-write is %s", got)
	}
	r.until(t, replica.InSync, "")
	if got := dst.DoString(t, "HGET", checkpoint.Key("test"), "expired"); got == "0" {
		t.Error("the record does not say it")
	}
	_, err = m.cutover.Orders.Cutover(t.Context(), order)
	wantStop(t, err, replica.Refused, "they differ")
	if compared != 1 {
		t.Errorf("compared %d times", compared)
	}
}

// A process that dies behind the tombstone leaves a target that the next one finishes, and a reset, too.
func TestKilledBehindTheTombstone(t *testing.T) {
	t.Parallel()
	builds := pausable(t)
	for then, b := range map[string]redistest.Build{"run": builds[0], "reset": builds[len(builds)-1]} {
		t.Run(b.Name+", "+then, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			redistest.Fill(t, src, redistest.FillOptions{Keys: 500, Seed: 70, Volatile: 0.9, MinTTL: time.Minute, MaxTTL: 5 * time.Minute})
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			var killed, behind atomic.Bool
			proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
				for _, arg := range args {
					if string(arg) == string(checkpoint.PhaseCompleted) {
						behind.Store(true)
					}
				}
				if behind.Load() && string(args[0]) == "EVAL" && strings.Contains(string(args[1]), "settleWhole") {
					killed.Store(true)
				}
				if killed.Load() { // nothing that it says is heard any more
					return redistest.CutBeforeCommand()
				}
				return redistest.Forward()
			})
			asked := make(chan error, 1)
			go func() {
				_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
				asked <- err
			}()
			eventually(t, "it is killed", killed.Load)
			wantStop(t, r.end(), replica.Failed, "run the same command again")
			if err := <-asked; !errors.Is(err, replica.ErrCutoverDone) {
				t.Errorf("who has asked hears %v", err)
			}
			if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseCompleted || rec.Expiry != checkpoint.Mixed {
				t.Fatalf("the checkpoint: %+v", rec)
			}
			proxy.Handle(nil)
			if then == "reset" {
				if _, at, err := reset(endpointOf(t, dst), "", true); err != nil || at.Settled == 0 {
					t.Errorf("%+v, %v", at, err)
				}
				redistest.AssertEqual(t, src, dst, redistest.CompareOptions{Settled: true})
				return
			}
			if err := m.start(t).wait(t); !errors.Is(err, replica.ErrCompleted) {
				t.Errorf("the next run: %v", err)
			}
			tombstone(t, dst)
			settled(t, src, dst)
		})
	}
}

// A cutover that a process has died in behind the source's refusal, and which is finished later than what was settled is safe, compares first: nothing can be undone any more.
func TestLateFinishOfACutoverCompares(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.apply.TTLGrace, m.apply.SettleFor = time.Second, time.Second
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	var tried atomic.Bool
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		for _, arg := range args {
			if tried.Load() || string(arg) == string(checkpoint.PhaseCompleted) {
				tried.Store(true)
				return redistest.CutBeforeCommand() // the tombstone never arrives
			}
		}
		return redistest.Forward()
	})
	asked := make(chan error, 1)
	go func() {
		_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{Timeout: 2 * time.Second})
		asked <- err
	}()
	eventually(t, "the tombstone was tried", tried.Load)
	wantStop(t, r.end(), replica.Failed, "in the midst of a cutover")
	if err := <-asked; !errors.Is(err, replica.ErrCutoverBegun) {
		t.Errorf("who has asked hears %v", err)
	}
	rec := mustRecord(t, dst)
	if rec.Expiry != checkpoint.Mixed || rec.RealFrom == 0 {
		t.Fatalf("the checkpoint: %+v", rec)
	}
	time.Sleep(time.Until(time.UnixMilli(rec.RealFrom + 100)))
	compared := 0
	m.target = dst.URL()
	m.cutover.CompareAll = func(context.Context) error {
		compared++
		return nil
	}
	if err := m.start(t).wait(t); err != nil {
		t.Fatal(err)
	}
	if compared != 1 {
		t.Errorf("compared %d times", compared)
	}
	tombstone(t, dst)
}

// The hook does not wait for the rest of the TTLs, which may take a while; the answer does.
func TestHookRunsBesideTheRestOfSettling(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	src.Do(t, "SET", "near", "x", "PX", "300000")
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	hooked := make(chan struct{})
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders(), Completed: func(context.Context, replica.CutoverReport) error {
		if ms := dst.DoInt(t, "PTTL", "near"); ms < 1<<50 {
			t.Errorf("the TTL is %d ms already: this test cannot fail", ms)
		}
		close(hooked)
		return nil
	}}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	var behind atomic.Bool
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		for _, arg := range args {
			if string(arg) == string(checkpoint.PhaseCompleted) {
				behind.Store(true)
			}
		}
		if behind.Load() && string(args[0]) == "EVAL" && strings.Contains(string(args[1]), "settleWhole") {
			<-hooked
		}
		return redistest.Forward()
	})
	if _, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{}); err != nil {
		t.Fatal(err)
	}
	if got, want := dst.DoInt(t, "PEXPIRETIME", "near"), src.DoInt(t, "PEXPIRETIME", "near"); got != want {
		t.Errorf("after the answer it expires at %d, want %d", got, want)
	}
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	tombstone(t, dst)
}
