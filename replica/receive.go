package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"redferry/replica/spool"
)

// receiveBuffer is how much is read from the source, and written to the spool, at a time. It stays in the processor's cache on its way: with 512 KiB here
// and 1 MiB in loadBuffer a snapshot cost a twentieth more CPU, on all three sides.
const receiveBuffer = 64 << 10

// errReplan ends receiving because the target is somewhere that the spool does not serve.
var errReplan = errors.New("the target is not where the spool serves it")

// receive goes through all the steps from nothing to a broken link.
func (r *run) receive(ctx context.Context) (progress bool, err error) {
	src, server, info, err := openSource(ctx, r.Source)
	if err != nil {
		return false, err
	}
	defer src.close()
	if src.blind && r.StopAt.CaughtUp {
		return false, &Stop{
			Kind: Config, Reason: fmt.Sprintf("the source %s does not permit INFO, so that nobody can tell when the target is caught up", server),
			Hint: "ACL SETUSER <user> +info on the source, or --stop-at with an offset",
		}
	}
	si, err := src.describe(ctx, server, info)
	if err != nil {
		return false, err
	}
	r.clocks.skew.Store(int64(si.Skew))
	r.desk.describe(si)
	w := &watched{run: r, server: server, limits: limits{source: server, path: r.LimitsFile}}
	w.putBack(ctx)
	defer w.putBack(ctx)
	link, at, err := r.connect(ctx, src, w)
	if err != nil {
		return false, w.explain(ctx, w.explainLoss(ctx, src, err))
	}
	defer link.Close()
	if at.loading {
		if err := r.transfer(ctx, link); err != nil {
			return false, w.explain(ctx, err)
		}
		r.sayWaited(si, time.Since(at.asked))
	}
	before := r.Spool.Contents().End
	err = r.follow(ctx, src, link, w)
	r.ended = time.Now()
	progress = at.loading || r.Spool.Contents().End > before
	if !progress {
		return false, w.explainStuck(ctx, err)
	}
	r.stuck = stuck{}
	return true, w.explain(ctx, err)
}

// begun is where a link begins, and whether with a snapshot.
type begun struct {
	Position
	loading bool
	asked   time.Time // when the source was asked for it
}

// sayWaited says what it means that commands waited in the source for the end of the RDB, when that sends TTLs relative to the moment of the command.
func (r *run) sayWaited(src SourceInfo, waited time.Duration) {
	if !src.relativeTTLs() {
		return
	}
	r.Log.Warn().Str("source_version", src.Version).Float64("seconds", waited.Round(100*time.Millisecond).Seconds()).
		Msg("a source before Redis 7.0 sends TTLs relative to the moment of the command: of what was written while it made and sent the RDB, a TTL that was set then is too long by up to so many seconds")
}

// connect makes the plan, has the source agree to it, and carries out what it means for the spool.
func (r *run) connect(ctx context.Context, src *source, w *watched) (_ *Link, at begun, err error) {
	p, resume, err := r.plan(ctx, src)
	defer r.desk.release()
	if err != nil {
		return nil, at, err
	}
	if p.what == reload {
		if err := r.Spool.Ready(); err != nil {
			return nil, at, fmt.Errorf("cannot keep a snapshot, hence asking for none: %w: make room in --dir", err)
		}
		r.Log.Info().Str("why", p.why).Msg("asking for a full resync")
		if err := w.prepare(ctx, src); err != nil {
			return nil, at, err
		}
	} else if err := w.raiseForRest(ctx); err != nil {
		return nil, at, err
	}
	link, err := Dial(ctx, LinkConfig{
		Endpoint: w.server, ListeningPort: r.ListeningPort, PSYNCCommand: r.PSYNCCommand,
		ReadTimeout: src.readTimeout(ctx), OnWait: func(why string) { r.Status.Wait(OnSource, why) },
	})
	if err != nil {
		return nil, at, err
	}
	defer func() {
		if err != nil {
			link.Close()
		}
	}()
	if p.what == reload {
		r.Status.Set(Loading, "asking the source for its RDB")
	}
	asked := time.Now()
	reply, err := link.Sync(ctx, p.from)
	if err != nil {
		return nil, at, err
	}
	if reply.Full && p.what != reload {
		if err := r.surprise(p, resume); err != nil {
			return nil, at, err
		}
		p.what = reload
	}
	if reply.Full {
		w.began(reply.At)
	}
	at = begun{reply.At, reply.Full, asked}
	return link, at, r.change(ctx, link, p, at)
}

