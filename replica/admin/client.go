package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/tidwall/redcon"
)

// ErrNotRunning says that nobody listens on a socket.
var ErrNotRunning = errors.New("no run listens there")

// ErrNoAnswer says that a command was given, and that its answer did not come.
var ErrNoAnswer = errors.New("hear the run's answer")

// maxReply is the longest reply that a Client takes.
const maxReply = 16 << 20

// Client gives commands to a run on this machine. One goroutine uses it, but for HangUp.
type Client struct {
	nc  net.Conn
	buf []byte // read, and not yet returned
}

// Dial connects to the socket at path. The Client is the caller's to close.
func Dial(ctx context.Context, path string) (*Client, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%w: %w, and %s has %d", ErrNotRunning, ErrTooLong, path, len(path))
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the run: %w", err)
	}
	return &Client{nc: nc}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.nc.Close() }

// HangUp says that nobody wants what Do waits for any more: a command that can be taken back is, and Do returns how it ended. Nothing can be asked behind it. Any goroutine may call it.
func (c *Client) HangUp() {
	_ = c.nc.(*net.UnixConn).CloseWrite() // an error says that the connection is gone already
}

// Do gives a command and returns its answer; of a list, a line for each element. An error of the server is an error with its text. After any other
// error the Client is of no use. Without a deadline in ctx it waits for as long as the command takes.
func (c *Client) Do(ctx context.Context, words ...string) (string, error) {
	deadline, _ := ctx.Deadline()
	if err := c.nc.SetDeadline(deadline); err != nil {
		return "", fmt.Errorf("ask the run: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(time.Unix(1, 0)) })()
	request := redcon.AppendArray(nil, len(words))
	for _, w := range words {
		request = redcon.AppendBulkString(request, w)
	}
	if _, err := c.nc.Write(request); err != nil {
		return "", fmt.Errorf("ask the run: %w", errors.Join(ctx.Err(), err))
	}
	reply, err := c.read()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoAnswer, errors.Join(ctx.Err(), err))
	}
	switch reply.Type {
	case redcon.Error:
		return "", errors.New(string(reply.Data))
	case redcon.Array:
		var list []string
		reply.ForEach(func(r redcon.RESP) bool {
			list = append(list, string(r.Data))
			return true
		})
		return strings.Join(list, "\n"), nil
	}
	return string(reply.Data), nil
}

// read reads one reply. The server is trusted: only this user can have made its socket.
func (c *Client) read() (redcon.RESP, error) {
	piece := make([]byte, 64<<10)
	for {
		if n, reply := redcon.ReadNextRESP(c.buf); n > 0 {
			c.buf = c.buf[n:]
			return reply, nil
		}
		if len(c.buf) > maxReply {
			return redcon.RESP{}, errors.New("the reply is too long")
		}
		n, err := c.nc.Read(piece)
		if err != nil {
			return redcon.RESP{}, err
		}
		c.buf = append(c.buf, piece[:n]...)
	}
}

// Status asks for a report.
func (c *Client) Status(ctx context.Context) (r Report, err error) {
	text, err := c.Do(ctx, "STATUS")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("read the run's status: %w", err)
	}
	return r, nil
}
