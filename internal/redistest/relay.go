package redistest

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// relay is what both proxies share: a listener on loopback, the connections that came in, and for each one a connection to the target.
type relay struct {
	listener net.Listener
	wg       sync.WaitGroup // of the accept loop and all that it starts

	mu       sync.Mutex
	target   string // host:port, or the path of a unix socket
	refuse   bool
	accepted int
	cuts     int
	pairs    map[*pair]struct{}
}

// pair is one connection through a proxy.
type pair struct {
	client, server net.Conn
	closed         chan struct{}
	once           sync.Once
	lost           atomic.Bool // the client has been cut off, the server is still to finish
}

// close ends both sides; what was written before is still delivered.
func (c *pair) close() {
	c.once.Do(func() {
		close(c.closed)
		for _, conn := range []net.Conn{c.client, c.server} {
			closeWrite(conn)
			_ = conn.Close()
		}
	})
}

// closeWrite says that no more will come, while the other direction stays open.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// start listens and hands every connection to handle, on a goroutine of its own. The test's cleanup ends and joins all of them.
func (r *relay) start(t TB, target string, handle func(*pair)) {
	t.Helper()
	r.target, r.pairs = target, map[*pair]struct{}{}
	var err error
	if r.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	r.wg.Go(func() { r.accept(handle) })
	t.Cleanup(func() {
		_ = r.listener.Close()
		r.setRefuse(true)
		r.cutAll(false)
		r.wg.Wait()
	})
}

func (r *relay) accept(handle func(*pair)) {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() {
			if c := r.connect(client); c != nil {
				handle(c)
				c.close()
				r.mu.Lock()
				delete(r.pairs, c)
				r.mu.Unlock()
			}
		})
	}
}

// connect dials the target for an incoming connection. nil: the client was turned away.
func (r *relay) connect(client net.Conn) *pair {
	r.mu.Lock()
	target, refuse := r.target, r.refuse
	r.accepted++
	r.mu.Unlock()
	network := "tcp"
	if strings.HasPrefix(target, "/") {
		network = "unix"
	}
	if !refuse {
		if server, err := net.DialTimeout(network, target, patience); err == nil {
			c := &pair{client: client, server: server, closed: make(chan struct{})}
			r.mu.Lock()
			r.pairs[c] = struct{}{}
			refuse = r.refuse // it may have been set while we dialled
			r.mu.Unlock()
			if refuse {
				c.close()
			}
			return c
		}
	}
	if tcp, ok := client.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, like a port that nobody listens on
	}
	_ = client.Close()
	return nil
}

func (r *relay) setRefuse(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = on
}

// cutAll ends every connection there is.
func (r *relay) cutAll(count bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.pairs {
		c.close()
	}
	if count {
		r.cuts++
	}
}

// Addr is where clients connect to instead of to the target.
func (r *relay) Addr() string { return r.listener.Addr().String() }

// SetTarget sends new connections to another server, as after a failover; those there are stay.
func (r *relay) SetTarget(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = addr
}

// Refuse turns new connections away with a reset, until it is called with false.
func (r *relay) Refuse(on bool) { r.setRefuse(on) }

// Cut ends all connections now, both sides.
func (r *relay) Cut() { r.cutAll(true) }

// Cuts counts how often connections were cut by whatever was asked for.
func (r *relay) Cuts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cuts
}

// Accepted counts the connections that came in, those turned away included.
func (r *relay) Accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}
