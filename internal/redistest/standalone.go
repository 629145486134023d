package redistest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
)

// Run calls f with a stand-in for a test: so the benchmark and the demo start servers as tests do. What f has started is ended when Run
// returns. The error joins all that f reported by Errorf, Fatalf and Skipf; Logf writes to standard error.
func Run(name string, f func(t TB)) error {
	s := &standalone{name: name}
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine, as a test's would
		defer close(done)
		defer s.cleanUp()
		f(s)
	}()
	<-done
	return errors.Join(s.errs...)
}

// standalone is a TB without a test.
type standalone struct {
	name string

	mu       sync.Mutex
	errs     []error
	cleanups []func()
}

func (s *standalone) Helper()      {}
func (s *standalone) Name() string { return s.name }

func (s *standalone) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (s *standalone) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

func (s *standalone) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

func (s *standalone) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

func (s *standalone) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.errs) > 0
}

func (s *standalone) TempDir() string {
	dir, err := os.MkdirTemp("", s.name)
	if err != nil {
		s.Fatalf("make a folder: %w", err)
	}
	s.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *standalone) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

// cleanUp runs the cleanups, last first.
func (s *standalone) cleanUp() {
	s.mu.Lock()
	cleanups := slices.Clone(s.cleanups)
	s.mu.Unlock()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
}
