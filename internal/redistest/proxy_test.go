package redistest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// dial opens a connection that ends with the test.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// heard reads until n bytes are there or the connection has ended.
func heard(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	buf := make([]byte, n)
	got, err := io.ReadFull(c, buf)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("heard only %q", buf[:got])
	}
	return string(buf[:got])
}

func TestProxyCutAfter(t *testing.T) {
	s := Start(t, Latest(t))
	p := NewProxy(t, s.Addr())
	tests := []struct {
		name string
		dir  Direction
		n    int64
		want string // of the replies +PONG
		incr int64  // what the server has carried out
	}{
		{"no reply byte", FromServer, 0, "", 1},
		{"in the first reply", FromServer, 3, ":1\r", 1},
		{"after the first reply", FromServer, 4, ":1\r\n", 1},
		{"no command byte", FromClient, 0, "", 0},
		{"in the command", FromClient, 7, "", 0},
		{"after the command", FromClient, 14, "", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.Do(t, "FLUSHALL")
			before := p.Cuts()
			c := dial(t, p.Addr())
			p.CutAfter(tt.dir, tt.n)
			send(t, c, "incr counter\r\n")
			got := heard(t, c, 100)
			if got != tt.want && (tt.want != "" || tt.dir != FromClient || got != ":1\r\n") { // a reply may overtake the cut of the other direction
				t.Errorf("heard %q, want %q", got, tt.want)
			}
			if !within(patience, func() bool { return s.DoInt(t, "INCRBY", "counter", "0") == tt.incr }) {
				t.Errorf("the server has done %d, want %d", s.DoInt(t, "INCRBY", "counter", "0"), tt.incr)
			}
			if p.Cuts() != before+1 {
				t.Errorf("%d cuts, want %d", p.Cuts(), before+1)
			}
			c = dial(t, p.Addr())
			send(t, c, "PING\r\n")
			if got := heard(t, c, 7); got != "+PONG\r\n" {
				t.Errorf("a new connection hears %q after the cut", got)
			}
		})
	}
}

func TestProxyHoldFragmentThrottle(t *testing.T) {
	s := Start(t, Latest(t))
	p := NewProxy(t, s.Addr())
	value := strings.Repeat("x", 2000)
	s.Do(t, "SET", "k", value)
	want := "$2000\r\n" + value + "\r\n"
	c := dial(t, p.Addr())

	p.Hold(FromServer, true)
	send(t, c, "GET k\r\n")
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came through a hold", n)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	p.Fragment(FromServer, 1)
	p.Hold(FromServer, false)
	if got := heard(t, c, len(want)); got != want {
		t.Errorf("after the hold %.20q…, want the reply", got)
	}
	p.Fragment(FromServer, 0)

	p.Throttle(FromServer, 10000)
	begin := time.Now()
	send(t, c, "GET k\r\n")
	if got := heard(t, c, len(want)); got != want {
		t.Errorf("throttled %.20q…, want the reply", got)
	}
	if took := time.Since(begin); took < 150*time.Millisecond {
		t.Errorf("2000 bytes at 10000 a second took %v", took)
	}
	if got, want := p.Passed(FromServer), int64(2*len(want)); got != want {
		t.Errorf("%d bytes have passed, want %d", got, want)
	}
	p.Hold(FromServer, true) // cleanup must end a connection that is held
	send(t, c, "PING\r\n")
}

func TestProxyRefuseAndTarget(t *testing.T) {
	a, b := Start(t, Latest(t)), Start(t, Latest(t))
	a.Do(t, "SET", "who", "a")
	b.Do(t, "SET", "who", "b")
	p := NewProxy(t, a.Addr())
	p.Refuse(true)
	if c, err := net.Dial("tcp", p.Addr()); err == nil { // the reset may come before the dial has returned
		if got := heard(t, c, 1); got != "" {
			t.Errorf("heard %q from a proxy that refuses", got)
		}
		_ = c.Close()
	}
	p.Refuse(false)
	p.SetTarget(b.Addr())
	c := dial(t, p.Addr())
	send(t, c, "GET who\r\n")
	if got := heard(t, c, 7); got != "$1\r\nb\r\n" {
		t.Errorf("heard %q, want b", got)
	}
	p.Cut()
	if got := heard(t, c, 1); got != "" {
		t.Errorf("heard %q after a cut", got)
	}
	if got, want := p.Accepted(), 2; got != want {
		t.Errorf("%d connections came in, want %d", got, want)
	}
}

