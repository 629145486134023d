package redistest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Counters are clients that stand for applications: each counts at a server in a key of its own, and remembers what was acknowledged. They go on when they are refused.
type Counters struct {
	done    sync.WaitGroup
	refused sync.WaitGroup // of the clients that nobody has refused yet, and that have not ended
	stop    context.CancelFunc
	seen    []Sight
}

// Sight is what one client has seen.
type Sight struct {
	Acked   int64
	Last    time.Time // of the last acknowledgement before it was refused
	Refused time.Time // the first refusal; zero while there was none
	Said    []string  // the first refusals, in the server's words
	Late    int64     // acknowledged after the first refusal
	Lost    error     // what was no answer of the server's; the client has ended with it
}

// Refusal is how a source's answer to a write begins after a cutover.
const Refusal = "NOREPLICAS"

// CounterKey is the key of a client, counted from 0.
func CounterKey(client int) string { return fmt.Sprint("counter:", client) }

// StartCounters starts clients that send so many commands in a pipeline, wait for the replies, and pause. The test's cleanup ends them, too.
func StartCounters(t TB, s *Server, clients, pipeline int, pause time.Duration) *Counters {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &Counters{stop: stop, seen: make([]Sight, clients)}
	t.Cleanup(func() { c.End() })
	for i := range clients {
		client, err := s.Client(0)
		if err != nil {
			t.Fatalf("connect a client: %v", err)
		}
		c.refused.Add(1)
		c.done.Go(func() {
			defer client.Close()
			refused := sync.OnceFunc(c.refused.Done)
			defer refused()
			c.seen[i].count(ctx, client, CounterKey(i), pipeline, pause, refused)
		})
	}
	return c
}

func (s *Sight) count(ctx context.Context, client rueidis.Client, key string, pipeline int, pause time.Duration, refused func()) {
	for ; ctx.Err() == nil && s.Lost == nil; time.Sleep(pause) {
		cmds := make([]rueidis.Completed, pipeline)
		for j := range cmds {
			cmds[j] = client.B().Incr().Key(key).Build()
		}
		// What is sent is waited for, also when ctx ends: else nobody could say what was acknowledged.
		for _, r := range client.DoMulti(context.Background(), cmds...) {
			s.hear(r.Error(), time.Now())
		}
		if !s.Refused.IsZero() {
			refused()
		}
	}
}

// hear takes an answer in.
func (s *Sight) hear(err error, now time.Time) {
	_, answered := rueidis.IsRedisErr(err)
	switch {
	case err == nil && s.Refused.IsZero():
		s.Acked++
		s.Last = now
	case err == nil:
		s.Acked++
		s.Late++
	case !answered:
		s.Lost = err
	default:
		if s.Refused.IsZero() {
			s.Refused = now
		}
		if len(s.Said) < 10 {
			s.Said = append(s.Said, err.Error())
		}
	}
}

// Stopped is for how long the client could not write before it was told so: all of a cutover's pause.
func (s *Sight) Stopped() time.Duration { return s.Refused.Sub(s.Last) }

// Wrong is what was said to the client that is not [Refusal]; empty for nothing.
func (s *Sight) Wrong() string {
	for _, text := range s.Said {
		if !strings.HasPrefix(text, Refusal) {
			return text
		}
	}
	return ""
}

// AwaitRefused waits until each client was refused, or has lost its connection: one that is stopped before its next write would not know.
func (c *Counters) AwaitRefused(t TB) {
	t.Helper()
	all := make(chan struct{})
	go func() {
		defer close(all)
		c.refused.Wait() // with the clients' end at the latest
	}()
	select {
	case <-all:
	case <-time.After(patience):
		t.Errorf("not all clients were refused within %v", patience)
	}
}

// End stops the clients, and gives what each has seen.
func (c *Counters) End() []Sight {
	c.stop()
	c.done.Wait()
	return c.seen
}

// Check compares a server with what was acknowledged, after End.
func (c *Counters) Check(t TB, dst *Server) {
	t.Helper()
	for i, s := range c.seen {
		if got := dst.DoInt(t, "GET", CounterKey(i)); got != s.Acked || s.Acked == 0 {
			t.Errorf("counter %d: the target has %d, and %d were acknowledged", i, got, s.Acked)
		}
	}
}

// CheckRefused tells that each client's last words were the source's refusal, and nothing but that was ever said.
func (c *Counters) CheckRefused(t TB) {
	t.Helper()
	for i, s := range c.seen {
		if s.Refused.IsZero() {
			t.Errorf("client %d was never refused", i)
		}
		if s.Wrong() != "" || s.Lost != nil {
			t.Errorf("client %d was told %q (%v)", i, s.Said, s.Lost)
		}
	}
}
