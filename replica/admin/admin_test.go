package admin

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"redferry/internal/leaks"
	"redferry/internal/redistest"
	"redferry/replica"
	"redferry/replica/events"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// fixture is a server of a run that a test plays.
type fixture struct {
	*Server
	socket   string
	tcp      string
	gate     *replica.Gate
	level    string
	shutdown atomic.Int64
	ended    chan error    // why HOLD was not held on, as its context says
	holding  chan struct{} // HOLD has begun
	held     chan struct{} // … and waits for it
	end      func() error  // ends the server and gives what Run returned
}

func start(t *testing.T, change ...func(*Server)) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin") // a test's own has too long a name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fixture{
		socket: filepath.Join(dir, "redferry.sock"), gate: &replica.Gate{}, level: "info", holding: make(chan struct{}, 100), held: make(chan struct{}), ended: make(chan error, 10),
	}
	log, err := events.Open(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for i := range 3 {
		if err := log.Append(events.Event{Time: time.Unix(int64(i), 0), State: "in_sync", Why: fmt.Sprint("why ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	controls := Controls{
		Report: func() Report {
			return Report{
				Server: Identity{Name: "default", Source: "a:1", Target: "b:2", PID: 7},
				View: replica.View{
					State: replica.InSync, Why: "all\nis well", Since: time.Unix(1000, 0), Paused: f.gate.Paused(),
					Offset: replica.OffsetView{Source: 42}, Lag: replica.LagView{Bytes: 5, Time: replica.Span(1500 * time.Millisecond), Apply: -1},
				},
			}
		},
		Gate: f.gate, Events: filepath.Join(dir, "events.jsonl"), Shutdown: func() { f.shutdown.Add(1) },
		Settings: []Setting{{
			Name: "log-level", Get: func() string { return f.level },
			Set: func(text string) error {
				if text == "loud" {
					return errors.New("there is no such level")
				}
				f.level = text
				return nil
			},
		}, {Name: "log-interval", Get: func() string { return "5s" }, Set: func(string) error { return nil }}},
	}
	hold := Command{Name: "HOLD", Arity: 1, Help: "Wait.", Run: func(ctx context.Context, _ []string) (any, error) {
		f.holding <- struct{}{}
		select {
		case <-f.held:
			return Simple("held"), nil
		case <-ctx.Done():
			f.ended <- context.Cause(ctx)
			return nil, errors.New("ERR the run ends")
		}
	}}
	f.Server, err = Listen(Config{Socket: f.socket, Addr: "127.0.0.1:0", Password: "s3cret", Commands: append(controls.Commands(), hold), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(f.Server)
	}
	f.tcp = f.Addrs()[1].String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	f.end = func() error {
		cancel()
		select {
		case err := <-done:
			done <- err
			return err
		case <-time.After(time.Minute):
			return errors.New("the server does not end")
		}
	}
	t.Cleanup(func() {
		if err := f.end(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// peer is a connection that says what a test wants.
type peer struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func connect(t *testing.T, network, addr string) *peer {
	t.Helper()
	nc, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	return &peer{t, nc, bufio.NewReader(nc)}
}

// say sends a text and returns the answer's first line.
func (p *peer) say(text string) string {
	p.t.Helper()
	if _, err := io.WriteString(p, text); err != nil {
		return err.Error()
	}
	return p.line()
}

func (p *peer) line() string {
	line, err := p.in.ReadString('\n')
	if err != nil {
		return line + err.Error()
	}
	return strings.TrimRight(line, "\r\n")
}

// gone tells whether the server has closed the connection.
func (p *peer) gone() bool {
	_, err := io.Copy(io.Discard, p.in)
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

func TestCommands(t *testing.T) {
	f := start(t)
	c, err := Dial(t.Context(), f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		do   string
		want string // part of the answer
	}{
		{"PING", "PONG"},
		{"ping hello", "hello"},
		{"INFO", "# Migration\r\n"},
		{"INFO", "state:in_sync\r\nwhy:all is well\r\nsince:1000\r\n"},
		{"INFO lag", "# Lag\r\nlag_bytes:5\r\nlag_to_receive_bytes:0\r\nlag_to_apply_bytes:0\r\nlag_seconds:1.5\r\nlag_to_receive_seconds:0\r\nlag_to_apply_seconds:-1\r\n"},
		{"info SERVER Offset", "server_pid:7"},
		{"info SERVER Offset", "\r\n\r\n# Offset\r\noffset_source:42\r\n"},
		{"STATUS", `"paused":false`},
		{"PAUSE", "OK"},
		{"STATUS", `"paused":true`},
		{"INFO all", "paused:1\r\n"},
		{"RESUME", "OK"},
		{"STATUS", `"paused":false`},
		{"EVENTS", `why 0`},
		{"EVENTS 1", `{"time":"1970-01-01T00:00:02Z","state":"in_sync","why":"why 2"}`},
		{"EVENTS 0", "ERR count is not between"},
		{"EVENTS x", "ERR count is not between"},
		{"CONFIG GET *", "log-level\ninfo\nlog-interval\n5s"},
		{"CONFIG GET LOG-l* log-?evel", "log-level\ninfo"},
		{"CONFIG GET [", "ERR the pattern"},
		{"CONFIG SET log-level debug", "OK"},
		{"CONFIG GET log-level", "log-level\ndebug"},
		{"CONFIG SET log-level loud", "ERR CONFIG SET log-level: there is no such level"},
		{"CONFIG SET source x", "what can is log-level, log-interval"},
		{"CONFIG SET log-level", "ERR CONFIG GET"},
		{"CONFIG REWRITE now", "ERR CONFIG GET"},
		{"SHUTDOWN", "OK"},
		{"HELP", "\n    Stop applying to the target"},
		{"COMMAND COUNT", "16"},
		{"COMMAND LIST", "pause"},
		{"COMMAND FLY", "ERR unknown subcommand"},
		{"CLIENT SETNAME me", "OK"},
		{"CLIENT GETNAME", "me"},
		{"CLIENT SETINFO lib-name x", "OK"},
		{"CLIENT KILL x", "ERR unknown subcommand"},
		{"SELECT 0", "OK"},
		{"HELLO 4", "NOPROTO"},
		{"HELLO 2 SETNAME you", "redferry"},
		{"HELLO 2 AUTH default s3cret", "redferry"},
		{"HELLO 2 AUTH default wrong", "WRONGPASS"},
		{"HELLO 2 FLY", "ERR Syntax error"},
		{"PAUSE now", "ERR wrong number of arguments for 'pause' command: PAUSE"},
		{"GET key", "ERR unknown command 'GET': this is redferry's admin socket, and it has no data"},
		{"PSYNC ? -1", "ERR unknown command 'PSYNC'"},
		{"SYNC", "ERR unknown command"},
		{"REPLCONF capa eof", "ERR unknown command"},
		{"QUIT", "OK"},
	} {
		got, err := c.Do(t.Context(), strings.Fields(tt.do)...)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.do, got, tt.want)
		}
	}
	if _, err := c.Do(t.Context(), "PING"); err == nil {
		t.Error("it answers after QUIT")
	}
	if got := f.shutdown.Load(); got != 1 {
		t.Errorf("shut down %d times", got)
	}
}

// INFO has each field that STATUS has, and whoever makes a number of a field finds one line for it.
func TestInfoHasAllOfStatus(t *testing.T) {
	r := Report{View: replica.View{Loss: replica.LossView{DivergenceKinds: "DEL=1 SREM=2"}}}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var status map[string]any
	if err := json.Unmarshal(text, &status); err != nil {
		t.Fatal(err)
	}
	fields := replica.ParseInfo(info(&r, ""))
	n := 0
	for name, value := range status {
		inner, ok := value.(map[string]any)
		if !ok {
			inner = map[string]any{"": value}
		}
		for sub := range inner {
			n++
			if _, ok := fields[strings.TrimSuffix(name+"_"+sub, "_")]; !ok {
				t.Errorf("INFO has no %s_%s", name, sub)
			}
		}
	}
	if n != len(fields) || fields["loss_divergence_kinds"] != "DEL=1 SREM=2" {
		t.Errorf("INFO has %d fields, STATUS %d: %v", len(fields), n, fields)
	}
}

// A command that takes its time holds up nobody else, and ends with the server, with its answer written.
func TestLongCommand(t *testing.T) {
	f := start(t)
	slow, other := connect(t, "unix", f.socket), connect(t, "unix", f.socket)
	if _, err := io.WriteString(slow, "HOLD\r\n"); err != nil {
		t.Fatal(err)
	}
	if got := other.say("PING\r\n"); got != "+PONG" {
		t.Errorf("beside a long command: got %s", got)
	}
	f.held <- struct{}{}
	if got := slow.line(); got != "+held" {
		t.Errorf("got %s", got)
	}
	if _, err := io.WriteString(slow, "HOLD\r\n"); err != nil {
		t.Fatal(err)
	}
	<-f.holding
	<-f.holding // the second one
	if err := f.end(); err != nil {
		t.Fatal(err)
	}
	if got := slow.line(); got != "-ERR the run ends" {
		t.Errorf("at the end: got %s", got)
	}
	if _, err := os.Stat(f.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := Dial(t.Context(), f.socket); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

// A command is told that its client has hung up, however that has come about; requests that wait behind it are no end.
func TestHangingUp(t *testing.T) {
	t.Parallel()
	f := start(t, func(s *Server) { s.idle = 3 * time.Second })
	const soon = 200 * time.Millisecond
	ended := func(t *testing.T) {
		t.Helper()
		select {
		case err := <-f.ended:
			if !errors.Is(err, ErrHungUp) {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("it goes on")
		}
	}
	goesOn := func(t *testing.T, d time.Duration) {
		t.Helper()
		select {
		case err := <-f.ended:
			t.Fatalf("it ended with %v", err)
		case <-time.After(d):
		}
	}
	for _, network := range []string{"unix", "tcp"} {
		hold := func(t *testing.T, behind string) *peer {
			t.Helper()
			p := connect(t, network, map[string]string{"unix": f.socket, "tcp": f.tcp}[network])
			if network == "tcp" && p.say("AUTH s3cret\r\n") != "+OK" {
				t.Fatal("the password is not taken")
			}
			if _, err := io.WriteString(p, "HOLD\r\n"+behind); err != nil {
				t.Fatal(err)
			}
			return p
		}
		t.Run(network, func(t *testing.T) {
			for name, behind := range map[string]string{"alone": "", "with requests behind it": "PING\r\nHOLD\r\n", "in the midst of one": "*2\r\n$4\r\nEV"} {
				t.Run(name, func(t *testing.T) {
					p := hold(t, behind)
					if behind == "" { // idle is for those that are to say something
						goesOn(t, f.idle+time.Second)
					} else {
						goesOn(t, soon)
					}
					_ = p.Close()
					ended(t)
					if behind == "PING\r\nHOLD\r\n" { // which ends likewise
						ended(t)
					}
				})
			}
			t.Run("reset", func(t *testing.T) {
				p := hold(t, "")
				if tcp, ok := p.Conn.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
				_ = p.Close()
				ended(t)
			})
			t.Run("its own side only", func(t *testing.T) {
				p := hold(t, "")
				if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				ended(t)
				if got := p.line(); got != "-ERR the run ends" || !p.gone() {
					t.Errorf("got %s", got)
				}
			})
			t.Run("requests meanwhile", func(t *testing.T) {
				p := hold(t, "")
				for range 3 {
					time.Sleep(20 * time.Millisecond)
					if _, err := io.WriteString(p, "PING\r\n"); err != nil {
						t.Fatal(err)
					}
				}
				goesOn(t, soon)
				f.held <- struct{}{}
				for i, want := range []string{"+held", "+PONG", "+PONG", "+PONG"} {
					if got := p.line(); got != want {
						t.Errorf("answer %d: got %s, want %s", i, got, want)
					}
				}
				if got := p.say("PING\r\n"); got != "+PONG" {
					t.Errorf("later: got %s", got)
				}
			})
			t.Run("more than is kept", func(t *testing.T) { // nothing is read of it
				p := hold(t, "")
				_ = p.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				if _, err := io.Copy(p, io.LimitReader(endless{}, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				goesOn(t, soon)
				f.held <- struct{}{}
				if got := p.line(); got != "+held" && !strings.HasPrefix(got, "-ERR") {
					t.Errorf("got %s", got)
				}
			})
		})
	}
	t.Run("a Client, which hears how it ended", func(t *testing.T) {
		c, err := Dial(t.Context(), f.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for len(f.holding) > 0 {
			<-f.holding // of those before
		}
		go func() {
			<-f.holding
			c.HangUp()
		}()
		if _, err := c.Do(t.Context(), "HOLD"); err == nil || err.Error() != "ERR the run ends" {
			t.Errorf("got %v", err)
		}
		ended(t)
	})
}

// endless are lines without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A client of RESP3 is answered in it, from HELLO 3 until HELLO 2.
func TestMaps(t *testing.T) {
	f := start(t)
	p := connect(t, "unix", f.socket)
	for _, tt := range [][2]string{
		{"CONFIG GET log-*", "*4"}, {"HELLO 3", "%7"}, {"CONFIG GET log-*", "%2"}, {"HELLO", "%7"}, {"HELLO 2", "*14"}, {"CONFIG GET log-*", "*4"},
	} {
		got := p.say(tt[0] + "\r\nPING\r\n")
		if got != tt[1] {
			t.Errorf("%s: got %s, want %s", tt[0], got, tt[1])
		}
		for line := got; line != "+PONG"; line = p.line() {
			if strings.HasSuffix(line, "timeout") || strings.HasSuffix(line, "EOF") {
				t.Fatal(line)
			}
		}
	}
}

func TestPasswordOfTheAddress(t *testing.T) {
	f := start(t, func(s *Server) { s.stranger = time.Hour })
	p := connect(t, "tcp", f.tcp)
	for _, tt := range [][2]string{
		{"PING\r\n", "-NOAUTH"},
		{"STATUS\r\n", "-NOAUTH"},
		{"PAUSE\r\n", "-NOAUTH"},
		{"FLY\r\n", "-NOAUTH"},
		{"HELLO 3\r\n", "-NOAUTH"},
		{"AUTH wrong\r\n", "-WRONGPASS"},
		{"AUTH other s3cret\r\n", "-WRONGPASS"},
		{"PAUSE\r\n", "-NOAUTH"},
		{"AUTH s3cret\r\n", "+OK"},
		{"PING\r\n", "+PONG"},
	} {
		if got := p.say(tt[0]); !strings.HasPrefix(got, tt[1]) {
			t.Errorf("%q: got %s, want %s", tt[0], got, tt[1])
		}
	}
	if f.gate.Paused() {
		t.Error("a stranger has paused the run")
	}
	guesser := connect(t, "tcp", f.tcp)
	for range maxWrong {
		guesser.say("AUTH wrong\r\n")
	}
	if !guesser.gone() {
		t.Error("it may guess on")
	}
	browser := connect(t, "tcp", f.tcp)
	if got := browser.say("POST / HTTP/1.1\r\nHost: x\r\n\r\nAUTH s3cret\r\n"); !strings.HasPrefix(got, "-NOAUTH") || !browser.gone() {
		t.Errorf("a browser: got %s", got)
	}
	if _, err := Listen(Config{Addr: "127.0.0.1:0"}); err == nil {
		t.Error("it listens without a password")
	}
}

// Nothing that is sent takes memory for what is only announced, and a connection that breaks the rules costs that connection.
func TestHostileRequests(t *testing.T) {
	f := start(t)
	for name, tt := range map[string]struct{ send, want string }{
		"a bulk of 2^63-1":     {"*1\r\n$9223372036854775807\r\n", "-ERR Protocol error: too large a request"},
		"a bulk of 2^64+1":     {"*1\r\n$18446744073709551617\r\n", "-ERR Protocol error: too large a request"},
		"a negative bulk":      {"*1\r\n$-1\r\n", "-ERR Protocol error: \"-1\" is no length"},
		"an array of 2^31":     {"*2147483648\r\n", "-ERR Protocol error: too large a request"},
		"a negative array":     {"*-1\r\n", "-ERR Protocol error"},
		"many words":           {strings.Repeat("x ", maxWords+1) + "\r\n", "-ERR Protocol error: too many words"},
		"large in sum":         {"*3\r\n" + strings.Repeat(fmt.Sprintf("$%d\r\n%s\r\n", maxRequest/2, strings.Repeat("x", maxRequest/2)), 3), "-ERR Protocol error: too large a request"},
		"a line without end":   {strings.Repeat("x", 2*maxLine), "-ERR Protocol error: too big a line"},
		"a length without end": {"*1\r\n$" + strings.Repeat("0", 2*maxLine), "-ERR Protocol error: too big a line"},
		"no dollar":            {"*1\r\n:1\r\n", "-ERR Protocol error: expected '$'"},
		"no length":            {"*\r\n", "-ERR Protocol error: a length is missing"},
		"no end of a word":     {"*1\r\n$4\r\nPINGxx", "-ERR Protocol error: expected \\r\\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, "unix", f.socket)
			if got := p.say(tt.send); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !p.gone() {
				t.Error("the connection is still open")
			}
		})
	}
	p := connect(t, "unix", f.socket)
	if got := p.say("\r\n*0\r\nPI\x00NG\r\n"); !strings.HasPrefix(got, "-ERR unknown command 'PI?NG'") {
		t.Errorf("got %q", got)
	}
	if got := p.say("*1\r\n$4\r\nPING\r\n"); got != "+PONG" {
		t.Errorf("after all that: got %q", got)
	}
}

// Pipelines are answered in order and whole; one that never reads is cut off, and memory is not kept for it.
func TestPipelines(t *testing.T) {
	f := start(t)
	p := connect(t, "unix", f.socket)
	const n = 20_000
	go func() { _, _ = io.WriteString(p, strings.Repeat("PING\r\nGET x\r\n", n)) }()
	for i := range n {
		if a, b := p.line(), p.line(); a != "+PONG" || !strings.HasPrefix(b, "-ERR unknown") {
			t.Fatalf("pair %d: got %q, %q", i, a, b)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	f := start(t)
	var all []*peer
	for range maxConns {
		p := connect(t, "tcp", f.tcp)
		if got := p.say("AUTH s3cret\r\n"); got != "+OK" {
			t.Fatalf("got %s", got)
		}
		all = append(all, p)
	}
	if got := connect(t, "tcp", f.tcp).line(); !strings.Contains(got, "max number of clients") {
		t.Errorf("one too many: got %q", got)
	}
	if got := connect(t, "unix", f.socket).say("PING\r\n"); got != "+PONG" { // the operator's own way in is not taken by others
		t.Errorf("over the socket: got %q", got)
	}
	_ = all[0].Close()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if got := connect(t, "tcp", f.tcp).say("AUTH s3cret\r\n"); got == "+OK" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("after one has left: got %q", got)
		}
	}
}

// Who is silent, or sends a request byte by byte for too long, is let go.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	f := start(t, func(s *Server) { s.idle, s.stranger = 4*time.Second, 100*time.Millisecond })
	silent, slow, stranger := connect(t, "unix", f.socket), connect(t, "unix", f.socket), connect(t, "tcp", f.tcp)
	began := time.Now()
	stranger.gone()
	early := time.Since(began)
	dripped := make(chan struct{})
	go func() {
		defer close(dripped)
		for _, b := range []byte("*1\r\n$1500\r\n" + strings.Repeat("x", 1500)) {
			if _, err := slow.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	if !silent.gone() || !slow.gone() {
		t.Error("they are still there")
	}
	if took := time.Since(began); early >= f.idle || took > 25*time.Second { // all bytes take 30 s
		t.Errorf("the stranger was let go after %v, the others after %v", early, took)
	}
	_ = slow.Close()
	<-dripped
}

func TestSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "redferry.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close() // as a process does that is killed
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a stale socket: got %v", err)
	}
	s, err := Listen(Config{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	s.close()
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("left behind: %v", list)
	}
	long := filepath.Join(dir, strings.Repeat("x", maxPath), "redferry.sock")
	if _, err := Listen(Config{Socket: long}); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long a path: got %v", err)
	}
	if _, err := Dial(t.Context(), long); !errors.Is(err, ErrNotRunning) {
		t.Errorf("too long a path: got %v", err)
	}
	if _, err := Listen(Config{Socket: filepath.Join(dir, "none", "redferry.sock")}); err == nil {
		t.Error("it listens in a folder that is not there")
	}
}

func dialUnix(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
	return d.DialContext(ctx, "unix", path)
}

// redis-cli of each server, and a client library, get on with it.
func TestRedisCLI(t *testing.T) {
	f := start(t)
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			cli := filepath.Join(filepath.Dir(b.Path), "cli")
			if _, err := os.Stat(cli); err != nil {
				t.Skipf("no redis-cli beside the server: %v", err)
			}
			for _, tt := range []struct {
				args  []string
				stdin string
				want  string
			}{
				{[]string{"-s", f.socket, "INFO", "offset"}, "", "offset_source:42"},
				{[]string{"-s", f.socket}, "PING\nCONFIG GET log-*\n", "log-interval"}, // asks for COMMAND DOCS where there is a terminal only
				{[]string{"-s", f.socket, "COMMAND", "DOCS"}, "", "Stop applying"},
				{[]string{"-s", f.socket, "COMMAND", "HELP"}, "", "PAUSE\n    Stop applying"},
				{[]string{"-s", f.socket, "-3", "HELLO", "3"}, "", "redferry"},
				{[]string{"-u", "redis://:s3cret@" + f.tcp, "PING"}, "", "PONG"},
				{[]string{"-u", "redis://" + f.tcp, "PING"}, "", "NOAUTH"},
			} {
				cmd := exec.Command(cli, tt.args...)
				cmd.Stdin = strings.NewReader(tt.stdin)
				if out, err := cmd.CombinedOutput(); !strings.Contains(string(out), tt.want) {
					t.Errorf("redis-cli %q: got %s, %v", tt.args, out, err)
				}
			}
		})
	}
	for name, option := range map[string]rueidis.ClientOption{
		"RESP3":         {InitAddress: []string{f.tcp}, Password: "s3cret", DisableCache: true, ForceSingleClient: true},
		"RESP2":         {InitAddress: []string{f.tcp}, Password: "s3cret", AlwaysRESP2: true, DisableCache: true, ForceSingleClient: true},
		"over a socket": {InitAddress: []string{f.socket}, DialCtxFn: dialUnix, DisableCache: true, ForceSingleClient: true},
	} {
		t.Run("rueidis, "+name, func(t *testing.T) {
			c, err := rueidis.NewClient(option)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Do(t.Context(), c.B().ConfigGet().Parameter("log-level").Build()).AsStrMap()
			if err != nil || got["log-level"] != "info" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// The end of the run costs no answer: neither that of the command under way nor one before it, though more was asked for in the same breath.
func TestEndAnswersWhatWasAsked(t *testing.T) {
	t.Parallel()
	f := start(t)
	c, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, "PING\r\nHOLD\r\nQUIT\r\n"); err != nil {
		t.Fatal(err)
	}
	<-f.holding
	if err := f.end(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "+PONG\r\n-ERR the run ends\r\n") {
		t.Errorf("heard %q, %v", got, err)
	}
}
