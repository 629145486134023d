package redistest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
)

// freePort finds a port that nobody listens on, and 10000 above it another one for the cluster bus. Both are below the range that outgoing
// connections take their ports from, so that a stopped server finds its port again. No other test, of whatever package, is given the port until it is released.
func freePort() (int, io.Closer) {
	for {
		port := 12000 + rand.IntN(10000)
		release, err := reserve(port)
		if err != nil {
			continue
		}
		if canListen(port) && canListen(port+10000) {
			return port, release
		}
		_ = release.Close()
	}
}

// reserve makes a port this process's own among all that ask for it so: between the look at it and its use, and while its server is down. The name of a socket outside the file
// system is what they share on Linux; the kernel frees it with the process. Elsewhere there is nothing as simple, and two tests may meet.
func reserve(port int) (release io.Closer, err error) {
	if runtime.GOOS != "linux" {
		return io.NopCloser(nil), nil
	}
	return net.Listen("unix", fmt.Sprintf("@redferry-test-port-%d", port))
}

// FreeAddr is an address on loopback, host:port, where nobody listens, that no outgoing connection takes and that no other test is given before the end of this one.
func FreeAddr(t TB) string {
	port, release := freePort()
	t.Cleanup(func() { _ = release.Close() })
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

func canListen(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}
