package replica

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/replica/spool"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []bool
		g := &Gate{}
		g.Pause()
		end := g.watch(func(paused bool) { heard = append(heard, paused) })
		g.Pause() // again: no news
		passed := make(chan time.Duration)
		began := time.Now()
		for range 3 {
			go func() {
				if err := g.pass(t.Context()); err != nil {
					t.Error(err)
				}
				passed <- time.Since(began)
			}()
		}
		time.Sleep(time.Minute)
		g.Resume()
		g.Resume()
		for range 3 {
			if got := <-passed; got != time.Minute {
				t.Errorf("passed after %v", got)
			}
		}
		end()
		g.Pause() // nobody listens
		if diff := cmp.Diff([]bool{true, false}, heard); diff != "" {
			t.Errorf("heard (-want +got):\n%s", diff)
		}

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := g.pass(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("shut, and its context ends: got %v", err)
		}
		if _, err := (&gated{bytes.NewReader([]byte("x")), g, ctx}).Read(make([]byte, 1)); !errors.Is(err, spool.ErrInterrupted) {
			t.Errorf("a reader behind it: got %v", err)
		}
		g.Resume()
		if got, err := io.ReadAll(&gated{bytes.NewReader([]byte("x")), g, t.Context()}); string(got) != "x" || err != nil {
			t.Errorf("a reader behind an open one: got %q, %v", got, err)
		}
	})
}

func TestGateHasARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gate{}
		takes := func(what func() error, want time.Duration) {
			t.Helper()
			began := time.Now()
			if err := what(); err != nil {
				t.Error(err)
			}
			if got := time.Since(began); got < want-want/10 || got > want+want/10 {
				t.Errorf("%d bytes a second: it took %v, want %v", g.Rate(), got, want)
			}
		}
		spend := func(n int64) func() error { return func() error { return g.spend(t.Context(), n) } }
		takes(spend(1<<40), 0)
		g.SetRate(1000)
		takes(spend(60_000), time.Minute)
		time.AfterFunc(time.Minute, func() { g.SetRate(5000) })
		takes(spend(360_000), 2*time.Minute) // a sixth of it at the first rate
		time.AfterFunc(time.Minute, func() { g.SetRate(0) })
		takes(spend(1<<40), time.Minute)
		g.SetRate(1)
		takes(func() error {
			_, err := io.Copy(io.Discard, &gated{bytes.NewReader(make([]byte, 60)), g, t.Context()})
			return err
		}, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := g.spend(ctx, 100); err == nil {
			t.Error("it does not end with its context")
		}
	})
}

func TestNoGate(t *testing.T) {
	var g *Gate
	g.watch(func(bool) { t.Error("heard something") })()
	if err := errors.Join(g.pass(t.Context()), g.spend(t.Context(), 1)); err != nil || g.Paused() {
		t.Errorf("got %v", err)
	}
}
