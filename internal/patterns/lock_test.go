package patterns

import (
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
)

// Applications lock by redsync. Never do two hold a lock, also where one has it from the source and
// the other asks at the target. An unlock that was acknowledged did unlock; one that was not leaves
// a lock that expires in the target no later than its TTL.
func TestLock(t *testing.T) {
	t.Parallel()
	for _, j := range []journey{
		{from: "redis-6.0", to: "redis-7.0"},
		{from: "redis-8.0", to: "redis-8.0", flags: []string{"--source-clients=kick"}},
		{from: "valkey-9", to: "valkey-9", kill: true},
	} {
		t.Run(j.from+" to "+j.to, func(t *testing.T) {
			t.Parallel()
			m := newMigration(t, j.from, j.to)
			c := newCloakroom(t)
			j.work = c.work
			var held, extended, left *redsync.Mutex
			j.before = func() { held, extended, left = c.through(m) }
			j.after = func() { c.beyond(m, held, extended, left) }
			m.travel(j)
			c.compare(m)
			t.Logf("%d times locked, %d unlocked, %d unlocks not acknowledged; %d acknowledged at the target",
				c.locked, c.unlocked, c.silent, m.new.acked.Load())
		})
	}
}

const (
	lockTTL = 20 * time.Second // of most locks: they are there when they are compared
	briefly = 4 * time.Second  // of one whose holder never comes back
)

// cloakroom is the ledger of locks.
type cloakroom struct {
	t     *testing.T
	names []string

	mu                       sync.Mutex
	holders                  map[string]holder
	freed                    map[string]bool      // values whose unlock was acknowledged
	stuck                    map[string]time.Time // when values expire that may be there without a holder
	locked, unlocked, silent int                  // silent are the unlocks that were not acknowledged
}

// holder is who believes to hold a lock, and until when.
type holder struct {
	value string
	until time.Time
}

func newCloakroom(t *testing.T) *cloakroom {
	c := &cloakroom{t: t, holders: map[string]holder{}, freed: map[string]bool{}, stuck: map[string]time.Time{}}
	for i := range 40 {
		c.names = append(c.names, fmt.Sprint("lock:", i))
	}
	return c
}

// client is one that does not try again by itself. A script waits at a source that was cut over, so
// its answer is not waited for long.
func lockClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: 500 * time.Millisecond})
}

func (c *cloakroom) work(ctx context.Context, at *site) {
	client := lockClient(at.addr)
	defer client.Close()
	locks := redsync.New(goredis.NewPool(client))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				name := c.names[mrand.IntN(len(c.names))]
				value := rand.Text()
				m := locks.NewMutex(name, redsync.WithExpiry(lockTTL),
					redsync.WithGenValueFunc(func() (string, error) { return value, nil }))
				if m.TryLock() != nil { // somebody has it, or the source refuses, or nobody knows
					c.mu.Lock()
					c.stuck[value] = time.Now().Add(lockTTL)
					c.mu.Unlock()
					time.Sleep(time.Millisecond)
					continue
				}
				c.enter(m, at)
				time.Sleep(time.Duration(mrand.Int64N(int64(2 * time.Millisecond))))
				if mrand.IntN(3) == 0 {
					if ok, err := m.Extend(); err == nil && ok {
						c.extend(m)
					}
				}
				c.leave(m, at)
			}
		})
	}
	all.Wait()
}

// enter notes who holds a lock. Nobody else may, as long as their own client says so.
func (c *cloakroom) enter(m *redsync.Mutex, at *site) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if other, ok := c.holders[m.Name()]; ok && now.Before(other.until) {
		c.t.Errorf("%s was given to %s at %s while %s had it for another %v",
			m.Name(), m.Value(), at.addr, other.value, other.until.Sub(now))
	}
	c.holders[m.Name()] = holder{m.Value(), m.Until()}
	c.locked++
	if c.freed[m.Value()] {
		c.t.Errorf("%s: the value %s twice", m.Name(), m.Value())
	}
	at.acked.Add(1)
}

func (c *cloakroom) extend(m *redsync.Mutex) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders[m.Name()] = holder{m.Value(), m.Until()}
}

