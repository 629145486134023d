package applier

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"redferry/replica"
)

// unitOf is a unit of one command of about so many bytes.
func unitOf(end int64, size int) *replica.Unit {
	return &replica.Unit{
		Cmds:  []replica.Command{{Args: [][]byte{[]byte("SET"), []byte("k"), make([]byte, size)}}},
		Start: end - 1, End: replica.Position{ReplID: "id", Offset: end},
	}
}

// putUnit puts a unit into a queue without an Applier around it.
func putUnit(ctx context.Context, q *queue, u *replica.Unit) error {
	return q.put(ctx, func(b *batch) error {
		b.add(u.Cmds[0].Args, command{}, false)
		b.close(u)
		return nil
	})
}

// Behind something giant put returns only when that is written, or dropped, or the run ends: so the
// stream does not read the next such thing meanwhile.
func TestQueuePutsOneGiantAtATime(t *testing.T) {
	ends := map[string]func(q *queue, b *batch, cancel func()){
		"it is written":         func(q *queue, b *batch, _ func()) { q.give(b) },
		"it is insisted upon":   func(q *queue, b *batch, _ func()) { q.through(b) },
		"the work starts again": func(q *queue, _ *batch, _ func()) { q.reset() },
		"the run ends":          func(_ *queue, _ *batch, cancel func()) { cancel() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				q := newQueue()
				put := make(chan error, 1)
				go func() { put <- putUnit(ctx, q, unitOf(1, replica.Giant)) }()
				b := q.take(t.Context(), nil)
				if b == nil || len(b.units) != 1 {
					t.Fatalf("took %+v, want the unit", b)
				}
				q.give(&batch{}) // another one
				time.Sleep(time.Hour)
				synctest.Wait()
				select {
				case err := <-put:
					t.Fatalf("put returned %v before", err)
				default:
				}
				end(q, b, cancel)
				err := <-put
				if want := ctx.Err(); !errors.Is(err, want) {
					t.Errorf("put returned %v, want %v", err, want)
				}
				if ctx.Err() != nil {
					q.reset() // as the next run does
				}
				if err := putUnit(t.Context(), q, unitOf(2, 1)); err != nil {
					t.Errorf("the next one: %v", err)
				}
			})
		})
	}
}

// A full queue makes Apply wait until it is taken from, and no longer.
func TestQueuePutWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		if err := putUnit(t.Context(), q, unitOf(1, maxBatch)); err != nil {
			t.Fatal(err)
		}
		put := make(chan error, 1)
		go func() { put <- putUnit(t.Context(), q, unitOf(2, 1)) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case err := <-put:
			t.Fatalf("put into a full queue returned %v", err)
		default:
		}
		full := q.take(t.Context(), nil)
		if full == nil || len(full.units) != 1 {
			t.Fatalf("took %+v, want the unit that filled it", full)
		}
		taken := time.Now()
		if err := <-put; err != nil || time.Since(taken) > 0 {
			t.Errorf("put returned %v, %v after there was room", err, time.Since(taken))
		}
		q.give(full)
		if b := q.take(t.Context(), nil); b == nil || b.units[0].end.Offset != 2 {
			t.Errorf("then took %+v, want the second unit", b)
		}
	})
}

func TestQueuePutEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		if err := putUnit(t.Context(), q, unitOf(1, maxBatch)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if err := putUnit(ctx, q, unitOf(2, 1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("put returned %v after %v, want the context's error at its end", err, time.Since(began))
		}
		if b := q.take(t.Context(), nil); len(b.units) != 1 {
			t.Errorf("%d units are in the queue, want the first alone", len(b.units))
		}
	})
}

func TestQueueTake(t *testing.T) {
	tests := []struct {
		name  string
		put   time.Duration // when a unit comes; 0 for never
		idle  time.Duration // when idle fires; 0 for never
		end   time.Duration // when ctx ends; 0 for never
		after time.Duration // when take returns
		want  bool          // with the unit
	}{
		{"waits for a unit", time.Hour, 0, 0, time.Hour, true},
		{"a unit before idle", 5 * time.Second, 10 * time.Second, 0, 5 * time.Second, true},
		{"idle", 0, 10 * time.Second, 0, 10 * time.Second, false},
		{"the end", 0, 0, 20 * time.Second, 20 * time.Second, false},
		{"idle before the end", 0, 10 * time.Second, 20 * time.Second, 10 * time.Second, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.end > 0 {
					time.AfterFunc(test.end, cancel)
				}
				if test.put > 0 {
					time.AfterFunc(test.put, func() {
						if err := putUnit(t.Context(), q, unitOf(1, 1)); err != nil {
							t.Error(err)
						}
					})
				}
				var idle <-chan time.Time
				if test.idle > 0 {
					idle = time.After(test.idle)
				}
				began := time.Now()
				b := q.take(ctx, idle)
				if got := time.Since(began); got != test.after || (b != nil) != test.want {
					t.Errorf("took %v after %v, want any: %v, after %v", b, got, test.want, test.after)
				}
			})
		})
	}
}

