package applier_test

import (
	"context"
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/replica"
)

// A server that stands still in the pause ends a cutover with its deadline, and what was stopped goes on.
func TestCutoverWithAServerThatStandsStill(t *testing.T) {
	for _, frozen := range []string{"source", "target"} {
		t.Run("in the pause, "+frozen, func(t *testing.T) {
			t.Parallel()
			b := redistest.Latest(t)
			src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
			m, r := cutoverOf(t, src, dst)
			server := map[string]*redistest.Server{"source": src, "target": dst}[frozen]
			began := time.Now()
			_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{Timeout: 3 * time.Second, Compare: func(context.Context) error {
				server.Freeze()
				return nil
			}})
			took := time.Since(began)
			server.Thaw()
			if err == nil {
				t.Error("it was cut over")
			}
			if took > 40*time.Second {
				t.Errorf("it ended after %v, with a timeout of 3s", took)
			}
			eventually(t, "the source takes writes", func() bool { return src.TryDo("SET", "later", "x") == nil })
			eventually(t, "replication goes on", func() bool { return dst.DoString(t, "GET", "later") == "x" })
			open(t, src)
			if err := r.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A source that stands still while a cutover settles, or once its tombstone is on the way, holds nothing up for ever.
func TestCutoverWithASourceThatStandsStill(t *testing.T) {
	for name, which := range map[string]func(args [][]byte) bool{"while it settles": isSettling, "behind the refusal": isTombstone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst, _, r, h, ended := heldCutover(t, which)
			src.Freeze()
			close(h.let)
			if name == "behind the refusal" { // the target has all: nothing of the source is needed any more
				if err := <-ended; err != nil {
					t.Error(err)
				}
				src.Thaw()
				if err := r.wait(t); err != nil {
					t.Error(err)
				}
				tombstone(t, dst)
				return
			}
			select {
			case err := <-ended:
				t.Errorf("it came to an end without the source: %v", err)
			case <-time.After(time.Second): // it waits for the source, whose writes are not stopped
			}
			src.Thaw()
			if err := <-ended; err != nil {
				t.Log(err) // it may have begun anew
				open(t, src)
			}
			_ = r.end()
		})
	}
}
