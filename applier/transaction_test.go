package applier

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// dedicate opens one connection to a server.
func dedicate(t *testing.T, addr string) rueidis.DedicatedClient {
	t.Helper()
	client, err := rueidis.NewClient(replica.Endpoint{Network: "tcp", Addr: addr}.ClientOption())
	if err != nil {
		t.Fatal(err)
	}
	c, release := client.Dedicate()
	t.Cleanup(func() {
		c.Close()
		release()
		client.Close()
	})
	return c
}

// answering is a server that answers with these replies, in order, and then hangs up.
func answering(t *testing.T, replies ...string) rueidis.DedicatedClient {
	t.Helper()
	script := redistest.StartScript(t, func(p *redistest.Peer) {
		for next := 0; ; {
			if name := p.Receive()[0]; name == "HELLO" || name == "CLIENT" { // the client introduces itself
				p.Send("+OK\r\n")
				continue
			}
			if next == len(replies) {
				return
			}
			p.Send(replies[next] + "\r\n")
			next++
		}
	})
	return dedicate(t, script.Addr())
}

// exchange is the replies to a transaction: SET in database 0 (its sender's mark is 7), INCR in database 3 (8), and the checkpoint's HSET.
type exchange struct {
	selected, watch, guard, multi string
	queued                        [5]string // SET, SELECT 3, INCR, SELECT 0, HSET
	exec                          string
}

func usual() exchange {
	q := "+QUEUED"
	return exchange{"+OK", "+OK", ":1", "+OK", [5]string{q, q, q, q, q}, "*5\r\n+OK\r\n+OK\r\n:1\r\n+OK\r\n:0"}
}

func (e exchange) replies() []string {
	return append(append([]string{e.selected, e.watch, e.guard, e.multi}, e.queued[:]...), e.exec)
}

func (e exchange) pipeline(b rueidis.Builder) *pipeline {
	p := &pipeline{b: b}
	p.begin("ck", streamGuard, "1", "100")
	p.queue(0, b.Set().Key("a").Value("1").Build(), 7)
	p.queue(3, b.Incr().Key("n").Build(), 8)
	p.hset("ck", []string{"offset", "200"})
	p.end(1)
	return p
}

// verdictText is a verdict in a form that compares.
type verdictText struct {
	Committed, Unguarded bool
	Failed               []string // mark: reply
	Err                  string   // begins with
}

func textOf(v verdict) verdictText {
	t := verdictText{Committed: v.committed, Unguarded: v.unguarded}
	for _, f := range v.failed {
		t.Failed = append(t.Failed, fmt.Sprintf("%d: %v", f.ref, f.err))
	}
	if v.err != nil {
		t.Err = v.err.Error()
	}
	return t
}

