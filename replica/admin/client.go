package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tidwall/redcon"
)

// ErrNotRunning says that nobody listens on a socket.
var ErrNotRunning = errors.New("no run listens there")

// ErrNoAnswer says that a command was given, and that its answer did not come.
var ErrNoAnswer = errors.New("hear the run's answer")

// Client gives commands to a run on this machine. One goroutine uses it, but for HangUp.
type Client struct {
	nc net.Conn
	in *bufio.Reader // of nc
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
	return &Client{nc: nc, in: bufio.NewReaderSize(nc, maxLine)}, nil
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
	text, err := readReply(c.in)
	var refusal serverError
	if errors.As(err, &refusal) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoAnswer, errors.Join(ctx.Err(), err))
	}
	return text, nil
}

// serverError is what the run answers where it refuses.
type serverError string

func (e serverError) Error() string { return string(e) }

// maxReply is the longest reply that a Client takes, in bytes and in elements.
const maxReply = 16 << 20

// maxDepth is how many lists may lie in one another.
const maxDepth = 8

// readReply reads one reply; a list has a line for each element. Lengths are checked here: redcon's own reader ends the process for some.
func readReply(in *bufio.Reader) (string, error) {
	room := maxReply
	return readNested(in, &room, maxDepth)
}

func readNested(in *bufio.Reader, room *int, depth int) (string, error) {
	kind, text, n, err := readPart(in, room)
	if err != nil || kind != '*' {
		return text, err
	}
	if depth == 0 {
		return "", errors.New("a reply has too many lists in one another")
	}
	list := make([]string, 0, min(n, 1024))
	for range n {
		text, err := readNested(in, room, depth-1)
		var refusal serverError
		if errors.As(err, &refusal) {
			text = err.Error()
		} else if err != nil {
			return "", err
		}
		list = append(list, text)
	}
	return strings.Join(list, "\n"), nil
}

// readWhole reads a line, which may be longer than in's buffer: a refusal has all that was wrong in it.
func readWhole(in *bufio.Reader, room *int) (line []byte, err error) {
	for {
		piece, err := in.ReadSlice('\n')
		if *room -= len(piece); *room < 0 {
			return nil, errors.New("a reply is too long")
		}
		if line = append(line, piece...); !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// readPart reads a reply that is no list, or the head of one, with the number of its elements. It takes what it reads from room.
func readPart(in *bufio.Reader, room *int) (kind byte, text string, n int, err error) {
	line, err := readWhole(in, room)
	if err != nil {
		return 0, "", 0, err
	}
	line, whole := bytes.CutSuffix(line, []byte("\r\n"))
	if !whole || len(line) == 0 {
		return 0, "", 0, fmt.Errorf("a reply begins with %.40q", line)
	}
	kind, text = line[0], string(line[1:])
	switch kind {
	case '-':
		return kind, "", 0, serverError(text)
	case '+', ':':
		return kind, text, 0, nil
	case '$', '*':
	default:
		return 0, "", 0, fmt.Errorf("a reply begins with %.40q", line)
	}
	if n, err = strconv.Atoi(text); err != nil || n < -1 || n > *room {
		return 0, "", 0, fmt.Errorf("a reply has the length %.40q, and %d at most can be read", text, *room)
	}
	if n = max(0, n); kind == '*' || text == "-1" {
		return kind, "", n, nil
	}
	data := make([]byte, n+2)
	if _, err = io.ReadFull(in, data); err != nil {
		return 0, "", 0, err
	}
	*room -= n
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		return 0, "", 0, fmt.Errorf("a reply of %d bytes goes on behind them", n)
	}
	return kind, string(data[:n]), n, nil
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
