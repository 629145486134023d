package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Process is a started program: a server, or the program under test. It is killed at the end of the test, and by the kernel when the test
// binary is killed. Its methods are safe for concurrent use.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended and cmd.ProcessState is set
}

// StartProcess starts cmd and ends it in the test's cleanup, with SIGKILL if it still runs.
func StartProcess(t TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	t.Cleanup(p.Kill)
	return p
}

// startProcess starts cmd from a goroutine that keeps its thread until the process has ended: the kernel sends the parent death signal
// when the *thread* that started the process ends, and Go would be free to end another one at any time.
func startProcess(cmd *exec.Cmd) (*Process, error) {
	dieWithParent(cmd)
	cmd.WaitDelay = 10 * time.Second // for what it has said: a child that outlives it may keep its output open, and else nothing is to be lost of that
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer close(p.exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-p.exited
		return nil, err
	}
	return p, nil
}

// Pid is the process's ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends sig; a process that has ended is no error.
func (p *Process) Signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) }

// Kill ends it with SIGKILL, frozen or not, and waits until it is gone. A server's child goes, too: one of Redis 6.0 that sends an RDB waits for its dead
// parent for ever.
func (p *Process) Kill() {
	select {
	case <-p.exited:
		return
	default:
	}
	children := childrenOf(p.Pid())
	_ = p.cmd.Process.Kill()
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.exited
}

// Freeze stops it with SIGSTOP: its connections stay open and silent.
func (p *Process) Freeze() { p.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen one go on.
func (p *Process) Thaw() { p.Signal(syscall.SIGCONT) }

// Exited is closed when it has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitCode waits until it has ended, at most for d, and gives its exit code: -1 when a signal ended it.
func (p *Process) ExitCode(d time.Duration) (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(d):
		return 0, fmt.Errorf("%s still runs after %v", p.cmd.Path, d)
	}
}
