package redistest

import (
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func TestStart(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		s := Start(t, b, Config("appendonly yes", "appendfsync always"))
		info := s.Info(t, "server")
		version := info["redis_version"]
		if b.Server == "valkey" {
			version = info["valkey_version"]
		}
		if version != b.Version {
			t.Errorf("it says it is %s, want %s", version, b.Version)
		}
		s.DB(3).Do(t, "SET", "k", "v")
		pid := s.Pid()
		s.Restart(t) // by SIGKILL
		if s.Pid() == pid {
			t.Error("the same process after a restart")
		}
		if got := s.DB(3).DoString(t, "GET", "k"); got != "v" {
			t.Errorf("after the restart k = %q, want v", got)
		}
		if got := s.DoString(t, "GET", "k"); got != "" {
			t.Errorf("k = %q in database 0, want none", got)
		}
		s.Stop(t)
		if _, err := net.Dial("tcp", s.Addr()); err == nil {
			t.Error("it still listens after Stop")
		}
		s.Restart(t)
		s.Do(t, "DEBUG", "SLEEP", "0")
		if err := s.TryDo("NOSUCH"); err == nil || !strings.Contains(err.Error(), "unknown command") {
			t.Errorf("TryDo gives %v, want the server's error", err)
		}
	})
}

func TestStartOptions(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Run("password and ACL user", func(t *testing.T) {
			t.Parallel()
			s := Start(t, b, Password("s3cret"), Config("user alice on >pw ~* +@all"))
			if got, want := s.URL(), "redis://:s3cret@"+s.Addr(); got != want {
				t.Errorf("URL %s, want %s", got, want)
			}
			s.Do(t, "AUTH", "alice", "pw")
		})
		t.Run("TLS", func(t *testing.T) {
			t.Parallel()
			s := Start(t, b, TLS())
			s.Do(t, "SET", "k", "v")
			if !strings.HasPrefix(s.URL(), "rediss://") {
				t.Errorf("URL %s", s.URL())
			}
		})
		t.Run("IPv6", func(t *testing.T) {
			t.Parallel()
			s := Start(t, b, IPv6())
			if !strings.HasPrefix(s.Addr(), "[::1]:") {
				t.Errorf("address %s", s.Addr())
			}
		})
		t.Run("unix socket", func(t *testing.T) {
			t.Parallel()
			s := Start(t, b, Unix())
			c, err := rueidis.NewClient(rueidis.ClientOption{
				InitAddress: []string{s.Socket()}, DialFn: func(path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) { return d.Dial("unix", path) },
				ForceSingleClient: true, DisableCache: true, AlwaysRESP2: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
		t.Run("replica", func(t *testing.T) {
			t.Parallel()
			primary := Start(t, b, Password("pw"))
			primary.DB(5).Do(t, "SET", "k", "v")
			replica := Start(t, b, ReplicaOf(primary))
			if !within(patience, func() bool { return replica.DB(5).DoString(t, "GET", "k") == "v" }) {
				t.Error("nothing arrived at the replica")
			}
		})
	})
}

func TestFreeze(t *testing.T) {
	s := Start(t, Latest(t))
	s.Freeze()
	done := make(chan error)
	go func() { done <- s.TryDo("PING") }()
	select {
	case err := <-done:
		t.Errorf("a frozen server answered: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.Thaw()
	if err := <-done; err != nil {
		t.Errorf("after thawing: %v", err)
	}
}

// A server must not outlive a test binary that is killed with SIGKILL: this test runs itself as the one to kill.
func TestServerDiesWithTheTestBinary(t *testing.T) {
	if file := os.Getenv("REDISTEST_CHILD"); file != "" {
		s := Start(t, Latest(t))
		if err := os.WriteFile(file, []byte(s.Addr()), 0o600); err != nil {
			t.Fatal(err)
		}
		select {} // until killed
	}
	if runtime.GOOS != "linux" {
		t.Skip("needs the parent death signal of Linux")
	}
	file := t.TempDir() + "/addr"
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerDiesWithTheTestBinary$")
	cmd.Env = append(os.Environ(), "REDISTEST_CHILD="+file, "TMPDIR="+t.TempDir())
	child := StartProcess(t, cmd)
	var addr []byte
	if !within(patience, func() bool { addr, _ = os.ReadFile(file); return len(addr) > 0 }) {
		t.Fatal("the child started no server")
	}
	child.Signal(syscall.SIGKILL)
	if !within(patience, func() bool {
		c, err := net.Dial("tcp", string(addr))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}) {
		t.Errorf("the server at %s outlived the test binary", addr)
	}
}
