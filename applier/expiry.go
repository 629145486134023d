package applier

import "redferry/applier/checkpoint"

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

// expiries is how expiries are written at present: shifted if they are before a moment, and else as they are. The zero value writes all as they
// are; with distant as the moment all that may be shifted is.
type expiries struct{ below int64 }

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
	case ms < x.below:
		return ms + shift
	}
	return ms
}

// isShifted tells a shifted moment.
func isShifted(ms, shift int64) bool { return ms >= shift && ms < shift+distant }

// usual is how this migration writes expiries, but while it settles.
func (a *Applier) usual() expiries {
	if a.Expiry == Shift {
		return expiries{below: distant}
	}
	return expiries{}
}

// writeExpiries has the units to come written so, and returns the offset up to which they are written as before.
func (a *Applier) writeExpiries(x expiries, n *near) (from int64) {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	a.expiries, a.near = x, n
	return a.taken
}

// resetExpiries is for a beginning: whatever was settled before, from here on all is shifted.
func (a *Applier) resetExpiries() {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	a.expiries, a.near, a.notes, a.taken, a.swapped = a.usual(), nil, nil, 0, 0
	a.back = newShifting()
}

// expectExpiry says, by the record, what the target may have expired by itself, and may yet. No Commit may be running.
func (a *Applier) expectExpiry() {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	a.real, a.expires = realFrom(&a.rec), a.Expiry == AsIs || a.rec.Expired != 0
}

// realFrom is the moment before which no expiry in the target is the source's, but for those that somebody else has written there.
func realFrom(r *checkpoint.Record) int64 {
	switch r.Expiry {
	case string(Shift):
		return distant
	case checkpoint.Mixed:
		return r.RealFrom
	}
	return 0
}
