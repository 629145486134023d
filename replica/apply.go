package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"redferry/replica/spool"
)

// applyBuffer is the read buffer between spool and sink: large enough that most commands lie in it whole.
const applyBuffer = 1 << 20

// loadBuffer is the one between spool and sink for the RDB.
const loadBuffer = 64 << 10

// apply goes through all the steps from asking the target where it is to an end of its patience, or of the spool's service.
func (r *run) apply(ctx context.Context) (progress bool, err error) {
	attempt, src, done, err := r.desk.begin(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	progress, err = r.applyFrom(attempt, src)
	if cause := context.Cause(attempt); errors.Is(cause, errRecalled) && AsStop(err) == nil && !errors.Is(err, errStopAt) {
		err = cause
	}
	return progress, r.damaged(err)
}

func (r *run) applyFrom(ctx context.Context, src SourceInfo) (progress bool, err error) {
	r.durable.Store(false) // until the spool serves what the target says: it may be another target now, or an older one
	resume, err := r.sink.Resume(ctx, src)
	if err != nil {
		return false, err
	}
	r.Status.Go(OnTarget)
	begun, _ := r.sink.Checkpointed()
	if err := r.desk.offer(ctx, resume); err != nil {
		return false, err
	}
	at := resume.From
	if !r.Spool.Holds(at.ReplID, at.Offset) {
		if at, err = r.load(ctx, resume); err != nil {
			return false, err
		}
	}
	if c := r.Spool.Contents(); c.Complete { // also what a process that was killed did not come to free
		r.Spool.PassSnapshot(c.RDBEnd)
	}
	r.durable.Store(true)
	if err = r.stream(ctx, at); r.closing != nil {
		err = r.complete(ctx, err)
	} else {
		err = r.releaseStopped(err)
	}
	have, _ := r.sink.Checkpointed()
	return have > begun, err
}

// patience is how many attempts in a row the spool's disk may end before it is given up: it may only be short of something.
const patience = 3

// damaged gives what the spool holds up, when it cannot be read: a cache on a disk is believed less than the source, which is asked for the same again. What does not parse
// is the source's own when it comes a second time.
func (r *run) damaged(err error) error {
	if errors.Is(err, spool.ErrUnreadable) {
		r.unreadable++
	} else {
		r.unreadable = 0
	}
	var garbage *ProtocolError
	switch {
	case errors.As(err, &garbage) && r.garbage != garbage.Offset:
		r.garbage = garbage.Offset
	case r.unreadable == patience && AsStop(err) == nil:
		r.unreadable = 0
	default:
		return err
	}
	r.Log.Warn().Err(err).Msg("the spool cannot be read; it is dropped, and asked of the source again")
	if err := r.Spool.Drop(); err != nil {
		return fmt.Errorf("drop the spool: %w", err)
	}
	return fmt.Errorf("the spool cannot be read: %s", err) // not wrapped: that would end the run
}

// maxBadRDBs is how many snapshots in a row may come damaged: the first may have been damaged on its way.
const maxBadRDBs = 2

// load hands the spool's snapshot to the sink: from its beginning, or what is left of it.
func (r *run) load(ctx context.Context, resume Resume) (Position, error) {
	c := r.Spool.Contents()
	snap := Snapshot{At: Position{ReplID: c.ID, Offset: c.At}, Size: c.Size}
	why := fmt.Sprintf("full resync at offset %d of %s", c.At, c.ID)
	if continues(c, resume.Part) {
		snap.From = resume.Part.Read
		if snap.From > 0 {
			why += fmt.Sprintf(", going on at byte %d of the RDB", snap.From)
		}
	}
	r.Status.SnapshotSize.Store(c.Size)
	r.Status.Set(Loading, why)
	rdb, err := r.Spool.ReadSnapshot(snap.From)
	if err != nil {
		return Position{}, fmt.Errorf("read the spool's snapshot: %w", err)
	}
	defer rdb.Close()
	defer context.AfterFunc(ctx, rdb.Interrupt)()
	reading, interrupt := context.WithCancel(ctx)
	defer interrupt()
	in := &counted{Reader: &gated{rdb, r.Gate, reading}, n: snap.From}
	snap.RDB = bufio.NewReaderSize(in, loadBuffer)
	snap.Interrupt, snap.Durable = func() { interrupt(); rdb.Interrupt() }, r.behind()
	snap.End = func() error {
		parsed := in.n - int64(snap.RDB.Buffered())
		size, err := r.Spool.Whole(ctx)
		if err == nil && size != parsed {
			err = fmt.Errorf("%w: it is parsed to its end in %d bytes, and the source sent %d", ErrDamaged, parsed, size)
		}
		return err
	}
	at, err := r.sink.Snapshot(ctx, snap)
	if errors.Is(err, io.ErrUnexpectedEOF) && in.ended { // a target's reply may be cut in its midst, too
		err = &Stop{
			Kind: Failed, Reason: "the source's snapshot arrived damaged: it goes on where it should end", Err: errors.Join(ErrDamaged, err),
			Hint: "run the same command again",
		}
	}
	if errors.Is(err, ErrDamaged) {
		if r.badRDBs++; r.badRDBs >= maxBadRDBs && AsStop(err) == nil { // each more costs the source a fork, and would end like the last
			err = &Stop{
				Kind: Failed, Reason: fmt.Sprintf("the source %s has sent a damaged snapshot %d times in a row", r.Source, r.badRDBs), Err: err,
				Hint: "`redis-check-rdb` on a dump of the source says more; see also what is between redferry and the source, and run the same command again",
			}
		}
		err = errors.Join(err, r.Spool.Drop()) // the next run must not read it again
	} else if err == nil {
		r.badRDBs = 0
	}
	return at, err
}

// behind frees the RDB up to where it was durable two reports ago: a target that is killed comes back with what its AOF had a second before.
func (r *run) behind() func(read int64) {
	var mu sync.Mutex
	var older, old int64
	return func(read int64) {
		mu.Lock()
		defer mu.Unlock()
		r.Spool.PassSnapshot(older)
		older, old = old, read
	}
}

// counted counts what is read.
type counted struct {
	io.Reader
	n     int64
	ended bool // somebody wanted to read beyond the end
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.ended = err == io.EOF
	return n, err
}

// stream follows the replication stream from at until something ends it.
func (r *run) stream(ctx context.Context, at Position) error {
	r.Status.Taken.Store(at.Offset)
	r.Status.Set(CatchingUp, fmt.Sprintf("from offset %d of %s, in database %d", at.Offset, at.ReplID, at.DB))
	in, err := r.Spool.ReadStream(at.Offset)
	if err != nil {
		return fmt.Errorf("read the spool's stream: %w", err)
	}
	defer in.Close()
	g, gctx := newGroup(ctx)
	reading, done := context.WithCancel(context.WithoutCancel(gctx)) // Commit outlives the last Apply: what was read is written
	var committed error
	g.Go(func() error {
		committed = r.sink.Commit(reading)
		return committed
	})
	g.Go(func() error {
		defer done()
		return r.read(gctx, in, at)
	})
	g.Go(func() error { return r.pass(gctx) })
	g.Go(func() error { return r.settle(gctx) })
	g.Go(func() error { return r.cutOvers(gctx) })
	g.Go(func() error { return r.makeGood(gctx) })
	err = g.Wait()
	if AsStop(committed) != nil && AsStop(err) == nil || committed != nil && (errors.Is(err, errStopAt) || errors.Is(err, errCutOver)) {
		err = committed // found while it drained, after another had ended the group
	}
	if have, _ := r.sink.Checkpointed(); have > 0 {
		r.Spool.PassStream(have)
	}
	return err
}

// read turns the spool's bytes into units for the sink.
func (r *run) read(ctx context.Context, in *spool.Reader, at Position) error {
	defer context.AfterFunc(ctx, in.Interrupt)()
	br := bufio.NewReaderSize(in, applyBuffer)
	stream := NewStream(br, at)
	var u Unit
	when := func() int64 { return r.received(u.End.Offset).UnixMilli() }
	for r.StopAt.Offset == 0 || at.Offset < r.StopAt.Offset {
		renamed := false
		if br.Buffered() == 0 { // a new replication ID begins where the bytes of the last one end
			if err := r.Spool.Await(ctx, at.Offset, at.ReplID); err != nil {
				return err
			}
			renamed = r.Spool.IDAt(at.Offset) != at.ReplID
		}
		if renamed { // stored at once, even if nothing comes for a while: a second failover would make the old one worthless
			u = Unit{Start: at.Offset, End: at}
		} else if err := stream.Next(&u); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read the stream of %s: %w", r.Source, err)
		}
		at = u.End
		if at.ReplID = r.Spool.IDAt(at.Offset); at.ReplID == "" { // the link may have broken inside of the unit: its end decides
			return fmt.Errorf("read the stream of %s: %w", r.Source, spool.ErrDropped)
		}
		u.End, u.When = at, when
		if err := r.Gate.pass(ctx); err != nil {
			return err
		}
		if err := r.Gate.spend(ctx, u.End.Offset-u.Start); err != nil {
			return err
		}
		if err := r.sink.Apply(ctx, &u); err != nil {
			return err
		}
		r.Status.Taken.Store(at.Offset)
		if u.GetAck {
			r.ask(at.Offset)
		}
	}
	if err := Reach(ctx, r.sink, at.Offset); err != nil {
		return err
	}
	return errStopAt // nothing comes any more that could be late: there is nothing to settle beside
}

// ask has an offset acknowledged as soon as it is durable; the newest question replaces one that waits.
func (r *run) ask(offset int64) {
	select {
	case <-r.asked:
	default:
	}
	select {
	case r.asked <- offset:
	default:
	}
}

// pass tells the spool what it need not keep.
func (r *run) pass(ctx context.Context) error {
	return every(ctx, 100*time.Millisecond, func() error {
		have, _ := r.sink.Checkpointed()
		r.Spool.PassStream(have)
		return nil
	})
}
