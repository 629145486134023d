package replica

import (
	"bufio"
	"context"
	"strconv"
	"strings"
	"time"
)

// Sink is where a replica's data goes: the applier. Its methods are called by [Run] alone.
type Sink interface {
	// Resume finds out where to go on: it connects to the target, claims it for this process, and reads the checkpoint. It begins
	// every attempt, the first as well as each one after an error; whatever the sink kept in memory before is void.
	Resume(ctx context.Context, src SourceInfo) (Resume, error)

	// Snapshot replaces what the target holds by the RDB that snap.RDB yields, reading exactly up to its last byte and no further, and
	// returns the position that the stream goes on from: snap.At, with the database that the RDB's repl-stream-db names. When it
	// returns nil the snapshot and that position are durable in the target. Called only when Resume allowed a full resync.
	Snapshot(ctx context.Context, snap Snapshot) (Position, error)

	// Apply takes one unit, in order, from one goroutine, while Commit runs. It copies what it keeps, blocks while too much is
	// underway, and returns early with ctx's error or, when Commit has failed, with any error. A unit without commands moves the position only.
	Apply(ctx context.Context, u *Unit) error

	// Commit writes what Apply took, in order, each unit exactly once, until ctx ends; then it finishes what Apply took before that and
	// returns nil, or ctx's error when the target is away just then. While ctx lasts it waits for a target that is away; it returns an
	// error when the work has to start again from Resume.
	Commit(ctx context.Context) error

	// Settle prepares the target, beside Apply and Commit, for the end of the source's writes: until then a sink may keep keys from expiring that the source will renew or
	// delete. It does what can be done without a risk while these go on, so that Release has little left. rest is how long it may take after Settle's return
	// until they are over. From its call on units are written with that in mind. After any error, ctx's too, they are written as before. It may be called again.
	Settle(ctx context.Context, rest time.Duration) error

	// Release makes the target one that needs the source no more. It is called when no write of the source is missing there, or will be asked for: when Commit has ended
	// for a run that stops, after [Closer.Complete], and after a Resume that said ErrCompleted. It waits for a target that is away, until ctx ends, and may be called again.
	Release(ctx context.Context) error

	// Checkpointed is the offset up to which everything is durable in the target, and a channel that is closed when it has moved on.
	// Any goroutine may ask, at any time.
	Checkpointed() (offset int64, moved <-chan struct{})
}

// Reach waits until everything up to offset is durable in a sink's target.
func Reach(ctx context.Context, s Sink, offset int64) error {
	for {
		have, moved := s.Checkpointed()
		if have >= offset {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Resume is a sink's answer to "where do we go on".
type Resume struct {
	// From is the checkpoint's position; zero when there is none to go on from.
	From Position
	// Part is the snapshot that the target holds in part, when there is one and From is zero: an RDB that is still in the spool is gone on with.
	Part Part
	// FullResync is nil when the target may be filled from a snapshot; otherwise it is the [Stop] to end with rather than ask the
	// source for one.
	FullResync *Stop
}

// Part is how far a snapshot came.
type Part struct {
	At   Position // what +FULLRESYNC said; zero when there is no snapshot in part that could be gone on with
	Read int64    // bytes of the RDB of which all is in the target
	// Lost is the [Stop] to end with when all of that RDB had arrived and the source cannot go on behind it; nil when another full resync is allowed then.
	Lost *Stop
}

// Snapshot is the RDB of a full resync on its way.
type Snapshot struct {
	At   Position      // what +FULLRESYNC said; its DB is 0
	Size int64         // bytes, or -1 when the source does not know (diskless)
	From int64         // the RDB's byte that RDB begins with: 0, or the Read of the Part that is gone on with
	RDB  *bufio.Reader // up to the RDB's end, at least; belongs to Run
	// End is to be called once, when the RDB was read to its end and before it is declared complete: it tells whether the transfer ended there.
	End func() error
	// Durable is to be called with the number of the RDB's bytes up to which everything is in the target, and a later Part would say so. Any
	// goroutine may call it; once a second at least, with the same number when nothing moved. The bytes before it are not kept for long.
	Durable func(read int64)
	// Interrupt unblocks a read of RDB, for a sink that cannot go on. Any goroutine may call it.
	Interrupt func()
}

// SourceInfo is what the source said of itself before an attempt.
type SourceInfo struct {
	Addr    string // as dialled, for messages
	RunID   string // of the server process: the same one on both ends means that source and target are one
	Version string // redis_version, or valkey_version where there is one
	Server  string // "redis" or "valkey"
	ReplID  string // master_replid
	Role    string // "master" or "slave"
	Primary string // host:port of its own primary, as it knows it; empty when it has none
	// Skew is how far its clock is ahead of this machine's, as near as a round trip tells; HasSkew is false when it does not say its time.
	Skew    time.Duration
	HasSkew bool
	// Commands tells where each command has its keys, by its lower-case name; nil when the source does not say.
	Commands map[string]KeySpec
}

// relativeTTLs tells whether its stream has TTLs relative to the moment of the command, as before Redis 7.0.
func (si *SourceInfo) relativeTTLs() bool {
	major, _, _ := strings.Cut(si.Version, ".")
	n, err := strconv.Atoi(major)
	return err == nil && n < 7
}

// KeySpec says where a command has its keys, as COMMAND tells it: the first, the last (negative: counted from the end) and the step
// between them. Movable ones are found only by reading the arguments.
type KeySpec struct {
	First, Last, Step int
	Movable           bool
}
