package replica

import (
	"encoding/json"
	"fmt"
	"time"
)

// View is a run at one moment, with what only follows from two: rates, lag in time, time left. It is what the progress bar, the log, the admin socket and the metrics show; a
// [Meter] makes it. Its JSON is what people script against. Where a number cannot be told it is -1, unless it says otherwise.
type View struct {
	Time   time.Time `json:"time"`
	State  State     `json:"state"`
	Why    string    `json:"why"`
	Since  time.Time `json:"since"`
	Phase  State     `json:"phase"` // what the run does, or did before it had to wait or was paused
	Paused bool      `json:"paused"`

	Snapshot SnapshotView `json:"snapshot"`
	Offset   OffsetView   `json:"offset"`
	Lag      LagView      `json:"lag"`
	Rate     RateView     `json:"rate"`
	Left     Span         `json:"left_seconds"` // until the snapshot is in, the stream caught up, or the pass of settling over; 0 when it cannot be told
	Backlog  BacklogView  `json:"backlog"`
	Settle   SettleView   `json:"settle"`
	Loss     LossView     `json:"loss"`
	Retry    RetryView    `json:"retry"`
	Applied  AppliedView  `json:"applied"`
	Spool    SpoolView    `json:"spool"`
	Memory   MemoryView   `json:"memory"`

	ForeignRefusal bool `json:"foreign_refusal"` // when the run began, the source refused writes because of a cutover that this migration knows nothing of
}

// SnapshotView is how far the RDB is, in bytes and keys. It stays as it was at the end.
type SnapshotView struct {
	Read     int64   `json:"read"` // bytes of which all is in the target
	Size     int64   `json:"size"` // bytes, -1 when the source does not know
	Received int64   `json:"received"`
	Keys     int64   `json:"keys"`       // in the target
	Total    int64   `json:"keys_total"` // announced so far
	Percent  float64 `json:"percent"`    // of the bytes, or of the keys where the bytes are not known; 0 before the first
}

// OffsetView are the offsets of the invariant in docs/architecture.md, from the source's own backwards.
type OffsetView struct {
	Source       int64 `json:"source"` // master_repl_offset as last seen, or received if that is more; 0 before the first look
	Received     int64 `json:"received"`
	Taken        int64 `json:"taken"`
	Checkpointed int64 `json:"checkpointed"`
	Acked        int64 `json:"acked"`
}

// LagView is how far the target is behind the source: what has not arrived, and what has and is not in the target.
type LagView struct {
	Bytes     int64 `json:"bytes"` // the sum of the next two
	ToReceive int64 `json:"to_receive_bytes"`
	ToApply   int64 `json:"to_apply_bytes"`
	Time      Span  `json:"seconds"` // the age of the oldest byte that the target does not have; the next two are of those that have not arrived, and that have
	Receive   Span  `json:"to_receive_seconds"`
	Apply     Span  `json:"to_apply_seconds"`
}

// RateView are means of the last seconds, per second.
type RateView struct {
	Bytes    float64 `json:"bytes"` // of the snapshot, and then of the stream, into the target
	Keys     float64 `json:"keys"`  // of the snapshot
	Commands float64 `json:"commands"`
	Source   float64 `json:"source_bytes"` // that the source writes
}

// BacklogView is what the source can repeat, and so how long redferry may be down.
type BacklogView struct {
	Size  int64 `json:"size"`         // bytes; 0 when the source has none, or does not say
	Spare int64 `json:"spare"`        // bytes that the source may still write before it could not go on from what is received
	Down  Span  `json:"down_seconds"` // how long that takes at the source's present rate; -1 also when it writes nothing
}

// SettleView is how far settling is.
type SettleView struct {
	Seen    int64 `json:"keys"` // that the present pass has looked at
	Total   int64 `json:"keys_total"`
	Left    int64 `json:"keys_left"`
	Settled int64 `json:"expiries"` // of keys and hash fields that were brought back
}

// LossView is what the target lacks, or has otherwise than the source.
type LossView struct {
	Rejected        int64  `json:"rejected"`         // writes that the target refused, in this run
	Divergence      int64  `json:"divergence"`       // commands that found nothing to change in the target, since the snapshot
	DivergenceKinds string `json:"divergence_kinds"` // by command: "DEL=1 PEXPIREAT=3"
	Evicted         int64  `json:"evicted"`          // keys that the target evicted, in this run
}

// RetryView counts what was begun again, in this run.
type RetryView struct {
	Reconnects  int64 `json:"reconnects"`
	FullResyncs int64 `json:"full_resyncs"`
}

// AppliedView counts what the target has taken of the stream, in this run.
type AppliedView struct {
	Commands     int64 `json:"commands"`
	Transactions int64 `json:"transactions"`
}

// SpoolView is the spool, in bytes.
type SpoolView struct {
	Used int64 `json:"used"`
	Max  int64 `json:"max"`
}

// MemoryView is this process.
type MemoryView struct {
	RSS int64 `json:"rss"` // bytes; 0 where the system does not say
}

// Loading tells whether the snapshot is on its way, or was when the run began to wait.
func (v *View) Loading() bool { return v.Phase == Loading }

// Span is a duration whose JSON is a number of seconds, or -1 when it is negative.
type Span time.Duration

// MarshalJSON gives seconds, with three decimals at most.
func (s Span) MarshalJSON() ([]byte, error) {
	if s < 0 {
		return []byte("-1"), nil
	}
	return json.Marshal(float64(time.Duration(s).Milliseconds()) / 1000)
}

// UnmarshalJSON reads them.
func (s *Span) UnmarshalJSON(text []byte) error {
	var seconds float64
	if err := json.Unmarshal(text, &seconds); err != nil {
		return err
	}
	const most = 1 << 33 // 272 years: what a duration holds
	if seconds < -most || seconds > most {
		return fmt.Errorf("%v seconds are no duration", seconds)
	}
	*s = Span(seconds * float64(time.Second))
	return nil
}
