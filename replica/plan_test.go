package replica

import (
	"context"
	"strings"
	"testing"
	"time"

	"redferry/replica/spool"
)

const thirdID = "00112233445566778899aabbccddeeff00112233"

// What receiving does when the spool's end, the target and the source do not fit together. The spool holds the stream from 100 to 200 of testID, or
// a snapshot at 100 and the stream behind it up to 200.
func TestDecide(t *testing.T) {
	never := &Stop{Kind: Decide, Reason: "not allowed", Hint: "allow it"}
	lost := &Stop{Kind: Decide, Reason: "the snapshot would be lost", Hint: "allow that"}
	at := func(id string, offset int64) Position { return Position{ReplID: id, Offset: offset} }
	source := func(id string, first, end int64) Backlog {
		return Backlog{ReplID: id, SecondOffset: -1, FirstByte: first, HistLen: end + 1 - first, MasterOffset: end, Active: true}
	}
	promoted := func(b Backlog, from string, shared int64) Backlog {
		b.ReplID2, b.SecondOffset = from, shared+1
		return b
	}
	part := Part{At: at(testID, 100), Read: 3, Lost: lost}
	tests := []struct {
		name    string
		holds   string // "stream", "snapshot", "half" of one, "nothing"
		b       Backlog
		blind   bool
		denied  Position
		granted bool
		resume  Resume
		want    plan
		stop    string
	}{
		{name: "nothing here, and the source has the checkpoint", holds: "nothing", b: source(testID, 1, 500), resume: Resume{From: at(testID, 150), FullResync: never}, want: plan{from: at(testID, 150), what: anew}},
		{name: "nothing here, nothing there", holds: "nothing", b: source(testID, 1, 500), want: plan{what: reload}},
		{name: "nothing here, and the checkpoint is too old", holds: "nothing", b: source(testID, 200, 500), resume: Resume{From: at(testID, 150), FullResync: never}, stop: "49 bytes are gone"},
		{name: "likewise, and a full resync is allowed", holds: "nothing", b: source(testID, 200, 500), resume: Resume{From: at(testID, 150)}, want: plan{what: reload}},
		{name: "the spool's end after all", holds: "stream", b: source(testID, 1, 500), resume: Resume{From: at(testID, 150), FullResync: never}, want: plan{from: at(testID, 200)}},
		{name: "the checkpoint is behind the spool", holds: "stream", b: source(testID, 1, 500), resume: Resume{From: at(testID, 300), FullResync: never}, want: plan{from: at(testID, 300), what: anew}},
		{name: "the checkpoint is before the spool", holds: "stream", b: source(testID, 1, 500), resume: Resume{From: at(testID, 50), FullResync: never}, want: plan{from: at(testID, 50), what: anew}},
		{name: "the checkpoint is before the spool, which nobody else has", holds: "stream", b: source(testID, 100, 500), resume: Resume{From: at(testID, 50), FullResync: never}, stop: "the backlog begins at offset 100"},
		{name: "another history", holds: "stream", b: source(otherID, 1, 500), resume: Resume{From: at(testID, 150), FullResync: never}, stop: "belongs to the replication ID " + testID},
		{name: "promoted behind the spool's end", holds: "stream", b: promoted(source(otherID, 1, 500), testID, 200), resume: Resume{From: at(testID, 150), FullResync: never}, want: plan{from: at(testID, 200)}},
		{name: "promoted before the spool's end, and behind the checkpoint", holds: "stream", b: promoted(source(otherID, 1, 500), testID, 180), resume: Resume{From: at(testID, 150), FullResync: never}, want: plan{from: at(testID, 180), what: cutBack}},
		{name: "promoted at the checkpoint", holds: "stream", b: promoted(source(otherID, 1, 500), testID, 150), resume: Resume{From: at(testID, 150), FullResync: never}, want: plan{from: at(testID, 150), what: cutBack}},
		{name: "promoted before the checkpoint (T30)", holds: "stream", b: promoted(source(otherID, 1, 500), testID, 149), resume: Resume{From: at(testID, 150), FullResync: never}, stop: "1 bytes were lost in the failover"},
		{name: "promoted from something else", holds: "stream", b: promoted(source(otherID, 1, 500), thirdID, 180), resume: Resume{From: at(testID, 150), FullResync: never}, stop: "belongs to the replication ID"},
		{name: "promoted in the midst of the snapshot's stream", holds: "snapshot", b: promoted(source(otherID, 1, 500), testID, 120), resume: Resume{Part: part}, want: plan{from: at(testID, 120), what: cutBack}},
		{name: "promoted before the snapshot", holds: "snapshot", b: promoted(source(otherID, 1, 500), testID, 90), resume: Resume{Part: part}, stop: "lost in the failover"},
		{name: "the snapshot's stream is gone", holds: "snapshot", b: source(testID, 300, 500), resume: Resume{Part: part}, stop: "99 bytes are gone; repl-backlog-size is too small for the outage; the snapshot would be lost"},
		{name: "likewise, and another one is allowed", holds: "snapshot", b: source(testID, 300, 500), resume: Resume{Part: Part{At: part.At, Read: 3}}, want: plan{what: reload}},
		{name: "the snapshot's stream goes on", holds: "snapshot", b: source(testID, 1, 500), resume: Resume{Part: part}, want: plan{from: at(testID, 200)}},
		{name: "a snapshot that was never begun with, for a target that is empty", holds: "snapshot", b: source(testID, 1, 500), want: plan{from: at(testID, 200)}},
		{name: "a snapshot for a target that has another one in part", holds: "snapshot", b: source(testID, 1, 500), resume: Resume{Part: Part{At: at(otherID, 7), Read: 3}}, want: plan{from: at(testID, 200)}},
		{name: "half a snapshot", holds: "half", b: source(testID, 1, 500), resume: Resume{Part: part}, want: plan{what: reload}},
		{name: "half a snapshot, and no leave for another", holds: "half", b: source(testID, 1, 500), resume: Resume{Part: part, FullResync: never}, stop: "not allowed"},
		{name: "a snapshot that this run asked for", holds: "snapshot", granted: true, b: source(testID, 1, 500), resume: Resume{From: at(otherID, 7)}, want: plan{from: at(testID, 200)}},
		{name: "likewise, promoted in the midst of its stream", holds: "snapshot", granted: true, b: promoted(source(otherID, 1, 500), testID, 120), resume: Resume{From: at(thirdID, 9000)}, want: plan{from: at(testID, 120), what: cutBack}},
		{name: "a snapshot that it did not ask for", holds: "snapshot", b: source(testID, 1, 500), resume: Resume{From: at(otherID, 7)}, want: plan{what: reload}},
		{name: "a blind source", holds: "stream", blind: true, resume: Resume{From: at(testID, 150), FullResync: never}, want: plan{from: at(testID, 200)}},
		{name: "a blind source that has denied the spool's end", holds: "stream", blind: true, denied: at(testID, 200), resume: Resume{From: at(testID, 150), FullResync: never}, want: plan{from: at(testID, 150), what: anew}},
		{name: "a source that denied what its INFO said", holds: "nothing", b: source(testID, 1, 500), denied: at(testID, 150), resume: Resume{From: at(testID, 150), FullResync: never}, stop: "answered PSYNC with a full resync"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := filledSpool(t, test.holds)
			got, stop := decide(s, test.granted, repeats{Backlog: test.b, blind: test.blind, denied: test.denied}, test.resume)
			got.why = ""
			if test.stop == "" && (stop != nil || got != test.want) {
				t.Errorf("got %+v, stop %v; want %+v", got, stop, test.want)
			}
			if test.stop != "" && (stop == nil || stop.Kind != Decide || stop.Hint == "" || !strings.Contains(stop.Reason, test.stop)) {
				t.Errorf("got %+v, stop %v; want one with %q", got, stop, test.stop)
			}
		})
	}
}

func filledSpool(t *testing.T, holds string) *spool.Spool {
	t.Helper()
	s := openSpool(t, t.TempDir())
	var err error
	add := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	put := func(n int) func() error {
		return func() error { return s.Append(context.Background(), make([]byte, n), time.Now()) }
	}
	switch holds {
	case "stream":
		add(func() error { return s.BeginStream(testID, 100) })
		add(put(100))
	case "snapshot", "half":
		add(func() error { return s.BeginSnapshot(testID, 100, -1) })
		add(put(10))
		if holds == "snapshot" {
			add(s.EndSnapshot)
			add(put(100))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}
