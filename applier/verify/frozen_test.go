package verify_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
)

// A server that stops answering, at whatever step, keeps a comparison no longer than its context's deadline: a cutover compares while nobody can write.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	const patience = 4 * time.Second // less than the first deadline of its own that anything has below
	for _, tt := range []struct {
		command string // at which it freezes; of all that come, the nth
		nth     int
		mode    verify.Mode
	}{
		{"CLIENT", 1, verify.Full},
		{"CLIENT", 2, verify.Full},
		{"INFO", 1, verify.Full},
		{"INFO", 2, verify.Full},
		{"FUNCTION", 1, verify.Full},
		{"SELECT", 1, verify.Full},
		{"SCAN", 1, verify.Full},
		{"MEMORY", 1, verify.Full},
		{"DUMP", 1, verify.Full},
		{"TYPE", 1, verify.Full},
		{"GETRANGE", 2, verify.Full},
		{"GET", 1, verify.Full},
		{"HGETALL", 1, verify.Full},
		{"EXISTS", 1, verify.Full},
		{"EXISTS", 1, verify.Count},
		{"DBSIZE", 1, verify.Sample},
		{"SCAN", 1, verify.Sample},
	} {
		for _, side := range []string{"source", "target"} {
			t.Run(side+" "+string(tt.mode)+" "+tt.command, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b), redistest.Start(t, b)
				for _, s := range []*redistest.Server{src, dst} {
					s.Do(t, "SET", "large", strings.Repeat("x", 3<<20))
					s.Do(t, "SET", "differs", s.Addr())
					s.Do(t, "HSET", "hash", "f", "v")
					s.Do(t, "SELECT", "0")
				}
				dst.Do(t, "SET", "extra", "v")
				which := map[string]*redistest.Server{"source": src, "target": dst}[side]
				proxy := redistest.NewCommandProxy(t, which.Addr())
				frozen := make(chan struct{})
				seen := 0
				gate := make(chan struct{}, 1)
				proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
					gate <- struct{}{}
					defer func() { <-gate }()
					if strings.EqualFold(string(args[0]), tt.command) {
						if seen++; seen == tt.nth {
							which.Freeze()
							close(frozen)
						}
					}
					return redistest.Forward()
				})
				t.Cleanup(which.Thaw)
				urls := map[string]string{"source": src.URL(), "target": dst.URL()}
				urls[side] = which.URLAt(proxy.Addr())
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				ended := make(chan error, 1)
				go func() {
					_, err := verify.Run(ctx, verify.Config{Source: endpoint(t, urls["source"]), Target: endpoint(t, urls["target"]), Mode: tt.mode, Pause: time.Millisecond})
					ended <- err
				}()
				select {
				case <-frozen:
				case err := <-ended:
					t.Skipf("%s is not sent to the %s: %v", tt.command, side, err)
				}
				over := errors.New("time is over")
				cancel(over)
				select {
				case err := <-ended:
					if err == nil {
						t.Error("it compared with a server that does not answer")
					}
				case <-time.After(patience):
					t.Errorf("still waiting, %v after its context ended", patience)
					<-ended
				}
			})
		}
	}
}
