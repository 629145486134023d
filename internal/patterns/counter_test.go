package patterns

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// An application counts: INCR, HINCRBY, pipelines, MULTI and EXEC, and WATCH. The target's numbers
// are those that were acknowledged, plus at most those whose reply was lost.
func TestCounter(t *testing.T) {
	t.Parallel()
	for _, j := range []journey{
		{from: "redis-6.0", to: "redis-8.0"},
		{from: "redis-8.0", to: "redis-8.0", kill: true},
		{from: "valkey-9", to: "valkey-9"},
	} {
		t.Run(j.from+" to "+j.to, func(t *testing.T) {
			t.Parallel()
			m := newMigration(t, j.from, j.to)
			c := &counts{t: t, of: map[string]count{}}
			j.work = c.work
			m.travel(j)
			c.compare(func(key string) int64 {
				if key, field, ok := fieldOf(key); ok {
					return m.target.DoInt(t, "HGET", key, field)
				}
				return m.target.DoInt(t, "GET", key)
			})
			for w := range counters {
				if a, b := m.target.DoInt(t, "GET", pairKey(w, "a")), m.target.DoInt(t, "GET", pairKey(w, "b")); a != b {
					t.Errorf("a transaction is in the target by half: %d and %d", a, b)
				}
			}
			var sum count
			for _, n := range c.of {
				sum.acked, sum.lost = sum.acked+n.acked, sum.lost+n.lost
			}
			t.Logf("%d acknowledged, %d of them at the target, %d lost, %d refused, %d times somebody else was faster",
				sum.acked, m.new.acked.Load(), sum.lost, c.refused, c.raced)
		})
	}
}

// counters is how many clients count.
const counters = 3

// counts is the ledger. Keys are those of the servers, with "#field" for a hash's.
type counts struct {
	t *testing.T

	mu             sync.Mutex
	of             map[string]count
	refused, raced int64
}

type count struct{ acked, lost int64 }

// wrong reports whether a server's number cannot be.
func (c count) wrong(got int64) bool { return got < c.acked || got > c.acked+c.lost }

func TestCountWrong(t *testing.T) {
	for _, tt := range []struct {
		count
		got  int64
		want bool
	}{
		{count{5, 0}, 5, false},
		{count{5, 0}, 4, true},
		{count{5, 0}, 6, true},
		{count{5, 2}, 7, false},
		{count{5, 2}, 8, true},
	} {
		if tt.wrong(tt.got) != tt.want {
			t.Errorf("%d of %+v: wrong is %v", tt.got, tt.count, !tt.want)
		}
	}
}

func (c *counts) note(at *site, key string, n int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if unexpected(err) {
		c.t.Errorf("%s: %v", key, err)
	}
	was := c.of[key]
	switch judge(err) {
	case acknowledged:
		was.acked += n
		at.acked.Add(1)
	case lost:
		was.lost += n
	case refused:
		c.refused++
	}
	c.of[key] = was
}

func (c *counts) compare(read func(key string) int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, want := range c.of {
		if got := read(key); want.wrong(got) || want.acked == 0 {
			c.t.Errorf("%s is %d: %d were acknowledged, the reply to %d was lost", key, got, want.acked, want.lost)
		}
	}
}

func pairKey(w int, half string) string { return fmt.Sprintf("pair:%d:%s", w, half) }

// fieldOf splits the name of a hash's field.
func fieldOf(key string) (hash, field string, ok bool) {
	for i := range key {
		if key[i] == '#' {
			return key[:i], key[i+1:], true
		}
	}
	return key, "", false
}

// work counts. The client does not try again by itself: go-redis would count twice where a reply
// was lost.
func (c *counts) work(ctx context.Context, at *site) {
	client := redis.NewClient(&redis.Options{Addr: at.addr, MaxRetries: -1, ReadTimeout: time.Second})
	defer client.Close()
	var all sync.WaitGroup
	for w := range counters {
		all.Go(func() {
			for ctx.Err() == nil {
				c.round(ctx, client, at, w)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	all.Wait()
}

func (c *counts) round(ctx context.Context, client *redis.Client, at *site, w int) {
	ctx = context.WithoutCancel(ctx) // what was sent is waited for, so that it is known what was acknowledged
	plain, piped := fmt.Sprint("plain:", w), fmt.Sprint("piped:", w)
	c.note(at, plain, 1, client.Incr(ctx, plain).Err())
	c.note(at, "hits#page", 3, client.HIncrBy(ctx, "hits", "page", 3).Err())
	cmds, _ := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for range 5 {
			p.Incr(ctx, piped)
		}
		return nil
	})
	for _, cmd := range cmds {
		c.note(at, piped, 1, cmd.Err())
	}
	_, err := client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Incr(ctx, pairKey(w, "a"))
		p.Incr(ctx, pairKey(w, "b"))
		return nil
	})
	c.note(at, pairKey(w, "a"), 1, err)
	c.note(at, pairKey(w, "b"), 1, err)
	err = client.Watch(ctx, func(tx *redis.Tx) error { // all clients want to change this one
		n, err := tx.Get(ctx, "watched").Int()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "watched", strconv.Itoa(n+1), 0)
			return nil
		})
		return err
	}, "watched")
	if errors.Is(err, redis.TxFailedErr) {
		c.mu.Lock()
		c.raced++
		c.mu.Unlock()
		return
	}
	c.note(at, "watched", 1, err)
}
