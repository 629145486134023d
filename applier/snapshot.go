package applier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"redferry/applier/checkpoint"
	"redferry/rdbstream"
	"redferry/replica"
)

// Snapshot implements [replica.Sink].
func (a *Applier) Snapshot(ctx context.Context, snap replica.Snapshot) (replica.Position, error) {
	var from progress
	if snap.From == 0 {
		if err := a.begin(ctx, snap); err != nil {
			return replica.Position{}, fmt.Errorf("begin the snapshot: %w", err)
		}
	} else {
		var err error
		if from, err = a.goOn(ctx, snap); err != nil {
			return replica.Position{}, fmt.Errorf("go on with the snapshot: %w", err)
		}
	}
	at, err := a.load(ctx, snap, from)
	if err != nil {
		return replica.Position{}, err
	}
	if err := a.complete(ctx, at); err != nil {
		return replica.Position{}, fmt.Errorf("complete the snapshot: %w", err)
	}
	return at, nil
}

// begin makes the target ready: emptied where that was decided, and marked as holding a snapshot in part before its first key.
func (a *Applier) begin(ctx context.Context, snap replica.Snapshot) error {
	origin := checkpoint.OriginEmpty
	if a.onFull == Merge {
		origin = checkpoint.OriginMerge
	}
	a.rec = checkpoint.Record{
		Name: a.Name, Epoch: a.owner.epoch, Phase: checkpoint.PhaseSnapshot, Origin: origin,
		ReplID: snap.At.ReplID, Offset: snap.At.Offset, Checked: snap.At.Offset,
		SnapshotSize: snap.Size, Expiry: string(a.Expiry), ImportWas: a.importWas(), Time: time.Now().UnixMilli(), Source: a.rec.Source,
	}
	a.mu.Lock()
	a.suspects = suspects{}
	a.mu.Unlock()
	a.expectExpiry()
	a.setCheckpointed() // whatever the target holds of an older history, it is on its way out
	a.showDivergence()
	a.showProgress(rdbstream.State{})
	if a.onFull == asIs { // the source has taken its time: whatever came into the target meanwhile is not ours to flush later
		if err := a.mustBeEmpty(ctx); err != nil {
			return err
		}
	}
	s := session{a: a, doubt: true}
	defer s.close()
	v, err := s.run(ctx, func(p *pipeline) {
		key := checkpoint.Key(a.Name)
		if a.onFull == Flush {
			p.queue(0, p.b.Arbitrary("FLUSHALL", "ASYNC").Build(), refOwn)
			if a.target.scripts {
				p.queue(0, p.b.Arbitrary("FUNCTION", "FLUSH", "ASYNC").Build(), refOwn)
			}
			a.restoreOwner(p)
		}
		p.queue(0, p.b.Unlink().Key(key).Build(), refOwn) // fields of an older record must not stay
		p.hset(key, a.rec.Fields())
		if a.Expiry == Import {
			p.importMode("yes")
		}
	})
	if err != nil {
		return err
	}
	if v.unguarded {
		return a.diverge(ctx, v)
	}
	a.imports.set(a.Expiry == Import)
	a.Log.Info().Str("origin", string(origin)).Int64("bytes", snap.Size).Msg("loading the snapshot")
	return a.Home.Know(a.rec.Source, a.Target.String())
}

