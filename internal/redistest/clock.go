package redistest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// clockSource is a library that gives a process another time of day. (libfaketime does too, but the servers crash with it: their allocator asks
// for the time before it is ready to tell it.)
//
//go:embed testdata/clock.c
var clockSource string

// ClockOffset sets the server's clock off by d from the machine's: ahead, or behind when it is negative. It holds for restarts, too. The test is
// skipped where it cannot be had: it takes Linux and a C compiler.
func ClockOffset(d time.Duration) Option { return func(o *options) { o.clock = d } }

// clockEnv is what a process with another clock has in its environment. It leaves the library in dir.
func clockEnv(dir string, offset time.Duration) ([]string, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("it takes LD_PRELOAD, as Linux knows it")
	}
	library := filepath.Join(dir, "clock.so")
	compile := exec.Command("cc", "-x", "c", "-O1", "-shared", "-fPIC", "-nostdlib", "-o", library, "-")
	compile.Stdin = strings.NewReader(clockSource)
	if said, err := compile.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the clock: %w %s", err, said)
	}
	return append(os.Environ(), "LD_PRELOAD="+library, fmt.Sprint("CLOCK_OFFSET_US=", offset.Microseconds())), nil
}
