package redistest

import (
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/redcon"
)

// ReplID is a replication ID for scripts.
const ReplID = "0123456789abcdef0123456789abcdef01234567"

// Script is a scripted source on loopback, for what no real server can be made to do. Each connection runs the play in a goroutine of its own.
type Script struct {
	t        TB
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // the open ones; nil when the script is over
}

// Peer is one connection to a [Script], seen from the server. A play that is left by its client ends silently, wherever it stands; one
// that hears something unexpected fails the test.
type Peer struct {
	t    TB
	conn net.Conn
	in   *redcon.Reader
}

// StartScript listens until the end of the test. When play returns the connection is closed.
func StartScript(t TB, play func(p *Peer)) *Script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for a scripted source: %v", err)
	}
	s := &Script{t: t, listener: l, conns: map[net.Conn]bool{}}
	s.running.Add(1)
	go s.accept(play)
	t.Cleanup(s.stop)
	return s
}

// Addr is where it listens: host:port.
func (s *Script) Addr() string { return s.listener.Addr().String() }

func (s *Script) accept(play func(p *Peer)) {
	defer s.running.Done()
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // stopped
		}
		if !s.keep(conn) {
			return
		}
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			defer s.drop(conn)
			play(&Peer{t: s.t, conn: conn, in: redcon.NewReader(conn)})
		}()
	}
}

// keep remembers an open connection, or closes it when the script is over.
func (s *Script) keep(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = conn.Close()
		return false
	}
	s.conns[conn] = true
	return true
}

func (s *Script) drop(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// stop ends all plays and waits for them.
func (s *Script) stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.running.Wait()
}

// Receive reads one command. A bare newline before it is taken for a keep-alive and skipped.
func (p *Peer) Receive() []string {
	for {
		cmd, err := p.in.ReadCommand()
		if err != nil {
			runtime.Goexit() // the client is gone, or the script is over
		}
		if len(cmd.Args) == 0 {
			continue
		}
		args := make([]string, len(cmd.Args))
		for i, a := range cmd.Args {
			args[i] = string(a)
		}
		return args
	}
}

// Expect reads one command and fails the test if it is another one.
func (p *Peer) Expect(want ...string) {
	if got := p.Receive(); !slices.Equal(got, want) {
		p.t.Errorf("the scripted source heard %q, want %q", got, want)
		runtime.Goexit()
	}
}

// Send writes text as it is, in one write.
func (p *Peer) Send(text string) {
	if _, err := p.conn.Write([]byte(text)); err != nil {
		runtime.Goexit()
	}
}

// SendBytewise writes text one byte at a time, each in a segment of its own.
func (p *Peer) SendBytewise(text string) {
	for i := range len(text) {
		p.Send(text[i : i+1])
		if i%8 == 0 {
			runtime.Gosched() // lets the reader see the pieces
		}
	}
}

// SendSlowly writes text in that many pieces, with a pause before each.
func (p *Peer) SendSlowly(pause time.Duration, pieces ...string) {
	for _, text := range pieces {
		time.Sleep(pause)
		p.Send(text)
	}
}

// Handshake answers what a replica says before PSYNC as a server without a password does, and returns PSYNC's arguments.
func (p *Peer) Handshake() (replID, next string) {
	for {
		args := p.Receive()
		switch strings.ToUpper(args[0]) {
		case "PING":
			p.Send("+PONG\r\n")
		case "AUTH", "REPLCONF":
			p.Send("+OK\r\n")
		case "PSYNC":
			if len(args) != 3 {
				p.t.Errorf("the scripted source heard %q, want PSYNC with two arguments", args)
				runtime.Goexit()
			}
			return args[1], args[2]
		default:
			p.t.Errorf("the scripted source heard %q before PSYNC", args)
			runtime.Goexit()
		}
	}
}

// FullResync answers PSYNC and sends the RDB without its length known, with 40 bytes of mark as its end.
func (p *Peer) FullResync(offset int64, rdb string) {
	mark := strings.Repeat("m", 40)
	p.Send("+FULLRESYNC " + ReplID + " " + strconv.FormatInt(offset, 10) + "\r\n$EOF:" + mark + "\r\n" + rdb + mark)
}

// WaitAck reads up to the next REPLCONF ACK and returns its offset.
func (p *Peer) WaitAck() int64 {
	for {
		args := p.Receive()
		if len(args) == 3 && strings.EqualFold(args[0], "REPLCONF") && strings.EqualFold(args[1], "ACK") {
			n, err := strconv.ParseInt(args[2], 10, 64)
			if err != nil {
				p.t.Errorf("the scripted source heard %q: %v", args, err)
			}
			return n
		}
	}
}

// Hang reads and says nothing until the client is gone.
func (p *Peer) Hang() {
	for {
		p.Receive()
	}
}
