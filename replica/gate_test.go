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

func TestNoGate(t *testing.T) {
	var g *Gate
	g.watch(func(bool) { t.Error("heard something") })()
	if err := g.pass(t.Context()); err != nil || g.Paused() {
		t.Errorf("got %v", err)
	}
}
