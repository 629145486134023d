package replica

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// State is what a migration is doing, in the words that people see.
type State string

// The states of a run, in their usual order.
const (
	Connecting  State = "connecting"
	Loading     State = "snapshot"
	CatchingUp  State = "catching_up"
	InSync      State = "in_sync"
	Settling    State = "settling"
	Comparing   State = "comparing"
	CuttingOver State = "cutting_over"
	Completed   State = "completed"
	Waiting     State = "waiting"
	Paused      State = "paused" // by the operator: see [Gate]
)

// States are all of them.
func States() []State {
	return []State{Connecting, Loading, CatchingUp, InSync, Settling, Comparing, CuttingOver, Completed, Waiting, Paused}
}

// Side is what a run can wait for. Several waits may be on at a time.
type Side int

// The sides.
const (
	OnSource Side = iota // to be reached, or to be ready
	OnTarget             // likewise
	OnSpool              // for room in it
	sides
)

// Status is the state of a run with its reason, and the run's counters. The run and its sink write it, anybody may read it at any time;
// it is for eyes, never for decisions. The zero value is ready for use.
type Status struct {
	Progress
	// Observe, when set before the run starts, hears of each change of state, with its reason in words. It is called under a lock, from
	// several goroutines, and must not call the Status back.
	Observe func(s State, why string)

	mu     sync.Mutex
	base   State // what the run does, or did before it had to wait or was paused
	reason string
	waits  [sides]string // why, or "" where nothing is waited for
	paused bool

	state State // what people see
	why   string
	since time.Time
}

// Set enters a state. While the run waits for anything, or else is paused, that is what people see.
func (s *Status) Set(state State, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base, s.reason = state, why
	s.show()
}

// Wait says why the run waits; Go ends it.
func (s *Status) Wait(side Side, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits[side] = why
	s.show()
}

// Go ends a Wait.
func (s *Status) Go(side Side) { s.Wait(side, "") }

// whyPaused is the reason that people see.
const whyPaused = "by the operator: nothing is applied to the target until it is resumed, and receiving goes on into the spool"

// Pause says whether the operator has paused the run.
func (s *Status) Pause(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = paused
	s.show()
}

// IsPaused tells whether the operator has paused the run.
func (s *Status) IsPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

// Base is what the run does, or did before it had to wait or was paused.
func (s *Status) Base() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// show makes of state and waits what people see.
func (s *Status) show() {
	state, why := s.base, s.reason
	waits := slices.DeleteFunc(slices.Clone(s.waits[:]), func(why string) bool { return why == "" })
	if s.paused {
		state, why = Paused, whyPaused
	}
	if len(waits) > 0 {
		if s.paused {
			waits = append(waits, "and it is paused")
		}
		state, why = Waiting, strings.Join(waits, "; ")
	}
	if state != "" {
		s.enter(state, why)
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
	SnapshotSize     atomic.Int64 // bytes of the RDB, -1 when unknown
	SnapshotRead     atomic.Int64 // bytes of the RDB of which all is in the target
	SnapshotReceived atomic.Int64 // bytes of the RDB that have arrived, in this run
	SnapshotKeys     atomic.Int64 // keys in the target
	SnapshotTotal    atomic.Int64 // keys that the RDB announced so far
	Received         atomic.Int64 // offset behind the last byte that is in the spool
	Taken            atomic.Int64 // offset behind the last unit that the sink took
	ApplyLag         atomic.Int64 // ms since the first byte came that the target does not have; 0 when it has all that came, or nobody knows
	SettleSeen       atomic.Int64 // keys that the present pass of settling has looked at
	SettleTotal      atomic.Int64 // keys that are there to look at
	Settled          atomic.Int64 // expiries of keys and hash fields that were brought back
	Checkpointed     atomic.Int64 // offset up to which the target has everything
	Acked            atomic.Int64 // offset that the source was told last
	SourceOffset     atomic.Int64 // master_repl_offset as last seen
	SourceBacklog    atomic.Int64 // bytes that the source's backlog may have, as last seen; 0 without one
	Commands         atomic.Int64 // commands committed
	Transactions     atomic.Int64 // transactions that carried them
	Rejected         atomic.Int64 // writes that the target refused, in this run
	Evicted          atomic.Int64 // keys that the target evicted, in this run
	ForeignRefusal   atomic.Bool  // the source refuses writes because of a cutover that this migration knows nothing of
	Divergence       atomic.Int64 // commands that found nothing to change in the target, where the source had; since the snapshot
	FullResyncs      atomic.Int64 // +FULLRESYNC seen
	Reconnects       atomic.Int64 // attempts after the first, of either side
	SpoolUsed        atomic.Int64 // bytes
	SpoolMax         atomic.Int64 // bytes

	DivergenceKinds atomic.Pointer[string] // the divergence by command, "DEL=1 PEXPIREAT=3"; nil before the checkpoint was read
}
