package patterns

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"redferry/internal/redistest"
)

// An application publishes. While redferry follows, a subscriber at the target hears each message
// once and in order, also over redferry's death, and after the move what is published at the
// target. A subscriber at the source hears what is published there.
func TestPubSub(t *testing.T) {
	t.Parallel()
	for _, j := range []journey{
		{from: "redis-6.0", to: "redis-8.0"},
		{from: "valkey-9", to: "valkey-9"},
	} {
		t.Run(j.from+" to "+j.to, func(t *testing.T) {
			t.Parallel()
			m := newMigration(t, j.from, j.to)
			p := &press{t: t, site: map[int]*site{}}
			if m.source.Build.Has70() {
				p.sharded = true
			}
			early, there := hear(t, m.source, p.sharded), hear(t, m.target, p.sharded)
			j.work = p.work
			j.before = func() { p.followed = p.number() }
			m.travel(j)
			p.afterwards(m, early, there)
			p.compare(m, early.all(), there.all())
			t.Logf("%d messages, %d of them at the target", len(p.site), m.new.acked.Load())
		})
	}
}

// press is the ledger: which messages were acknowledged where. They are numbered in the order in
// which they are published.
type press struct {
	t       *testing.T
	sharded bool // there is SPUBLISH

	mu       sync.Mutex
	last     int
	followed int           // when redferry had been in sync for long
	site     map[int]*site // of those that were acknowledged
}

func (p *press) number() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *press) work(ctx context.Context, at *site) {
	client := redis.NewClient(&redis.Options{Addr: at.addr, MaxRetries: -1, ReadTimeout: 2 * time.Second})
	defer client.Close()
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		p.last++
		n := p.last
		p.mu.Unlock()
		var err error
		if p.kind(n) == 1 {
			err = client.SPublish(context.Background(), "local", n).Err()
		} else {
			err = client.Publish(context.Background(), "news:paper", n).Err()
		}
		if judge(err) == refused {
			p.t.Errorf("message %d: %v", n, err)
		}
		if err == nil {
			p.mu.Lock()
			p.site[n] = at
			p.mu.Unlock()
			at.acked.Add(1)
		}
	}
}

// afterwards publishes where nothing is forwarded any more.
func (p *press) afterwards(m *migration, early, there *listener) {
	client := redis.NewClient(&redis.Options{Addr: m.source.Addr(), MaxRetries: -1, ReadTimeout: time.Second})
	defer client.Close()
	err := client.Publish(context.Background(), "news:paper", "late").Err()
	if m.source.Build.AtLeast("redis", 6, 2) || m.source.Build.Server == "valkey" {
		if judge(err) != lost { // it waits, see docs/limitations.md, *Cutover*
			p.t.Errorf("PUBLISH at a source that was cut over: %v", err)
		}
	} else if err != nil {
		p.t.Errorf("PUBLISH at a source before 6.2.7 that was cut over: %v", err)
	}
	for kind, publish := range []string{"PUBLISH", "SPUBLISH"}[:1+p.kind(2)] { // what ends each kind
		m.target.Do(p.t, publish, []string{"news:paper", "local"}[kind], "end of "+publish)
		until(p.t, "the subscriber at the target has heard all", func() bool { return there.heard("end of " + publish) })
	}
	if err == nil {
		until(p.t, "the subscriber at the source hears a late message", func() bool { return early.heard("late") })
	} else if early.heard("late") {
		p.t.Error("a message that was never acknowledged was heard at a source that was cut over")
	}
	if there.heard("late") {
		p.t.Error("a message at a source that was cut over was heard at the target")
	}
}

// compare compares what was heard with what was acknowledged, one kind of channel after the other:
// each has a connection of its own, and no order with the other.
func (p *press) compare(m *migration, early, there []string) {
	kinds := []int{0}
	if p.sharded {
		kinds = append(kinds, 1)
	}
	for _, kind := range kinds {
		atSource, atTarget := p.numbers(early, kind), p.numbers(there, kind)
		if len(atTarget) == 0 {
			p.t.Fatal("the subscriber at the target has heard nothing")
		}
		first := atTarget[0]
		if first > p.followed {
			p.t.Errorf("the target heard nothing before %d, and redferry had followed before %d", first, p.followed)
		}
		for _, heard := range [][]int{atSource, atTarget} {
			for i := range heard[1:] {
				if heard[i] >= heard[i+1] {
					p.t.Errorf("heard twice or out of order: %d behind %d", heard[i+1], heard[i])
				}
			}
		}
		for n, at := range p.site {
			if p.kind(n) != kind {
				continue
			}
			if at == m.old && !has(atSource, n) {
				p.t.Errorf("message %d: not heard at the source, where it was acknowledged", n)
			}
			if (at == m.new || n >= first) && !has(atTarget, n) {
				p.t.Errorf("message %d: not heard at the target, whose first one was %d", n, first)
			}
			if at == m.new && has(atSource, n) {
				p.t.Errorf("message %d of the target was heard at the source", n)
			}
		}
	}
}

// kind is 1 for the messages of SPUBLISH.
func (p *press) kind(n int) int {
	if p.sharded && n%2 == 0 {
		return 1
	}
	return 0
}

func has(sorted []int, n int) bool {
	_, found := slices.BinarySearch(sorted, n)
	return found
}

// numbers are the messages of a kind among what was heard.
func (p *press) numbers(texts []string, kind int) []int {
	var all []int
	for _, text := range texts {
		if n, err := strconv.Atoi(text); err == nil && p.kind(n) == kind {
			all = append(all, n)
		}
	}
	return all
}

// listener is a subscriber, and what it has heard.
type listener struct {
	mu    sync.Mutex
	texts []string
}

// hear subscribes, to ordinary channels with a pattern.
func hear(t *testing.T, s *redistest.Server, sharded bool) *listener {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.Addr()})
	subs := []*redis.PubSub{client.PSubscribe(context.Background(), "news:*")}
	if sharded {
		subs = append(subs, client.SSubscribe(context.Background(), "local"))
	}
	l := &listener{}
	var all sync.WaitGroup
	for _, sub := range subs {
		if _, err := sub.Receive(context.Background()); err != nil { // that it is subscribed
			t.Fatal(err)
		}
		all.Go(func() {
			for {
				msg, err := sub.ReceiveMessage(context.Background())
				if err != nil {
					return
				}
				l.mu.Lock()
				l.texts = append(l.texts, msg.Payload)
				l.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() {
		for _, sub := range subs {
			_ = sub.Close()
		}
		all.Wait()
		_ = client.Close()
	})
	return l
}

func (l *listener) heard(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.texts, text)
}

func (l *listener) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.texts)
}

// With --no-publish a subscriber at the target hears nothing of the source.
func TestNoPublish(t *testing.T) {
	t.Parallel()
	m := newMigration(t, "redis-8.0", "redis-8.0")
	there := hear(t, m.target, true)
	m.start("--no-publish")
	m.inSync()
	m.source.Do(t, "PUBLISH", "news:paper", "1")
	m.source.Do(t, "SPUBLISH", "local", "2")
	m.source.Do(t, "SET", "behind", "x")
	until(t, "the target has what came behind", func() bool { return m.target.DoString(t, "GET", "behind") == "x" })
	m.target.Do(t, "PUBLISH", "news:paper", "3")
	m.target.Do(t, "SPUBLISH", "local", "4")
	until(t, "the subscriber hears the target", func() bool { return there.heard("3") && there.heard("4") })
	if all := there.all(); len(all) != 2 {
		t.Error(fmt.Sprint("heard ", strings.Join(all, ", ")))
	}
	m.cutOver(nil)
	m.over()
}