// goOn makes sure that the target holds the snapshot in part that Resume has found, and finds the place in the RDB to go on from.
//
// It begins a new generation of the fence before it looks: what an earlier attempt's connections still carry, a FLUSHALL of begin among it,
// has been carried out by then, and is seen in the checkpoint, or never will be.
func (a *Applier) goOn(ctx context.Context, snap replica.Snapshot) (progress, error) {
	state, err := scanState(&a.rec)
	if err != nil {
		return progress{}, err
	}
	if a.rec.ReplID != snap.At.ReplID || a.rec.Offset != snap.At.Offset || state.Offset != snap.From {
		return progress{}, fmt.Errorf("the target holds the snapshot of %s up to byte %d; it cannot take that of %s from byte %d",
			a.rec.Position(), state.Offset, snap.At, snap.From)
	}
	conn, err := a.dial(ctx, true)
	if err != nil {
		return progress{}, err
	}
	defer conn.close()
	rec, ok, err := ReadCheckpoint(ctx, conn, a.Name)
	if err != nil {
		return progress{}, err
	}
	if !ok || rec.Epoch != a.owner.epoch || rec.Phase != a.rec.Phase || rec.ReplID != a.rec.ReplID || rec.SnapshotScan != a.rec.SnapshotScan {
		return progress{}, errLost
	}
	if snap.Size >= 0 {
		a.rec.SnapshotSize = snap.Size
	}
	a.showProgress(state)
	a.Log.Info().Int64("from", snap.From).Int64("bytes", a.rec.SnapshotSize).Msg("going on with the snapshot")
	return progress{scan: state, db: a.rec.DB}, nil
}

// showProgress has the status say that the snapshot is in up to a state.
func (a *Applier) showProgress(s rdbstream.State) {
	a.Status.SnapshotKeys.Store(int64(s.Keys))
	a.Status.SnapshotTotal.Store(int64(s.Announced))
	a.Status.SnapshotRead.Store(s.Offset)
}

// complete stores, after all keys are in, that the target holds what the source had at this position.
func (a *Applier) complete(ctx context.Context, at replica.Position) error {
	a.rec.Phase, a.rec.DB = checkpoint.PhaseStream, at.DB
	a.rec.SnapshotRead, a.rec.SnapshotScan = a.Status.SnapshotRead.Load(), ""
	a.rec.Time = time.Now().UnixMilli()
	s := session{a: a, doubt: true, held: a.target.history}
	defer s.close()
	v, err := s.run(ctx, func(p *pipeline) { p.hset(checkpoint.Key(a.Name), a.rec.Fields()) })
	if err != nil {
		return err
	}
	if v.unguarded || len(v.failed) > 0 {
		return a.diverge(ctx, v)
	}
	a.stored, a.written = a.rec.Checked, a.changes
	a.setCheckpointed()
	return nil
}

// load gets the rest of the RDB into the target, and stores meanwhile how far it is.
func (a *Applier) load(ctx context.Context, snap replica.Snapshot, from progress) (replica.Position, error) {
	l := newLoader(a, rdbstream.NewReaderAt(snap.RDB, from.scan), from)
	g, ctx := errgroup.WithContext(ctx)
	pctx, stop := context.WithCancel(ctx)
	g.Go(func() error {
		defer stop()
		return l.run(ctx, snap)
	})
	g.Go(func() error { return l.keepProgress(pctx, snap) })
	if err := g.Wait(); err != nil {
		return replica.Position{}, err
	}
	a.Status.SnapshotRead.Store(l.r.Offset())
	at := snap.At
	at.DB = l.db
	return at, nil
}

// run reads the RDB and has its keys written by several pipelines at once. Between keys there is no order to keep. The first failure ends
// them all, and it is the one returned: not what the others say of being interrupted.
func (l *loader) run(ctx context.Context, snap replica.Snapshot) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(ctx, snap.Interrupt)() // the scanner may wait for bytes that nobody will take
	var g sync.WaitGroup
	g.Go(func() {
		l.keep(ctx, func() {
			g.Go(func() {
				if err := l.write(ctx); err != nil {
					fail(err)
				}
			})
		})
	})
	g.Go(func() {
		defer close(l.ended)
		defer close(l.full)
		err := l.scan(ctx)
		if err == nil {
			err = snap.End()
		}
		if err != nil {
			fail(err)
		}
	})
	g.Wait()
	return context.Cause(ctx)
}

