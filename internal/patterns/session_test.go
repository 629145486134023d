package patterns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// An application keeps sessions: a hash whose TTL slides with each request, and a token that SETEX
// writes. Wherever it looks, each session that it was told to be stored is there, with its last
// value. Afterwards the target has each TTL as it was set, within 50 ms and the time that the
// command was on its way.
func TestSession(t *testing.T) {
	t.Parallel()
	for _, j := range []journey{
		{from: "redis-6.0", to: "valkey-9"},
		{from: "redis-8.0", to: "redis-8.0"},
		{from: "valkey-9", to: "valkey-9", kill: true},
	} {
		t.Run(j.from+" to "+j.to, func(t *testing.T) {
			t.Parallel()
			m := newMigration(t, j.from, j.to)
			b := newBook(t)
			m.source.Do(t, "HSET", "session:idle", "version", "1")
			from := time.Now()
			m.source.Do(t, "PEXPIRE", "session:idle", "600000")
			idle := &session{key: "session:idle"}
			idle.stored = stored{1, from.Add(10 * time.Minute), time.Now().Add(10 * time.Minute)}
			j.work = b.work
			if !m.source.Build.Has70() {
				j.before = func() { b.renewed(m) }
			}
			m.travel(j)
			client := redis.NewClient(&redis.Options{Addr: m.target.Addr()})
			defer client.Close()
			late := 50 * time.Millisecond
			there := 0
			for _, s := range append(b.sessions, idle) {
				if !m.source.Build.Has70() {
					late = 50*time.Millisecond + m.delayed(s)
				}
				if s.compare(t, client, late) {
					there++
				}
			}
			if there < len(b.sessions)/2 {
				t.Errorf("only %d of %d sessions can be compared", there, len(b.sessions))
			}
			t.Logf("%d sessions, %d of them there; %d requests, %d of them at the target",
				len(b.sessions)+1, there, m.old.acked.Load()+m.new.acked.Load(), m.new.acked.Load())
		})
	}
}

// renewed waits until each session was set while redferry follows. What a source before 7.0 was told while
// redferry was dead lives longer in the target by that time, and a cutover refuses where this is more than a
// second and the reply to a write of the key was lost.
func (b *book) renewed(m *migration) {
	b.t.Helper()
	synced := m.away[len(m.away)-1].to
	until(b.t, "each session is renewed", func() bool {
		for _, s := range b.sessions {
			s.mu.Lock()
			set := s.set
			s.mu.Unlock()
			if set.Before(synced) {
				return false
			}
		}
		return true
	})
}

// delayed is how much too late a key of a source before 7.0 may expire. It sends TTLs that count
// from when redferry receives them: see docs/limitations.md, *Expiry*.
func (m *migration) delayed(s *session) time.Duration {
	if s.at == m.new {
		return 0
	}
	for _, w := range m.away {
		if s.set.After(w.from) && s.set.Before(w.to) {
			return w.to.Sub(w.from)
		}
	}
	return time.Second // redferry has to read it: at once on a quiet machine
}

// session is what the application was told of one. The lock is held during a request, as an
// application serves one at a time.
type session struct {
	key string
	ttl time.Duration

	mu       sync.Mutex
	versions int64 // of which some may not have been stored
	stored
	maybe []stored  // later ones, whose reply was lost
	set   time.Time // when the TTL was last set, and where
	at    *site
}

// stored is a version, and the time around which it expires.
type stored struct {
	version    int64
	from, till time.Time
}

type book struct {
	t        *testing.T
	sessions []*session
}

// newBook opens a ledger of 90 sessions: some expire unless they are renewed within the test, most
// do not.
func newBook(t *testing.T) *book {
	b := &book{t: t}
	for i := range 90 {
		ttl := []time.Duration{1500 * time.Millisecond, 40 * time.Second, 30 * time.Minute}[i%3]
		kind := []string{"session", "token"}[i%2]
		b.sessions = append(b.sessions, &session{key: fmt.Sprint(kind, ":", i), ttl: ttl})
	}
	return b
}

