package patterns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// An application writes to a stream, and a consumer group reads it. Each entry that was
// acknowledged is delivered, what a consumer had read and not acknowledged is delivered to it or to
// somebody else at the target, and nothing is delivered again after its XACK was answered.
func TestStream(t *testing.T) {
	t.Parallel()
	for _, j := range []journey{
		{from: "redis-6.0", to: "valkey-9"},
		{from: "redis-8.0", to: "redis-8.0"},
		{from: "valkey-9", to: "valkey-9", kill: true},
	} {
		t.Run(j.from+" to "+j.to, func(t *testing.T) {
			t.Parallel()
			m := newMigration(t, j.from, j.to)
			s := &shipping{t: t, entries: map[string]*entry{}}
			m.source.Do(t, "XGROUP", "CREATE", "orders", "group", "0", "MKSTREAM")
			j.work = s.work
			m.travel(j)
			s.compare(m)
		})
	}
}

// shipping is the ledger of a stream's entries, by what is in them.
type shipping struct {
	t *testing.T

	mu      sync.Mutex
	last    int
	entries map[string]*entry
}

type entry struct {
	written   answer
	delivered int
	done      time.Time // when its XACK was answered; zero before
	unsure    bool      // the answer to an XACK was lost
}

func (s *shipping) work(ctx context.Context, at *site) {
	client := redis.NewClient(&redis.Options{Addr: at.addr, MaxRetries: -1, ReadTimeout: 2 * time.Second})
	defer client.Close()
	var all sync.WaitGroup
	all.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
			s.write(client, at)
		}
	})
	for _, consumer := range []string{"anna", "bert", "lazy"} {
		all.Go(func() {
			s.read(client, consumer, "0") // what it has read before, perhaps at the other server
			for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
				s.read(client, consumer, ">")
			}
		})
	}
	all.Wait()
}

func (s *shipping) write(client *redis.Client, at *site) {
	s.mu.Lock()
	s.last++
	text := fmt.Sprint("order ", s.last)
	e := &entry{written: lost} // a consumer may have it before this one knows
	s.entries[text] = e
	s.mu.Unlock()
	err := client.XAdd(context.Background(), &redis.XAddArgs{Stream: "orders", Values: []string{"text", text}}).Err()
	s.mu.Lock()
	defer s.mu.Unlock()
	if unexpected(err) {
		s.t.Errorf("%s: %v", text, err)
	}
	e.written = judge(err)
	if err == nil {
		at.acked.Add(1)
	}
}

// read reads once and carries out what it gets. The lazy consumer leaves a third of that lying. It
// returns the number of entries.
func (s *shipping) read(client *redis.Client, consumer, from string) int {
	asked := time.Now()
	got, err := client.XReadGroup(context.Background(), &redis.XReadGroupArgs{
		Group: "group", Consumer: consumer, Streams: []string{"orders", from}, Count: 20, Block: 20 * time.Millisecond,
	}).Result()
	if unexpected(err) && !errors.Is(err, redis.Nil) {
		s.t.Errorf("%s reads: %v", consumer, err)
	}
	if len(got) == 0 {
		return 0
	}
	s.carryOut(client, got[0].Messages, asked, func(i int) bool { return consumer == "lazy" && from == ">" && i%3 == 0 })
	return len(got[0].Messages)
}

// carryOut takes entries that were asked for at a time.
func (s *shipping) carryOut(client *redis.Client, messages []redis.XMessage, asked time.Time, leave func(i int) bool) {
	for i, msg := range messages {
		text, _ := msg.Values["text"].(string)
		s.mu.Lock()
		e := s.entries[text]
		switch {
		case e == nil || e.written == refused:
			s.t.Errorf("%s %q was delivered, and never written", msg.ID, text)
		case !e.done.IsZero() && e.done.Before(asked):
			s.t.Errorf("%s was delivered %v after its XACK was answered", text, asked.Sub(e.done))
		}
		if e == nil {
			s.mu.Unlock()
			continue
		}
		e.delivered++
		s.mu.Unlock()
		if leave(i) {
			continue
		}
		n, err := client.XAck(context.Background(), "orders", "group", msg.ID).Result()
		s.mu.Lock()
		switch {
		case n == 1:
			e.done = time.Now()
		case judge(err) == lost:
			e.unsure = true
		case unexpected(err):
			s.t.Errorf("XACK: %v", err)
		}
		s.mu.Unlock()
	}
}

// compare has the target's group read the rest, and takes over what the lazy consumer has left
// lying.
func (s *shipping) compare(m *migration) {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: m.target.Addr()})
	defer client.Close()
	for s.read(client, "anna", ">") > 0 {
	}
	taken := 0
	for {
		asked := time.Now()
		pending, err := client.XPendingExt(ctx, &redis.XPendingExtArgs{
			Stream: "orders", Group: "group", Start: "-", End: "+", Count: 100,
		}).Result()
		if err != nil {
			s.t.Fatal(err)
		}
		if len(pending) == 0 {
			break
		}
		var ids []string
		for _, p := range pending {
			ids = append(ids, p.ID)
		}
		got, err := client.XClaim(ctx, &redis.XClaimArgs{
			Stream: "orders", Group: "group", Consumer: "anna", Messages: ids,
		}).Result()
		if err != nil || len(got) != len(ids) {
			s.t.Fatalf("%d entries are pending, and %d could be claimed: %v", len(ids), len(got), err)
		}
		taken += len(got)
		s.carryOut(client, got, asked, func(int) bool { return false })
	}
	there := map[string]int{}
	all, err := client.XRange(ctx, "orders", "-", "+").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, msg := range all {
		there[msg.Values["text"].(string)]++
	}
	var written, again int
	for text, e := range s.entries {
		if n := there[text]; n > 1 || e.written == refused && n > 0 || e.written == acknowledged && n == 0 {
			s.t.Errorf("%s is in the target %d times, and its XADD was answered so: %d", text, n, e.written)
		}
		if e.written == acknowledged && e.delivered == 0 || e.delivered > 0 && e.done.IsZero() && !e.unsure {
			s.t.Errorf("%s was delivered %d times, and acknowledged at %v", text, e.delivered, e.done)
		}
		if e.written == acknowledged {
			written++
		}
		again += max(0, e.delivered-1)
	}
	s.t.Logf("%d entries written, %d at the target; %d pending ones taken over there; %d deliveries more than one",
		written, m.new.acked.Load(), taken, again)
}
