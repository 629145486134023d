package applier

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// The sizes of the stream's transactions. Each costs the target about as much as five small commands, and holds up its other clients for as
// long as it takes.
const (
	transactionCommands = 500
	transactionBytes    = 256 << 10
	linger              = time.Millisecond // how long a busy stream may gather a batch
	carefulFor          = 10 * time.Second // how long after a refusal transactions go one by one
	lastWords           = 10 * time.Second // how long a run that ends may take to say what must not be forgotten
)

// Apply implements [replica.Sink].
func (a *Applier) Apply(ctx context.Context, u *replica.Unit) error {
	return a.queue.put(ctx, func(b *batch) error {
		for _, cmd := range u.Cmds {
			t, drop, err := a.translate(cmd)
			if drop && err == nil {
				continue
			}
			if err != nil {
				t = translated{args: cmd.Args}
			}
			b.add(t.args, command{db: cmd.DB, effect: t.effect, needs: t.needs, unfit: err})
		}
		b.close(u)
		return nil
	})
}

// Commit implements [replica.Sink].
func (a *Applier) Commit(ctx context.Context) error {
	idle := time.NewTicker(time.Second)
	defer idle.Stop()
	var last time.Time
	for {
		if time.Since(last) < linger && a.queue.few(transactionCommands/4) {
			select { // a stream that flows: gather a little, rather than spend a transaction on each command
			case <-time.After(linger):
			case <-ctx.Done():
			}
		}
		b := a.queue.take(ctx, idle.C)
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
		began := time.Now()
		err := a.write(ctx, b)
		a.queue.give(b)
		if err != nil {
			return err
		}
		last = time.Now()
		a.queue.adapt(last.Sub(began))
	}
}

// storeChecked writes a transaction without commands, to keep what is only in memory: which replies were read, how many writes were refused.
func (a *Applier) storeChecked(ctx context.Context) error {
	if a.stored == a.rec.Checked && !a.dirty {
		return nil
	}
	b := &batch{units: []unit{{start: a.rec.Offset, end: a.rec.Position()}}}
	return a.write(ctx, b)
}

// write gets a batch into the target, however long it takes: it returns when all is committed, or when the work has to start from Resume.
func (a *Applier) write(ctx context.Context, b *batch) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 50 * time.Millisecond
	pause.MaxInterval = 5 * time.Second
	for next := 0; next < len(b.units); {
		if a.conn == nil {
			if err := a.reopen(ctx); err != nil {
				if err = a.await(ctx, err, pause); err != nil {
					return err
				}
				continue
			}
			var ok bool
			if next, ok = b.after(a.rec.Offset); !ok {
				return errLost
			}
			continue
		}
		n, err := a.send(ctx, b, next)
		if n > 0 {
			next += n
			pause.Reset()
			a.Status.Go()
		}
		if err == nil || errors.Is(err, errAgain) {
			continue
		}
		a.conn.close()
		a.conn = nil
		if err := a.await(ctx, err, pause); err != nil {
			return err
		}
	}
	return nil
}

// lasting is a context for what must not be cancelled half-way: a cancelled write may be half sent, and its reply belongs to nobody. When ctx has
// ended already, it still gives some seconds.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return context.WithoutCancel(ctx), func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), lastWords)
}

// after is the first unit behind an offset; ok is false when the offset is not at a unit's end or start.
func (b *batch) after(offset int64) (next int, ok bool) {
	if offset == b.units[0].start {
		return 0, true
	}
	for i, u := range b.units {
		if u.end.Offset == offset {
			return i + 1, true
		}
	}
	return 0, false
}

