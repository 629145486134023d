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
		if v == nil || !v.loading {
			return nil
		}
		var known bool
		if st.Current, st.Total, known = v.part(); !known {
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

// part is how much of the snapshot is in the target: of its bytes, or of its keys where the source does not know the bytes.
func (v *view) part() (done, all int64, known bool) {
	switch {
	case v.snapshotSize > 0:
		return min(v.snapshotRead, v.snapshotSize), v.snapshotSize, true
	case v.snapshotTotal > 0:
		return min(v.snapshotKeys, v.snapshotTotal), v.snapshotTotal, true
	}
	return 0, 0, false
}

// head stands before the bar.
func (v *view) head() string {
	if v == nil {
		return ""
	}
	if !v.loading || v.state == replica.Waiting {
		return string(v.state)
	}
	if done, all, known := v.part(); known {
		return fmt.Sprintf("%s %3.0f%% ", v.state, math.Floor(float64(done)/float64(all)*100))
	}
	return string(v.state)
}

// tail stands behind the bar: the numbers first, since what does not fit is cut off.
func (v *view) tail() string {
	switch {
	case v == nil:
		return ""
	case v.state == replica.Connecting || v.state == replica.Waiting && v.checkpointed == 0 && v.snapshotRead == 0:
		return "  " + redact(v.why)
	case v.loading:
		return v.loadingTail()
	}
	text := "  offset " + humanize.Comma(v.checkpointed)
	if v.lagBytes >= 0 {
		text += "  lag " + humanize.Bytes(uint64(v.lagBytes))
		if v.lag > 0 {
			text += " " + short(v.lag.Truncate(100*time.Millisecond))
		}
		if v.lagBytes > 0 {
			text += fmt.Sprintf(" (%s to receive, %s to apply)", humanize.Bytes(uint64(v.toReceive)), humanize.Bytes(uint64(v.toApply)))
		}
	}
	text += fmt.Sprintf("  %s commands/s", amount(v.commandsPerS))
	if v.state == replica.Settling {
		text += fmt.Sprintf("  %s expiries settled, %s of %s keys looked at", amount(float64(v.settled)), amount(float64(v.settleSeen)), amount(float64(v.settleTotal)))
	}
	if (v.state == replica.CatchingUp || v.state == replica.Settling) && v.left > 0 {
		text += "  ETA " + short(v.left)
	}
	text += v.losses()
	if v.state == replica.Waiting { // of the other states the numbers say all
		text += "  " + redact(v.why)
	}
	return text
}

func (v *view) loadingTail() string {
	text := "  " + humanize.Bytes(uint64(v.snapshotRead))
	if v.snapshotSize > 0 {
		text += " of " + humanize.Bytes(uint64(v.snapshotSize))
	}
	if v.snapshotReceived > 0 && v.snapshotReceived != v.snapshotSize {
		text += ", " + humanize.Bytes(uint64(v.snapshotReceived)) + " received"
	}
	text += "  " + amount(float64(v.snapshotKeys)) + " keys"
	if v.snapshotSize < 0 && v.snapshotTotal > 0 { // the source does not know the size; it announces a database's keys when it begins with it
		text += " of " + amount(float64(v.snapshotTotal)) + " so far"
	}
	text += fmt.Sprintf("  %s/s  %s keys/s", humanize.Bytes(uint64(v.bytesPerS)), amount(v.keysPerS))
	if v.left > 0 {
		text += "  ETA " + short(v.left)
	}
	text += v.losses()
	if v.state == replica.Waiting {
		text += "  " + redact(v.why)
	}
	return text
}

// losses tells what the target lacks for good; nothing when it lacks nothing.
func (v *view) losses() (text string) {
	if v.rejected > 0 {
		text += "  " + plural(v.rejected, "refused write")
	}
	if v.divergence > 0 {
		text += "  " + plural(v.divergence, "difference")
	}
	if v.evicted > 0 {
		text += "  " + plural(v.evicted, "evicted key")
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
