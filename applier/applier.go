package applier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"redferry/applier/checkpoint"
	"redferry/rdbstream"
	"redferry/replica"
)

// Choice is what the operator allows redferry to do with a target that already holds something.
type Choice string

// The choices.
const (
	Refuse Choice = "refuse" // stop and ask
	Flush  Choice = "flush"  // FLUSHALL, then load
	Merge  Choice = "merge"  // load over what is there; keys that the source does not have stay
	asIs   Choice = ""       // no choice was needed: the target is empty
)

// Config is what an Applier needs to know.
type Config struct {
	Name         string // of the migration
	Target       replica.Endpoint
	Home         *Home         // this process's own, locked
	OnFullResync Choice        // when data of this migration is in the target already
	OnNotEmpty   Choice        // when the target holds keys at the first start
	Takeover     bool          // replace an owner that still lives
	KeepGoing    bool          // go on after a write that the target refused
	Expiry       Expiry        // how expiries are written; "" for Shift
	TTLGrace     time.Duration // for how long the target may stall, or be away, while it settles; 0 for the default
	SettleFor    time.Duration // for how long settling, and the rest of a cutover, may take at least; 0 for the default
	DropPublish  bool          // leave out PUBLISH and SPUBLISH
	Rename       RenameMap     // the source's renamed commands
	Pipelines    *Pipelines    // connections that load the snapshot; nil for the default
	Timeout      time.Duration // for one round trip to the target, however large; 0 for the default
	Status       *replica.Status
	Log          zerolog.Logger
}

// Applier writes into one target. It implements [replica.Sink].
type Applier struct {
	Config
	client rueidis.Client // to the target; nil when there is none
	target target         // what the target said of itself
	owner  *owner         // nil until the first claim
	first  bool           // no Resume has succeeded yet

	imports   importMode
	evictions evictions
	clocks    clocks

	rec    checkpoint.Record // as it stands in the target, so far as this process knows
	onFull Choice            // how Snapshot prepares the target; set by Resume
	stored int64             // the checked offset that the target has
	// changes counts what happened to rec beside its progress, and written how much of that the target has.
	changes, written int64
	divergent        map[string][]string // the first keys of each command in the record's divergence that this process has seen
	conn             *conn               // of the stream
	queue            *queue
	keys             map[string]replica.KeySpec // of the source's commands

	// What translate goes by, and leaves behind. The queue's lock guards it.
	expiries expiries
	expires  bool    // the target may have expired keys by itself: the source's own removal of them finds nothing
	real     int64   // the moment before which nothing in the target is real, as the record says
	near     *near   // takes the keys that are written shifted while the target settles; nil for nobody
	swapped  int64   // the offset behind the stream's last SWAPDB, which moves what has been settled
	taken    int64   // the offset behind the last unit; 0 before the first since Resume
	notes    []*note // that Commit is to take into the record
	rewriter rewriter
	forms    formMemory
	scripts  scriptMemory

	back    *shifting   // what Commit does first where the target was settled
	writing atomic.Bool // Commit has something to write

	// careful: after a refusal only one transaction at a time is underway, until then.
	careful time.Time

	mu       sync.Mutex
	doubts   doubts // of rec
	suspects suspects
	refusal  string        // rec's
	moved    chan struct{} // closed when checkpointed moves on
	done     int64         // checkpointed
	server   string        // of several, the one that was connected to last
}

var _ replica.Sink = (*Applier)(nil)

