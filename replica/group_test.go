package replica

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var errBoom = errors.New("boom")

func TestGroup(t *testing.T) {
	tests := []struct {
		name   string
		member func(g *group, ctx context.Context, end context.CancelFunc) error // beside one that waits for the end
		want   error
	}{
		{"an error ends all", func(*group, context.Context, context.CancelFunc) error { return errBoom }, errBoom},
		{"stop ends all without one", func(g *group, _ context.Context, _ context.CancelFunc) error { g.stop(); return nil }, nil},
		{"the outer end", func(_ *group, ctx context.Context, end context.CancelFunc) error { end(); <-ctx.Done(); return nil }, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			outer, end := context.WithCancel(t.Context())
			defer end()
			g, ctx := newGroup(outer)
			ended := false
			g.Go(func() error {
				<-ctx.Done()
				ended = true
				return nil
			})
			g.Go(func() error { return test.member(g, ctx, end) })
			if err := g.Wait(); !errors.Is(err, test.want) {
				t.Errorf("Wait: got %v, want %v", err, test.want)
			}
			if !ended || ctx.Err() == nil {
				t.Errorf("the other member ended: %v; the context: %v", ended, ctx.Err())
			}
		})
	}
}

// A member that returns nil ends nobody; the context ends with Wait.
func TestGroupMemberDone(t *testing.T) {
	g, ctx := newGroup(t.Context())
	g.Go(func() error { return nil })
	g.Go(func() error { return ctx.Err() })
	if err := g.Wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if ctx.Err() == nil {
		t.Error("the context outlives the group")
	}
}

func TestEvery(t *testing.T) {
	tests := []struct {
		name  string
		f     func(call int) error
		calls int
		took  time.Duration
		want  error
	}{
		{"until the end", func(int) error { return nil }, 9, 9500 * time.Millisecond, nil},
		{"until an error", func(call int) error {
			if call == 3 {
				return errBoom
			}
			return nil
		}, 3, 3 * time.Second, errBoom},
		{"a cancelled call is the end's own", func(int) error { return context.Canceled }, 9, 9500 * time.Millisecond, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
				defer cancel()
				began, calls := time.Now(), 0
				err := every(ctx, time.Second, func() error {
					calls++
					return test.f(calls)
				})
				if !errors.Is(err, test.want) || calls != test.calls || time.Since(began) != test.took {
					t.Errorf("got %v after %d calls in %v, want %v after %d in %v", err, calls, time.Since(began), test.want, test.calls, test.took)
				}
			})
		})
	}
}
