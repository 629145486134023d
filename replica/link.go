package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/redcon"
)

const (
	// linkBuffer is the read buffer: for the lines of the handshake. What is read in larger pieces than this goes past it.
	linkBuffer = 16 << 10
	// defaultReadTimeout is a server's own default of repl-timeout.
	defaultReadTimeout = 60 * time.Second
)

// LinkConfig says how to reach a source and how to be seen by it.
type LinkConfig struct {
	Endpoint Endpoint
	// ListeningPort is what the source shows in INFO and ROLE. Sentinel reconfigures whatever listens there (protocol 1.9), so it must
	// be a port where nothing speaks Redis; 0, where nothing can listen, is one.
	ListeningPort int
	// PSYNCCommand is what a service calls PSYNC that offers it under another name; "" means "PSYNC". It does not help against a server's
	// rename-command: the server then answers as to SYNC, and Sync ends with a [Stop].
	PSYNCCommand string
	// ReadTimeout ends the link when no byte came for so long: the source's repl-timeout. 0 means 60 s, a server's default.
	ReadTimeout time.Duration
	// OnWait hears why the source makes us wait, once for each wait. It is called by the goroutine in Sync or Transfer. May be nil.
	OnWait func(reason string)
}

// Link is one connection to a source, on which we are a replica. Its order of use is [Dial], [Link.Sync], after a full resync
// [Link.Transfer] and [Link.ReadRDB] up to its io.EOF, and then [Link.Reader] for as long as it lasts. An error of any of them ends the link: only
// Close is left, and a new Dial.
//
// One goroutine reads; another may call Ack and KeepAlive meanwhile; any may call Interrupt and Close. A Link starts no goroutine.
type Link struct {
	conf LinkConfig
	conn net.Conn
	in   *timedReader
	br   *bufio.Reader // over in
	rdb  rdb           // that is on its way

	writing sync.Mutex // held for the length of a write
	out     []byte     // the encoded command; reused

	closing  sync.Once
	closeErr error
}

// Dial connects to the source and shakes hands with it, up to where PSYNC can be sent. It gives up at once when ctx ends. The error is a
// [Stop] where trying again cannot help: a wrong password, a missing permission, a certificate.
func Dial(ctx context.Context, c LinkConfig) (*Link, error) {
	conn, err := c.Endpoint.Dial(ctx)
	if err != nil {
		if ctx.Err() != nil { // net hides the cause
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect to the source %s: %w", c.Endpoint, TLSStop("source", c.Endpoint, err))
	}
	l := newLink(conn, c)
	if err := l.interruptible(ctx, l.handshake); err != nil {
		_ = l.Close() // the handshake's error is the one to tell
		return nil, fmt.Errorf("shake hands with the source %s: %w", c.Endpoint, TLSStop("source", c.Endpoint, err))
	}
	return l, nil
}

// newLink is a link before its handshake.
func newLink(conn net.Conn, c LinkConfig) *Link {
	if c.PSYNCCommand == "" {
		c.PSYNCCommand = "PSYNC"
	}
	if c.ReadTimeout <= 0 {
		c.ReadTimeout = defaultReadTimeout
	}
	if c.OnWait == nil {
		c.OnWait = func(string) {}
	}
	in := &timedReader{conn: conn, timeout: c.ReadTimeout}
	return &Link{conf: c, conn: conn, in: in, br: bufio.NewReaderSize(in, linkBuffer)}
}

// Reader yields what the source sends: after [Link.Sync] has continued, or after the end of [Link.ReadRDB], the replication stream. It is the
// link's own; a read fails once nothing came for the read timeout, or after Close.
func (l *Link) Reader() *bufio.Reader { return l.br }

// Ack tells the source up to which offset we have everything. After a diskless full resync the source begins to stream at an ACK (protocol
// 0, fact 5), but not at one that comes before it has noticed that its child is done, which takes it up to 100 ms after the RDB's last byte:
// acknowledge until the stream begins. Ack blocks for the read timeout at most.
func (l *Link) Ack(offset int64) error {
	var digits [20]byte
	return l.write("acknowledge", func(b []byte) []byte {
		b = redcon.AppendArray(b, 3)
		b = redcon.AppendBulkString(b, "REPLCONF")
		b = redcon.AppendBulkString(b, "ACK")
		return redcon.AppendBulk(b, strconv.AppendInt(digits[:0], offset, 10))
	})
}

// KeepAlive sends a bare newline: the source sees that we are there, and hears of no offset. It is for the time of the snapshot, of
// which nothing is durable yet (R: networking.c processInlineBuffer refreshes repl_ack_time).
func (l *Link) KeepAlive() error {
	return l.write("keep the link alive", func(b []byte) []byte { return append(b, '\n') })
}

// Close ends the connection and unblocks whoever reads or writes. Calls after the first return the first one's result.
func (l *Link) Close() error {
	l.closing.Do(func() { l.closeErr = l.conn.Close() })
	return l.closeErr
}

// Interrupt unblocks whoever reads, for good, and leaves the connection open for a last Ack.
func (l *Link) Interrupt() {
	l.in.interrupted.Store(true)
	_ = l.conn.SetReadDeadline(time.Unix(1, 0)) // fails only when the connection is closed, which unblocks as well
}

// Leave ends the link in such a way that the source hears the last Ack: a connection that is closed with bytes unread is reset, and what was sent
// before may be lost with it. It takes a second at most; Close is still to be called.
func (l *Link) Leave() {
	half, ok := l.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if l.conn.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = io.Copy(io.Discard, l.conn)
	}
}

// command writes one command in RESP.
func (l *Link) command(args ...string) error {
	return l.write("send "+args[0], func(b []byte) []byte { return appendCommand(b, args...) })
}

// appendCommand encodes one command.
func appendCommand(b []byte, args ...string) []byte {
	b = redcon.AppendArray(b, len(args))
	for _, a := range args {
		b = redcon.AppendBulkString(b, a)
	}
	return b
}

// write sends what encode appends, whole, in one write: two writers never mix.
func (l *Link) write(doing string, encode func([]byte) []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.out = encode(l.out[:0])
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.conf.ReadTimeout)); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if _, err := l.conn.Write(l.out); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// interruptible runs f, which blocks on the connection, and closes the connection when ctx ends meanwhile: a deadline would not do,
// because each read sets its own.
func (l *Link) interruptible(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	err := f()
	if !stop() { // the connection is closed, or about to be, whatever f has done
		return context.Cause(ctx)
	}
	return err
}

// timedReader reads from the connection and gives each read its own deadline. It belongs to the goroutine that reads.
type timedReader struct {
	conn     net.Conn
	timeout  time.Duration
	patience time.Duration // instead of timeout, when it is not 0
	// interrupted is looked at after the deadline was set: an Interrupt either sees its own deadline stand or is seen here.
	interrupted atomic.Bool
}

var errInterrupted = errors.New("interrupted")

func (m *timedReader) Read(p []byte) (int, error) {
	timeout := m.timeout
	if m.patience > 0 {
		timeout = m.patience
	}
	if err := m.conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	if m.interrupted.Load() {
		return 0, errInterrupted
	}
	n, err := m.conn.Read(p)
	if m.interrupted.Load() && err != nil {
		err = errInterrupted
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("the source sent nothing for %v: %w", timeout, err)
	}
	return n, err
}