// New makes an Applier. It connects to nothing before Resume.
func New(c Config) *Applier {
	if c.Pipelines == nil {
		c.Pipelines = NewPipelines(defaultPipelines)
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.Expiry == "" {
		c.Expiry = Shift
	}
	if c.TTLGrace <= 0 {
		c.TTLGrace = defaultGrace
	}
	if c.SettleFor <= 0 {
		c.SettleFor = settleFor
	}
	a := &Applier{Config: c, first: true, queue: newQueue(), moved: make(chan struct{}), divergent: map[string][]string{}}
	a.resetExpiries()
	return a
}

const (
	defaultPipelines = 3
	defaultTimeout   = time.Minute
	defaultGrace     = time.Minute
)

// Close gives the lease back, so that a next process need not wait for it to run out, and closes all connections.
func (a *Applier) Close() {
	if a.owner != nil {
		a.owner.release()
	}
	a.disconnect()
}

// Checkpointed implements [replica.Sink].
func (a *Applier) Checkpointed() (int64, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done, a.moved
}

// setCheckpointed publishes the offset of a.rec; 0 as long as the target does not hold what the source had there.
func (a *Applier) setCheckpointed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done, a.doubts, a.refusal = 0, doubtsOf(&a.rec), a.rec.Refusal
	if a.rec.Phase == checkpoint.PhaseStream {
		a.done = a.rec.Offset
	}
	a.Status.Checkpointed.Store(a.done)
	close(a.moved)
	a.moved = make(chan struct{})
}

// Resume implements [replica.Sink].
func (a *Applier) Resume(ctx context.Context, src replica.SourceInfo) (replica.Resume, error) {
	a.queue.reset()
	a.resetExpiries()
	a.imports.set(false) // until it is certain that the checkpoint says how it was before
	if err := a.connect(ctx); err != nil {
		return replica.Resume{}, err
	}
	if err := a.target.refuse(src, a.Target, a.first); err != nil {
		return replica.Resume{}, err
	}
	if err := a.notCompleted(ctx); err != nil {
		return replica.Resume{}, err
	}
	if err := a.admitImport(); err != nil {
		return replica.Resume{}, err
	}
	a.warnOfEviction()
	a.compareClocks(ctx, src)
	if err := a.claim(ctx); err != nil {
		return replica.Resume{}, err
	}
	rec, ok, err := ReadCheckpoint(ctx, a.client, a.Name)
	if err != nil {
		return replica.Resume{}, err
	}
	a.keys = src.Commands
	resume, err := a.judge(ctx, rec, ok, src)
	if err != nil {
		return replica.Resume{}, err
	}
	if ok {
		if err := a.takeUpExpiry(ctx); err != nil {
			return replica.Resume{}, err
		}
	}
	a.expectExpiry()
	a.first = false
	a.showDivergence()
	a.setCheckpointed()
	return resume, nil
}

// judge decides what the checkpoint, or its absence, means for this start.
func (a *Applier) judge(ctx context.Context, rec checkpoint.Record, ok bool, src replica.SourceInfo) (replica.Resume, error) {
	if !ok {
		a.rec = checkpoint.Record{Name: a.Name, Epoch: a.owner.epoch, Source: src.Addr, ImportWas: a.rec.ImportWas}
		return a.judgeNone(ctx)
	}
	if err := a.recognise(&rec); err != nil {
		return replica.Resume{}, err
	}
	if err := a.Home.Know(src.Addr, a.Target.String()); err != nil {
		return replica.Resume{}, err
	}
	a.stored = rec.Checked
	rec.Rejected, rec.Diverged = max(rec.Rejected, a.rec.Rejected), max(rec.Diverged, a.rec.Diverged)
	rec.Divergence = rec.Divergence.AtLeast(a.rec.Divergence)
	if err := a.admit(&rec); err != nil {
		return replica.Resume{}, err
	}
	rec.Source = src.Addr
	a.rec = rec
	if rec.Phase == checkpoint.PhaseSnapshot {
		return a.judgePart(&rec), nil
	}
	resume := a.allow(a.OnFullResync, &replica.Stop{
		Kind:   replica.Decide,
		Reason: "a full resync would be needed, and the target already holds data of this migration",
		Hint:   "--on-full-resync=flush empties the target and loads it again; =merge loads over what is there and leaves keys that were deleted meanwhile",
	})
	resume.From = rec.Position()
	return resume, nil
}

