package crash

import (
	"strconv"
	"time"

	"redferry/internal/redistest"
)

// ledger is what the oracle keeps: how many full resyncs there were, and how many the faults excuse.
//
// A full resync is excused when it was the first; when a fault may have hit an RDB that had not arrived whole, or, without a spool, had not been
// loaded; and when redferry has asked for leave, by exit code 3, and there was no other way. Of the last the oracle makes sure itself, by the source's own rule.
type ledger struct {
	counted, excused int
	leave            bool // --on-full-resync=flush is given, until the target holds what the source can go on from
	safe             bool // the target does, when last seen
}

// countResyncs is for a source that is about to forget them.
func (w *world) countResyncs() { w.counted += stat(w.t, w.source, "sync_full") }

// look notes, before a fault, whether that may cost a full resync.
func (w *world) look(f fault) {
	if !w.away(theTarget) && !w.away(theSource) {
		cp := w.checkpoint()
		w.safe = cp.phase == "stream" && w.has(cp.id, cp.offset)
		w.leave = w.leave && !w.safe
	}
	if w.safe {
		return
	}
	if w.spooled() && !w.leave {
		if f.harmless {
			return
		}
		if s, ok := readSpool(w.victim.spool()); ok && s.whole() && f.of != theSource && (f.name != powerCut || s.rdbOnDisk()) {
			return
		}
	}
	w.excused++
}

// granted are the flags by which a full resync is allowed, once there is no other way.
func (w *world) granted() []string {
	if w.leave {
		return []string{"--on-full-resync=flush"}
	}
	return nil
}

// checkpoint is where the target says that it is.
type checkpoint struct {
	phase, id string
	offset    int64
}

func (w *world) checkpoint() checkpoint {
	m := w.target.Do(w.t, "HMGET", "redferry:default", "phase", "replid", "offset")
	fields, err := m.AsStrSlice()
	if err != nil || len(fields) != 3 {
		w.t.Fatalf("read the checkpoint: %d fields, %v", len(fields), err)
	}
	offset, _ := strconv.ParseInt(fields[2], 10, 64) // 0 when there is none
	return checkpoint{fields[0], fields[1], offset}
}

// has tells whether the source can go on behind an offset of a history: masterTryPartialResynchronization.
func (w *world) has(id string, offset int64) bool {
	info := w.source.Info(w.t, "replication")
	number := func(name string) int64 {
		n, err := strconv.ParseInt(info[name], 10, 64)
		if err != nil {
			w.t.Fatalf("INFO replication of the source: %s: %v", name, err)
		}
		return n
	}
	next, first := offset+1, number("repl_backlog_first_byte_offset")
	same := id == info["master_replid"] || id == info["master_replid2"] && next <= number("second_repl_offset")
	return same && info["repl_backlog_active"] == "1" && first <= next && next <= first+number("repl_backlog_histlen")
}

// ended judges how redferry has ended by itself. What it may not do fails the test.
func (w *world) ended(code int) {
	switch {
	case w.leaving && code == 0:
	case code == 3:
		w.release()
		w.settleSource()
		if way := w.wayOn(); way != "" {
			w.t.Fatalf("redferry ended with exit code 3, and %s", way)
		}
		w.leave = true
		w.excused++
	case (code == 1 || code == 2) && time.Now().Before(w.cramped):
		w.release() // it cannot even begin without room
	default:
		w.t.Fatalf("redferry ended by itself with exit code %d", code)
	}
}

// settleSource waits until a replica that is read from has caught up with its primary.
func (w *world) settleSource() {
	if w.source == w.written {
		return
	}
	offset := w.written.Offset(w.t)
	until(w.t, "the source has caught up with its primary", func() bool {
		info := w.source.Info(w.t, "replication")
		have, _ := strconv.ParseInt(info["master_repl_offset"], 10, 64)
		return info["master_link_status"] == "up" && have >= offset
	})
}

// wayOn is how to go on without a full resync, in words; empty when there is no way.
func (w *world) wayOn() string {
	cp, s := w.checkpoint(), spoolState{}
	found := false
	if w.spooled() {
		s, found = readSpool(w.victim.spool())
	}
	switch streams := found && len(s.Links) > 0 && w.has(s.Links[len(s.Links)-1].ID, s.end); {
	case cp.phase == "":
		return "the target has no checkpoint"
	case cp.phase == "stream" && w.has(cp.id, cp.offset):
		return "the source can go on from the checkpoint"
	case cp.phase == "stream" && streams && s.first <= cp.offset && cp.offset <= s.end:
		return "the spool reaches from the checkpoint to where the source can go on"
	case cp.phase == "snapshot" && streams && s.whole():
		return "the spool has the rest of the snapshot, and the source can go on behind it"
	}
	return ""
}

// comparing is how equal both sides have to be.
func (w *world) comparing() redistest.CompareOptions {
	o := redistest.CompareOptions{Settled: true}
	if !w.source.Build.Has70() { // it sends spans of time, which count from when they arrive: later, the longer redferry was away
		o.TTLTolerance = 20 * time.Second // a start may take its time
	}
	return o
}

// audit looks at the bill.
func (w *world) audit() {
	w.countResyncs()
	if w.replica != nil && w.replica != w.source { // of a list, the first that can be reached is taken where no primary can
		w.counted += stat(w.t, w.replica, "sync_full")
	}
	if w.counted < 1 || w.counted > 1+w.excused {
		w.t.Errorf("full resyncs: got %d, want 1 and at most %d more for what happened", w.counted, w.excused)
	}
	for _, field := range []string{"diverged", "rejected"} {
		if n := w.target.DoString(w.t, "HGET", "redferry:default", field); n != "0" {
			w.t.Errorf("%s: got %q, want 0", field, n)
		}
	}
	if kinds := w.target.DoString(w.t, "HGET", "redferry:default", "divergence"); kinds != "" {
		w.t.Errorf("divergence: %s", kinds)
	}
}