// surprise is for a full resync where the source's INFO had promised better. It is taken if it is allowed, since the source has forked already.
func (r *run) surprise(p plan, resume *Resume) error {
	const why = "it answered PSYNC with a full resync"
	r.denied = p.from
	if resume == nil { // the target has to be asked first; then it is decided again
		return fmt.Errorf("the source cannot continue from %s: %s", p.from, why)
	}
	if stop := resume.refusal(p.from, why); stop != nil {
		return stop
	}
	return nil
}

// change makes the spool what the source has agreed to.
func (r *run) change(ctx context.Context, link *Link, p plan, at begun) error {
	var err error
	switch p.what {
	case reload:
		var size int64
		if size, err = link.Transfer(ctx); err != nil {
			return err
		}
		r.Status.FullResyncs.Add(1)
		r.Status.SnapshotSize.Store(size)
		r.Status.SnapshotReceived.Store(0)
		r.durable.Store(false)
		r.granted.Store(true)
		err = r.Spool.BeginSnapshot(at.ReplID, at.Offset, size)
	case anew:
		err = r.Spool.BeginStream(p.from.ReplID, p.from.Offset)
	case cutBack:
		r.Log.Warn().Int64("offset", p.from.Offset).Int64("bytes", r.Spool.Contents().End-p.from.Offset).
			Msg("the source failed over to a server that did not have all that was received; what it lacks is dropped, and none of it was applied")
		err = r.Spool.CutBack(p.from.Offset)
	}
	if err == nil && !at.loading {
		err = r.Spool.Continue(at.ReplID)
	}
	if err != nil {
		return spoolError(err)
	}
	r.Status.Go(OnSource)
	return nil
}

// plan decides before PSYNC where to go on, so that a source is never made to fork for what the operator did not allow. When it returns a Resume, applying is
// held until desk.release; else it may read what there is.
func (r *run) plan(ctx context.Context, src *source) (plan, *Resume, error) {
	b, err := r.repeats(ctx, src)
	if err != nil {
		return plan{}, nil, err
	}
	if from := end(r.Spool.Contents()); !from.IsZero() && !r.desk.isUnserved() {
		if ok, _ := b.has(from); ok {
			r.desk.release()
			r.unsure = time.Time{}
			return plan{from: from}, nil, nil
		}
	}
	resume, err := r.desk.hold(ctx)
	if err != nil {
		return plan{}, nil, err
	}
	if b, err = r.repeats(ctx, src); err != nil { // anew: the checkpoint may be younger than what the source said before
		return plan{}, nil, err
	}
	p, stop := decide(r.Spool, r.granted.Load(), b, resume)
	if why := b.unsettled(resume, end(r.Spool.Contents())); why != "" && (stop != nil || p.what == reload) {
		return plan{}, nil, errors.New(why)
	}
	if hasWork := !resume.From.IsZero() || !resume.Part.At.IsZero(); hasWork && (stop != nil || p.what == reload) {
		if err := r.beSure(); err != nil {
			return plan{}, nil, err
		}
	}
	if stop != nil {
		return plan{}, nil, stop
	}
	return p, &resume, nil
}

// sureAfter is how long several hosts, or sentinels, are asked again before what they name is believed to have lost what the target needs: an old primary that
// restarts empty is named until they fail over from it.
const sureAfter = 10 * time.Second

