package applier

import (
	"testing"
	"time"

	"redferry/replica"
)

// Whoever takes the batch, on whatever occasion, must wake the Apply that waits for room: nobody will do it later.
func TestQueueWakesWhoWaitsForRoom(t *testing.T) {
	q := newQueue()
	q.limit = 1
	fill := func(b *batch) error {
		b.add([][]byte{[]byte("PING")}, command{})
		b.close(&replica.Unit{})
		return nil
	}
	if err := q.put(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() { second <- q.put(t.Context(), fill) }()
	if q.swap() == nil { // as when the idle tick comes
		t.Fatal("nothing to take")
	}
	select {
	case err := <-second:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Apply waits, and there is room")
	}
}