// The hook's main use: EXEC is done, and the client never knows. The proxy must not close so early that the server drops what it was sent.
func TestProxyPassThenLose(t *testing.T) {
	s := Start(t, Latest(t))
	p := NewProxy(t, s.Addr())
	p.OnData(FromClient, func(data []byte) Verdict {
		if bytes.Contains(data, []byte("EXEC")) {
			return PassThenLose
		}
		return Pass
	})
	const n = 1000
	for round := range int64(5) {
		c := dial(t, p.Addr())
		send(t, c, "MULTI\r\n"+strings.Repeat("INCR counter\r\n", n)+"EXEC\r\n")
		if got := heard(t, c, 1); got != "" && round == 0 {
			t.Logf("heard %q before the loss", got) // replies to what came before EXEC may have passed
		}
		if !within(patience, func() bool { return s.DoInt(t, "INCRBY", "counter", "0") == (round+1)*n }) {
			t.Fatalf("counter is %d after round %d, want %d", s.DoInt(t, "INCRBY", "counter", "0"), round, (round+1)*n)
		}
	}
}

func TestCommandProxyAnswersInOrder(t *testing.T) {
	s := Start(t, Latest(t))
	p := NewCommandProxy(t, s.Addr())
	p.Handle(func(_ int, args [][]byte) Answer {
		if strings.EqualFold(string(args[0]), "EVAL") {
			return Reply("-NOREPLICAS Not enough good replicas to write.")
		}
		return Forward()
	})
	c := dial(t, p.Addr())
	send(t, c, "SET k 1\r\nEVAL x 0\r\nINCR k\r\nMULTI\r\nLRANGE l 0 -1\r\nEXEC\r\nEVAL y 0\r\nGET none\r\nGET k\r\n")
	want := "+OK\r\n-NOREPLICAS Not enough good replicas to write.\r\n:2\r\n+OK\r\n+QUEUED\r\n*1\r\n*0\r\n" +
		"-NOREPLICAS Not enough good replicas to write.\r\n$-1\r\n$1\r\n2\r\n"
	if got := heard(t, c, len(want)); got != want {
		t.Errorf("heard %q\nwant  %q", got, want)
	}
	p.Handle(nil)
	send(t, c, "EVAL 'return 7' 0\r\n")
	if got, want := heard(t, c, 4), ":7\r\n"; got != want {
		t.Errorf("heard %q without a handler, want %q", got, want)
	}
	s.Kill()
	if got := heard(t, c, 1); got != "" {
		t.Errorf("heard %q from a dead server", got)
	}
}

func TestCommandProxyCuts(t *testing.T) {
	tests := []struct {
		name   string
		answer Answer
		heard  string
		done   int64
	}{
		{"before the command", CutBeforeCommand(), ":1\r\n:2\r\n", 2},
		{"after it was done", LoseReply(), ":1\r\n:2\r\n", 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Start(t, Latest(t))
			p := NewCommandProxy(t, s.Addr())
			var seen atomic.Int32
			p.Handle(func(int, [][]byte) Answer {
				if seen.Add(1) == 3 {
					return tt.answer
				}
				return Forward()
			})
			c := dial(t, p.Addr())
			send(t, c, "INCR n\r\nINCR n\r\nINCR n\r\n")
			if got := heard(t, c, 100); got != tt.heard {
				t.Errorf("heard %q, want %q", got, tt.heard)
			}
			if got := s.DoInt(t, "INCRBY", "n", "0"); got != tt.done {
				t.Errorf("the server has done %d, want %d", got, tt.done)
			}
			if p.Cuts() != 1 {
				t.Errorf("%d cuts, want 1", p.Cuts())
			}
		})
	}
}

func TestCopyReply(t *testing.T) {
	for _, reply := range []string{
		"+OK\r\n", "-ERR x\r\n", ":12\r\n", "$-1\r\n", "$0\r\n\r\n", "$5\r\nab\r\nc\r\n", "*-1\r\n", "*0\r\n", "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
		"_\r\n", "#t\r\n", ",1.5\r\n", "=7\r\ntxt:abc\r\n", "%1\r\n+k\r\n:1\r\n", "~1\r\n:1\r\n", ">1\r\n+push\r\n+OK\r\n", "|1\r\n+k\r\n+v\r\n:1\r\n",
	} {
		var got bytes.Buffer
		if err := copyReply(&got, bufio.NewReader(strings.NewReader(reply+"+next\r\n"))); err != nil || got.String() != reply {
			t.Errorf("of %q copied %q, %v", reply, got.String(), err)
		}
		for cut := range len(reply) {
			if err := copyReply(io.Discard, bufio.NewReader(strings.NewReader(reply[:cut]))); err == nil {
				t.Errorf("no error for %q", reply[:cut])
			}
		}
	}
	if err := copyReply(io.Discard, bufio.NewReader(strings.NewReader(fmt.Sprintf("*1\r\n%s", "\r\n")))); err == nil {
		t.Error("no error for an empty line")
	}
}
