package redistest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Counters are clients that count at a server, for as long as it lets them: each its own key, and each what was acknowledged to it.
type Counters struct {
	done  sync.WaitGroup
	stop  context.CancelFunc
	acked []int64
	after [][]string // what was refused to each, in words
}

// StartCounters starts clients that send so many commands in a pipeline, wait for the replies, and pause. The test's cleanup ends them, too.
func StartCounters(t TB, s *Server, clients, pipeline int, pause time.Duration) *Counters {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &Counters{stop: stop, acked: make([]int64, clients), after: make([][]string, clients)}
	for i := range clients {
		client, err := s.Client(0)
		if err != nil {
			t.Fatalf("connect: %v", err)
		}
		c.done.Go(func() {
			defer client.Close()
			c.count(ctx, client, i, pipeline, pause)
		})
	}
	t.Cleanup(c.End)
	return c
}

func (c *Counters) count(ctx context.Context, client rueidis.Client, i, pipeline int, pause time.Duration) {
	for ctx.Err() == nil {
		cmds := make([]rueidis.Completed, pipeline)
		for j := range cmds {
			cmds[j] = client.B().Incr().Key(fmt.Sprint("counter:", i)).Build()
		}
		for _, r := range client.DoMulti(context.Background(), cmds...) {
			if err := r.Error(); err != nil {
				if len(c.after[i]) < 10 {
					c.after[i] = append(c.after[i], err.Error())
				}
				continue
			}
			c.acked[i]++
		}
		time.Sleep(pause)
	}
}

// End stops the clients; the counts are for afterwards.
func (c *Counters) End() {
	c.stop()
	c.done.Wait()
}

// Check compares a server with what was acknowledged, after End.
func (c *Counters) Check(t TB, dst *Server) {
	t.Helper()
	for i, want := range c.acked {
		if got := dst.DoInt(t, "GET", fmt.Sprint("counter:", i)); got != want || want == 0 {
			t.Errorf("counter %d: the target has %d, and %d were acknowledged", i, got, want)
		}
	}
}

// CheckRefused tells that each client's last words were the source's refusal, and nothing but that was ever said.
func (c *Counters) CheckRefused(t TB) {
	t.Helper()
	for i, said := range c.after {
		if len(said) == 0 {
			t.Errorf("client %d was never refused", i)
		}
		for _, text := range said {
			if !strings.Contains(text, "NOREPLICAS") {
				t.Errorf("client %d was told %q", i, text)
			}
		}
	}
}
