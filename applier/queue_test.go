package applier

import (
	"testing"
	"testing/synctest"

	"redferry/replica"
)

// Whoever takes the batch, on whatever occasion, must wake the Apply that waits for room: nobody will do it later.
func TestQueueWakesWhoWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
		synctest.Wait()      // until it waits for room
		if q.swap() == nil { // as when the idle tick comes
			t.Fatal("nothing to take")
		}
		if err := <-second; err != nil { // without a wake synctest tells of a deadlock
			t.Fatal(err)
		}
	})
}
