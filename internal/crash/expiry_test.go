package crash

import (
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// settledEqual runs redferry to the end, and makes sure that both sides are equal then, that no expiry is shifted, and that no command has found its key gone.
func (v *victim) settledEqual(src, dst *redistest.Server, o redistest.CompareOptions) {
	v.t.Helper()
	v.finish()
	o.Settled = true
	redistest.AssertEqual(v.t, src, dst, o)
	if n := stat(v.t, src, "sync_full"); n != 1 {
		v.t.Errorf("full resyncs: got %d, want 1", n)
	}
	fields := dst.DoStrings(v.t, "HMGET", "redferry:default", "divergence", "diverged", "rejected", "expiry")
	if fields[0] != "" || fields[1] != "0" || fields[2] != "0" || fields[3] != "as-is" {
		v.t.Errorf("divergence, diverged, rejected and expiry: got %q", fields)
	}
}

// 100 000 keys whose TTLs are of seconds are created, renewed, persisted, renamed, copied and deleted, while redferry is killed, and is away for longer than many of them live. No key
// dies early, and none lives on.
func TestCrashExpiry(t *testing.T) {
	t.Parallel()
	r := dice(t)
	src, dst := pair(t, "repl-backlog-size 256mb")
	redistest.Fill(t, src, redistest.FillOptions{Keys: 20_000, Seed: r.Uint64(), Volatile: 0.9, MinTTL: time.Second, MaxTTL: 10 * time.Second})
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: r.Uint64(), Writers: 3, Rate: 10_000, Keys: 5000, TTL: true, SwapDB: true}) // five types, four databases
	end := time.Now().Add(duration(t, 20*time.Second))
	v := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	p := v.start()
	until(t, "the RDB has arrived", v.arrived)
	kills, away := 0, time.Duration(0)
	for ; time.Now().Before(end); kills++ {
		time.Sleep(between(r, 50*time.Millisecond, 2*time.Second))
		p.Kill()
		outage := time.Duration(0)
		if kills%3 == 0 {
			outage = between(r, time.Second, 5*time.Second)
		}
		time.Sleep(outage)
		away += outage
		p = v.start()
	}
	p.Kill()
	got := stop()
	redistest.AwaitExpiredFields(t, src)
	v.settledEqual(src, dst, redistest.CompareOptions{})
	t.Logf("%d kills under %d commands; away for %v", kills, got.Acknowledged, away)
	for _, s := range []*redistest.Server{src, dst} {
		t.Logf("%s keys have expired at %s", s.Info(t, "stats")["expired_keys"], s.Addr())
	}
}

// SIGKILL in the midst of settling, again and again, while keys expire and are renewed. Nothing that is near its end is settled before the source's writes are over.
func TestCrashWhileItSettles(t *testing.T) {
	t.Parallel()
	builds := redistest.Servers(t)
	for _, b := range []redistest.Build{newestOf("redis", builds), newestOf("valkey", builds)} {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			killWhileItSettles(t, b)
		})
	}
}

func killWhileItSettles(t *testing.T, b redistest.Build) {
	r := dice(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb"))
	dst := redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
	redistest.Fill(t, src, redistest.FillOptions{Keys: 30_000, Seed: r.Uint64(), Volatile: 0.9})
	proxy := redistest.NewProxy(t, dst.Addr())
	v := newVictim(t, t.TempDir(), src.URL(), dst.URLAt(proxy.Addr()))
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: r.Uint64(), Writers: 2, Rate: 1000, TTL: true})
	p := v.start()
	until(t, "the target has the snapshot", func() bool { return dst.DoString(t, "HGET", "redferry:default", "phase") == "stream" })
	p.Kill()
	before := shifted(t, dst)
	proxy.Throttle(redistest.FromServer, 50<<10) // so that a pass takes its time
	const kills = 4
	for n := range kills {
		mark := len(v.logged())
		p = v.start("--stop-at", "caught-up")
		until(t, "it settles", func() bool { return v.said(mark, `"state":"settling"`) })
		time.Sleep(between(r, 100*time.Millisecond, time.Second))
		if n == kills-1 {
			until(t, "some keys are settled", func() bool { return shifted(t, dst) < before*9/10 })
		}
		p.Kill()
	}
	stop()
	redistest.AwaitExpiredFields(t, src)
	if shifted(t, dst) == 0 {
		t.Error("all keys are settled: that was no kill in the midst")
	}
	proxy.Throttle(redistest.FromServer, 0)
	v.settledEqual(src, dst, redistest.CompareOptions{})
	if got := dst.DoString(t, "HGET", "redferry:default", "unchecked"); got != "" { // the load has nothing that does not name its keys
		t.Errorf("replies were lost by the kills, and what they were about was not compared: %s", got)
	}
	t.Logf("keys of lost replies were compared %d times", strings.Count(v.logged(), "are equal to the source's"))
}

// shifted counts the keys whose expiries are.
func shifted(t *testing.T, s *redistest.Server) (n int) {
	t.Helper()
	for db := range 16 {
		m := s.DB(db).Do(t, "EVAL", "local n = 0; for _, key in ipairs(redis.call('KEYS', '*')) do if redis.call('PTTL', key) > 2^51 then n = n + 1 end end; return n", "0")
		here, err := m.AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		n += int(here)
	}
	return n
}
