package replica

import "sync/atomic"

// State is what a migration is doing, in the words that people see.
type State string

// The states of a run, in their usual order.
const (
	Connecting State = "connecting"
	Loading    State = "snapshot"
	CatchingUp State = "catching_up"
	InSync     State = "in_sync"
	Waiting    State = "waiting"
	Completed  State = "completed"
	Broken     State = "failed"
)

// Observer hears of each change of state, with its reason in words. It is called from several goroutines.
type Observer func(s State, why string)

// Progress counts what a run has done. The run writes it, anybody may read it at any time; it is for eyes, never for decisions.
type Progress struct {
	SnapshotSize  atomic.Int64 // bytes of the RDB, -1 when unknown
	SnapshotRead  atomic.Int64 // bytes of the RDB read so far
	SnapshotKeys  atomic.Int64 // keys acknowledged by the target
	SnapshotTotal atomic.Int64 // keys that the RDB announced (RESIZEDB), so far as it was read
	Received      atomic.Int64 // offset behind the last unit read from the source
	SourceOffset  atomic.Int64 // master_repl_offset as last seen
	Units         atomic.Int64 // units committed
	Commands      atomic.Int64 // commands committed
	Rejected      atomic.Int64 // writes that the target refused
	FullResyncs   atomic.Int64 // +FULLRESYNC seen by this process
	Reconnects    atomic.Int64 // attempts after the first
}
