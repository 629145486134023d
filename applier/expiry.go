package applier

import (
	"context"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// A target is a primary: it expires keys by itself, and so would lose one whose TTL is renewed on the source before the renewal has arrived here. A real replica never
// does that; it waits for the source's DEL. To be like it on any target, every expiry is written *shifted* by a constant, so that nothing expires here, and the
// source's own DEL, UNLINK and HDEL do the expiring, in order. Settling brings the expiries back (design: Expiry).

// Expiry is how a migration writes the expiries of keys and hash fields into its target.
type Expiry string

// The ways to write expiries.
const (
	Shift  Expiry = "shift"  // shifted, until settling; the default
	Import Expiry = "import" // as they are, into a target whose import mode expires nothing of ours: Valkey 8.1 and later
	AsIs   Expiry = "as-is"  // as they are, into a target that expires by itself and so loses keys: for tests, to show that
)

// The constants of the shift, in milliseconds. A moment is a Unix time. The shifted ones lie where no application's do, and the servers take them: a hash field's has to be
// below 2^46. Lua's numbers hold both exactly.
const (
	keyShift   = 1 << 52
	fieldShift = 1 << 45
	// distant is a moment, in the year 2527, from which on nothing has to be shifted: a migration is over by then. So what is shifted is known by its range.
	distant = 1 << 44
)

// expiries is how expiries are written at present. The zero value writes them as they are.
type expiries struct {
	shift bool
	grace int64 // ms; what an expiry is put off that is not shifted, so that a renewal may be late
}

// key is what is written for a key's expiry, a Unix time in ms.
func (x expiries) key(ms int64) int64 { return x.moment(ms, keyShift) }

// field is what is written for a hash field's.
func (x expiries) field(ms int64) int64 { return x.moment(ms, fieldShift) }

func (x expiries) moment(ms, shift int64) int64 {
	switch {
	case x == expiries{}:
		return ms
	case isShifted(ms, shift): // an original: it must not be taken for a shifted one later
		return shift + distant
	case ms >= distant:
		return ms
	case x.shift:
		return ms + shift
	}
	return ms + x.grace
}

// isShifted tells a shifted moment.
func isShifted(ms, shift int64) bool { return ms >= shift && ms < shift+distant }

// usual is how this migration writes expiries, but while it settles.
func (a *Applier) usual() expiries { return expiries{shift: a.Expiry == Shift} }

// writeExpiries has the units to come written so, and returns the offset up to which they are written as before.
func (a *Applier) writeExpiries(x expiries, settling bool) (from int64) {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	a.expiries, a.settling, a.expires = x, settling, a.expires || settling
	return a.taken
}

// resetExpiries is for a beginning: whatever was settled before, from here on the target may be behind again.
func (a *Applier) resetExpiries() {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	a.expiries, a.settling, a.settled, a.taken, a.swapped = a.usual(), false, false, 0, 0
}

// expectExpiry says, by the record, whether the target may expire keys by itself. No Commit may be running.
func (a *Applier) expectExpiry() {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	a.expires = a.Expiry == AsIs || a.Expiry == Shift && a.rec.Expiry == checkpoint.Mixed
}

// noteSettling has the record say what Settle is about, in case that this process does not come to its end, and lets Settle begin once the target has that. It is for Commit,
// whose the record is.
func (a *Applier) noteSettling() {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	if a.settling && a.rec.Expiry == string(Shift) {
		a.rec.Expiry = checkpoint.Mixed
		a.changes++
		a.mixed = a.changes
	}
	if a.noted != nil && a.written >= a.mixed {
		close(a.noted)
		a.noted = nil
	}
}

// awaitNote waits until Commit has noted that the target is being settled.
func (a *Applier) awaitNote(ctx context.Context) error {
	noted := make(chan struct{})
	a.queue.mu.Lock()
	a.noted = noted
	a.queue.mu.Unlock()
	wake(a.queue.asked)
	select {
	case <-noted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Settle implements [replica.Sink].
func (a *Applier) Settle(ctx context.Context) error {
	if a.Expiry == Shift {
		if err := a.settle(ctx); err != nil {
			a.writeExpiries(a.usual(), false)
			return err
		}
	}
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	a.settled = true
	return nil
}

// settle settles what is in the target, while nothing shifted comes to it any more. A SWAPDB takes keys to where they were looked for already: then all is looked at once more.
func (a *Applier) settle(ctx context.Context) error {
	from := a.writeExpiries(expiries{grace: a.TTLGrace.Milliseconds()}, true)
	if err := a.awaitNote(ctx); err != nil {
		return err
	}
	s := &settler{target: a.Target, grace: a.TTLGrace, busy: a.writing.Load, report: a.showSettling}
	for {
		swapped := a.lastSwap()
		if err := replica.Reach(ctx, a, max(from, swapped)); err != nil {
			return err
		}
		if err := s.run(ctx, a.client, a.owner); err != nil {
			return err
		}
		if a.lastSwap() == swapped {
			return nil
		}
	}
}

func (a *Applier) lastSwap() int64 {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	return a.swapped
}

func (a *Applier) showSettling(s Settling) {
	a.Status.SettleSeen.Store(s.Looked)
	a.Status.SettleTotal.Store(s.Keys)
	a.Status.Settled.Store(s.Settled + s.Fields)
}

// saySettled is Commit's last word after Settle has come to its end: the checkpoint says that expiries are as they are, and import mode is over.
func (a *Applier) saySettled(ctx context.Context) error {
	a.queue.mu.Lock()
	settled := a.settled
	a.queue.mu.Unlock()
	if !settled {
		return nil
	}
	ctx, cancel := lasting(ctx)
	defer cancel()
	return a.changeExpiry(ctx, AsIs)
}
