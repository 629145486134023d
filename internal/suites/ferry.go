package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"redferry/internal/redistest"
)

// ferry is redferry, which is killed now and then and started again. It belongs to one goroutine, which has to call tend all the time.
type ferry struct {
	t       redistest.TB
	args    []string
	binary  string
	random  *rand.Rand
	mean    time.Duration // that it lives; 0 for ever
	process *redistest.Process
	log     *bytes.Buffer // of this process, to be read once it has ended
	logs    strings.Builder
	dies    time.Time
	kills   int
}

func startFerry(t redistest.TB, o options, random *rand.Rand, dir string, source, target *redistest.Server) *ferry {
	f := &ferry{
		t: t, binary: o.Redferry, random: random, mean: o.Kill,
		// A refused write is kept, and the file goes on.
		args: []string{"run", "--source", source.URL(), "--target", target.URL(), "--dir", dir, "--log-format", "console", "--log-interval", "0", "--on-error", "continue"},
	}
	f.start()
	return f
}

func (f *ferry) start(more ...string) {
	f.log = &bytes.Buffer{}
	cmd := exec.Command(f.binary, append(f.args, more...)...)
	cmd.Stdout, cmd.Stderr = f.log, f.log
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "REDFERRY_") { // what somebody has set for another redferry
			cmd.Env = append(cmd.Env, e)
		}
	}
	f.process = redistest.StartProcess(f.t, cmd)
	f.dies = time.Now().Add(time.Duration(f.random.ExpFloat64() * float64(f.mean)))
}

// tend kills redferry when it is time, and starts it again. The error is that it has ended by itself, with what it said.
func (f *ferry) tend() error {
	select {
	case <-f.process.Exited():
		code, _ := f.process.ExitCode(0)
		return fmt.Errorf("redferry ended with exit code %d: %s", code, lastWords(f.log.String()))
	default:
	}
	if f.mean > 0 && time.Now().After(f.dies) {
		f.end()
		f.kills++
		f.start()
	}
	return nil
}

// end kills redferry, and keeps what it has logged.
func (f *ferry) end() {
	f.process.Kill()
	f.logs.Write(f.log.Bytes())
}

// finish stops redferry and has it run for a last time, until the target has all, and is settled.
func (f *ferry) finish() error {
	f.process.Signal(syscall.SIGTERM)
	if _, err := f.process.ExitCode(patience); err != nil {
		return err
	}
	f.end()
	f.start("--stop-at", "caught-up")
	if code, err := f.process.ExitCode(2 * patience); err != nil || code != 0 {
		return fmt.Errorf("redferry ended with exit code %d at the end (%v): %s", code, err, lastWords(f.log.String()))
	}
	return nil
}

// lastWords are the last lines of a log, in one.
func lastWords(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
