package replica

import (
	"sync"
	"sync/atomic"
	"time"
)

// State is what a migration is doing, in the words that people see.
type State string

// The states of a run, in their usual order.
const (
	Connecting State = "connecting"
	Loading    State = "snapshot"
	CatchingUp State = "catching_up"
	InSync     State = "in_sync"
	Waiting    State = "waiting"
)

// Status is the state of a run with its reason, and the run's counters. The run and its sink write it, anybody may read it at any time;
// it is for eyes, never for decisions. The zero value is ready for use.
type Status struct {
	Progress
	// Observe, when set before the run starts, hears of each change of state, with its reason in words. It is called under a lock, from
	// several goroutines, and must not call the Status back.
	Observe func(s State, why string)

	mu      sync.Mutex
	state   State
	why     string
	since   time.Time
	resumed State  // what Go returns to after Wait
	reason  string // and its reason
}

// Set enters a state. While the run waits, the state is remembered and entered when the waiting is over.
func (s *Status) Set(state State, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumed, s.reason = state, why
	s.enter(state, why)
}

// Wait says what the run waits for; Go, or Set, ends it.
func (s *Status) Wait(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enter(Waiting, why)
}

// Go ends a Wait: back to the state before it. It does nothing when the run does not wait.
func (s *Status) Go() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Waiting && s.resumed != "" {
		s.enter(s.resumed, s.reason)
	}
}

func (s *Status) enter(state State, why string) {
	if s.state == state && s.why == why {
		return
	}
	s.state, s.why, s.since = state, why, time.Now()
	if s.Observe != nil {
		s.Observe(state, why)
	}
}

// Now is the state, its reason, and since when.
func (s *Status) Now() (state State, why string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.why, s.since
}

// Progress counts what a run has done.
type Progress struct {
	SnapshotSize  atomic.Int64 // bytes of the RDB, -1 when unknown
	SnapshotRead  atomic.Int64 // bytes of the RDB of which all is in the target
	SnapshotKeys  atomic.Int64 // keys in the target
	SnapshotTotal atomic.Int64 // keys that the RDB announced so far
	Received      atomic.Int64 // offset behind the last unit read from the source
	Checkpointed  atomic.Int64 // offset up to which the target has everything
	SourceOffset  atomic.Int64 // master_repl_offset as last seen
	Commands      atomic.Int64 // commands committed
	Transactions  atomic.Int64 // transactions that carried them
	Rejected      atomic.Int64 // writes that the target refused, in this run
	FullResyncs   atomic.Int64 // +FULLRESYNC seen
	Reconnects    atomic.Int64 // attempts after the first
}