// Every reply to a transaction has its say. What real servers answer is below; here is also what they never should.
func TestJudge(t *testing.T) {
	const (
		oom     = "-OOM command not allowed when used memory > 'maxmemory'."
		unknown = "-ERR unknown command 'SET'"
		noperm  = "-NOPERM this user has no permissions to run the 'hset' command"
		abort   = "-EXECABORT Transaction discarded because of previous errors."
		late    = "-EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'."
	)
	refused := func(reply string) func(*exchange) {
		return func(e *exchange) {
			*e = exchange{reply, reply, reply, reply, [5]string{reply, reply, reply, reply, reply}, reply}
		}
	}
	executed := func(replies ...string) string {
		return fmt.Sprintf("*%d\r\n%s", len(replies), strings.Join(replies, "\r\n"))
	}
	tests := []struct {
		name   string
		change func(e *exchange)
		want   verdictText
		is     error
	}{
		{"all is well", func(*exchange) {}, verdictText{Committed: true}, nil},
		{"a nil reply to a write is no failure", func(e *exchange) { e.exec = executed("$-1", "+OK", ":1", "+OK", ":0") }, verdictText{Committed: true}, nil},
		{"the fence is closed", func(e *exchange) { e.guard, e.exec = ":0", "*-1" }, verdictText{Err: errStale.Error()}, errStale},
		{"somebody touched the key after the guard", func(e *exchange) { e.exec = "*-1" }, verdictText{Err: errStale.Error()}, errStale},
		{"the guard was refused, and the fence closed all the same", func(e *exchange) { e.guard, e.exec = oom, "*-1" }, verdictText{Err: errStale.Error()}, errStale},

		{"committed against the guard", func(e *exchange) { e.guard = ":0" }, verdictText{Committed: true, Unguarded: true}, nil},
		{"committed with a refused guard", func(e *exchange) { e.guard = oom }, verdictText{Committed: true, Unguarded: true}, nil},
		{"committed with a guard that says something else", func(e *exchange) { e.guard = "+OK" }, verdictText{Committed: true, Unguarded: true}, nil},
		{"committed without a WATCH", func(e *exchange) { e.watch = oom }, verdictText{Committed: true, Unguarded: true}, nil},
		{"committed with replies missing", func(e *exchange) { e.exec = executed("+OK", "+OK", ":1", "+OK") }, verdictText{Committed: true, Unguarded: true}, nil},

		{"a write failed", func(e *exchange) { e.exec = executed("+OK", "+OK", "-WRONGTYPE no", "+OK", ":0") }, verdictText{Committed: true, Failed: []string{"8: WRONGTYPE no"}}, nil},
		{"two failed", func(e *exchange) { e.exec = executed("-ERR a", "+OK", "-ERR b", "+OK", ":0") }, verdictText{Committed: true, Failed: []string{"7: a", "8: b"}}, nil},
		{
			"the checkpoint's own write failed",
			func(e *exchange) { e.exec = executed("+OK", "+OK", ":1", "+OK", "-WRONGTYPE no") },
			verdictText{Committed: true, Unguarded: true, Failed: []string{"-1: WRONGTYPE no"}},
			nil,
		},
		{
			"a SELECT failed: what follows fell into another database",
			func(e *exchange) { e.exec = executed("+OK", "-ERR DB index is out of range", ":1", "+OK", ":0") },
			verdictText{Committed: true, Unguarded: true, Failed: []string{"-2: DB index is out of range"}},
			nil,
		},

		{"a command that is not known", func(e *exchange) { e.queued[0], e.exec = unknown, abort }, verdictText{Failed: []string{"7: unknown command 'SET'"}, Err: "EXECABORT"}, nil},
		{
			"two that are refused for good",
			func(e *exchange) { e.queued[0], e.queued[2], e.exec = unknown, noperm, abort },
			verdictText{Failed: []string{"7: unknown command 'SET'", "8: " + noperm[1:]}, Err: "EXECABORT"},
			nil,
		},
		{"not now", func(e *exchange) { e.queued[0], e.exec = oom, abort }, verdictText{Err: "OOM"}, nil},
		{"one for good, another not now: the second decides", func(e *exchange) { e.queued[0], e.queued[2], e.exec = unknown, oom, abort }, verdictText{Err: "OOM"}, nil},
		{"redferry's own write is refused for good", func(e *exchange) { e.queued[4], e.exec = noperm, abort }, verdictText{Err: errOwnRefused.Error() + ": NOPERM"}, errOwnRefused},
		{"redferry's own write is refused for now", func(e *exchange) { e.queued[4], e.exec = oom, abort }, verdictText{Err: "OOM"}, nil},
		{"EXEC itself is refused", func(e *exchange) { e.exec = late }, verdictText{Err: late[1:]}, nil},

		{"everything is refused", refused("-LOADING Redis is loading the dataset in memory"), verdictText{Err: "LOADING"}, nil},
		{"MULTI is refused, and its commands ran alone", func(e *exchange) {
			e.multi, e.queued[0], e.exec = "-BUSY script", "+OK", "-ERR EXEC without MULTI"
		}, verdictText{Unguarded: true, Err: "BUSY script"}, nil},
		{"MULTI is refused, and its last command ran alone", func(e *exchange) {
			e.multi, e.queued, e.exec = oom, [5]string{oom, oom, oom, oom, ":0"}, "-ERR EXEC without MULTI"
		}, verdictText{Unguarded: true, Err: "OOM"}, nil},
		{"the first SELECT is refused, the rest is well", func(e *exchange) { e.selected = oom }, verdictText{Committed: true}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := usual()
			test.change(&e)
			c := answering(t, e.replies()...)
			p := e.pipeline(c.B())
			v := p.txns[0].judge(c.DoMulti(t.Context(), p.cmds...))
			got := textOf(v)
			if strings.HasPrefix(got.Err, test.want.Err) && test.want.Err != "" {
				got.Err = test.want.Err
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if test.is != nil && !errors.Is(v.err, test.is) {
				t.Errorf("the error is %v, want %v", v.err, test.is)
			}
		})
	}
}

