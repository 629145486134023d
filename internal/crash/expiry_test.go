package crash

import (
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
	v.settledEqual(src, dst, redistest.CompareOptions{})
	t.Logf("%d kills under %d commands; away for %v", kills, got.Acknowledged, away)
	for _, s := range []*redistest.Server{src, dst} {
		t.Logf("%s keys have expired at %s", s.Info(t, "stats")["expired_keys"], s.Addr())
	}
}
