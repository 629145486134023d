package applier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// The sizes of the stream's transactions. Guard and checkpoint cost the target about as much as a hundred small commands (docs/benchmarks.md);
// its other clients wait for as long as a transaction takes, some milliseconds.
const (
	transactionCommands = 2000
	transactionBytes    = 256 << 10
	linger              = time.Millisecond // how long a busy stream may gather a batch
	gatherBelow         = 128              // commands
	carefulFor          = 10 * time.Second // how long after a refusal transactions go one by one
	lastWords           = 10 * time.Second // how long a run that ends may take to say what must not be forgotten
)

// Apply implements [replica.Sink].
func (a *Applier) Apply(ctx context.Context, u *replica.Unit) error {
	return a.queue.put(ctx, func(b *batch) error {
		if u.Own {
			b.grow(u.Cmds)
		}
		for i, cmd := range u.Cmds {
			if sets := a.setsOf(cmd.Args); sets != nil {
				for _, args := range sets {
					a.add(b, u, i, replica.Command{Args: args, DB: cmd.DB})
				}
				continue
			}
			a.add(b, u, i, cmd)
		}
		b.close(u)
		a.taken = u.End.Offset
		return nil
	})
}

// add puts u's i-th command, or a part of it, into the batch, as the target is to get it.
func (a *Applier) add(b *batch, u *replica.Unit, i int, cmd replica.Command) {
	t, drop, err := a.translate(u, cmd)
	switch {
	case err != nil:
		b.add(cmd.Args, command{db: cmd.DB, unfit: err}, u.Own)
		return
	case drop:
		return
	}
	b.add(t.args, command{
		db: cmd.DB, effect: t.effect, needs: t.needs, form: t.form, expect: expected(u, i, t.args, a.expires),
	}, u.Own)
	if t.then != nil {
		b.add(t.then, command{db: cmd.DB}, false)
	}
	if u.Own {
		a.forget()
	}
}

// forget lets go of the last command's memory, which may be lent: it would be held until the next
// command of the same kind comes.
func (a *Applier) forget() {
	a.rewriter.reset()
	a.rewriter.payload = nil
	a.forms.reset()
}

// Commit implements [replica.Sink].
func (a *Applier) Commit(ctx context.Context) error {
	shifting, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		<-a.back.done
	}()
	go a.shiftAgain(shifting)
	return a.commit(ctx)
}

func (a *Applier) commit(ctx context.Context) error {
	idle := time.NewTicker(time.Second)
	defer idle.Stop()
	defer a.writing.Store(false)
	var last time.Time
	for {
		if time.Since(last) < linger && a.queue.few(gatherBelow) {
			select { // a stream that flows: gather a little, rather than spend a transaction on each command
			case <-time.After(linger):
			case <-ctx.Done():
			}
		}
		b := a.queue.take(ctx, idle.C)
		a.takeNotes()
		if err := a.owner.why(); err != nil {
			return err
		}
		if b == nil {
			// Nothing came: store that the replies to all before it were read, too.
			if err := a.storeChecked(ctx); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		a.writing.Store(true)
		if err := a.write(ctx, b); err != nil {
			return err
		}
		a.writing.Store(false)
		last = time.Now()
	}
}

// asked tells that somebody waits for Commit to look after its record.
func (a *Applier) asked() bool {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	return len(a.notes) > 0
}

// storeChecked writes a transaction without commands, to keep what is only in memory: which replies were read, how many writes were refused.
func (a *Applier) storeChecked(ctx context.Context) error {
	if a.stored == a.rec.Checked && a.changes == a.written {
		return nil
	}
	b := &batch{units: []unit{{start: a.rec.Offset, end: a.rec.Position()}}}
	return a.insist(ctx, b, nil)
}

// write gets a batch into the target, and, for as long as full batches wait behind it and nobody asks Commit for something else, those: two round trips are under way at a
// time, so that the target always has something to do.
func (a *Applier) write(ctx context.Context, b *batch) error {
	if a.conn == nil {
		return a.insist(ctx, b, nil)
	}
	f, err := a.launch(ctx, b, 0, len(b.units), a.rec)
	for {
		if err != nil { // it was not sent
			return a.insist(ctx, b, err)
		}
		var following *batch
		var next *flight
		var nextErr error
		if f.to == len(b.units) && !a.asked() {
			if following = a.queue.takeFull(f.done); following != nil {
				next, nextErr = a.launch(ctx, following, 0, len(following.units), a.after(f))
			}
		}
		_, err = a.land(ctx, f, nil)
		if err == nil && f.to < len(b.units) {
			err = errAgain // a careful one, which took only a part
		}
		if err != nil {
			if next != nil {
				if _, behind := a.land(ctx, next, err); replica.AsStop(behind) != nil {
					err = behind
				}
			}
			// The batches are not used again: a connection that breaks may still look at their memory.
			if err = a.insist(ctx, f.b, err); err == nil && following != nil {
				err = a.insist(ctx, following, nil)
			}
			return err
		}
		a.queue.adapt(time.Since(f.began))
		a.queue.give(f.b)
		if following == nil {
			return nil
		}
		f, b, err = next, following, nextErr
	}
}

// insist gets a batch into the target, one round trip at a time, however long it takes: it returns when all is committed, or when the work
// has to start from Resume. err is why an earlier try has failed.
func (a *Applier) insist(ctx context.Context, b *batch, err error) error {
	defer a.queue.through(b)
	pause := newPause()
	var again resends
	for {
		if err != nil && !errors.Is(err, errAgain) {
			if a.conn != nil {
				a.conn.close()
				a.conn = nil
			}
			if err := a.await(ctx, err, pause); err != nil {
				return err
			}
		}
		if a.conn == nil {
			if err = a.reopen(ctx); err != nil {
				again.hangs = hangUps{}
				continue
			}
		}
		next, ok := b.after(a.rec.Offset)
		if !ok {
			return errLost
		}
		if next == len(b.units) {
			return nil
		}
		to := again.to(next, len(b.units))
		if to == next+1 && again.hangs.among(a.conn, 1) {
			if err = a.hungUpOn(ctx, b, next, again.hangs); err != nil {
				again.hangs = hangUps{}
				continue
			}
		}
		var n int
		conn := a.conn
		if n, err = a.send(ctx, b, next, to); n > 0 {
			pause.Reset()
			a.Status.Go(replica.OnTarget)
		}
		again.note(err, conn, to-next, n)
		if err == nil && next+n == len(b.units) {
			return nil
		}
	}
}

// lasting is a context for what must not be cancelled half-way: a cancelled write may be half sent, and its reply belongs to nobody. When ctx has
// ended already, it still gives some seconds.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return context.WithoutCancel(ctx), func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), lastWords)
}

