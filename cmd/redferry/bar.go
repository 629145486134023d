package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"redferry/replica"
)

// bar is the last line of a terminal: a bar while the snapshot is loaded, then a line of numbers. What is written to it comes to stand above.
//
// It draws from the view that was set last, never from the Status: a change of state is logged under the Status's lock, and waits for the
// drawing to be over.
type bar struct {
	switchWriter
	file     *os.File
	progress *mpb.Progress
	line     *mpb.Bar
	view     atomic.Pointer[view]
}

func newBar(file *os.File) *bar {
	b := &bar{file: file, progress: mpb.New(mpb.WithOutput(file))}
	b.first, b.then = b.progress, file
	style := mpb.BarStyle().Build()
	filler := mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
		v := b.view.Load()
		if v == nil || !v.Loading() {
			return nil
		}
		var known bool
		if st.Current, st.Total, known = v.Snapshot.Part(); !known {
			return nil
		}
		return style.Fill(w, st)
	})
	b.line = b.progress.MustAdd(0, filler, mpb.BarWidth(40), mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return b.view.Load().head() })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return b.view.Load().tail() })),
	)
	return b
}

func (b *bar) set(v view) { b.view.Store(&v) }

// interrupted mends what a terminal makes of Ctrl-C: its echo moves the cursor, and the line would be cleared only from there on.
func (b *bar) interrupted() { _, _ = b.file.WriteString("\r") }

// close takes the line away; what is written from then on goes to the terminal itself.
func (b *bar) close() {
	b.line.Abort(true)
	b.leave()
	b.progress.Wait()
}

// view is a run's View as the bar and the log say it.
type view struct{ replica.View }

// head stands before the bar.
func (v *view) head() string {
	if v == nil {
		return ""
	}
	if !v.Loading() || v.State == replica.Waiting || v.State == replica.Paused {
		return string(v.State)
	}
	if done, all, known := v.Snapshot.Part(); known {
		return fmt.Sprintf("%s %3.0f%% ", v.State, math.Floor(float64(done)/float64(all)*100))
	}
	return string(v.State)
}

// tail stands behind the bar: the numbers first, since what does not fit is cut off.
func (v *view) tail() string {
	switch {
	case v == nil:
		return ""
	case v.State == replica.Connecting || v.State == replica.Waiting && v.Offset.Checkpointed == 0 && v.Snapshot.Read == 0:
		return "  " + redact(v.Why)
	case v.Loading():
		return v.loadingTail()
	}
	text := "  offset " + humanize.Comma(v.Offset.Checkpointed)
	if v.Lag.Bytes >= 0 {
		text += "  lag " + humanize.Bytes(uint64(v.Lag.Bytes))
		if v.Lag.Time > 0 {
			text += " " + short(time.Duration(v.Lag.Time).Truncate(100*time.Millisecond))
		}
		if v.Lag.Bytes > 0 {
			text += fmt.Sprintf(" (%s to receive, %s to apply)", humanize.Bytes(uint64(v.Lag.ToReceive)), humanize.Bytes(uint64(v.Lag.ToApply)))
		}
	}
	text += fmt.Sprintf("  %s commands/s", amount(v.Rate.Commands))
	if v.State == replica.Settling {
		text += fmt.Sprintf("  %s expiries settled, %s of %s keys looked at", amount(float64(v.Settle.Settled)), amount(float64(v.Settle.Seen)), amount(float64(v.Settle.Total)))
	}
	if (v.State == replica.CatchingUp || v.State == replica.Settling) && v.Left > 0 {
		text += "  ETA " + short(time.Duration(v.Left))
	}
	text += v.losses()
	if v.State == replica.Waiting || v.State == replica.Paused { // of the other states the numbers say all
		text += "  " + redact(v.Why)
	}
	return text
}

func (v *view) loadingTail() string {
	text := "  " + humanize.Bytes(uint64(v.Snapshot.Read))
	if v.Snapshot.Size > 0 {
		text += " of " + humanize.Bytes(uint64(v.Snapshot.Size))
	}
	if v.Snapshot.Received > 0 && v.Snapshot.Received != v.Snapshot.Size {
		text += ", " + humanize.Bytes(uint64(v.Snapshot.Received)) + " received"
	}
	text += "  " + amount(float64(v.Snapshot.Keys)) + " keys"
	if v.Snapshot.Size < 0 && v.Snapshot.Total > 0 { // the source does not know the size; it announces a database's keys when it begins with it
		text += " of " + amount(float64(v.Snapshot.Total)) + " so far"
	}
	text += fmt.Sprintf("  %s/s  %s keys/s", humanize.Bytes(uint64(v.Rate.Bytes)), amount(v.Rate.Keys))
	if v.Left > 0 {
		text += "  ETA " + short(time.Duration(v.Left))
	}
	text += v.losses()
	if v.State == replica.Waiting || v.State == replica.Paused {
		text += "  " + redact(v.Why)
	}
	return text
}

// losses tells what the target lacks for good; nothing when it lacks nothing.
func (v *view) losses() (text string) {
	if v.Loss.Rejected > 0 {
		text += "  " + plural(v.Loss.Rejected, "refused write")
	}
	if v.Loss.Divergence > 0 {
		text += "  " + plural(v.Loss.Divergence, "difference")
	}
	if v.Loss.Evicted > 0 {
		text += "  " + plural(v.Loss.Evicted, "evicted key")
	}
	return text
}

// amount is a number in three digits or so: 950, 12k, 1.4M.
func amount(n float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if n >= unit.size {
			n /= unit.size
			if n < 10 {
				return fmt.Sprintf("%.1f%s", n, unit.name)
			}
			return fmt.Sprintf("%.0f%s", n, unit.name)
		}
	}
	return fmt.Sprintf("%.0f", n)
}
