package redistest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
)

// Outside runs f with a stand-in for a test, for programs that use this package. f's cleanups run, last first, when f has ended, and the
// result is what f or a helper reported as failed. What they log goes to log. As in a test, only f's own goroutine may call Fatalf or Skipf.
func Outside(name string, log io.Writer, f func(t TB)) error {
	o := &outside{name: name, log: log}
	done := make(chan struct{})
	go func() { // of its own, because Fatalf ends it
		defer close(done)
		defer o.cleanUp()
		f(o)
	}()
	<-done
	return errors.Join(o.failures...)
}

// outside is a test that is none.
type outside struct {
	name     string
	log      io.Writer
	failures []error
	cleanups []func()
}

func (o *outside) Helper()      {}
func (o *outside) Name() string { return o.name }
func (o *outside) Failed() bool { return len(o.failures) > 0 }

func (o *outside) Logf(format string, args ...any) { fmt.Fprintf(o.log, format+"\n", args...) }

func (o *outside) Errorf(format string, args ...any) {
	o.failures = append(o.failures, fmt.Errorf(format, args...))
}

func (o *outside) Fatalf(format string, args ...any) {
	o.Errorf(format, args...)
	runtime.Goexit()
}

// Skipf fails: a program that cannot do what it was started for has nothing to skip.
func (o *outside) Skipf(format string, args ...any) { o.Fatalf(format, args...) }

func (o *outside) Cleanup(f func()) { o.cleanups = append(o.cleanups, f) }

func (o *outside) TempDir() string {
	dir, err := os.MkdirTemp("", o.name)
	if err != nil {
		o.Fatalf("make a folder: %v", err)
	}
	o.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (o *outside) cleanUp() {
	for _, f := range slices.Backward(o.cleanups) {
		f()
	}
}
