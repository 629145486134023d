package applier

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
)

// errAgain says that nothing stands against sending the rest at once.
var errAgain = errors.New("send again")

// flight is a round trip to the target under way, with transactions of a batch's units from the given ones on.
type flight struct {
	b        *batch
	from, to int
	p        *pipeline
	base     checkpoint.Record // as the target has it when the flight arrives
	whole    bool              // its first transaction writes the whole record,
	changes  int64             // with all changes up to this one
	began    time.Time
	results  []rueidis.RedisResult
	done     chan struct{} // closed when the results are there
}

// after is the record as the target has it once the flight has landed: with what is counted by now, of which the flight's own may lack some.
func (a *Applier) after(f *flight) checkpoint.Record {
	rec, end := a.rec, f.b.units[f.to-1].end
	rec.ReplID, rec.Offset, rec.DB = end.ReplID, end.Offset, end.DB
	return rec
}

// launch sends units [from, to) of b, or some of them, in one round trip, and returns while they are under way; land waits for them. A second
// flight may be launched before the first has landed: the connection keeps them in order, and if it ever did not, the fence would.
func (a *Applier) launch(ctx context.Context, b *batch, from, to int, base checkpoint.Record) (*flight, error) {
	f := &flight{b: b, from: from, to: to, base: base, changes: a.changes, began: time.Now(), done: make(chan struct{})}
	if f.began.Before(a.careful) {
		f.to = min(to, b.cut(from))
	}
	if err := a.fits(ctx, b, from, f.to); err != nil {
		return nil, err
	}
	a.pack(f)
	conn, entered := a.conn, make(chan struct{})
	lasting, cancel := lasting(ctx)
	go func() {
		defer close(f.done)
		defer cancel()
		close(entered)
		f.results = conn.DoMulti(lasting, f.p.cmds...)
	}()
	<-entered // so that a flight launched later comes later
	return f, nil
}

// send is launch and land.
func (a *Applier) send(ctx context.Context, b *batch, from, to int) (committed int, err error) {
	f, err := a.launch(ctx, b, from, to, a.rec)
	if err != nil {
		return 0, err
	}
	return a.land(ctx, f, nil)
}

// land waits for a flight and tells how many of its units were committed. An error says why not all of them were; a Stop says that no
// more should be sent. before is the error of the flight in front of it: then nothing of this one may have committed.
func (a *Applier) land(ctx context.Context, f *flight, before error) (committed int, err error) {
	<-f.done
	err = before
	stored := f.base.Checked
	var failed []failure
	var open *verdict // of a transaction that took effect although the fence should have kept it out
	for i := range f.p.txns {
		t := &f.p.txns[i]
		v := t.judge(f.results)
		switch {
		case v.unguarded, v.committed && err != nil: // nothing may commit behind what did not
			open = &v
		case err != nil:
		case !v.committed:
			err = a.refused(f.b, v)
		default:
			a.account(f.b, f.from+committed, t)
			a.countDivergence(f.b, t, f.results)
			committed = t.last - f.from
			failed = append(failed, v.failed...)
		}
		if open != nil {
			break
		}
	}
	if committed > 0 {
		a.stored = stored
		if f.whole {
			a.written = f.changes
			a.takeNotes()
		}
	}
	stop := a.rejectFailed(ctx, f.b, failed)
	if committed > 0 {
		a.setCheckpointed() // with all that was counted: who finds the offset reached asks for the doubts next
	}
	switch {
	case open != nil:
		return committed, a.diverge(ctx, *open)
	case stop != nil:
		return committed, stop
	}
	return committed, err
}

// cut is where a transaction that begins with unit from ends.
func (b *batch) cut(from int) int {
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

// pack makes the flight's transactions. The first one writes the whole record where the target does not have all of it.
func (a *Applier) pack(f *flight) {
	b, rec, p := f.b, f.base, &pipeline{b: a.conn.B()}
	epoch := strconv.FormatInt(a.owner.epoch, 10)
	all := a.changes != a.written
	for from := f.from; from < f.to; {
		end := min(b.cut(from), f.to)
		p.begin(checkpoint.Key(a.Name), streamGuard, epoch, strconv.FormatInt(rec.Offset, 10))
		u := b.units[end-1]
		all = a.packCommands(p, b, from, end) || all || rec.ReplID != u.end.ReplID
		rec.ReplID, rec.Offset, rec.DB, rec.Time = u.end.ReplID, u.end.Offset, u.end.DB, time.Now().UnixMilli()
		if all {
			p.hset(checkpoint.Key(a.Name), rec.Fields())
		} else {
			p.hset(checkpoint.Key(a.Name), []string{
				checkpoint.FieldOffset, strconv.FormatInt(rec.Offset, 10), checkpoint.FieldChecked, strconv.FormatInt(rec.Checked, 10),
				checkpoint.FieldDB, strconv.Itoa(rec.DB), checkpoint.FieldTime, strconv.FormatInt(rec.Time, 10),
			})
		}
		p.end(end)
		if from == f.from {
			f.whole = all
		}
		from, all = end, false
	}
	f.p = p
}

// packCommands queues the commands of units; before those that copy or compare expiries what has to be done to their keys, and after those that touch our own
// keys what these should be. lost tells that there was one of these.
func (a *Applier) packCommands(p *pipeline, b *batch, from, end int) (lost bool) {
	first, last := b.span(from, end)
	for i := first; i < last; i++ {
		c := &b.cmds[i]
		if c.skip {
			continue
		}
		if c.form != (formKey{}) {
			key := rueidis.BinaryString(b.argument(i, 1))
			p.queue(c.db, p.b.Eval().Script(formScript).Numkeys(1).Key(key).Arg(c.form.arguments()...).Build(), refOwn)
		}
		p.queue(c.db, b.build(p.b, i), i)
		switch c.effect {
		case swaps:
			p.queue(c.needs[0]+c.needs[1], p.b.Unlink().Key(checkpoint.Keys(a.Name)...).Build(), refOwn)
			fallthrough
		case flushes:
			a.restoreOwner(p)
			lost = true
		}
	}
	return lost
}

// restoreOwner writes what a command of the same transaction has removed or moved, but for the checkpoint.
func (a *Applier) restoreOwner(p *pipeline) {
	p.hset(checkpoint.OwnerKey(a.Name), a.owner.fields())
	p.queue(0, p.b.Set().Key(checkpoint.FenceKey(a.Name)).Value(a.owner.fenceValue()).Build(), refOwn)
}

// account takes a committed transaction into the record, which is not published by it. It began with unit from.
func (a *Applier) account(b *batch, from int, t *transaction) {
	u := b.units[t.last-1]
	a.rec.ReplID, a.rec.Offset, a.rec.DB, a.rec.Checked = u.end.ReplID, u.end.Offset, u.end.DB, u.end.Offset
	first, _ := b.commands(from)
	a.Status.Commands.Add(int64(u.cmds - first))
	a.Status.Transactions.Add(1)
}
