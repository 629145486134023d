package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"redferry/internal/leaks"
	"redferry/internal/redistest"
)

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) {
	if signal.Ignored(syscall.SIGHUP) { // under nohup: the programs are to hear it nevertheless
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	dir, err := os.MkdirTemp("", "redferry")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "redferry")
	if out, err := exec.Command("go", append(append([]string{"build"}, raceFlags...), "-o", binary, ".")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		os.Exit(1)
	}
	leaks.Main(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// program is the binary in a home of its own.
type program struct {
	home string
	env  []string // beside what every program has

	nohup bool
}

func newProgram(t *testing.T, env ...string) *program {
	t.Helper()
	return &program{home: t.TempDir(), env: env}
}

func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	if p.nohup {
		cmd = exec.Command("nohup", append([]string{binary}, args...)...)
	}
	cmd.Env = append([]string{
		"XDG_STATE_HOME=" + p.home, "PATH=" + os.Getenv("PATH"),
		"GORACE=atexit_sleep_ms=0", // else each program built with -race takes a second to end
	}, p.env...)
	return cmd
}

// result is how a program ended.
type result struct {
	stdout, stderr string
	code           int
}

// patient is how long is waited for what has to come: hardly anything of it on a quiet machine, and much where other tests take the processors.
const patient = 2 * time.Minute

// run runs the program to its end, which must come in time.
func (p *program) run(t *testing.T, args ...string) result {
	t.Helper()
	r := p.start(t, args...)
	return r.wait(t)
}

// running is a program that has not been waited for.
type running struct {
	*redistest.Process
	stdout, stderr locked
}

func (p *program) start(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{}
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = &r.stdout, &r.stderr
	r.Process = redistest.StartProcess(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("redferry %s\n%s", redact(strings.Join(args, " ")), r.stderr.String())
		}
	})
	return r
}

func (r *running) wait(t *testing.T) result {
	t.Helper()
	code, err := r.ExitCode(patient)
	if err != nil {
		t.Fatalf("%v:\n%s", err, r.stderr.String())
	}
	return result{r.stdout.String(), r.stderr.String(), code}
}

// until waits for the run to log this state.
func (r *running) until(t *testing.T, state string) {
	t.Helper()
	r.untilText(t, fmt.Sprintf("%q:%q", "state", state))
}

func (r *running) untilText(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(patient); !strings.Contains(r.stderr.String(), text); {
		select {
		case <-r.Exited():
			if !strings.Contains(r.stderr.String(), text) {
				t.Fatalf("it ended without %s:\n%s", text, r.stderr.String())
			}
		case <-time.After(10 * time.Millisecond):
			if time.Now().After(end) {
				t.Fatalf("no %s in:\n%s", text, r.stderr.String())
			}
		}
	}
}

// locked is a buffer that one goroutine writes and another reads.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// logLines are the lines of a log of JSON, every one of which must be one.
func logLines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(text) {
		fields := map[string]any{}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("not a line of JSON: %v: %s", err, line)
		}
		lines = append(lines, fields)
	}
	return lines
}

// expect compares an exit code, and looks for texts in what was printed.
func (r result) expect(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code: got %d, want %d:\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stdout+r.stderr, text) {
			t.Errorf("no %q in:\n%s%s", text, r.stdout, r.stderr)
		}
	}
}