// after is the first unit behind an offset; ok is false when the offset is not at a unit's end or start, nor behind the whole batch.
func (b *batch) after(offset int64) (next int, ok bool) {
	if offset == b.units[0].start {
		return 0, true
	}
	if offset > b.units[len(b.units)-1].end.Offset {
		return len(b.units), true
	}
	for i, u := range b.units {
		if u.end.Offset == offset {
			return i + 1, true
		}
	}
	return 0, false
}

// newPause is how long to wait between tries to reach a target that is away.
func newPause() *backoff.ExponentialBackOff {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 50 * time.Millisecond
	pause.MaxInterval = 5 * time.Second
	return pause
}

// await waits before the next try. It returns an error when there is none: for what stays, and when ctx has ended.
func (a *Applier) await(ctx context.Context, err error, pause *backoff.ExponentialBackOff) error {
	if replica.AsStop(err) != nil || errors.Is(err, errLost) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", ctx.Err(), err) // what is not written will be asked for again
	}
	wait := time.Duration(0)
	if !errors.Is(err, errStale) { // else the checkpoint, or the fence, tells at the next opening who wrote
		wait = pause.NextBackOff()
		a.Status.Wait(replica.OnTarget, "target "+a.Target.String()+": "+err.Error())
		a.Log.Debug().Err(err).Dur("wait", wait).Msg("the target did not take a transaction")
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", ctx.Err(), err)
	case <-a.owner.gone:
		return a.owner.why()
	case <-time.After(wait):
		return nil
	}
}

// reopen connects anew and reads the checkpoint: whatever was in doubt is what it says.
func (a *Applier) reopen(ctx context.Context) error {
	ctx, cancel := lasting(ctx) // a run that ends still writes what it has taken
	defer cancel()
	conn, err := a.dial(ctx, false)
	if err != nil {
		return err
	}
	rec, ok, err := ReadCheckpoint(ctx, conn, a.Name)
	if err == nil {
		switch {
		case !ok, rec.Phase != checkpoint.PhaseStream, rec.Epoch < a.owner.epoch, rec.ReplID != a.rec.ReplID: // offsets of two histories say nothing of one another
			err = errLost
		case rec.Epoch > a.owner.epoch:
			err = a.owner.overtaken(ctx, conn)
		}
	}
	if err != nil {
		conn.close()
		return err
	}
	if conn.history != a.target.history {
		a.meet(ctx, conn)
	}
	// What memory knows beside the place, such as counts that are not stored yet, stays.
	a.conn, a.stored = conn, rec.Checked
	a.queue.fit(conn.roundTrip)
	a.rec.ReplID, a.rec.Offset, a.rec.DB = rec.ReplID, rec.Offset, rec.DB
	a.rec.Checked = min(a.rec.Checked, rec.Offset)
	if rec.Expiry != a.rec.Expiry || rec.RealFrom != a.rec.RealFrom || rec.Expired != a.rec.Expired { // another server, which was behind
		a.changes++
	}
	if a.rec.NoteLostReplies() { // it committed, and what the replies said will not be known
		a.changes++
	}
	a.setCheckpointed()
	return nil
}

// meet takes what a target says of itself that was restarted, or has failed over to another server. It may have lost
// the last of what the record says, so the whole record is written again.
func (a *Applier) meet(ctx context.Context, conn *conn) {
	var t target
	t.read(conn.info)
	t.readConfig(ctx, conn)
	a.queue.mu.Lock() // translate goes by it
	a.target = t
	a.queue.mu.Unlock()
	a.changes++
	a.warnOfEviction()
}