// A connection that ends before the last reply leaves everything open, whatever was read before.
func TestJudgeBroken(t *testing.T) {
	all := usual().replies()
	for n := range all {
		t.Run(strconv.Itoa(n)+" replies", func(t *testing.T) {
			c := answering(t, all[:n]...)
			p := usual().pipeline(c.B())
			v := p.txns[0].judge(c.DoMulti(t.Context(), p.cmds...))
			if !errors.Is(v.err, errBroken) || v.committed || v.unguarded || len(v.failed) > 0 {
				t.Errorf("got %+v, want %v alone", v, errBroken)
			}
		})
	}
}

// Whether a refusal passes decides between waiting and stopping.
func TestPassing(t *testing.T) {
	tests := []struct {
		reply string
		want  bool
	}{
		{"OOM command not allowed when used memory > 'maxmemory'.", true},
		{"READONLY You can't write against a read only replica.", true},
		{"LOADING Redis is loading the dataset in memory", true},
		{"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", true},
		{"NOREPLICAS Not enough good replicas to write.", true},
		{"BUSY Redis is busy running a script.", true},
		{"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true},
		{"CLUSTERDOWN The cluster is down", true},
		{"TRYAGAIN Multiple keys request during rehashing of slot", true},
		{"UNKILLABLE Sorry the script already executed write commands", true},
		{"NOAUTH Authentication required.", true},
		{"BUSYGROUP Consumer Group name already exists", false},
		{"BUSYKEY Target key name already exists.", false},
		{"ERR unknown command 'x'", false},
		{"ERR DB index is out of range", false},
		{"NOPERM this user has no permissions to run the 'set' command", false},
		{"WRONGTYPE Operation against a key holding the wrong kind of value", false},
		{"NOGROUP No such consumer group", false},
		{"EXECABORT Transaction discarded because of previous errors.", false},
		{"MOVED 5 127.0.0.1:7000", false},
	}
	var replies []string
	for _, test := range tests {
		replies = append(replies, "-"+test.reply)
	}
	c := answering(t, replies...)
	for _, test := range tests {
		err := c.Do(t.Context(), c.B().Ping().Build()).Error()
		if err == nil {
			t.Fatal("an error reply is no error")
		}
		if got := passing(fmt.Errorf("wrapped: %w", err)); got {
			t.Errorf("%s: a wrapped one passes; the caller looks at replies alone", test.reply)
		}
		if got := passing(err); got != test.want {
			t.Errorf("%s: got %v, want %v", test.reply, got, test.want)
		}
	}
	if passing(errBroken) {
		t.Error("a broken connection is no refusal")
	}
}

// What real servers answer to a fenced transaction, and what they have done then.
func TestJudgeRealServers(t *testing.T) {
	tests := []struct {
		name   string
		before []string   // admin commands
		queue  [][]string // of the transaction, in database 0
		offset string     // that the guard expects; the checkpoint is at 100
		want   verdictText
		is     error
	}{
		{"committed", nil, [][]string{{"SET", "a", "1"}, {"GET", "nothing"}}, "100", verdictText{Committed: true}, nil},
		{"another offset", nil, [][]string{{"SET", "a", "1"}}, "99", verdictText{Err: errStale.Error()}, errStale},
		{"no checkpoint", []string{"DEL ck"}, [][]string{{"SET", "a", "1"}}, "100", verdictText{Err: errStale.Error()}, errStale},
		{"another type in its place", []string{"DEL ck", "SET ck x"}, [][]string{{"SET", "a", "1"}}, "100", verdictText{
			Committed: true, Unguarded: true, Failed: []string{"-1: WRONGTYPE Operation against a key holding the wrong kind of value"},
		}, nil},
		{"a wrong type", []string{"RPUSH l x"}, [][]string{{"INCR", "l"}, {"SET", "a", "1"}}, "100", verdictText{
			Committed: true, Failed: []string{"0: WRONGTYPE Operation against a key holding the wrong kind of value"},
		}, nil},
		{"an unknown command", nil, [][]string{{"SET", "a", "1"}, {"CF.ADD", "a", "b"}}, "100", verdictText{Failed: []string{"1: unknown command"}, Err: "EXECABORT"}, nil},
		{"a full target", []string{"CONFIG SET maxmemory 1"}, [][]string{{"SET", "a", "1"}}, "100", verdictText{Err: "OOM"}, nil},
		{"a full target and a closed fence", []string{"CONFIG SET maxmemory 1"}, [][]string{{"SET", "a", "1"}}, "99", verdictText{Err: "OOM"}, nil},
		{"too few replicas", []string{"CONFIG SET min-replicas-to-write 1"}, [][]string{{"SET", "a", "1"}}, "100", verdictText{Err: "NOREPLICAS"}, nil},
		{"a replica", []string{"REPLICAOF 127.0.0.1 1"}, [][]string{{"SET", "a", "1"}}, "100", verdictText{Err: "READONLY"}, nil},
		{"a command that is not permitted", []string{"ACL SETUSER default -append"}, [][]string{{"SET", "a", "1"}, {"APPEND", "a", "2"}}, "100", verdictText{
			Failed: []string{"1: NOPERM"}, Err: "EXECABORT",
		}, nil},
		{"the checkpoint's write is not permitted", []string{"ACL SETUSER default -hset"}, [][]string{{"SET", "a", "1"}}, "100", verdictText{Err: errOwnRefused.Error()}, errOwnRefused},
	}
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					s := redistest.Start(t, b)
					s.Do(t, "HSET", "ck", checkpoint.FieldEpoch, "1", checkpoint.FieldOffset, "100")
					for _, command := range test.before {
						s.Do(t, strings.Fields(command)...)
					}
					c := dedicate(t, s.Addr())
					p := &pipeline{b: c.B()}
					offset := test.offset
					for range 2 { // the second one rests on the first, as in a long pipeline: it must not commit alone
						p.begin("ck", streamGuard, "1", offset)
						for ref, args := range test.queue {
							p.queue(0, p.b.Arbitrary(args...).Build(), ref)
						}
						p.hset("ck", []string{"offset", "200"})
						p.end(1)
						offset = "200"
					}
					results := c.DoMulti(t.Context(), p.cmds...)
					got := p.txns[0].judge(results)
					if diff := cmp.Diff(test.want, shortened(textOf(got), test.want)); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
					if test.is != nil && !errors.Is(got.err, test.is) {
						t.Errorf("the error is %v, want %v", got.err, test.is)
					}
					if second := p.txns[1].judge(results); second.committed != got.committed {
						t.Errorf("the second transaction: %+v, behind %+v", second, got)
					}
					if done := s.DoInt(t, "EXISTS", "a") == 1; done != got.committed {
						t.Errorf("the write is there: %v; committed: %v", done, got.committed)
					}
				})
			}
		})
	}
}

// shortened cuts errors to the length of those that are wanted: servers differ in the rest.
func shortened(got, want verdictText) verdictText {
	if want.Err != "" && strings.HasPrefix(got.Err, want.Err) {
		got.Err = want.Err
	}
	for i, w := range want.Failed {
		if i < len(got.Failed) && strings.HasPrefix(got.Failed[i], w) {
			got.Failed[i] = w
		}
	}
	return got
}