// What is in the queue when ctx ends is still taken: Commit finishes what Apply took.
func TestQueueTakeAfterTheEnd(t *testing.T) {
	q := newQueue()
	ctx, cancel := context.WithCancel(t.Context())
	if err := putUnit(ctx, q, unitOf(1, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	b := q.take(ctx, nil)
	if b == nil || len(b.units) != 1 {
		t.Fatalf("took %+v, want the unit", b)
	}
	q.give(b)
	if b := q.take(ctx, nil); b != nil {
		t.Errorf("then took %+v, want nothing", b)
	}
}

// A command that fits no target goes with its unit, whole and in its place, and says why it cannot be sent: what came before it is written first.
func TestQueueUnfitCommand(t *testing.T) {
	a := New(Config{})
	if err := a.Apply(t.Context(), unitOf(1, 1)); err != nil {
		t.Fatal(err)
	}
	bad := replica.Unit{Cmds: []replica.Command{{Args: words("INCR n")}, {Args: words("SWAPDB 0"), DB: 4}}, Start: 1, End: replica.Position{Offset: 77}}
	if err := a.Apply(t.Context(), &bad); err != nil {
		t.Fatal(err)
	}
	b := a.queue.take(t.Context(), nil)
	if len(b.units) != 2 || len(b.cmds) != 3 {
		t.Fatalf("the queue has %d units of %d commands, want 2 of 3", len(b.units), len(b.cmds))
	}
	for i, c := range b.cmds {
		if unfit := c.unfit != nil; unfit != (i == 2) {
			t.Errorf("%s: unfit: %v", b.describe(i), c.unfit)
		}
	}
	if got, want := b.describe(2), `"SWAPDB" "0"`; got != want || b.cmds[2].db != 4 {
		t.Errorf("it is kept as %s in database %d, want %s in 4", got, b.cmds[2].db, want)
	}
}

// One goroutine applies, one commits: all units come out, once and in order, in batches that are bounded.
func TestQueueKeepsOrder(t *testing.T) {
	const n, size = 20000, 1000
	q := newQueue()
	q.limit = minBatch
	filled := make(chan error, 1)
	go func() {
		for i := range n {
			if err := putUnit(t.Context(), q, unitOf(int64(i+1), size)); err != nil {
				filled <- err
				return
			}
		}
		filled <- nil
	}()
	next := int64(1)
	for next <= n {
		b := q.take(t.Context(), nil)
		if b.size() > minBatch+2*size {
			t.Fatalf("a batch has size %d, limit %d", b.size(), minBatch)
		}
		for _, u := range b.units {
			if u.end.Offset != next {
				t.Fatalf("unit %d comes where %d should", u.end.Offset, next)
			}
			next++
		}
		q.give(b)
	}
	if err := <-filled; err != nil {
		t.Error(err)
	}
}

func TestQueueAdapt(t *testing.T) {
	tests := []struct {
		name  string
		limit int
		took  time.Duration
		want  int
	}{
		{"a slow line", maxBatch, 3 * time.Second, maxBatch / 2},
		{"as slow as it may be", maxBatch, 2 * time.Second, maxBatch},
		{"a second", 1 << 20, time.Second, 1 << 20},
		{"a fast line", 1 << 20, time.Millisecond, 2 << 20},
		{"already the largest", maxBatch, time.Millisecond, maxBatch},
		{"already the smallest", minBatch, time.Minute, minBatch},
		{"nearly the smallest", minBatch + 1, time.Minute, minBatch},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q := newQueue()
			q.limit, q.most = test.limit, maxBatch
			q.adapt(test.took)
			if q.limit != test.want {
				t.Errorf("limit %d, want %d", q.limit, test.want)
			}
		})
	}
}

// Two batches under way fill a line of 1 Gbit/s, however long it is, up to a bound.
func TestQueueFit(t *testing.T) {
	for roundTrip, want := range map[time.Duration]int{0: localBatch, 20 * time.Millisecond: localBatch + lineRate/50, time.Second: maxBatch} {
		q := newQueue()
		q.fit(roundTrip)
		if q.limit != want {
			t.Errorf("%v: limit %d, want %d", roundTrip, q.limit, want)
		}
	}
}

// A full batch is taken while another is under way; without one the wait ends with that flight.
func TestQueueTakeFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		landed := make(chan struct{})
		got := make(chan *batch)
		go func() { got <- q.takeFull(landed) }()
		if err := putUnit(t.Context(), q, unitOf(1, localBatch/2)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("took a batch that was not full")
		default:
		}
		if err := putUnit(t.Context(), q, unitOf(2, localBatch/2)); err != nil {
			t.Fatal(err)
		}
		if b := <-got; b == nil || len(b.units) != 2 {
			t.Errorf("got %v, want both units", b)
		}
		go func() { got <- q.takeFull(landed) }()
		synctest.Wait()
		close(landed)
		if b := <-got; b != nil {
			t.Errorf("got %v of an empty queue", b)
		}
	})
}

func TestQueueFew(t *testing.T) {
	q := newQueue()
	for i := range 3 {
		if got := q.few(3); !got {
			t.Errorf("few(3) of %d is false", i)
		}
		if err := putUnit(t.Context(), q, unitOf(int64(i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	if q.few(3) {
		t.Error("few(3) of 3 is true")
	}
	q.reset()
	if !q.few(1) {
		t.Error("an empty queue has commands")
	}
}
