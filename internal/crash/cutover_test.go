package crash

import (
	"context"
	"errors"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// SIGKILL at every moment of a cutover, under writes: the source is never left waiting for longer than a pause lasts, the next run finishes what was begun, and the target has each
// write that the source has ever acknowledged.
func TestCrashCutover(t *testing.T) {
	t.Parallel()
	builds := redistest.Servers(t)
	for _, b := range []redistest.Build{newestOf("redis", builds), newestOf("valkey", builds)} {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			r := dice(t)
			met := map[string]int{}
			for range 4 {
				met[killCutover(t, b, between(r, 0, 120*time.Millisecond))]++
			}
			t.Logf("killed: %v", met)
		})
	}
}

// killCutover kills one so long after it has begun to stop the source's writes, and tells where that was.
func killCutover(t *testing.T, b redistest.Build, after time.Duration) (met string) {
	src := redistest.Start(t, b)
	dst := redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
	redistest.Fill(t, src, redistest.FillOptions{Keys: 2000, Seed: 1, Volatile: 0.5, MinTTL: 2 * time.Minute, MaxTTL: 30 * time.Minute})
	clients := redistest.StartCounters(t, src, 4, 20, 5*time.Millisecond)
	v := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	p := v.start("--auto")
	until(t, "the cutover begins", func() bool { return v.said(0, `"state":"cutting_over"`) })
	time.Sleep(after)
	p.Kill()
	src.Do(t, "PING") // behind it the source has carried out what it was sent before
	refuses := src.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1] != "0"
	switch phase := dst.DoString(t, "HGET", "redferry:default", "phase"); {
	case phase == "completed":
		met = "behind the tombstone"
	case refuses:
		met = "between refusal and tombstone"
	default:
		met = "before the refusal"
	}
	waited := time.Now()
	err := tryWithin(src, 20*time.Second, "SET", "probe", "x")
	if errors.Is(err, context.DeadlineExceeded) { // a pause lasts for 4 s, a cutover for 30
		t.Errorf("%s: after %v the source still has a write wait", met, time.Since(waited))
	}
	if (err == nil) == refuses {
		t.Errorf("%s: a write has come to %v", met, err)
	}
	p = v.start("--auto")
	if code, err := p.ExitCode(patience); err != nil || code != 0 {
		t.Fatalf("%s: the next run: exit code %d, %v", met, code, err)
	}
	clients.AwaitRefused(t)
	clients.End()
	clients.Check(t, dst)
	clients.CheckRefused(t)
	if phase := dst.DoString(t, "HGET", "redferry:default", "phase"); phase != "completed" {
		t.Errorf("%s: the phase is %q", met, phase)
	}
	if keys := dst.DoStrings(t, "KEYS", "redferry:*"); len(keys) != 1 {
		t.Errorf("%s: the target has %q", met, keys)
	}
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{Settled: true})
	src.Kill()
	dst.Kill()
	return met
}

// tryWithin gives a server a command, and waits so long for the reply.
func tryWithin(s *redistest.Server, most time.Duration, words ...string) error {
	client, err := s.Client(0)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	return client.Do(ctx, client.B().Arbitrary(words...).Build()).Error()
}
