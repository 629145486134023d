package applier

import (
	"testing"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// A flight that is launched behind another carries what was counted since that one was launched: it may be the one that stores it.
func TestRecordBehindAFlight(t *testing.T) {
	end := replica.Position{ReplID: "id", Offset: 200, DB: 3}
	f := &flight{b: &batch{units: []unit{{start: 100, end: end}}}, to: 1, base: checkpoint.Record{Offset: 100, Checked: 50}}
	a := &Applier{rec: checkpoint.Record{Offset: 100, Checked: 100, Rejected: 2, Divergence: checkpoint.Divergence{"DEL": 1}}}
	got := a.after(f)
	if got.Position() != end || got.Checked != 100 || got.Rejected != 2 || got.Divergence.Total() != 1 {
		t.Errorf("got %+v", got)
	}
}
