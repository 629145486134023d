package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/replica"
)

func TestSpeed(t *testing.T) {
	var s speed
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
		if got := s.at(now, tt.n); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	for range 10_000 {
		now = now.Add(200 * time.Millisecond)
		s.at(now, 30)
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

func TestLine(t *testing.T) {
	for name, tt := range map[string]struct {
		view view
		want string
	}{
		"connecting":     {view{state: replica.Connecting, why: "asking"}, "connecting  asking"},
		"size known":     {view{state: replica.Loading, loading: true, snapshotRead: 42e6, snapshotSize: 100e6, snapshotKeys: 1234567, bytesPerS: 9e6, keysPerS: 98765, left: 8 * time.Second}, "snapshot  42%   42 MB of 100 MB  1.2M keys  9.0 MB/s  99k keys/s  ETA 8s"},
		"ahead":          {view{state: replica.Loading, loading: true, snapshotRead: 42e6, snapshotReceived: 90e6, snapshotSize: 100e6}, "snapshot  42%   42 MB of 100 MB, 90 MB received  0 keys  0 B/s  0 keys/s"},
		"not known":      {view{state: replica.Loading, loading: true, snapshotRead: 42e6, snapshotSize: -1, snapshotKeys: 500, snapshotTotal: 2000}, "snapshot  25%   42 MB  500 keys of 2.0k so far  0 B/s  0 keys/s"},
		"nothing known":  {view{state: replica.Loading, loading: true, snapshotSize: -1}, "snapshot  0 B  0 keys  0 B/s  0 keys/s"},
		"waiting loads":  {view{state: replica.Waiting, why: "target away", loading: true, snapshotRead: 10, snapshotSize: 100}, "waiting  10 B of 100 B  0 keys  0 B/s  0 keys/s  target away"},
		"in sync":        {view{state: replica.InSync, why: "x", checkpointed: 1234567, lagBytes: 0, lag: 0, commandsPerS: 950}, "in_sync  offset 1,234,567  lag 0 B  950 commands/s"},
		"settling":       {view{state: replica.Settling, checkpointed: 5, lagBytes: 0, commandsPerS: 95000, settled: 40_000, settleSeen: 100_000, settleTotal: 1_000_000, left: 9 * time.Second}, "settling  offset 5  lag 0 B  95k commands/s  40k expiries settled, 100k of 1.0M keys looked at  ETA 9s"},
		"behind":         {view{state: replica.CatchingUp, checkpointed: 5, lagBytes: 5e6, toApply: 5e6, lag: 2500 * time.Millisecond, commandsPerS: 95000, left: time.Minute}, "catching_up  offset 5  lag 5.0 MB 2.5s (0 B to receive, 5.0 MB to apply)  95k commands/s  ETA 1m0s"},
		"waiting":        {view{state: replica.Waiting, why: "redis://u:p@h is away", checkpointed: 5, lagBytes: -1}, "waiting  offset 5  0 commands/s  redis://***@h is away"},
		"differences":    {view{state: replica.InSync, checkpointed: 5, lagBytes: -1, divergence: 1}, "in_sync  offset 5  0 commands/s  1 difference"},
		"refused writes": {view{state: replica.InSync, checkpointed: 5, lagBytes: -1, rejected: 2}, "in_sync  offset 5  0 commands/s  2 refused writes"},
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
