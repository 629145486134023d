package patterns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"redferry/internal/leaks"
)

// binary is redferry, built once, by its own module: what it is built of does not depend on the
// clients here.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "redferry-patterns-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "redferry")
	build := exec.Command("go", append(append([]string{"build"}, raceFlags...), "-o", binary, "./cmd/redferry")...)
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build redferry: %v\n%s", err, out)
		os.Exit(1)
	}
	redis.SetLogger(silent{})
	leaks.Main(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// silent is a log for the clients: what they complain about is what the tests do to them.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// patience is how long a test waits for what has to happen. A quiet machine needs hardly any of it.
const patience = 2 * time.Minute

// until waits for cond to hold.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v it is still not so that %s", patience, what)
		}
	}
}

// answer is what a client knows about a command that it has sent.
type answer int

const (
	acknowledged answer = iota
	refused             // the server has said so: nothing was done
	lost                // no answer: it may have been done, or not
)

// judge tells which answer an error of go-redis is.
func judge(err error) answer {
	var said redis.Error
	switch {
	case err == nil:
		return acknowledged
	case errors.As(err, &said):
		return refused
	default:
		return lost
	}
}

// unexpected reports whether a server has refused a write with other words than a source that was
// cut over.
func unexpected(err error) bool {
	return judge(err) == refused &&
		!strings.HasPrefix(err.Error(), "NOREPLICAS") && !strings.HasPrefix(err.Error(), "EXECABORT")
}
