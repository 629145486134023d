package preflight_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"redferry/applier/preflight"
	"redferry/internal/redistest"
)

// A server that stops answering, at whatever step, keeps check no longer than its context lasts.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	const patience = 4 * time.Second // less than the first deadline of its own that anything has below
	for command, sides := range map[string][]string{
		"INFO": {"source", "target"}, "COMMAND": {"source"}, "TIME": {"source", "target"}, "CONFIG": {"source", "target"}, "MODULE": {"source", "target"}, "PUBSUB": {"source", "target"},
		"ACL": {"source", "target"}, "SCAN": {"source"}, "MEMORY": {"source"}, "DUMP": {"source"}, "HGETALL": {"target"}, "CLIENT": {"target"},
	} {
		for _, side := range sides {
			t.Run(side+" "+command, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b), redistest.Start(t, b)
				src.Do(t, "SET", "k", "v")
				which := map[string]*redistest.Server{"source": src, "target": dst}[side]
				proxy := redistest.NewCommandProxy(t, which.Addr())
				frozen := make(chan struct{}, 1)
				proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
					if strings.EqualFold(string(args[0]), command) {
						select {
						case frozen <- struct{}{}:
							which.Freeze()
						default:
						}
					}
					return redistest.Forward()
				})
				t.Cleanup(which.Thaw)
				c := between(t, src, dst)
				c.RateSample = time.Millisecond
				if side == "source" {
					c.Source.Addr = proxy.Addr()
				} else {
					c.Target.Addr = proxy.Addr()
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				ended := make(chan error, 1)
				go func() {
					_, err := preflight.Run(ctx, c)
					ended <- err
				}()
				for len(frozen) == 0 {
					select {
					case err := <-ended:
						t.Fatalf("%s was not sent: %v", command, err)
					case <-time.After(time.Millisecond):
					}
				}
				cancel(errors.New("time is over"))
				select {
				case err := <-ended:
					if err == nil {
						t.Error("it has checked what does not answer")
					}
				case <-time.After(patience):
					t.Errorf("still waiting, %v after its context ended", patience)
					<-ended
				}
			})
		}
	}
}
