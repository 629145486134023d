package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"redferry/internal/redistest"
)

// running is a suite that runs one file.
type running struct {
	process *redistest.Process
	output  *bytes.Buffer // to be read once the process has ended
	tests   chan finished
}

// finished is a test that has ended. The suite waits until it is told to go on.
type finished struct {
	name string
	conn net.Conn
}

// resume lets the suite go on to its next test.
func (f finished) resume() { fmt.Fprintln(f.conn, "go") } // if nobody is there, the suite has ended, which is seen elsewhere

// runSuite starts a file of the suite against the server. Suite and listener end in the cleanup.
func runSuite(t redistest.TB, s suite, file string, server *redistest.Server) *running {
	dir := t.TempDir()
	if err := s.copyTo(dir, server.Build); err != nil {
		t.Fatalf("%v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for the suite's hook: %v", err)
	}
	r := &running{tests: make(chan finished), output: &bytes.Buffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	var listening sync.WaitGroup
	listening.Go(func() { r.listen(ctx, l) })
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		listening.Wait()
	})

	_, port, _ := net.SplitHostPort(l.Addr().String())
	// With --durable a test that fails in an unexpected way does not end its file.
	cmd := exec.Command("tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", strconv.Itoa(server.Port()), "--single", file, "--durable")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TERM=dumb", "SUITES_PORT="+port, "SUITES_PID="+strconv.Itoa(server.Pid()), "SUITES_LOG="+filepath.Join(server.Dir, "server.log"))
	if marked(file) {
		cmd.Env = append(cmd.Env, "SUITES_UNSKIP=1")
	}
	cmd.Stdout, cmd.Stderr = r.output, r.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end its helpers with it
	r.process = redistest.StartProcess(t, cmd)
	t.Cleanup(r.end)
	return r
}

// listen takes what the hook says, one connection after the other, until the listener is closed.
func (r *running) listen(ctx context.Context, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			select {
			case r.tests <- finished{lines.Text(), conn}:
			case <-ctx.Done():
			}
		}
		stop()
		_ = conn.Close()
	}
}

// end kills the suite with its helpers.
func (r *running) end() {
	_ = syscall.Kill(-r.process.Pid(), syscall.SIGKILL)
	r.process.Kill()
}

// said is what the suite has said, once it has ended.
func (r *running) said() outcome { return parse(strings.ToValidUTF8(r.output.String(), "?")) }
