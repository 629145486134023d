package redistest

import (
	"net"
	"runtime"
	"strconv"
	"testing"
)

// A port is nobody else's until it is released, also while its server is down.
func TestPortsAreReserved(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is nothing to reserve a port by")
	}
	s := Start(t, Latest(t))
	s.Kill()
	if again, err := reserve(s.Port()); err == nil {
		_ = again.Close()
		t.Errorf("the port %d of a server that is down was given away", s.Port())
	}
	_, text, _ := net.SplitHostPort(FreeAddr(t))
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := reserve(port); err == nil {
		_ = again.Close()
		t.Errorf("the free port %d was given away twice", port)
	}
	port, release := freePort()
	if err := release.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := reserve(port)
	if err != nil {
		t.Fatalf("a released port stays reserved: %v", err)
	}
	_ = again.Close()
}