// scan turns the RDB into batches.
func (l *loader) scan(ctx context.Context) error {
	beside := l.session() // for what is not a key
	defer beside.close()
	var scripts [][]byte // come at the RDB's end
	size := 0            // theirs
	var e rdbstream.Entry
	for {
		err := l.r.Next(&e)
		if err != nil {
			if !isEnd(err) {
				return readError(err)
			}
			if err := l.loadScripts(ctx, &beside, scripts); err != nil {
				return err
			}
			l.a.Status.SnapshotSize.CompareAndSwap(-1, l.r.Offset())
			return l.flush(ctx, progress{})
		}
		switch e.Kind {
		case rdbstream.KindKey:
			err = l.add(ctx, &e)
		case rdbstream.KindFunction:
			err = l.function(ctx, &beside, &e)
		case rdbstream.KindResize:
			l.a.Status.SnapshotTotal.Add(int64(e.Keys))
		case rdbstream.KindAux:
			switch string(e.Name) {
			case "repl-stream-db": // of a source that is itself a replica and will send no SELECT (protocol 0, fact 3)
				if db, err := strconv.Atoi(string(e.Data)); err == nil && db >= 0 {
					l.db = db
				}
			case "lua": // a script that clients call by its SHA1, of a source before 7.0
				scripts, size = append(scripts, bytes.Clone(e.Data)), size+len(e.Data)
				if len(scripts) >= loadKeys || size >= loadBytes {
					err = l.loadScripts(ctx, &beside, scripts)
					scripts, size = nil, 0
				}
			}
		case rdbstream.KindModuleAux:
			l.a.Log.Warn().Bytes("module", e.Name).Msg("the snapshot has data of a module beside its keys, which no client can restore; it is left out")
		case rdbstream.KindSlotImport:
			l.a.Log.Warn().Msg("the source is importing slots of a cluster; do not reshard it during a migration")
		}
		if err != nil {
			return err
		}
	}
}

// function loads a library at once: libraries come before the keys.
func (l *loader) function(ctx context.Context, s *session, e *rdbstream.Entry) error {
	args := []string{"FUNCTION", "LOAD", "REPLACE", string(e.Data)}
	v, err := s.run(ctx, func(p *pipeline) { p.queue(0, p.b.Arbitrary(args...).Build(), 0) })
	if err != nil {
		return fmt.Errorf("load a function library: %w", err)
	}
	if v.unguarded {
		return l.a.diverge(ctx, v)
	}
	for _, f := range v.failed {
		name, _, _ := strings.Cut(string(e.Data), "\n")
		raw := [][]byte{[]byte("FUNCTION"), []byte("LOAD"), []byte("REPLACE"), e.Data}
		if err := l.refuse(ctx, 0, raw, e.Offset, "function library "+name, f.err); err != nil {
			return err
		}
	}
	return nil
}

// readError sorts the errors of reading an RDB: a cut is waited out, what this program cannot read is the operator's. What is unknown may be
// damaged, and its way out is another RDB as well: the copy that was read is of no more use.
func readError(err error) error {
	var unknown *rdbstream.UnknownError
	var corrupt *rdbstream.CorruptError
	var crc *rdbstream.CRCError
	switch {
	case errors.As(err, &unknown), errors.Is(err, rdbstream.ErrNotDumpable):
		return &replica.Stop{
			Kind: replica.Decide, Reason: "cannot read the source's snapshot", Err: fmt.Errorf("%w: %w", replica.ErrDamaged, err),
			Hint: "this redferry does not know it, and cannot skip what it does not know: look for a newer one, or delete the key named here",
		}
	case errors.As(err, &corrupt), errors.As(err, &crc):
		return &replica.Stop{
			Kind: replica.Failed, Reason: "the source's snapshot arrived damaged", Err: fmt.Errorf("%w: %w", replica.ErrDamaged, err),
			Hint: "run the same command again; if it happens again, look at the source's memory and the network",
		}
	}
	return fmt.Errorf("read the snapshot: %w", err)
}
