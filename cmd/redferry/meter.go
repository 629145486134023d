package main

import (
	"time"

	"redferry/replica"
)

// view is a run's progress at one moment, with what only follows from two: rates, lag in time, time left.
type view struct {
	state   replica.State
	why     string
	loading bool // the snapshot is on its way, or was when the run began to wait

	snapshotRead, snapshotSize, snapshotReceived, snapshotKeys, snapshotTotal int64
	received, checkpointed, sourceOffset, commands                            int64
	spoolUsed                                                                 int64
	rejected, divergence, evicted, resyncs, reconnects                        int64
	settleSeen, settleTotal, settled                                          int64

	bytesPerS, keysPerS, commandsPerS float64
	left                              time.Duration // until the snapshot is in, or the stream is caught up; 0 when it cannot be told
	lagBytes                          int64         // -1 before the source's offset is known; the sum of
	toReceive, toApply                int64         // what has not arrived, and what has and is not in the target
	lag                               time.Duration // -1 when it cannot be told
}

// meter makes views. It belongs to one goroutine.
type meter struct {
	loading                        bool
	read, keys, commands, position speed
	settleSeen                     speed
	behind                         lagClock
}

func (m *meter) look(s *replica.Status, now time.Time) view {
	v := view{
		snapshotRead: s.SnapshotRead.Load(), snapshotSize: s.SnapshotSize.Load(), snapshotReceived: s.SnapshotReceived.Load(),
		snapshotKeys: s.SnapshotKeys.Load(), snapshotTotal: s.SnapshotTotal.Load(),
		received: s.Received.Load(), checkpointed: s.Checkpointed.Load(), sourceOffset: s.SourceOffset.Load(), commands: s.Commands.Load(),
		rejected: s.Rejected.Load(), divergence: s.Divergence.Load(), evicted: s.Evicted.Load(), resyncs: s.FullResyncs.Load(), reconnects: s.Reconnects.Load(), spoolUsed: s.SpoolUsed.Load(),
		settleSeen: s.SettleSeen.Load(), settleTotal: s.SettleTotal.Load(), settled: s.Settled.Load(),
		lagBytes: -1, lag: -1,
	}
	v.state, v.why, _ = s.Now()
	switch v.state {
	case replica.Loading:
		m.loading = true
	case replica.CatchingUp, replica.InSync:
		m.loading = false
	}
	v.loading = m.loading
	v.keysPerS = m.keys.at(now, v.snapshotKeys)
	v.commandsPerS = m.commands.at(now, v.commands)
	read, position := m.read.at(now, v.snapshotRead), m.position.at(now, v.checkpointed)
	if v.loading {
		v.bytesPerS = read
		if v.left = timeLeft(v.snapshotSize-v.snapshotRead, read); v.snapshotSize <= 0 {
			v.left = timeLeft(v.snapshotTotal-v.snapshotKeys, v.keysPerS)
		}
		return v
	}
	v.bytesPerS = position
	if v.sourceOffset > 0 && (v.checkpointed > 0 || v.state != replica.Waiting) { // a target that was not reached yet may have anything
		v.toReceive, v.toApply = max(0, v.sourceOffset-v.received), max(0, v.received-v.checkpointed)
		v.lagBytes = v.toReceive + v.toApply
		v.lag = max(m.behind.at(now, v.sourceOffset, v.checkpointed), time.Duration(s.ApplyLag.Load())*time.Millisecond)
		v.left = timeLeft(v.lagBytes, position)
	}
	if looks := m.settleSeen.at(now, v.settleSeen); v.state == replica.Settling {
		v.left = timeLeft(v.settleTotal-v.settleSeen, looks)
	}
	return v
}

// timeLeft is how long so much will take; 0 when that cannot be told.
func timeLeft(much int64, perSecond float64) time.Duration {
	if much <= 0 || perSecond < 1 {
		return 0
	}
	return time.Duration(min(float64(much)/perSecond, 1e8) * float64(time.Second))
}

// sample is a number at a time.
type sample struct {
	at time.Time
	n  int64
}

// speed is how fast a number grows: the mean of the last seconds.
type speed struct{ samples []sample }

const speedOver = 5 * time.Second

// at takes the number's present value and gives its growth a second. A number that went back begins anew.
func (s *speed) at(now time.Time, n int64) float64 {
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
