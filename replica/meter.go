package replica

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// Meter makes Views of one run. It belongs to one goroutine, which looks a few times a second.
type Meter struct {
	read, keys, commands, position, source Speed
	settleSeen                             Speed
	unreceived, behind                     lagClock
}

// Look is the run now.
func (m *Meter) Look(s *Status, now time.Time) View {
	v := View{
		Time:  now,
		Phase: s.Base(), Paused: s.IsPaused(),
		Snapshot: SnapshotView{
			Read: s.SnapshotRead.Load(), Size: s.SnapshotSize.Load(), Received: s.SnapshotReceived.Load(), Keys: s.SnapshotKeys.Load(), Total: s.SnapshotTotal.Load(),
		},
		Offset: OffsetView{
			Source: s.SourceOffset.Load(), Received: s.Received.Load(), Taken: s.Taken.Load(), Checkpointed: s.Checkpointed.Load(), Acked: s.Acked.Load(),
		},
		Lag:            LagView{Bytes: -1, ToReceive: -1, ToApply: -1, Time: -1, Receive: -1, Apply: -1},
		Backlog:        BacklogView{Size: s.SourceBacklog.Load(), Spare: -1, Down: -1},
		Settle:         SettleView{Seen: s.SettleSeen.Load(), Total: s.SettleTotal.Load(), Settled: s.Settled.Load()},
		ForeignRefusal: s.ForeignRefusal.Load(),
		Loss:           LossView{Rejected: s.Rejected.Load(), Divergence: s.Divergence.Load(), Evicted: s.Evicted.Load()},
		Retry:          RetryView{Reconnects: s.Reconnects.Load(), FullResyncs: s.FullResyncs.Load()},
		Applied:        AppliedView{Commands: s.Commands.Load(), Transactions: s.Transactions.Load()},
		Spool:          SpoolView{Used: s.SpoolUsed.Load(), Max: s.SpoolMax.Load()},
		Memory:         MemoryView{RSS: rss()},
	}
	if o := &v.Offset; o.Source > 0 { // it has what it has sent, though nobody has asked it since
		o.Source = max(o.Source, o.Received)
	}
	v.State, v.Why, v.Since = s.Now()
	v.Settle.Left = max(0, v.Settle.Total-v.Settle.Seen)
	if kinds := s.DivergenceKinds.Load(); kinds != nil {
		v.Loss.DivergenceKinds = *kinds
	}
	if done, all, known := v.Snapshot.Part(); known {
		v.Snapshot.Percent = float64(1000*done/all) / 10
	}
	v.Rate.Keys = m.keys.At(now, v.Snapshot.Keys)
	v.Rate.Commands = m.commands.At(now, v.Applied.Commands)
	v.Rate.Source = m.source.of(now, v.Offset.Source)
	read, position := m.read.At(now, v.Snapshot.Read), m.position.of(now, v.Offset.Checkpointed)
	if v.Loading() {
		v.Rate.Bytes = read
		if v.Left = TimeLeft(v.Snapshot.Size-v.Snapshot.Read, read); v.Snapshot.Size <= 0 {
			v.Left = TimeLeft(v.Snapshot.Total-v.Snapshot.Keys, v.Rate.Keys)
		}
		return v
	}
	v.Rate.Bytes = position
	if v.Offset.Source > 0 && (v.Offset.Checkpointed > 0 || v.State != Waiting) { // a target that was not reached yet may have anything
		m.lag(s, now, &v)
		v.Left = TimeLeft(v.Lag.Bytes, position)
	}
	if looks := m.settleSeen.At(now, v.Settle.Seen); v.State == Settling {
		v.Left = TimeLeft(v.Settle.Left, looks)
	}
	return v
}

// lag fills in what is known once the source's offset is.
func (m *Meter) lag(s *Status, now time.Time, v *View) {
	l, o := &v.Lag, &v.Offset
	l.ToReceive, l.ToApply = max(0, o.Source-o.Received), max(0, o.Received-o.Checkpointed)
	l.Bytes = l.ToReceive + l.ToApply
	l.Receive, l.Apply = Span(m.unreceived.at(now, o.Source, o.Received)), Span(time.Duration(s.ApplyLag.Load())*time.Millisecond)
	l.Time = max(Span(m.behind.at(now, o.Source, o.Checkpointed)), l.Apply)
	if b := &v.Backlog; b.Size > 0 {
		b.Spare = max(0, b.Size-l.ToReceive)
		if v.Rate.Source >= 1 {
			b.Down = Span(min(float64(b.Spare)/v.Rate.Source, 1e8) * float64(time.Second))
		}
	}
}

// Part is how much of the snapshot is in the target: of its bytes, or of its keys where the source does not know the bytes.
func (s *SnapshotView) Part() (done, all int64, known bool) {
	switch {
	case s.Size > 0:
		return min(s.Read, s.Size), s.Size, true
	case s.Total > 0:
		return min(s.Keys, s.Total), s.Total, true
	}
	return 0, 0, false
}

// rss is the memory that this process has, or 0.
func rss() int64 {
	text, err := os.ReadFile("/proc/self/statm") // Linux's; in pages
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// TimeLeft is how long so much will take; 0 when that cannot be told.
func TimeLeft(much int64, perSecond float64) Span {
	if much <= 0 || perSecond < 1 {
		return 0
	}
	return Span(min(float64(much)/perSecond, 1e8) * float64(time.Second))
}

// sample is a number at a time.
type sample struct {
	at time.Time
	n  int64
}

// Speed is how fast a number grows: the mean of the last seconds. Its zero value is ready for use; one goroutine uses it.
type Speed struct{ samples []sample }

const speedOver = 5 * time.Second

// At takes the number's present value and gives its growth a second. A number that went back begins anew.
func (s *Speed) At(now time.Time, n int64) float64 {
	if k := len(s.samples); k > 0 && n < s.samples[k-1].n {
		s.samples = s.samples[:0]
	}
	s.samples = append(s.samples, sample{now, n})
	drop := 0
	for drop < len(s.samples)-2 && now.Sub(s.samples[drop+1].at) >= speedOver {
		drop++
	}
	s.samples = append(s.samples[:0], s.samples[drop:]...)
	first := s.samples[0]
	took := now.Sub(first.at).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(n-first.n) / took
}

// of is At for an offset, which is 0 before it is known: the first one is no growth.
func (s *Speed) of(now time.Time, offset int64) float64 {
	if offset == 0 {
		return 0
	}
	return s.At(now, offset)
}

// lagClock tells how old the oldest byte is that the source has and the target does not: it remembers when the source was where.
type lagClock struct{ samples []sample }

const (
	lagEvery = time.Second // one sample
	lagKept  = 600         // samples
)

// at takes the source's and the target's offsets and gives the lag in time, or -1: the target is behind what was seen of the source.
func (l *lagClock) at(now time.Time, source, target int64) time.Duration {
	k := len(l.samples)
	if k > 0 && source < l.samples[k-1].n { // another history
		l.samples, k = l.samples[:0], 0
	}
	if k == 0 || now.Sub(l.samples[k-1].at) >= lagEvery {
		if k == lagKept {
			l.samples = append(l.samples[:0], l.samples[1:]...)
		}
		l.samples = append(l.samples, sample{now, source})
	}
	if target >= source {
		return 0
	}
	// The source wrote the byte that the target lacks after the last time at which it was seen where the target is now.
	for i := len(l.samples) - 1; i >= 0; i-- {
		if l.samples[i].n <= target {
			return now.Sub(l.samples[i].at)
		}
	}
	return -1
}
