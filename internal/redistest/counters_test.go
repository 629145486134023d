package redistest

import (
	"strings"
	"testing"
	"time"
)

// What the clients say comes from real answers: of a server that takes writes, refuses them, takes them again, and is gone.
func TestCounters(t *testing.T) {
	const pause = 5 * time.Millisecond
	s := Start(t, Latest(t))
	c := StartCounters(t, s, 2, 1, pause)
	counted := func(clients int, more int64) {
		t.Helper()
		for i := range clients {
			from := s.DoInt(t, "INCRBY", CounterKey(i), "0")
			if !within(patience, func() bool { return s.DoInt(t, "INCRBY", CounterKey(i), "0") >= from+more }) {
				t.Fatalf("client %d does not count", i)
			}
		}
	}
	counted(2, 3)
	s.Do(t, "CONFIG", "SET", "min-replicas-to-write", "1")
	c.AwaitRefused(t)
	s.Do(t, "CONFIG", "SET", "min-replicas-to-write", "0")
	counted(2, 3)
	got := []int64{s.DoInt(t, "INCRBY", CounterKey(0), "0"), s.DoInt(t, "INCRBY", CounterKey(1), "0")}
	for i, v := range c.End() {
		if v.Acked < got[i] || v.Late < 3 || v.Late >= v.Acked || !strings.HasPrefix(v.Said[0], Refusal) || v.Wrong() != "" || v.Stopped() <= 0 || v.Stopped() > time.Minute || v.Lost != nil {
			t.Errorf("client %d: got %+v, and its count was %d before its end", i, v, got[i])
		}
	}
	c.Check(t, s)
	c.CheckRefused(t)

	c = StartCounters(t, s, 1, 1, pause)
	counted(1, 1)
	s.Kill()
	c.done.Wait() // by itself
	if v := c.End()[0]; v.Lost == nil {
		t.Errorf("a server that is gone: got %+v", v)
	}
}
