package replica

import (
	"net"
	"strings"
	"sync"
)

// ownConns are the addresses of the connections that a run has to its source, by which it knows
// them among the source's clients. Behind NAT, and over a unix socket, the source sees others: then
// they count as clients of its own.
type ownConns struct {
	mu    sync.Mutex
	addrs map[string]bool
}

// track notes a connection until it is closed.
func (o *ownConns) track(conn net.Conn) net.Conn {
	addr := conn.LocalAddr().String()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.addrs == nil {
		o.addrs = map[string]bool{}
	}
	o.addrs[addr] = true
	return trackedConn{conn, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.addrs, addr)
	}}
}

// has tells a line of CLIENT LIST that is about one of them.
func (o *ownConns) has(line string) bool {
	if o == nil {
		return false
	}
	for field := range strings.FieldsSeq(line) {
		if addr, ok := strings.CutPrefix(field, "addr="); ok {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.addrs[addr]
		}
	}
	return false
}

type trackedConn struct {
	net.Conn
	closed func()
}

func (c trackedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
