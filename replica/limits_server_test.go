package replica

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// slowRDB starts a source whose RDB takes four seconds or so: long enough for what waits meanwhile, also where the writer hardly comes to write.
func slowRDB(t *testing.T, b redistest.Build, diskless string, config ...string) *redistest.Server {
	t.Helper()
	s := redistest.Start(t, b, redistest.Config(append([]string{"repl-diskless-sync " + diskless, "rdb-key-save-delay 14000"}, config...)...))
	cmds := make([][]string, 300)
	for i := range cmds {
		cmds[i] = []string{"SET", "key" + string(rune('a'+i%26)) + string(rune('a'+i/26)), "v"}
	}
	if _, err := s.Pipeline(cmds...); err != nil {
		t.Fatal(err)
	}
	return s
}

// writes writes about 8 MB a second to s until the function that it returns is called.
func writes(t *testing.T, s *redistest.Server) (stop func()) {
	t.Helper()
	client, err := s.Client(0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	value := strings.Repeat("v", 160_000)
	wg.Go(func() {
		defer client.Close()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if err := client.Do(t.Context(), client.B().Set().Key("load").Value(value).Build()).Error(); err != nil && t.Context().Err() == nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { close(done); wg.Wait() }) }
	t.Cleanup(stop)
	return stop
}

// sideConnection is the side connection to s.
func sideConnection(t *testing.T, s *redistest.Server) *source {
	t.Helper()
	src, err := dialSource(endpoint(t, s.URL(), TLSFiles{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.close)
	return src
}

// limitOf is what s has as its limit for replicas.
func limitOf(t *testing.T, s *redistest.Server) string {
	t.Helper()
	l, err := parseBufferLimit(s.DoStrings(t, "CONFIG", "GET", bufferLimitName)[1])
	if err != nil {
		t.Fatal(err)
	}
	return l.String()
}

// infoOf is the source's INFO; empty where it is not permitted.
func infoOf(t *testing.T, src *source) map[string]string {
	t.Helper()
	info, err := src.info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// loaded takes a full resync, with the facts that are known before it, and tells how it ended.
func loaded(t *testing.T, s *redistest.Server, src *source) (l *Link, m transferMark, end linkEnd, err error) {
	t.Helper()
	info := infoOf(t, src)
	facts, err := src.bufferFacts(t.Context(), info, 16e6)
	if err != nil {
		t.Fatal(err)
	}
	l = dialServer(t, s)
	reply, err := l.Sync(t.Context(), Position{})
	if err != nil || !reply.Full {
		t.Fatalf("Sync = %+v, %v, want a full resync", reply, err)
	}
	m = markTransfer(info, facts, reply.At)
	end = linkEnd{received: reply.At.Offset, rdbSize: -1}
	if end.rdbSize, err = l.Transfer(t.Context()); err == nil {
		end.rdb, err = io.Copy(io.Discard, rdbOf{l})
	}
	end.when = time.Now()
	return l, m, end, err
}

// A source with a low limit cuts the link in the midst of its RDB, and it is told why; it does not when the limit is raised. The limit is put
// back when the stream has drained.
func TestSourceCutsTheLink(t *testing.T) {
	for i, b := range redistest.Servers(t) {
		modes := []string{[]string{"no", "yes"}[i%2]}
		if b == redistest.Latest(t) {
			modes = []string{"no", "yes"}
		}
		for _, diskless := range modes {
			t.Run(b.Name+" diskless "+diskless, func(t *testing.T) {
				t.Parallel()
				testCutAndRaised(t, b, diskless)
			})
		}
	}
}

func testCutAndRaised(t *testing.T, b redistest.Build, diskless string) {
	s := slowRDB(t, b, diskless, "client-output-buffer-limit replica 4mb 2mb 5", "repl-backlog-size 1mb")
	src := sideConnection(t, s)
	stop := writes(t, s)
	_, m, end, err := loaded(t, s, src)
	if err == nil || AsStop(err) != nil {
		t.Fatalf("the transfer ended with %v, want a cut link", err)
	}
	c, err := src.whyCut(t.Context(), m, end)
	if err != nil || c == nil {
		t.Fatalf("whyCut = %v, %v, want a cut; %+v, %+v", c, err, m, end)
	}
	counts := b.AtLeast("redis", 7, 4) || b.Server == "valkey"
	if counts != strings.Contains(c.text, "went from 0 to 1") {
		t.Errorf("there is a counter: %v; the text is %q", counts, c.text)
	}

	l := limitsFor(t, s)
	for range 2 { // it may be called again
		if err := l.raise(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := limitOf(t, s); got != "slave 0 0 0" {
		t.Errorf("raised, the limit is %s", got)
	}
	link, m, end, err := loaded(t, s, src)
	if err != nil {
		c, _ := src.whyCut(t.Context(), m, end)
		t.Fatalf("with a raised limit the transfer ended with %v; %+v", err, c)
	}
	if c := m.judge(ParseInfo(s.DoString(t, "INFO")), end); c != nil {
		t.Errorf("a transfer that got through is called cut: %s", c.text)
	}
	seen := backlog(t, s).MasterOffset
	if waited := seen - m.at.Offset; waited < 5<<20 {
		t.Errorf("only %d bytes waited, which the limit would have allowed", waited)
	}
	stop()
	if l.drained(m.at.Offset, seen) {
		t.Error("drained, before a byte of the stream has come")
	}
	stream := acked(t, link, m.at)
	until(t, stream, backlog(t, s).MasterOffset)
	if !l.drained(stream.Position().Offset, seen) {
		t.Error("not drained, when all has come")
	}
	for range 2 {
		if err := l.restore(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := limitOf(t, s); got != "slave 4194304 2097152 5" {
		t.Errorf("put back, the limit is %s", got)
	}
}

func limitsFor(t *testing.T, s *redistest.Server) *limits {
	return &limits{source: endpoint(t, s.URL(), TLSFiles{}), path: filepath.Join(t.TempDir(), "limits.json")}
}

// Since 7.0 a hard limit below the backlog's size counts as that size; before, it counts as it is. A soft limit that lasts cuts, too.
func TestEffectiveLimit(t *testing.T) {
	tests := []struct {
		name, build, limit, backlog string
		cut                         bool
	}{
		{"6.0 below the backlog", "redis-6.0", "replica 4mb 0 0", "64mb", true},
		{"7.0 below the backlog", "redis-7.0", "replica 4mb 0 0", "256mb", false},
		{"soft", "valkey-9", "replica 0 1mb 0", "1mb", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := slowRDB(t, redistest.ServerNamed(t, test.build), "yes", "client-output-buffer-limit "+test.limit, "repl-backlog-size "+test.backlog)
			src := sideConnection(t, s)
			writes(t, s)
			_, m, end, err := loaded(t, s, src)
			if (err != nil) != test.cut {
				t.Errorf("the transfer ended with %v, want a cut: %v", err, test.cut)
			}
			if c, err := src.whyCut(t.Context(), m, end); err != nil || (c != nil) != test.cut {
				t.Errorf("whyCut = %+v, %v, want a cut: %v", c, err, test.cut)
			}
			m.facts.took = 1500 * time.Millisecond
			if got := m.facts.risk(); (got.Level == RiskFine) == test.cut {
				t.Errorf("the judgement before was %d: %s", got.Level, got.Text)
			}
		})
	}
}

// A source without a backlog does not count its stream: what its clients send stands for it until there is one. What is written between the two looks is known here, and so is
// for how long they were apart, at least and at most.
func TestWriteRate(t *testing.T) {
	for _, name := range []string{"redis-6.0", "redis-8.0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, redistest.ServerNamed(t, name))
			src := sideConnection(t, s)
			value := strings.Repeat("v", 160_000)
			for _, atMost := range []bool{true, false} {
				const wrote = 50 * 160_000
				info := infoOf(t, src)
				for range 50 {
					s.Do(t, "SET", "load", value)
				}
				began := time.Now()
				f, err := src.bufferFacts(t.Context(), info, -1)
				if err != nil {
					t.Fatal(err)
				}
				least, most := wrote/time.Since(began).Seconds(), 1.01*wrote/rateSample.Seconds() // with what stands around the values
				if f.atMost != atMost || f.rate < least || f.rate > most || !f.known || f.took <= 0 {
					t.Errorf("facts are %+v, want a rate of %.0f to %.0f, at most: %v", f, least, most, atMost)
				}
				if atMost {
					l := dialServer(t, s) // there is a backlog from now on
					if reply, err := l.Sync(t.Context(), Position{}); err != nil || !reply.Full {
						t.Fatal(reply, err)
					}
					_ = l.Close()
				}
			}
		})
	}
}

// What a killed process has left is put back by the next one's first step, unless somebody else has set the limit since.
func TestRestoreAfterAKill(t *testing.T) {
	const earlier, ours = "slave 8388608 4194304 5", "slave 0 0 0"
	tests := []struct {
		name string
		do   func(t *testing.T, s *redistest.Server, next *limits) // after the kill
		want string
		left string // what the error names and the file keeps; empty without one
	}{
		{"nothing happened", func(*testing.T, *redistest.Server, *limits) {}, earlier, ""},
		{"the same server by another name", func(_ *testing.T, s *redistest.Server, next *limits) {
			next.source.Addr = strings.Replace(s.Addr(), "127.0.0.1", "localhost", 1)
		}, earlier, ""},
		{"somebody set it", func(t *testing.T, s *redistest.Server, _ *limits) {
			s.Do(t, "CONFIG", "SET", bufferLimitName, "replica 1gb 0 0")
		}, "slave 1073741824 0 0", ""},
		{"restarted", func(t *testing.T, s *redistest.Server, _ *limits) { s.Restart(t) }, earlier, ""},
		{"restarted after CONFIG REWRITE", func(t *testing.T, s *redistest.Server, _ *limits) {
			s.Do(t, "CONFIG", "REWRITE")
			s.Restart(t)
		}, earlier, ""},
		{"another server", func(t *testing.T, _ *redistest.Server, next *limits) {
			next.source = limitsFor(t, redistest.Start(t, redistest.Latest(t))).source
		}, ours, `CONFIG SET client-output-buffer-limit "slave 8388608 4194304 5"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, redistest.Latest(t), redistest.Config("client-output-buffer-limit replica 8mb 4mb 5"))
			killed := limitsFor(t, s)
			if err := killed.raise(t.Context()); err != nil {
				t.Fatal(err)
			}
			next := &limits{source: killed.source, path: killed.path}
			test.do(t, s, next)
			for range 2 {
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				err := next.restore(ended)
				if test.left == "" && err != nil || test.left != "" && (err == nil || !strings.Contains(err.Error(), test.left)) {
					t.Errorf("restore: %v, want an error with %q", err, test.left)
				}
			}
			if got := limitOf(t, s); got != test.want {
				t.Errorf("the limit is %s, want %s", got, test.want)
			}
			if records, err := next.read(); err != nil || (len(records) > 0) != (test.left != "") {
				t.Errorf("the file has %+v, %v", records, err)
			}
		})
	}
}

// A raise of one source keeps the record of another one that could not be mended yet.
func TestRaiseKeepsAnotherSourcesRecord(t *testing.T) {
	a, b := redistest.Start(t, redistest.Latest(t)), redistest.Start(t, redistest.Latest(t))
	l := limitsFor(t, a)
	if err := l.raise(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.source = endpoint(t, b.URL(), TLSFiles{})
	if err := l.raise(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.restore(t.Context()); err == nil {
		t.Error("restore says nothing of the other source")
	}
	if got := limitOf(t, b); got == "slave 0 0 0" {
		t.Error("not put back")
	}
	l.source = endpoint(t, a.URL(), TLSFiles{})
	if err := l.restore(t.Context()); err != nil {
		t.Error(err)
	}
	if got := limitOf(t, a); got == "slave 0 0 0" {
		t.Error("not put back in the first source")
	}
}

// A right that is missing ends a run which was told to raise the limit, before anything is changed; otherwise it only makes the risk unknown.
func TestLimitsWithoutRights(t *testing.T) {
	tests := []struct{ name, rights, level string }{
		{"no INFO", "+config|get +config|set", "INFO"},
		{"no CONFIG GET", "+info +config|set", "CONFIG GET"},
		{"no CONFIG SET", "+info +config|get", ""},
	}
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b)
		for _, test := range tests {
			s.Do(t, append([]string{"ACL", "SETUSER", "ferry", "reset", "on", ">pw", "-@all", "+hello", "+auth"}, strings.Fields(test.rights)...)...)
			l := limitsFor(t, s)
			l.source.Username, l.source.Password = "ferry", "pw"
			err := l.raise(t.Context())
			if stop := AsStop(err); stop == nil || stop.Kind != Config || !strings.Contains(stop.Hint, "+config|set") {
				t.Errorf("%s: raise gives %v, want a Stop with the right that is missing", test.name, err)
			}
			if records, err := l.read(); err != nil || records != nil {
				t.Errorf("%s: the file has %v, %v", test.name, records, err)
			}
			src, err := dialSource(l.source)
			if err != nil {
				t.Fatal(err)
			}
			f, err := src.bufferFacts(t.Context(), infoOf(t, src), 1e6)
			src.close()
			if r := f.risk(); err != nil || !strings.Contains(r.Hint+r.Text, test.level) || (r.Level == RiskUnknown) != (test.level != "") {
				t.Errorf("%s: bufferFacts = %v, %d %s", test.name, err, r.Level, r.Text)
			}
		}
	})
}