// beSure is an error for as long as another server may yet be named as the source, from the first time that it is asked in a row.
func (r *run) beSure() error {
	if len(r.Source.Hosts) == 0 {
		return nil
	}
	if r.unsure.IsZero() {
		r.unsure = time.Now()
	}
	if time.Since(r.unsure) >= sureAfter {
		return nil
	}
	return fmt.Errorf("the server that %s names cannot go on from where the target is; asking again for %v, for it may be failed over from", r.Source, sureAfter)
}

// replan ends a link with errReplan, once the target is somewhere that the spool does not serve.
func (r *run) replan(ctx context.Context) error {
	if r.desk.unserved(ctx) != nil {
		return nil // another has ended the group
	}
	return errReplan
}

// repeats asks the source what it can still repeat.
func (r *run) repeats(ctx context.Context, src *source) (repeats, error) {
	b := repeats{blind: src.blind, denied: r.denied}
	if src.blind {
		return b, nil
	}
	info, err := src.info(ctx)
	if err != nil {
		return b, err
	}
	b.Backlog, err = ParseBacklog(info)
	return b, err
}

// spoolError says what it means that the disk did not take what the source sent.
func spoolError(err error) error {
	return fmt.Errorf("cannot write the spool: %w; the link to the source is closed meanwhile, and can go on for as long as its backlog reaches: make room in --dir", err)
}

// transfer receives the RDB, as fast as it comes, and keeps the source's patience meanwhile.
func (r *run) transfer(ctx context.Context, link *Link) error {
	g, gctx := newGroup(ctx)
	var whole atomic.Bool
	defer context.AfterFunc(gctx, func() {
		if !whole.Load() { // else the link is still needed
			link.Interrupt()
		}
	})()
	g.Go(func() error {
		err := r.copyRDB(gctx, link)
		if err == nil {
			whole.Store(true)
			err = r.insist(gctx, r.Spool.EndSnapshot)
		}
		if err == nil {
			g.stop()
		}
		return err
	})
	g.Go(func() error { return every(gctx, time.Second, link.KeepAlive) })
	g.Go(func() error { return r.watchSpool(gctx) })
	g.Go(func() error { return r.replan(gctx) })
	if err := g.Wait(); err != nil { // its rest cannot be asked for
		return errors.Join(fmt.Errorf("receive the snapshot: %w", err), r.Spool.Drop())
	}
	return nil
}

func (r *run) copyRDB(ctx context.Context, link *Link) error {
	buf := make([]byte, receiveBuffer)
	for {
		n, err := link.ReadRDB(buf)
		if n > 0 {
			if err := r.keepRDB(ctx, buf[:n]); err != nil {
				return err
			}
			r.Status.SnapshotReceived.Add(int64(n))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// keepRDB appends to the spool's RDB.
func (r *run) keepRDB(ctx context.Context, p []byte) error {
	end := r.Spool.Contents().RDBEnd + int64(len(p))
	return r.insist(ctx, func() error {
		rest := end - r.Spool.Contents().RDBEnd
		if rest > int64(len(p)) {
			return spool.ErrDropped
		}
		return r.Spool.Append(ctx, p[int64(len(p))-rest:], time.Time{})
	})
}

// insist does to the spool what a snapshot needs, and when the disk will not take it, again for as long as the source keeps the link: half an RDB is worth
// nothing, and another one costs the source a fork.
func (r *run) insist(ctx context.Context, write func() error) error {
	defer r.Status.Go(OnSpool)
	for {
		err := write()
		if err == nil || ctx.Err() != nil || errors.Is(err, spool.ErrDropped) || errors.Is(err, spool.ErrClosed) {
			return err
		}
		r.Status.Wait(OnSpool, fmt.Sprintf("cannot write the spool: %v; the snapshot pauses, for as long as the source waits: make room in --dir", err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