// judgeNone decides about a target without a checkpoint: it is another thing whether there never was one.
func (a *Applier) judgeNone(ctx context.Context) (replica.Resume, error) {
	if known := a.Home.Known(); known != "" {
		return a.allow(a.OnFullResync, &replica.Stop{
			Kind:   replica.Decide,
			Reason: fmt.Sprintf("the checkpoint of migration %q is gone from the target %s, but %s knows that it was there (%s)", a.Name, a.Target, a.Home.Dir(), known),
			Hint:   "was the target flushed, replaced or restarted without its data? --on-full-resync=flush or merge loads it again; `redferry reset` forgets the migration",
		}), nil
	}
	return a.firstStart(ctx)
}

// recognise refuses a checkpoint that is not one to go on with in this run's way.
func (a *Applier) recognise(rec *checkpoint.Record) error {
	if rec.Name != a.Name {
		return &replica.Stop{Kind: replica.Decide, Reason: fmt.Sprintf("the checkpoint %s says that it belongs to %q", checkpoint.Key(a.Name), rec.Name)}
	}
	if rec.Phase == checkpoint.PhaseCompleted {
		return replica.ErrCompleted
	}
	return a.admitExpiry(rec)
}

// judgePart decides about a target that holds a snapshot in part: how its rest could be loaded, and what may be done when there is no rest.
func (a *Applier) judgePart(rec *checkpoint.Record) replica.Resume {
	var resume replica.Resume
	if rec.Origin == checkpoint.OriginEmpty {
		// Nothing but our own half snapshot can be there: the one flush that needs no leave (promise 3).
		a.onFull = Flush
	} else {
		choice := a.OnNotEmpty // what was allowed for the first try holds until one has succeeded
		if choice == Refuse {
			choice = a.OnFullResync
		}
		resume = a.allow(choice, &replica.Stop{
			Kind:   replica.Decide,
			Reason: "the last snapshot into this target broke off, and the target held other keys before it",
			Hint:   "--on-target-not-empty=merge loads it again over what is there, =flush empties the target first",
		})
	}
	resume.Part = a.part(rec)
	return resume
}

// part is what a snapshot that broke off has left in the target, if it can be gone on with. One of which something was refused is loaded
// anew, unless the run may go on without that: the target may have been mended since, and then the same command needs no other word.
func (a *Applier) part(rec *checkpoint.Record) replica.Part {
	if rec.SnapshotScan == "" || !a.KeepGoing && (rec.Rejected > 0 || rec.Diverged > 0) {
		return replica.Part{}
	}
	state, err := scanState(rec)
	if err != nil {
		a.Log.Warn().Err(err).Msg("the checkpoint does not say properly how far the snapshot came: it is loaded anew")
		return replica.Part{}
	}
	part := replica.Part{At: replica.Position{ReplID: rec.ReplID, Offset: rec.Offset}, Read: state.Offset}
	if a.OnFullResync != Flush && a.OnFullResync != Merge {
		part.Lost = &replica.Stop{
			Kind:   replica.Decide,
			Reason: "the rest of the snapshot is on this machine, but the source cannot continue behind it",
			Hint:   "--on-full-resync=flush empties the target and loads a new snapshot, =merge loads it over what is there",
		}
	}
	return part
}

// scanState is where reading a record's snapshot goes on.
func scanState(rec *checkpoint.Record) (rdbstream.State, error) {
	state, err := rdbstream.ParseState(rec.SnapshotScan)
	if err == nil && state.Offset != rec.SnapshotRead {
		err = fmt.Errorf("the snapshot was read up to byte %d, its scan up to byte %d", rec.SnapshotRead, state.Offset)
	}
	return state, err
}

