package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"redferry/internal/redistest"
)

// clients stand for applications: each counts in a key of its own, one write after the other, and remembers what was acknowledged. They go on when they are refused.
type clients struct {
	stop context.CancelFunc
	done sync.WaitGroup
	seen []sight
}

// sight is what one client has seen.
type sight struct {
	acked   int64
	last    time.Time // of the last acknowledgement before it was refused
	refused time.Time // the first refusal; zero while there was none
	said    string    // the refusal, in the server's words
	late    int64     // acknowledged after the first refusal
	lost    error     // what was no answer of the server's
}

// clientPause is how long a client waits between two writes.
const clientPause = 5 * time.Millisecond

func clientKey(i int) string { return fmt.Sprint("client:", i) }

// startClients starts n of them. The cleanup ends them, too.
func startClients(t redistest.TB, s *redistest.Server, n int) *clients {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &clients{stop: stop, seen: make([]sight, n)}
	t.Cleanup(func() { c.end() })
	for i := range n {
		client, err := s.Client(0)
		if err != nil {
			t.Fatalf("connect a client: %v", err)
		}
		c.done.Go(func() {
			defer client.Close()
			c.seen[i].write(ctx, client, clientKey(i))
		})
	}
	return c
}

func (s *sight) write(ctx context.Context, client rueidis.Client, key string) {
	for ; ctx.Err() == nil; time.Sleep(clientPause) {
		// What is sent is waited for, also when ctx ends: else nobody could say what was acknowledged.
		err := client.Do(context.Background(), client.B().Incr().Key(key).Build()).Error()
		if !s.hears(err, time.Now()) {
			return
		}
	}
}

// hears takes an answer in, and tells whether there is a server to write to.
func (s *sight) hears(err error, now time.Time) bool {
	_, answered := rueidis.IsRedisErr(err)
	switch {
	case err == nil && s.refused.IsZero():
		s.acked++
		s.last = now
	case err == nil:
		s.acked++
		s.late++
	case !answered:
		s.lost = err
		return false
	case s.refused.IsZero():
		s.refused, s.said = now, err.Error()
	}
	return true
}

// end stops them and gives what they have seen.
func (c *clients) end() []sight {
	c.stop()
	c.done.Wait()
	return c.seen
}

// refusal is how a source's answer to a write begins after a cutover.
const refusal = "NOREPLICAS"

// judgeClients is nil when all that was acknowledged to the clients is in the target, whose counts are got, and when nothing was refused to them: or, after a cutover, everything
// from some moment on, with only a short time before it in which nobody answered.
func judgeClients(seen []sight, got []int64, cutOver bool) error {
	var errs []error
	for i, s := range seen {
		wrong := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("client %d: "+format, append([]any{i}, args...)...))
		}
		switch stopped := s.stopped(); {
		case s.lost != nil:
			wrong("lost its connection: %w", s.lost)
		case s.acked == 0:
			wrong("no write was acknowledged")
		case got[i] != s.acked:
			wrong("%d writes were acknowledged, and the target has %d", s.acked, got[i])
		case !cutOver && !s.refused.IsZero():
			wrong("was told %q", s.said)
		case !cutOver:
		case s.refused.IsZero():
			wrong("the source did not refuse its writes after the cutover")
		case !strings.HasPrefix(s.said, refusal):
			wrong("was told %q", s.said)
		case s.late > 0:
			wrong("the source took %d writes after it had refused one", s.late)
		case stopped > mostStopped:
			wrong("its writes were stopped for %v, and %v is the most", stopped, mostStopped)
		}
	}
	return errors.Join(errs...)
}

// mostStopped is how long a cutover of this much may stop writes, on a slow machine.
const mostStopped = 5 * time.Second

// stopped is for how long the client could not write before it was told so: all of the cutover's pause.
func (s *sight) stopped() time.Duration { return s.refused.Sub(s.last) }

// sum tells of all clients: their acknowledged writes, and the longest that one was stopped for.
func sum(seen []sight) (acked int64, stopped time.Duration) {
	for _, s := range seen {
		acked += s.acked
		stopped = max(stopped, s.stopped())
	}
	return acked, stopped
}
