package redistest

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	build := Latest(t)
	var addr, dir string
	err := Run("bench", func(t TB) {
		s := Start(t, build)
		addr, dir = s.Addr(), s.Dir
		s.Do(t, "SET", "k", "v")
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the server outlived Run")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its folder is still there: %v", err)
	}
	reached := false
	err = Run("bench", func(t TB) {
		t.Errorf("first")
		t.Fatalf("second")
		reached = true
	})
	if err == nil || !strings.Contains(err.Error(), "first\nsecond") || reached {
		t.Errorf("error %v, and went on: %v; want both errors, and the end at Fatalf", err, reached)
	}
}