// await waits before the next try. It returns an error when there is none: for what stays, and when ctx has ended.
func (a *Applier) await(ctx context.Context, err error, pause *backoff.ExponentialBackOff) error {
	if replica.AsStop(err) != nil || errors.Is(err, errLost) {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err() // what is not written will be asked for again
	}
	wait := pause.NextBackOff()
	if errors.Is(err, errStale) {
		wait = 0 // the checkpoint will tell why
	} else {
		a.Status.Wait("target " + a.Target.String() + ": " + err.Error())
		a.Log.Debug().Err(err).Dur("wait", wait).Msg("the target did not take a transaction")
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
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
		case !ok, rec.Phase != checkpoint.PhaseStream, rec.Epoch < a.owner.epoch:
			err = errLost
		case rec.Epoch > a.owner.epoch:
			err = a.owner.fenced()
		}
	}
	if err != nil {
		conn.close()
		return err
	}
	// What memory knows beside the place, such as counts that are not stored yet, stays.
	a.conn, a.stored = conn, rec.Checked
	a.rec.ReplID, a.rec.Offset, a.rec.DB = rec.ReplID, rec.Offset, rec.DB
	a.rec.Checked = min(a.rec.Checked, rec.Offset)
	if a.rec.NoteLostReplies() { // it committed, and what the replies said will not be known
		a.dirty = true
	}
	a.setCheckpointed()
	return nil
}

// errAgain says that nothing stands against sending the rest at once.
var errAgain = errors.New("send again")

// send writes units of b from the given one on, in one round trip, and tells how many of them were committed. An error says why not all
// of those that were sent; a Stop says that no more should be.
func (a *Applier) send(ctx context.Context, b *batch, from int) (committed int, err error) {
	to := len(b.units)
	if time.Now().Before(a.careful) {
		to = a.cut(b, from)
	}
	if err := a.fits(ctx, b, from, to); err != nil {
		return 0, err
	}
	p, whole := a.pack(b, from, to)
	lctx, cancel := lasting(ctx)
	results := a.conn.DoMulti(lctx, p.cmds...)
	cancel()
	stored := a.rec.Checked
	var failed []failure
	var open *verdict // of a transaction that took effect although the fence should have kept it out
	for i := range p.txns {
		t := &p.txns[i]
		v := t.judge(results)
		switch {
		case v.unguarded, v.committed && err != nil: // nothing may commit behind what did not
			open = &v
		case err != nil:
		case !v.committed:
			err = a.refused(b, v)
		default:
			a.settle(b, from+committed, t)
			committed = t.last - from
			failed = append(failed, v.failed...)
		}
		if open != nil {
			break
		}
	}
	if committed > 0 {
		a.stored, a.dirty = stored, a.dirty && !whole
	}
	stop := a.rejectFailed(ctx, b, failed)
	switch {
	case open != nil:
		return committed, a.diverge(ctx, *open)
	case stop != nil:
		return committed, stop
	}
	return committed, err
}

// cut is where a transaction that begins with unit from ends.
func (a *Applier) cut(b *batch, from int) int {
	commands, weight := 0, 0
	for i := from; i < len(b.units); i++ {
		first, last := b.commands(i)
		commands += last - first
		weight += b.weight(i)
		if commands >= transactionCommands || weight >= transactionBytes {
			return i + 1
		}
	}
	return len(b.units)
}

