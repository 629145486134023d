package replica

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSpeed(t *testing.T) {
	var s Speed
	now := time.Unix(1000, 0)
	tests := []struct {
		name  string
		after time.Duration
		n     int64
		want  float64
	}{
		{"the first value has no speed", 0, 100, 0},
		{"a second later", time.Second, 200, 100},
		{"the mean of what was seen", time.Second, 200, 50},
		{"what is long ago does not count", 5 * time.Second, 700, 100},
		{"back to less: a new beginning", time.Second, 10, 0},
		{"and on", time.Second, 30, 20},
	}
	for _, tt := range tests {
		now = now.Add(tt.after)
		if got := s.At(now, tt.n); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	for range 10_000 {
		now = now.Add(200 * time.Millisecond)
		s.At(now, 30)
	}
	if len(s.samples) > 30 {
		t.Errorf("%d samples are kept", len(s.samples))
	}
}

func TestLagClock(t *testing.T) {
	var l lagClock
	now := time.Unix(1000, 0)
	tests := []struct {
		name           string
		after          time.Duration
		source, target int64
		want           time.Duration
	}{
		{"behind from the first look on", 0, 100, 50, -1},
		{"still", time.Second, 200, 60, -1},
		{"at a place that was seen", time.Second, 300, 100, 2 * time.Second},
		{"the source writes, the target stands", time.Second, 400, 100, 3 * time.Second},
		{"nearly there", time.Second, 500, 450, time.Second},
		{"there", time.Second, 500, 500, 0},
		{"another history", time.Second, 10, 5, -1},
	}
	for _, tt := range tests {
		now = now.Add(tt.after)
		if got := l.at(now, tt.source, tt.target); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	for i := range int64(2 * lagKept) {
		now = now.Add(time.Second)
		l.at(now, 100+i, 0)
	}
	if len(l.samples) > lagKept {
		t.Errorf("%d samples are kept", len(l.samples))
	}
}

// What follows from several looks at a run: how fast it is, how far behind, in which part, and how long it may be down.
func TestMeter(t *testing.T) {
	var s Status
	var m Meter
	now := time.Unix(1000, 0)
	s.Set(Loading, "a")
	s.SnapshotSize.Store(1000)
	m.Look(&s, now)
	s.SnapshotRead.Store(100)
	s.SnapshotKeys.Store(10)
	s.Pause(true)
	v := m.Look(&s, now.Add(time.Second))
	if v.State != Paused || !v.Paused || !v.Loading() || v.Snapshot.Percent != 10 || v.Rate.Bytes != 100 || v.Rate.Keys != 10 || v.Left != Span(9*time.Second) || v.Lag.Bytes != -1 {
		t.Errorf("in the snapshot: got %+v", v)
	}
	s.Pause(false)
	s.Set(CatchingUp, "b")
	s.SourceOffset.Store(1000)
	s.Received.Store(1000)
	s.Checkpointed.Store(1000)
	m.Look(&s, now.Add(2*time.Second))
	s.SourceOffset.Store(3000)
	s.Received.Store(2500)
	s.Checkpointed.Store(1500)
	s.SourceBacklog.Store(10_500)
	s.ApplyLag.Store(700)
	v = m.Look(&s, now.Add(4*time.Second))
	want := LagView{Bytes: 1500, ToReceive: 500, ToApply: 1000, Time: Span(2 * time.Second), Receive: Span(2 * time.Second), Apply: Span(700 * time.Millisecond)}
	if diff := cmp.Diff(want, v.Lag); diff != "" {
		t.Errorf("lag (-want +got):\n%s", diff)
	}
	// 2000 bytes in the two seconds since the offset is known.
	if diff := cmp.Diff(BacklogView{Size: 10_500, Spare: 10_000, Down: Span(10 * time.Second)}, v.Backlog); diff != "" {
		t.Errorf("backlog (-want +got):\n%s", diff)
	}
	s.Received.Store(3100)
	if v := m.Look(&s, now.Add(5*time.Second)); v.Offset.Source != 3100 || v.Lag.ToReceive != 0 {
		t.Errorf("received since the source was asked: got %+v", v.Offset)
	}
	if v.Memory.RSS < 1<<20 {
		t.Skipf("no RSS here: %d", v.Memory.RSS)
	}
}

func TestSpanJSON(t *testing.T) {
	for span, want := range map[Span]string{-5: "-1", 0: "0", Span(1500 * time.Millisecond): "1.5", Span(time.Hour): "3600"} {
		text, err := json.Marshal(span)
		if err != nil || string(text) != want {
			t.Errorf("got %s, %v, want %s", text, err, want)
		}
		var back Span
		if err := json.Unmarshal(text, &back); err != nil || (back < 0) != (span < 0) || span >= 0 && back != span {
			t.Errorf("%s: got %v back, %v", text, back, err)
		}
	}
}
