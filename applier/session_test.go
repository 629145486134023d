package applier

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// claimed is an Applier that owns a migration on a real server, reached through a proxy.
type claimed struct {
	*Applier
	server *redistest.Server
	proxy  *redistest.CommandProxy
}

func claim(t *testing.T) claimed {
	t.Helper()
	c := claimed{server: redistest.Start(t, redistest.Latest(t))}
	c.proxy = redistest.NewCommandProxy(t, c.server.Addr())
	c.Applier = New(Config{
		Name: "test", Target: replica.Endpoint{Network: "tcp", Addr: c.proxy.Addr()}, Home: openHome(t, t.TempDir(), "test"),
		Status: &replica.Status{}, Log: zerolog.Nop(),
	})
	t.Cleanup(c.Close)
	if err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// onSession calls f for each command of sessions, by name; the lease is renewed and the connections opened in between.
func (c claimed) onSession(f func(name string, args [][]byte) redistest.Answer) {
	inside := map[int]bool{} // connections with an open transaction under the owner's guard
	var mu sync.Mutex
	c.proxy.Handle(func(conn int, args [][]byte) redistest.Answer {
		mu.Lock()
		defer mu.Unlock()
		name := strings.ToUpper(string(args[0]))
		if name == "EVAL" && string(args[1]) == fenceGuard {
			inside[conn] = true
		}
		if !inside[conn] {
			return redistest.Forward()
		}
		if name == "EXEC" {
			delete(inside, conn)
		}
		return f(name, args)
	})
}

// set queues one write.
func set(key, value string) func(p *pipeline) {
	return func(p *pipeline) { p.queue(0, p.b.Set().Key(key).Value(value).Build(), 0) }
}

// A transaction that may be repeated is sent until it is in: the answer tells nothing but that.
func TestSessionRetries(t *testing.T) {
	tests := []struct {
		name    string
		times   int // how many transactions are hurt
		at      string
		answer  redistest.Answer
		waits   string // what the status says meanwhile; "" when nobody has to wait
		appends string // how often an APPEND took effect, as x's
	}{
		{name: "at once", appends: "x"},
		{name: "EXEC refused", times: 2, at: "EXEC", answer: redistest.Reply("-EXECABORT Transaction discarded because of: LOADING"), waits: "EXECABORT", appends: "x"},
		{name: "the link breaks before EXEC", times: 2, at: "EXEC", answer: redistest.CutBeforeCommand(), waits: "the connection broke", appends: "x"},
		{name: "the link breaks in the middle", times: 3, at: "APPEND", answer: redistest.CutBeforeCommand(), waits: "the connection broke", appends: "x"},
		{name: "the reply is lost: sent again, as it may be", times: 1, at: "EXEC", answer: redistest.LoseReply(), waits: "the connection broke", appends: "xx"},
		{name: "the fence is closed for a moment", times: 2, at: "EXEC", answer: redistest.Reply("*-1"), appends: "x"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := claim(t)
			hurt := 0
			c.onSession(func(name string, _ [][]byte) redistest.Answer {
				if name != test.at || hurt == test.times {
					return redistest.Forward()
				}
				hurt++
				return test.answer
			})
			var states []string
			c.Status.Observe = func(s replica.State, why string) { states = append(states, string(s)+": "+why) }
			c.Status.Set(replica.Loading, "as before")

			s := session{a: c.Applier}
			defer s.close()
			v, err := s.run(t.Context(), func(p *pipeline) { p.queue(0, p.b.Append().Key("k").Value("x").Build(), 0) })
			if err != nil || !v.committed || v.unguarded || len(v.failed) > 0 {
				t.Fatalf("got %+v, %v; want it committed", v, err)
			}
			if got := c.server.DoString(t, "GET", "k"); got != test.appends {
				t.Errorf("the target has %q, want %q", got, test.appends)
			}
			if hurt != test.times {
				t.Errorf("%d transactions were hurt, want %d", hurt, test.times)
			}
			waited := strings.Contains(strings.Join(states, "\n"), string(replica.Waiting)+": target "+c.Target.String()+": "+test.waits)
			if waited != (test.waits != "") {
				t.Errorf("states %q; want waiting for %q", states, test.waits)
			}
			if state, why, _ := c.Status.Now(); state != replica.Loading || why != "as before" {
				t.Errorf("then it is %s (%s), want the state before", state, why)
			}
		})
	}
}