// admit looks at what an earlier run left in the record: refused writes and a fence that did not hold are the operator's to judge.
func (a *Applier) admit(rec *checkpoint.Record) error {
	if rec.NoteLostReplies() {
		a.changes++
		a.Log.Warn().Str("ranges", rec.Unchecked).Msg("replies to some writes were lost; they are in the target, but whether all of them succeeded was not seen")
	}
	if a.KeepGoing || rec.Phase == checkpoint.PhaseSnapshot { // a snapshot in part of which something is missing is loaded anew: see part
		return nil
	}
	if rec.Diverged > 0 {
		return &replica.Stop{
			Kind:   replica.Refused,
			Reason: fmt.Sprintf("%d transactions were committed without their guard's consent: the target may differ from the source", rec.Diverged),
			Hint:   "compare both sides; then go on with --on-error=continue, or load the target again: `redferry reset`, then run with --on-target-not-empty=flush",
		}
	}
	if rec.Rejected > 0 {
		return &replica.Stop{
			Kind:   replica.Refused,
			Reason: fmt.Sprintf("the target refused %d writes in an earlier run", rec.Rejected),
			Hint:   "see " + a.Home.RejectedPath() + "; --on-error=continue goes on without them",
		}
	}
	return nil
}

// firstStart decides about a target that has no checkpoint of ours.
func (a *Applier) firstStart(ctx context.Context) (replica.Resume, error) {
	err := a.mustBeEmpty(ctx)
	switch stop := replica.AsStop(err); {
	case err == nil:
		a.onFull = asIs
		return replica.Resume{}, nil
	case stop == nil || stop.Kind != replica.Decide:
		return replica.Resume{}, err
	default:
		return a.allow(a.OnNotEmpty, stop), nil
	}
}

// mustBeEmpty returns a Stop of kind Decide when the target holds anything that is not this migration's own.
func (a *Applier) mustBeEmpty(ctx context.Context) error {
	n, where, err := a.foreign(ctx)
	if err != nil || n == 0 {
		return err
	}
	return &replica.Stop{
		Kind:   replica.Decide,
		Reason: fmt.Sprintf("the target %s is not empty (%s)", a.Target, where),
		Hint:   "--on-target-not-empty=flush empties it, =merge loads over what is there",
	}
}

// allow turns the operator's choice into a Resume: a refusal to end with, or leave for a full resync.
func (a *Applier) allow(c Choice, stop *replica.Stop) replica.Resume {
	switch c {
	case Flush:
		a.onFull = Flush
		return replica.Resume{}
	case Merge:
		a.onFull = Merge
		return replica.Resume{}
	}
	return replica.Resume{FullResync: stop}
}

// errLost says that the checkpoint is no longer where this process left it, and that what comes next is not in memory: start again from Resume.
var errLost = errors.New("the target's checkpoint is not where it was left")

// ReadCheckpoint reads the checkpoint of a migration from a target; ok is false when there is none.
func ReadCheckpoint(ctx context.Context, c rueidis.CoreClient, name string) (rec checkpoint.Record, ok bool, err error) {
	fields, err := c.Do(ctx, c.B().Hgetall().Key(checkpoint.Key(name)).Build()).AsStrMap()
	if re, is := rueidis.IsRedisErr(err); is && !passing(re) {
		return rec, false, &replica.Stop{
			Kind: replica.Config, Reason: "cannot read the target's checkpoint " + checkpoint.Key(name), Err: re,
			Hint: "give the user the right to run HGETALL on the keys " + checkpoint.Prefix + "*; a key of that name that is no hash is not redferry's: choose another --name",
		}
	}
	if err != nil {
		return rec, false, fmt.Errorf("read the checkpoint: %w", err)
	}
	rec, ok, err = checkpoint.Parse(fields)
	if err != nil {
		return rec, false, &replica.Stop{
			Kind: replica.Decide, Reason: "cannot use the target's checkpoint " + checkpoint.Key(name), Err: err,
			Hint: "run the version of redferry that wrote it, or `redferry reset`",
		}
	}
	return rec, ok, nil
}