// pack makes transactions of units. The first one writes the whole record where the target does not have all of it.
func (a *Applier) pack(b *batch, from, to int) (p *pipeline, whole bool) {
	p = &pipeline{b: a.conn.B()}
	key := checkpoint.Key(a.Name)
	rec, first := a.rec, a.dirty
	for from < to {
		end := min(a.cut(b, from), to)
		p.begin(key, streamGuard, strconv.FormatInt(a.owner.epoch, 10), strconv.FormatInt(rec.Offset, 10))
		all := first || rec.ReplID != b.units[end-1].end.ReplID
		begin, _ := b.commands(from)
		_, last := b.commands(end - 1)
		for i := begin; i < last; i++ {
			c := b.cmds[i]
			if c.skip {
				continue
			}
			p.queue(c.db, b.build(p.b, i), i)
			switch c.effect {
			case swaps:
				p.queue(c.needs[0]+c.needs[1], p.b.Unlink().Key(checkpoint.Keys(a.Name)...).Build(), refOwn)
				fallthrough
			case flushes:
				a.restoreOwner(p)
				all = true
			}
		}
		u := b.units[end-1]
		rec.ReplID, rec.Offset, rec.DB, rec.Time = u.end.ReplID, u.end.Offset, u.end.DB, time.Now().UnixMilli()
		if all {
			p.hset(key, rec.Fields())
		} else {
			p.hset(key, []string{
				checkpoint.FieldOffset, strconv.FormatInt(rec.Offset, 10), checkpoint.FieldChecked, strconv.FormatInt(rec.Checked, 10),
				checkpoint.FieldDB, strconv.Itoa(rec.DB), checkpoint.FieldTime, strconv.FormatInt(rec.Time, 10),
			})
		}
		p.end(end)
		from, whole, first = end, whole || first, false
	}
	return p, whole
}

// restoreOwner writes what a command of the same transaction has removed or moved, but for the checkpoint.
func (a *Applier) restoreOwner(p *pipeline) {
	p.hset(checkpoint.OwnerKey(a.Name), a.owner.fields())
	p.queue(0, p.b.Set().Key(checkpoint.FenceKey(a.Name)).Value(a.owner.fenceValue()).Build(), refOwn)
}

// settle takes a committed transaction into the record. It began with unit from.
func (a *Applier) settle(b *batch, from int, t *transaction) {
	u := b.units[t.last-1]
	a.rec.ReplID, a.rec.Offset, a.rec.DB, a.rec.Checked = u.end.ReplID, u.end.Offset, u.end.DB, u.end.Offset
	first, _ := b.commands(from)
	a.Status.Commands.Add(int64(u.cmds - first))
	a.Status.Transactions.Add(1)
	a.setCheckpointed()
}

// fits makes sure, before anything is sent, of what the target could not refuse properly: a database that it does not have, and an
// argument that is longer than it reads (it would close the connection on it, again and again).
func (a *Applier) fits(ctx context.Context, b *batch, from, to int) error {
	first, _ := b.commands(from)
	_, last := b.commands(to - 1)
	for i := first; i < last; i++ {
		c := &b.cmds[i]
		if c.skip {
			continue
		}
		for _, db := range [...]int{c.db, c.needs[0], c.needs[1]} {
			if err := a.probe(ctx, db); err != nil {
				return err
			}
		}
		longest := 0
		b.arguments(i, func(arg []byte) { longest = max(longest, len(arg)) })
		if c.unfit != nil {
			return a.refuseCommands(b, []failure{{i, c.unfit}})
		}
		if int64(longest) > a.target.maxBulk {
			return a.refuseCommands(b, []failure{{i, fmt.Errorf("an argument of %d bytes; the target's proto-max-bulk-len is %d", longest, a.target.maxBulk)}})
		}
	}
	return nil
}

// refused turns the verdict on a transaction that did nothing into what to do: wait, start over, or stop.
func (a *Applier) refused(b *batch, v verdict) error {
	if errors.Is(v.err, errOwnRefused) {
		return a.ownStop(v.err)
	}
	if errors.Is(v.err, errBroken) || errors.Is(v.err, errStale) {
		return v.err
	}
	a.careful = time.Now().Add(carefulFor)
	if len(v.failed) > 0 {
		return a.refuseCommands(b, v.failed)
	}
	return v.err
}