// A round trip that takes too long is waited for like an outage, but the state names the flag: on a slow line a large value takes too long each time.
func TestSessionNamesTheTimeout(t *testing.T) {
	c := claim(t)
	c.Timeout = time.Second
	if err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	var why string
	c.Status.Observe = func(s replica.State, text string) {
		if s == replica.Waiting {
			why = text
			close(waiting)
		}
	}
	var once sync.Once
	c.onSession(func(name string, _ [][]byte) redistest.Answer {
		if name != "EXEC" {
			return redistest.Forward()
		}
		answer := redistest.Forward()
		once.Do(func() {
			<-waiting
			answer = redistest.CutBeforeCommand()
		})
		return answer
	})
	s := session{a: c.Applier}
	defer s.close()
	if _, err := s.run(t.Context(), set("k", "v")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(why, "--target-timeout") {
		t.Errorf("it waits because of %q", why)
	}
}

// A full target is waited for.
func TestSessionWaitsForMemory(t *testing.T) {
	c := claim(t)
	s := session{a: c.Applier}
	defer s.close()
	c.server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	waiting := make(chan struct{})
	c.Status.Observe = func(s replica.State, why string) {
		if s == replica.Waiting && strings.Contains(why, "OOM") {
			close(waiting)
			c.Status.Observe = nil
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.run(t.Context(), set("k", "v"))
		done <- err
	}()
	select {
	case <-waiting:
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	}
	c.server.Do(t, "CONFIG", "SET", "maxmemory", "0")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := c.server.DoString(t, "GET", "k"); got != "v" {
		t.Errorf("the target has %q", got)
	}
}

// What stays is told at once, with the commands at fault.
func TestSessionVerdicts(t *testing.T) {
	tests := []struct {
		name string
		fill func(p *pipeline)
		want verdictText
	}{
		{"refused for good", func(p *pipeline) {
			set("a", "1")(p)
			p.queue(0, p.b.Arbitrary("NO.SUCH", "k").Build(), 5)
		}, verdictText{Failed: []string{"5: unknown command"}, Err: "EXECABORT"}},
		{"failed", func(p *pipeline) {
			set("a", "1")(p)
			p.queue(3, p.b.Lpush().Key("a").Element("x").Build(), 5)
			p.queue(0, p.b.Lpush().Key("a").Element("x").Build(), 6)
		}, verdictText{Committed: true, Failed: []string{"6: WRONGTYPE"}}},
		{"nothing to do", func(*pipeline) {}, verdictText{Committed: true}},
	}
	c := claim(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := session{a: c.Applier}
			defer s.close()
			v, err := s.run(t.Context(), test.fill)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, shortened(textOf(v), test.want)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What ends a session, whatever it was waiting for.
func TestSessionEnds(t *testing.T) {
	owner := checkpoint.OwnerKey("test")
	refuse := func(c claimed) {
		c.onSession(func(name string, _ [][]byte) redistest.Answer {
			if name == "EXEC" {
				return redistest.Reply("-EXECABORT Transaction discarded because of: OOM")
			}
			return redistest.Forward()
		})
	}
	// later runs f when the session waits for the first time.
	later := func(c claimed, f func()) {
		c.Status.Observe = func(s replica.State, _ string) {
			if s == replica.Waiting {
				f()
			}
		}
	}
	tests := []struct {
		name  string
		hurt  func(t *testing.T, c claimed, cancel context.CancelFunc)
		check func(t *testing.T, c claimed, err error)
	}{
		{"the end of the run", func(_ *testing.T, c claimed, cancel context.CancelFunc) {
			refuse(c)
			later(c, cancel)
		}, func(t *testing.T, _ claimed, err error) {
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "OOM") || replica.AsStop(err) != nil {
				t.Errorf("got %v, want the context's error with the cause", err)
			}
		}},
		{"the lease is lost meanwhile", func(_ *testing.T, c claimed, _ context.CancelFunc) {
			refuse(c)
			later(c, func() { c.owner.loose(c.owner.fenced()) })
		}, func(t *testing.T, _ claimed, err error) {
			wantStopOf(t, err, replica.Fenced, `taken over migration "test"`)
		}},
		{"another process has a newer epoch", func(t *testing.T, c claimed, _ context.CancelFunc) {
			c.server.Do(t, "HINCRBY", owner, "epoch", "1")
			c.server.Do(t, "HSET", owner, "place", "elsewhere")
		}, func(t *testing.T, _ claimed, err error) {
			wantStopOf(t, err, replica.Fenced, `taken over migration "test"`)
		}},
		{"the target forgot the claim", func(t *testing.T, c claimed, _ context.CancelFunc) {
			c.server.Do(t, "DEL", owner)
		}, func(t *testing.T, _ claimed, err error) {
			if !errors.Is(err, errLost) {
				t.Errorf("got %v, want %v", err, errLost)
			}
		}},
		{"the target went back to an older claim", func(t *testing.T, c claimed, _ context.CancelFunc) {
			c.server.Do(t, "HINCRBY", owner, "epoch", "-1")
		}, func(t *testing.T, _ claimed, err error) {
			if !errors.Is(err, errLost) {
				t.Errorf("got %v, want %v", err, errLost)
			}
		}},
		{"taken over in the middle of a transaction", func(t *testing.T, c claimed, _ context.CancelFunc) {
			c.onSession(func(name string, _ [][]byte) redistest.Answer {
				if name == "SET" { // what a claim does, but for ending our connections: the fence has to hold alone
					c.server.Do(t, "HINCRBY", owner, "epoch", "1")
					c.server.Do(t, "HSET", owner, "place", "elsewhere")
					c.server.Do(t, "SET", checkpoint.FenceKey("test"), "new:0")
				}
				return redistest.Forward()
			})
		}, func(t *testing.T, c claimed, err error) {
			wantStopOf(t, err, replica.Fenced, `taken over migration "test"`)
		}},
		{"what redferry needs is refused", func(t *testing.T, c claimed, _ context.CancelFunc) {
			c.server.Do(t, "ACL", "SETUSER", "default", "-hset")
		}, func(t *testing.T, _ claimed, err error) {
			wantStopOf(t, err, replica.Config, "refuses what redferry needs", "NOPERM")
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := claim(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			test.hurt(t, c, cancel)
			s := session{a: c.Applier}
			defer s.close()
			began := time.Now()
			v, err := s.run(ctx, func(p *pipeline) {
				set("k", "v")(p)
				p.hset(checkpoint.Key("test"), []string{"field", "value"})
			})
			if err == nil || v.committed {
				t.Fatalf("got %+v, %v; want an error", v, err)
			}
			test.check(t, c, err)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if n := c.server.DoInt(t, "EXISTS", "k", checkpoint.Key("test")); n != 0 {
				t.Errorf("%d of its keys were written", n)
			}
		})
	}
}
