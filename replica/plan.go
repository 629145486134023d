package replica

import (
	"fmt"

	"redferry/replica/spool"
)

// plan is where receiving goes on, and what becomes of what the spool holds.
type plan struct {
	from Position // what to ask the source for; zero for a full resync
	what change
	why  string // of a full resync
}

// change is what a plan does to the spool once the source has agreed.
type change uint8

const (
	goOn    change = iota // nothing: from goes on at its end
	cutBack               // all beyond from goes: the source has failed over to a server that did not have it
	anew                  // all goes: from is the target's own position
	reload                // all goes: a snapshot comes
)

// end is the position that the spool's stream ends at; zero when it holds none.
func end(c spool.Contents) Position {
	if c.EndID == "" {
		return Position{}
	}
	return Position{ReplID: c.EndID, Offset: c.End}
}

// serves tells whether the spool has what a target needs that is at resume: the stream behind its position, or the rest of its snapshot. granted says that the operator has
// allowed the snapshot that is there to replace what the target holds.
func serves(s *spool.Spool, resume Resume, granted bool) bool {
	if !resume.From.IsZero() && s.Holds(resume.From.ReplID, resume.From.Offset) {
		return true
	}
	c := s.Contents()
	if !c.Snapshot || c.Complete && !s.Holds(c.ID, c.At) {
		return false
	}
	if continues(c, resume.Part) {
		return true
	}
	return c.RDBFirst == 0 && resume.FullResync == nil && (granted || resume.From.IsZero())
}

// continues tells whether the spool has the rest of a snapshot that the target holds in part.
func continues(c spool.Contents, p Part) bool {
	return c.Snapshot && !p.At.IsZero() && c.ID == p.At.ReplID && c.At == p.At.Offset && c.RDBFirst <= p.Read && p.Read <= c.RDBEnd
}

// repeats is what a source says that it can still repeat.
type repeats struct {
	Backlog
	blind  bool     // it does not permit INFO: everything is hoped
	denied Position // what it could not repeat, whatever it says
}

// has is [Backlog.Has] with what else is known.
func (b *repeats) has(p Position) (ok bool, why string) {
	switch {
	case !p.IsZero() && p == b.denied:
		return false, "it answered PSYNC with a full resync"
	case b.blind:
		return !p.IsZero(), "there is no position to go on from"
	}
	return b.Has(p)
}

// unsettled says why a source that is a replica may yet have what a target needs that is at resume, or the spool, which ends at end; empty when it is
// settled, or the target needs nothing.
func (b *repeats) unsettled(resume Resume, end Position) string {
	switch {
	case resume.From.IsZero() && resume.Part.At.IsZero():
	case b.Orphaned:
		return "the source is a replica that has lost its own primary"
	case b.Behind(resume.From), b.Behind(end):
		return fmt.Sprintf("the source is a replica that is still behind: it is at offset %d", b.MasterOffset)
	}
	return ""
}

// decide is for when the source cannot go on from the spool's end, or the target is not where the spool serves it. Nobody reads the spool meanwhile.
func decide(s *spool.Spool, granted bool, b repeats, resume Resume) (plan, *Stop) {
	c := s.Contents()
	why := "there is no position to go on from"
	whole := !c.Snapshot || c.Complete // half an RDB is of no use: its rest cannot be asked for
	if whole && serves(s, resume, granted) {
		var ok bool
		if ok, why = b.has(end(c)); ok {
			return plan{from: end(c)}, nil
		}
		// A failover: the new primary shares the history of its predecessor up to where it was promoted.
		shared := Position{ReplID: b.ReplID2, Offset: b.SecondOffset - 1}
		needed := c.At
		if s.Holds(resume.From.ReplID, resume.From.Offset) {
			needed = resume.From.Offset
		}
		if ok, _ := b.has(shared); ok && needed <= shared.Offset && s.Holds(shared.ReplID, shared.Offset) {
			return plan{from: shared, what: cutBack}, nil
		}
	}
	if !resume.From.IsZero() {
		var ok bool
		if ok, why = b.has(resume.From); ok {
			return plan{from: resume.From, what: anew}, nil
		}
	}
	var behind Position
	if whole && continues(c, resume.Part) {
		behind = end(c)
	}
	if stop := resume.refusal(behind, why); stop != nil {
		return plan{}, stop
	}
	return plan{what: reload, why: why}, nil
}

// refusal is the end of a run that would need a full resync which the operator has not allowed; nil when it is allowed. behind is where the stream would go on
// behind the snapshot that the target holds in part; zero when the spool does not have the rest of that.
func (r Resume) refusal(behind Position, why string) *Stop {
	switch {
	case r.FullResync != nil:
		return refuse(r.FullResync, "the checkpoint", r.From, why)
	case r.Part.Lost != nil && !behind.IsZero():
		return refuse(r.Part.Lost, "behind the snapshot,", behind, why)
	}
	return nil
}

// refuse adds to a Stop why it came to that. where names from.
func refuse(stop *Stop, where string, from Position, why string) *Stop {
	if from.IsZero() {
		return stop
	}
	return &Stop{
		Kind: stop.Kind, Hint: stop.Hint,
		Reason: fmt.Sprintf("the source cannot continue from %s %s: %s; %s", where, from, why, stop.Reason),
	}
}