// refuseCommands deals with commands that the target will not take, before anything of their transaction was done. By default the run
// stops in front of them, so that nothing is skipped; with KeepGoing they are left out and kept.
func (a *Applier) refuseCommands(b *batch, failed []failure) error {
	if !a.KeepGoing {
		f := failed[0]
		return &replica.Stop{
			Kind: replica.Refused, Err: f.err,
			Reason: fmt.Sprintf("the target cannot take %s, in the unit that ends at offset %d", b.describe(f.ref), b.units[b.unitOf(f.ref)].end.Offset),
			Hint:   "nothing of that unit, or after it, was applied: mend the cause and run the same command again, or leave the write out with --on-error=continue",
		}
	}
	for _, f := range failed {
		b.cmds[f.ref].skip = true
		if err := a.reject(b, f); err != nil {
			return err
		}
	}
	return errAgain
}

// rejectFailed keeps commands that failed in a transaction that committed: each of them is a divergence.
func (a *Applier) rejectFailed(ctx context.Context, b *batch, failed []failure) error {
	if len(failed) == 0 {
		return nil
	}
	for _, f := range failed {
		if err := a.reject(b, f); err != nil {
			return err
		}
	}
	if a.KeepGoing {
		return nil
	}
	f := failed[0]
	return a.keepCounts(ctx, &replica.Stop{
		Kind: replica.Refused, Err: f.err,
		Reason: fmt.Sprintf("the target refused %d writes; the first is %s, in the unit that ends at offset %d", len(failed), b.describe(f.ref), b.units[b.unitOf(f.ref)].end.Offset),
		Hint:   "they are in " + a.Home.RejectedPath() + "; --on-error=continue goes on without them",
	})
}

// reject writes a refused command to the file of refused commands and counts it.
func (a *Applier) reject(b *batch, f failure) error {
	offset := b.units[b.unitOf(f.ref)].end.Offset
	var args [][]byte
	b.arguments(f.ref, func(arg []byte) { args = append(args, arg) })
	return a.keep(b.cmds[f.ref].db, args, fmt.Sprintf("offset %d", offset), b.describe(f.ref), f.err)
}

// keep puts a refused command into the file of refused commands and counts it. where and what are for messages.
func (a *Applier) keep(db int, args [][]byte, where, what string, reply error) error {
	if err := a.Home.Reject(db, args, fmt.Sprintf("%s: %v", where, reply)); err != nil {
		return &replica.Stop{Kind: replica.Failed, Reason: "cannot keep a write that the target refused", Err: err}
	}
	a.rec.Rejected++
	a.dirty = true
	a.Status.Rejected.Add(1)
	a.Log.Warn().Str("where", where).Str("command", what).AnErr("reply", reply).Msg("the target refused a write")
	return nil
}

func (b *batch) unitOf(cmd int) int {
	return sort.Search(len(b.units)-1, func(i int) bool { return cmd < b.units[i].cmds })
}

// diverge records that the fence did not hold. No run goes on after that without the operator.
func (a *Applier) diverge(ctx context.Context, v verdict) error {
	a.rec.Diverged++
	return a.keepCounts(ctx, &replica.Stop{
		Kind: replica.Refused, Err: v.err,
		Reason: "a transaction took effect although its guard had not agreed: the target may differ from the source",
		Hint:   "compare both sides; then go on with --on-error=continue, or load the target again: `redferry reset`, then run with --on-target-not-empty=flush",
	})
}

// keepCounts stores the counts of the record at once, since no later transaction will, and returns stop. It is fenced by the epoch alone. A target
// that refuses it is asked again until ctx ends, and for some seconds when it has ended already.
func (a *Applier) keepCounts(ctx context.Context, stop *replica.Stop) error {
	s := session{a: a}
	defer s.close()
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = lasting(ctx)
		defer cancel()
	}
	_, err := s.run(ctx, func(p *pipeline) {
		p.hset(checkpoint.Key(a.Name), []string{
			checkpoint.FieldRejected, strconv.FormatInt(a.rec.Rejected, 10), checkpoint.FieldDiverged, strconv.FormatInt(a.rec.Diverged, 10),
		})
	})
	if err != nil {
		stop.Err = errors.Join(stop.Err, fmt.Errorf("and the checkpoint does not say so: %w", err))
	}
	return stop
}