// leave unlocks. From the moment that this is asked for somebody else may have the lock.
func (c *cloakroom) leave(m *redsync.Mutex, at *site) {
	c.mu.Lock()
	delete(c.holders, m.Name())
	c.mu.Unlock()
	latest := time.Now().Add(lockTTL) // also where an Extend took effect whose reply was lost
	ok, err := m.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil && ok:
		c.unlocked++
		c.freed[m.Value()] = true
		at.acked.Add(1)
	case time.Now().Before(m.Until()):
		c.stuck[m.Value()] = latest
		c.silent++
	}
}

// through takes locks at the source that are held during the cutover. The first two have a holder
// that moves, the last one's never comes back.
func (c *cloakroom) through(m *migration) (held, extended, left *redsync.Mutex) {
	client := lockClient(m.source.Addr())
	defer client.Close()
	locks := redsync.New(goredis.NewPool(client))
	take := func(name string, ttl time.Duration) *redsync.Mutex {
		mutex := locks.NewMutex(name, redsync.WithExpiry(ttl), redsync.WithDriftFactor(0)) // it takes a hundredth off, else
		if err := mutex.Lock(); err != nil {
			c.t.Fatalf("lock %s: %v", name, err)
		}
		return mutex
	}
	held, extended, left = take("held", time.Hour), take("extended", time.Hour), take("left", briefly)
	if ok, err := extended.Extend(); err != nil || !ok {
		c.t.Fatalf("extend: %v, %v", ok, err)
	}
	return held, extended, left
}

// beyond goes on with these locks at the target.
func (c *cloakroom) beyond(m *migration, held, extended, left *redsync.Mutex) {
	client := lockClient(m.target.Addr())
	defer client.Close()
	locks := redsync.New(goredis.NewPool(client))
	late := time.Second // the way there, and to redferry where a source is older than 7.0
	for _, there := range []*redsync.Mutex{held, extended} {
		if locks.NewMutex(there.Name(), redsync.WithTries(1)).TryLock() == nil {
			c.t.Errorf("%s has a second holder at the target", there.Name())
		}
		asked := time.Now()
		ttl := time.Duration(m.target.DoInt(c.t, "PTTL", there.Name())) * time.Millisecond
		earliest, latest, until := asked.Add(ttl), time.Now().Add(ttl), there.Until()
		if latest.Before(until.Add(-50*time.Millisecond)) || earliest.After(until.Add(late)) {
			c.t.Errorf("%s expires between %v and %v, and its holder has it until %v",
				there.Name(), earliest, latest, until)
		}
		// Its holder has moved.
		mine := locks.NewMutex(there.Name(), redsync.WithValue(there.Value()), redsync.WithExpiry(time.Hour))
		if ok, err := mine.Extend(); err != nil || !ok {
			c.t.Errorf("%s: its holder cannot extend it at the target: %v, %v", there.Name(), ok, err)
		}
		if ok, err := mine.Unlock(); err != nil || !ok {
			c.t.Errorf("%s: its holder cannot unlock it at the target: %v, %v", there.Name(), ok, err)
		}
		if err := locks.NewMutex(there.Name()).Lock(); err != nil {
			c.t.Errorf("%s was unlocked, and cannot be locked: %v", there.Name(), err)
		}
	}
	next := locks.NewMutex(left.Name(), redsync.WithTries(1))
	until(c.t, "the lock of a holder that has died is free", func() bool { return next.TryLock() == nil })
	if early := time.Until(left.Until()); early > 0 {
		c.t.Errorf("%s was given to a second holder %v too early", left.Name(), early)
	}
}

// compare looks at the locks that the target has in the end.
func (c *cloakroom) compare(m *migration) {
	late := 50 * time.Millisecond
	if !m.source.Build.Has70() {
		late += time.Second // until redferry had read it
	}
	for _, name := range c.names {
		value := m.target.DoString(c.t, "GET", name)
		asked := time.Now()
		ttl := time.Duration(m.target.DoInt(c.t, "PTTL", name)) * time.Millisecond
		expires := asked.Add(ttl) // at the earliest
		latest, stuck := c.stuck[value]
		switch {
		case value == "" || ttl < 0:
		case c.freed[value]:
			c.t.Errorf("%s is locked by %s, which was told that it is unlocked", name, value)
		case !stuck:
			c.t.Errorf("%s is locked by %s, of whom nobody knows", name, value)
		case expires.After(latest.Add(late)):
			c.t.Errorf("%s: an unlock had no answer, and it expires at %v, %v too late", name, expires, expires.Sub(latest))
		}
	}
}
