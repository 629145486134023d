package admin

import (
	"bufio"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// ErrHungUp is why a command is ended whose client has hung up.
var ErrHungUp = errors.New("who has asked for it has hung up")

// conn is one connection. One goroutine uses it.
type conn struct {
	*Server
	nc      net.Conn
	in      *bufio.Reader // of nc, with a buffer of maxLine
	id      int64
	trusted bool // it may give commands
	resp3   bool
	name    string
	closing bool // behind the present reply
	wrong   int  // passwords
}

const (
	maxReplies = 64 << 10 // bytes that wait to be written behind each other
	maxWrong   = 3        // passwords, then the connection is closed
)

// serve answers until the client leaves, misbehaves or is silent for too long, or ctx ends.
func (c *conn) serve(ctx context.Context) {
	defer c.nc.Close()
	defer context.AfterFunc(ctx, func() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		_ = c.nc.SetWriteDeadline(time.Now().Add(time.Second))
	})()
	var out []byte
	defer func() { // the answers that waited for the one to the rest of a request: of which there will be none
		if len(out) > 0 {
			_ = c.write(ctx, out)
		}
	}()
	for {
		idle := c.idle
		if !c.trusted {
			idle = c.stranger
		}
		_ = c.nc.SetReadDeadline(time.Now().Add(idle))
		if ctx.Err() != nil { // which may have come before the deadline was set
			return
		}
		words, err := readRequest(c.in)
		var protocol errProtocol
		switch {
		case errors.As(err, &protocol):
			out, c.closing = appendReply(out, c.resp3, protocol), true
		case err != nil:
			return
		case len(words) > 0:
			out = appendReply(out, c.resp3, c.answer(ctx, words))
		}
		if c.in.Buffered() == 0 || len(out) > maxReplies || c.closing {
			written := out
			out = nil // the next one may be long, and the one behind it not
			if c.write(ctx, written) != nil || c.closing {
				return
			}
		}
	}
}

// write sends answers.
func (c *conn) write(ctx context.Context, out []byte) error {
	timeout := writeTimeout
	if ctx.Err() != nil {
		timeout = time.Second
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(timeout))
	_, err := c.nc.Write(out)
	return err
}

// answer carries a request out.
func (c *conn) answer(ctx context.Context, words []string) any {
	name := strings.ToUpper(words[0])
	if !c.trusted {
		switch name {
		case "AUTH", "HELLO", "QUIT":
		case "POST", "HOST:": // a browser that was sent here
			c.closing = true
			fallthrough
		default:
			return errors.New("NOAUTH Authentication required")
		}
	}
	command, ok := c.commands[name]
	if !ok {
		return fmt.Errorf("ERR unknown command '%.64s': this is redferry's admin socket, and it has no data; HELP lists what it knows", printable(words[0]))
	}
	if n := command.Arity; n > 0 && len(words) != n || n < 0 && len(words) < -n {
		return fmt.Errorf("ERR wrong number of arguments for '%s' command: %s", strings.ToLower(name), command.Usage())
	}
	var reply any
	var err error
	if command.basic != nil {
		reply, err = command.basic(c, words[1:])
	} else {
		reply, err = c.attended(ctx, func(ctx context.Context) (any, error) { return command.Run(ctx, words[1:]) })
	}
	if err != nil {
		return err
	}
	return reply
}

// attended runs a command and ends its context when the client hangs up meanwhile. The answer is written all the same.
//
// To close one's own side only is to hang up, as it is for a server: over TCP nobody can tell the two apart.
func (c *conn) attended(ctx context.Context, run func(context.Context) (any, error)) (any, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_ = c.nc.SetReadDeadline(time.Time{}) // serve's is for a client that is to say something
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if c.hangsUp() {
			cancel(ErrHungUp)
		}
	}()
	defer func() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		<-watched
	}()
	return run(ctx)
}

// hangsUp waits for the client's end, or for a deadline in the past. What comes meanwhile waits in the buffer for its turn; behind a buffer that is full nobody looks.
func (c *conn) hangsUp() bool {
	for {
		switch _, err := c.in.Peek(c.in.Buffered() + 1); {
		case err == nil:
		case errors.Is(err, bufio.ErrBufferFull), errors.Is(err, os.ErrDeadlineExceeded):
			return false
		default:
			return true
		}
	}
}

// authenticate compares in the same time whatever is given. redis-cli makes an empty user of redis://:password@host.
func (c *conn) authenticate(user, password string) error {
	if c.password == "" {
		return errors.New("ERR AUTH called without any password configured")
	}
	same := subtle.ConstantTimeCompare([]byte(password), []byte(c.password)) == 1
	if user != "default" && user != "" || !same {
		c.wrong++
		c.closing = c.wrong >= maxWrong
		return errors.New("WRONGPASS invalid username-password pair")
	}
	c.trusted = true
	return nil
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}
