package main

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
)

// shifted is a target that a run has left with the expiries of 20 000 keys, all shifted, and its source.
func shifted(t *testing.T, p *program) (source, target *redistest.Server) {
	t.Helper()
	source, target = pair(t)
	source.Do(t, "EVAL", "for i = 1, 20000 do redis.call('SET', 'key:' .. i, i) redis.call('PEXPIRE', 'key:' .. i, 3600000 + i) end", "0")
	p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitDone)
	target.Do(t, "EVAL", `
		for i = 1, 20000 do redis.call('PEXPIREAT', 'key:' .. i, string.format('%.0f', 2^52 + redis.call('PEXPIRETIME', 'key:' .. i))) end`, "0")
	return source, target
}

func TestResetSettles(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	source, target := shifted(t, p)
	if source.Build.HasFieldTTL() {
		for _, s := range []*redistest.Server{source, target} {
			s.Do(t, "HSET", "hash", "f", "v")
		}
		source.Do(t, "HPEXPIREAT", "hash", "4000000000000", "FIELDS", "1", "f")
		target.Do(t, "HPEXPIREAT", "hash", fmt.Sprint(1<<45+4000000000000), "FIELDS", "1", "f")
	}
	p.run(t, "reset", "--target", target.URL()).expect(t, exitDone, "settled the expiries of 20,000 keys and 1 hash field\n", "removed redferry:default")
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{})
}

// A reset that is interrupted while it settles says what is left, also when the target does not answer just then; the next one does the rest.
func TestResetInterrupted(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	source, target := shifted(t, p)
	proxy := redistest.NewCommandProxy(t, target.Addr())
	reached, done := make(chan struct{}), make(chan struct{})
	defer close(done)
	pages := 0
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if bytes.Contains(bytes.Join(args, nil), []byte("'SCAN'")) {
			if pages++; pages == 10 {
				close(reached)
				<-done
			}
		}
		return redistest.Forward()
	})
	run := p.start(t, "reset", "--target", target.URLAt(proxy.Addr()))
	<-reached
	run.Signal(os.Interrupt)
	run.wait(t).expect(t, exitFailed, "reset broke off while it settled: about ", "still have shifted expiries: SIGINT received", "run the same reset again")
	if target.DoInt(t, append([]string{"EXISTS"}, checkpoint.Keys("default")...)...) == 0 {
		t.Error("it has removed its keys")
	}
	p.run(t, "reset", "--target", target.URL()).expect(t, exitDone, "settled the expiries of ", "removed redferry:default", "here: forgot the migration")
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{})
}

func TestSettlingText(t *testing.T) {
	got := settlingText(applier.Settling{Pass: 2, Keys: 3_000_000, Looked: 12_345})
	if want := "settling: pass 2 has looked at 12k of 3.0M keys"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
