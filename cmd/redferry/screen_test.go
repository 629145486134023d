package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/replica"
)

func TestLine(t *testing.T) {
	snapshot := func(state replica.State, s replica.SnapshotView) view {
		return view{replica.View{State: state, Phase: replica.Loading, Snapshot: s}}
	}
	fast := snapshot(replica.Loading, replica.SnapshotView{Read: 42e6, Size: 100e6, Keys: 1234567})
	fast.Rate, fast.Left = replica.RateView{Bytes: 9e6, Keys: 98765}, replica.Span(8*time.Second)
	away := snapshot(replica.Waiting, replica.SnapshotView{Read: 10, Size: 100})
	away.Why = "target away"
	stream := func(state replica.State, lag replica.LagView, change func(*view)) view {
		v := view{replica.View{State: state, Phase: replica.InSync, Why: "x", Offset: replica.OffsetView{Checkpointed: 5}, Lag: lag}}
		change(&v)
		return v
	}
	unknown := replica.LagView{Bytes: -1}
	for name, tt := range map[string]struct {
		view view
		want string
	}{
		"connecting":    {view{replica.View{State: replica.Connecting, Why: "asking"}}, "connecting  asking"},
		"size known":    {fast, "snapshot  42%   42 MB of 100 MB  1.2M keys  9.0 MB/s  99k keys/s  ETA 8s"},
		"ahead":         {snapshot(replica.Loading, replica.SnapshotView{Read: 42e6, Received: 90e6, Size: 100e6}), "snapshot  42%   42 MB of 100 MB, 90 MB received  0 keys  0 B/s  0 keys/s"},
		"not known":     {snapshot(replica.Loading, replica.SnapshotView{Read: 42e6, Size: -1, Keys: 500, Total: 2000}), "snapshot  25%   42 MB  500 keys of 2.0k so far  0 B/s  0 keys/s"},
		"nothing known": {snapshot(replica.Loading, replica.SnapshotView{Size: -1}), "snapshot  0 B  0 keys  0 B/s  0 keys/s"},
		"waiting loads": {away, "waiting  10 B of 100 B  0 keys  0 B/s  0 keys/s  target away"},
		"in sync": {
			stream(replica.InSync, replica.LagView{}, func(v *view) { v.Offset.Checkpointed, v.Rate.Commands = 1234567, 950 }),
			"in_sync  offset 1,234,567  lag 0 B  950 commands/s",
		},
		"settling": {stream(replica.Settling, replica.LagView{}, func(v *view) {
			v.Rate.Commands, v.Left = 95000, replica.Span(9*time.Second)
			v.Settle = replica.SettleView{Settled: 40_000, Seen: 100_000, Total: 1_000_000}
		}), "settling  offset 5  lag 0 B  95k commands/s  40k expiries settled, 100k of 1.0M keys looked at  ETA 9s"},
		"behind": {stream(replica.CatchingUp, replica.LagView{Bytes: 5e6, ToApply: 5e6, Time: replica.Span(2500 * time.Millisecond)}, func(v *view) {
			v.Rate.Commands, v.Left = 95000, replica.Span(time.Minute)
		}), "catching_up  offset 5  lag 5.0 MB 2.5s (0 B to receive, 5.0 MB to apply)  95k commands/s  ETA 1m0s"},
		"waiting":        {stream(replica.Waiting, unknown, func(v *view) { v.Why = "redis://u:p@h is away" }), "waiting  offset 5  0 commands/s  redis://***@h is away"},
		"paused":         {stream(replica.Paused, unknown, func(v *view) { v.Why = "by the operator" }), "paused  offset 5  0 commands/s  by the operator"},
		"differences":    {stream(replica.InSync, unknown, func(v *view) { v.Loss.Divergence = 1 }), "in_sync  offset 5  0 commands/s  1 difference"},
		"refused writes": {stream(replica.InSync, unknown, func(v *view) { v.Loss.Rejected = 2 }), "in_sync  offset 5  0 commands/s  2 refused writes"},
	} {
		if got := tt.view.head() + tt.view.tail(); got != tt.want {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, tt.want)
		}
	}
}

// A source that is away for a night is not to fill the log: one line for the wait, and again each minute.
func TestSameWaitIsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	l := stateLog{log: zerolog.New(&out).Level(zerolog.InfoLevel)}
	for range 100 {
		l.observe(replica.Connecting, "asking")
		l.observe(replica.Waiting, "refused")
	}
	l.observe(replica.Waiting, "another reason")
	l.observe(replica.InSync, "back")
	if got := strings.Count(out.String(), "\n"); got != 4 { // connecting, refused, another reason, back
		t.Errorf("got %d lines:\n%s", got, out.String())
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1234 * time.Millisecond: "1.2s", 61 * time.Second: "1m1s", 90 * time.Minute: "1h30m", 50 * time.Hour: "2d2h",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
