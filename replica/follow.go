package replica

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// follow receives the stream until something ends it.
func (r *run) follow(ctx context.Context, src *source, link *Link, w *watched) error {
	g, gctx := newGroup(ctx)
	g.Go(func() error { return r.copyStream(gctx, link) })
	g.Go(func() error { return r.acknowledge(gctx, link) })
	g.Go(func() error { return r.watch(gctx, src, w) })
	g.Go(func() error { return r.watchSpool(gctx) })
	g.Go(func() error { return r.replan(gctx) })
	err := g.Wait()
	_ = r.ack(link) // what the drained target holds, if the source can still hear it
	if ctx.Err() != nil || errors.Is(err, errStopAt) {
		link.Leave()
	}
	return err
}

func (r *run) copyStream(ctx context.Context, link *Link) error {
	defer context.AfterFunc(ctx, link.Interrupt)()
	buf := make([]byte, receiveBuffer)
	received := r.Spool.Contents().End
	r.Status.Received.Store(received)
	for {
		n, err := link.Reader().Read(buf)
		if n > 0 {
			if err := r.Spool.Append(ctx, buf[:n], r.clocks.atSource(time.Now())); err != nil {
				return spoolError(err)
			}
			received += int64(n)
			r.Status.Received.Store(received)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("receive the stream of %s: %w", r.Source, err)
		}
	}
}

// acknowledge tells the source each second, and whenever it asks, what is durable in the target.
func (r *run) acknowledge(ctx context.Context, link *Link) error {
	// After a diskless transfer the source sends nothing before it was acknowledged, and it does not hear that before it has seen its own
	// child end: so the first words come more often.
	begin := r.Status.Received.Load()
	tick := time.NewTicker(time.Second / 10)
	defer tick.Stop()
	var wanted int64
	for n := 0; ; n++ {
		if n == 30 || r.Status.Received.Load() != begin {
			tick.Reset(time.Second)
		}
		if err := r.ack(link); err != nil {
			return err
		}
		have, moved := r.sink.Checkpointed()
		if have >= wanted {
			moved = nil // nobody waits for it
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case wanted = <-r.asked:
		case <-moved:
		}
	}
}

// ack acknowledges the checkpoint, and 0 while a snapshot is on its way into the target: what is checkpointed belongs to another history then.
func (r *run) ack(link *Link) error {
	offset, _ := r.sink.Checkpointed()
	if r.AckLiveness || !r.durable.Load() {
		offset = 0
	}
	if err := link.Ack(offset); err != nil {
		return err
	}
	r.Status.Acked.Store(offset)
	return nil
}

// watch follows the source's own offset: it is the one that tells in sync from catching up.
//
// In sync means that what the source had at one look is in the target by the next: less than one interval of lag. Of a source that does not
// permit INFO nothing can be said.
func (r *run) watch(ctx context.Context, src *source, w *watched) error {
	const often, seldom = 100 * time.Millisecond, time.Second
	defer context.AfterFunc(ctx, src.close)() // a source that is frozen must not hold up the end
	seen := int64(-1)                         // the source's offset at the last look,
	looked := time.Time{}                     // which was then
	strangers := 0                            // looks in a row that saw another history
	late := 0                                 // looks in a row by which that was not reached
	for {
		interval := often
		have, _ := r.sink.Checkpointed()
		switch state := r.Status.Base(); {
		case seen < 0 || !r.durable.Load():
		case have >= seen:
			late = 0
			if state == CatchingUp {
				r.Status.Set(InSync, fmt.Sprintf("the target has all up to offset %d", seen))
			}
			interval = seldom
			if r.StopAt.CaughtUp {
				r.reached()
			}
			if r.StopAt.CaughtUp || r.closingUp.Load() {
				interval = often
			}
		case state == InSync:
			if late++; late > 20 { // one slow second is not a change of state
				r.Status.Set(CatchingUp, fmt.Sprintf("%d bytes behind the source", seen-have))
			}
		}
		r.sayAge(have)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		if src.blind {
			continue
		}
		if seen >= 0 && r.Spool.Contents().End >= seen {
			r.clocks.arrived(looked)
		}
		looking := time.Now()
		offset, backlog, err := src.offset(ctx, r.Spool.Contents().EndID)
		if err != nil {
			// A server closes its replicas' links when it fails over; one whose ID was changed by hand does not. To follow it would be to promise a place that it
			// can never go on from: the next link asks, and has it decided.
			if strangers++; !errors.Is(err, errOtherHistory) {
				strangers = 0
			}
			if strangers == 2 { // the first may be asked while the link is closing
				return err
			}
			// The link has its own judgement of whether the source lives; without INFO there is only no news of the lag.
			r.Log.Debug().Err(err).Msg("no news of the source's offset")
			continue
		}
		seen, looked, strangers = offset, looking, 0
		r.Status.SourceOffset.Store(seen)
		r.Status.SourceBacklog.Store(backlog)
		w.seen(ctx, r.Spool.Contents().End, seen)
	}
}

// sayAge says how long ago the first byte came that the target does not have.
func (r *run) sayAge(have int64) { r.Status.ApplyLag.Store(r.age(have).Milliseconds()) }

// watchSpool tells how much the spool has, and says, with what it means, when it takes nothing.
func (r *run) watchSpool(ctx context.Context) error {
	full := "" // the reason while it is full, with the numbers of when that began: with other ones it would be another event each time
	defer func() {
		if full != "" {
			r.Status.Go(OnSpool)
		}
	}()
	return every(ctx, 100*time.Millisecond, func() error {
		u := r.Spool.Usage()
		r.Status.SpoolUsed.Store(u.Used)
		r.Status.SpoolMax.Store(u.Max)
		switch {
		case u.Full:
			if full == "" {
				full = fmt.Sprintf("the spool is full (it has %d of %d bytes, and its disk %d free): reading from the source pauses until the target has taken some; "+
					"meanwhile the source keeps what it writes in its buffer for this replica, and closes the link when client-output-buffer-limit says so", u.Used, u.Max, u.Free)
			}
			r.Status.Wait(OnSpool, full)
		case full != "": // a wait that another has entered stays
			r.Status.Go(OnSpool)
			full = ""
		}
		return nil
	})
}
