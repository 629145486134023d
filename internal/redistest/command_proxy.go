package redistest

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
	"sync"

	"github.com/tidwall/redcon"
)

// Answer is what a [CommandProxy] does with a command. The zero Answer forwards it.
type Answer struct {
	reply     string
	cutBefore bool
	loseReply bool
}

// Forward sends the command to the server and its reply to the client.
func Forward() Answer { return Answer{} }

// Reply answers in the server's place, which never sees the command. The reply is RESP without the last line end: "+OK",
// "-OOM command not allowed when used memory > 'maxmemory'.", "$-1".
func Reply(resp string) Answer { return Answer{reply: resp + "\r\n"} }

// CutBeforeCommand cuts the connection: the commands before it are done and answered, the server sees nothing of this one.
func CutBeforeCommand() Answer { return Answer{cutBefore: true} }

// LoseReply forwards the command and cuts the connection when the server has answered it: done, but the client does not know.
func LoseReply() Answer { return Answer{loseReply: true} }

// CommandProxy is a proxy on loopback that understands what the client sends and may answer in the server's place, in order. It is for
// request and reply: a connection that turns into a replication stream or a subscription stops there. Its methods are safe for concurrent use.
type CommandProxy struct {
	relay
	handler func(conn int, args [][]byte) Answer // guarded by relay.mu
	conns   int
}

// NewCommandProxy starts a proxy in front of target, which is host:port or the path of a unix socket. It ends in the test's cleanup.
func NewCommandProxy(t TB, target string) *CommandProxy {
	t.Helper()
	p := &CommandProxy{}
	p.start(t, target, p.serve)
	return p
}

// Handle has handler decide on every command from now on; nil forwards all. conn tells the connections apart (1, 2, …); the arguments are
// valid during the call. Calls for one connection come in order, those for several at the same time.
func (p *CommandProxy) Handle(handler func(conn int, args [][]byte) Answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = handler
}

func (p *CommandProxy) serve(c *pair) {
	p.mu.Lock()
	p.conns++
	id := p.conns
	p.mu.Unlock()
	pending := &replyQueue{}
	pending.wake = sync.NewCond(&pending.mu)
	fromServer := make(chan []byte)
	var wg sync.WaitGroup
	wg.Go(func() {
		p.commands(c, id, pending)
		pending.close()
	})
	wg.Go(func() {
		readReplies(c, fromServer)
		pending.close() // the server has gone: what is queued gets what there is, and the client hears of it
	})
	wg.Go(func() {
		if writeReplies(c, pending, fromServer) {
			p.mu.Lock()
			p.cuts++
			p.mu.Unlock()
		}
		c.close()
	})
	wg.Wait()
}

// commands reads what the client sends, asks the handler, and forwards. It ends with either side or with an Answer that cuts.
func (p *CommandProxy) commands(c *pair, id int, pending *replyQueue) {
	in, out := redcon.NewReader(c.client), bufio.NewWriter(c.server)
	for {
		cmds, err := in.ReadCommands()
		if err != nil {
			return
		}
		for _, cmd := range cmds {
			p.mu.Lock()
			handler := p.handler
			p.mu.Unlock()
			var a Answer
			if handler != nil {
				a = handler(id, cmd.Args)
			}
			if a.reply == "" && !a.cutBefore {
				_, _ = out.Write(cmd.Raw) // an error stays until Flush
			}
			pending.push(a)
			if a.cutBefore {
				_ = out.Flush()
				return
			}
		}
		if err := out.Flush(); err != nil {
			return
		}
	}
}

// readReplies cuts what the server says into replies.
func readReplies(c *pair, replies chan<- []byte) {
	defer close(replies)
	in := bufio.NewReader(c.server)
	for {
		var reply bytes.Buffer
		if err := copyReply(&reply, in); err != nil {
			return
		}
		select {
		case replies <- reply.Bytes():
		case <-c.closed:
			return
		}
	}
}

// writeReplies gives the client one reply for each command, in order: the proxy's own or the server's. It tells whether it ended because an
// Answer cuts.
func writeReplies(c *pair, pending *replyQueue, fromServer <-chan []byte) bool {
	for {
		a, ok := pending.pop()
		if !ok || a.cutBefore {
			return ok
		}
		reply := []byte(a.reply)
		if a.reply == "" {
			if reply, ok = <-fromServer; !ok {
				return false
			}
		}
		if a.loseReply {
			return true
		}
		if _, err := c.client.Write(reply); err != nil {
			return false
		}
	}
}

// copyReply copies one whole reply, and any push message before it, of RESP2 or RESP3.
func copyReply(dst io.Writer, src *bufio.Reader) error {
	line, err := src.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 3 {
		return io.ErrUnexpectedEOF
	}
	kind := line[0]
	n, _ := strconv.Atoi(string(line[1 : len(line)-2]))
	if _, err := dst.Write(line); err != nil {
		return err
	}
	elements := 0
	switch kind {
	case '$', '=', '!':
		if n >= 0 {
			_, err = io.CopyN(dst, src, int64(n)+2)
		}
		return err
	case '*', '~':
		elements = n
	case '%':
		elements = 2 * n
	case '>': // a push message comes before the reply
		elements = n + 1
	case '|': // attributes do, too
		elements = 2*n + 1
	}
	for range max(0, elements) {
		if err := copyReply(dst, src); err != nil {
			return err
		}
	}
	return nil
}

// replyQueue holds the answers of commands whose reply has not been passed on.
type replyQueue struct {
	mu     sync.Mutex
	wake   *sync.Cond
	queue  []Answer
	closed bool // no more commands will come
}

func (q *replyQueue) push(a Answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, a)
	q.wake.Signal()
}

// pop waits for the next one; false says that there will be none.
func (q *replyQueue) pop() (Answer, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) == 0 {
		if q.closed {
			return Answer{}, false
		}
		q.wake.Wait()
	}
	a := q.queue[0]
	q.queue = q.queue[1:]
	return a, true
}

func (q *replyQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Signal()
}