// work serves requests. The application's client tries again by itself, as go-redis does by
// default: to store a session twice does no harm.
func (b *book) work(ctx context.Context, at *site) {
	client := redis.NewClient(&redis.Options{Addr: at.addr, ReadTimeout: time.Second})
	defer client.Close()
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for ctx.Err() == nil {
				s := b.sessions[rand.IntN(len(b.sessions))]
				if s.mu.TryLock() { // else another request of the session is under way, perhaps at the other server
					s.request(b.t, client, at)
					s.mu.Unlock()
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
}

// request looks a session up and stores a new version of it.
func (s *session) request(t *testing.T, client *redis.Client, at *site) {
	ctx := context.Background()
	if got, err := s.read(client); err == nil {
		s.judge(t, got, time.Now())
		at.acked.Add(1)
	}
	s.versions++
	version := strconv.FormatInt(s.versions, 10)
	from := time.Now()
	var err error
	slides := true
	switch {
	case s.key[0] == 't':
		err = client.Do(ctx, "SETEX", s.key, int(s.ttl/time.Second), version).Err() // go-redis advises against its own SetEx
	case s.version > 0 && s.ttl > time.Minute && s.versions%2 == 0: // without a new TTL
		err = client.HSet(ctx, s.key, "version", version).Err()
		slides = false
	default:
		_, err = client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, s.key, "version", version, "user", "u"+s.key)
			p.PExpire(ctx, s.key, s.ttl)
			return nil
		})
	}
	if unexpected(err) {
		t.Errorf("%s: %v", s.key, err)
	}
	ttl := s.ttl
	if s.key[0] == 't' {
		ttl = ttl.Truncate(time.Second)
	}
	now := stored{s.versions, from.Add(ttl), time.Now().Add(ttl)}
	if !slides {
		now.from, now.till = s.from, s.till
	}
	switch judge(err) {
	case acknowledged:
		s.stored, s.maybe = now, nil
		if slides {
			s.set, s.at = from, at
		}
		at.acked.Add(1)
	case lost:
		s.maybe = append(s.maybe, now)
	}
}

// read gives the version that a server has, 0 for none.
func (s *session) read(client *redis.Client) (int64, error) {
	var got string
	var err error
	if s.key[0] == 't' {
		got, err = client.Get(context.Background(), s.key).Result()
	} else {
		got, err = client.HGet(context.Background(), s.key, "version").Result()
	}
	if err == redis.Nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(got, 10, 64)
}

// judge compares a version that was read at a time with what is known. It returns what is known
// about it.
func (s *session) judge(t *testing.T, got int64, now time.Time) stored {
	for _, m := range append(s.maybe, s.stored) {
		if got == m.version {
			return m
		}
	}
	switch {
	case got != 0:
		t.Errorf("%s: version %d, and %d was acknowledged (%d replies lost)", s.key, got, s.version, len(s.maybe))
	case now.Before(s.from.Add(-50 * time.Millisecond)):
		t.Errorf("%s: version %d is gone, %v too early", s.key, s.version, s.from.Sub(now))
	}
	return stored{}
}

// compare looks at a session in a target that has all TTLs. It reports whether the session was
// there.
func (s *session) compare(t *testing.T, client *redis.Client, late time.Duration) bool {
	t.Helper()
	got, err := s.read(client)
	if err != nil {
		t.Fatal(err)
	}
	known := s.judge(t, got, time.Now())
	from := time.Now()
	ttl, err := client.PTTL(context.Background(), s.key).Result()
	if err != nil {
		t.Fatal(err)
	}
	if got == 0 || ttl == -2 { // go-redis gives PTTL's negative replies as they are
		return false
	}
	earliest, latest := from.Add(ttl), time.Now().Add(ttl+time.Millisecond)
	if latest.Before(known.from.Add(-50*time.Millisecond)) || earliest.After(known.till.Add(late)) {
		t.Errorf("%s: expires between %v and %v, and was to between %v and %v",
			s.key, earliest, latest, known.from, known.till)
	}
	return true
}
