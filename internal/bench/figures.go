package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"redferry/internal/redistest"
)

// figures are the samples of one measurement.
type figures struct {
	title            string
	bar              float64 // for the ratio of the wall times
	native, redferry []sample
}

func (f *figures) add(c contender, s sample) {
	if _, ok := c.(*native); ok {
		f.native = append(f.native, s)
	} else {
		f.redferry = append(f.redferry, s)
	}
}

// print writes the medians as a table, with the ratio and the goals.
func (f *figures) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", f.title)
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, "  "+strings.Join(cells, "\t")) }
	row("median of "+fmt.Sprint(len(f.native)), "native", "redferry", "ratio", "goal")
	times := func(name string, of func(sample) time.Duration, goal func(ratio float64) string) {
		n, r := median(f.native, of), median(f.redferry, of)
		ratio := r.Seconds() / n.Seconds()
		cells := []string{name, seconds(n), seconds(r), fmt.Sprintf("%.2f", ratio)}
		if goal != nil {
			cells = append(cells, goal(ratio))
		}
		row(cells...)
	}
	times("wall time", func(s sample) time.Duration { return s.wall }, func(ratio float64) string {
		return fmt.Sprintf("≤ %.2f %s", f.bar, met(ratio <= f.bar))
	})
	times("CPU of the source", func(s sample) time.Duration { return s.source }, nil)
	times("CPU of the target", func(s sample) time.Duration { return s.target }, nil)
	row("CPU of redferry", "", seconds(median(f.redferry, func(s sample) time.Duration { return s.own.cpu })))
	others := func(s sample) time.Duration { return s.others }
	row("CPU of all else", seconds(median(f.native, others)), seconds(median(f.redferry, others)))
	peak := slices.Max(values(f.redferry, func(s sample) int64 { return s.own.peak }))
	row("peak memory of redferry", "", mib(peak), "", fmt.Sprintf("≤ %s %s", mib(memoryBar), met(peak <= memoryBar)))
	_ = table.Flush()
	fmt.Fprintf(w, "\n  wall times: native %s; redferry %s\n", list(f.native), list(f.redferry))
	if n := f.disturbed(); n > 0 {
		fmt.Fprintf(w, "  the machine was busy with something else in %d of %d measurements: wall times are worth little, CPU times are\n", n, len(f.native)+len(f.redferry))
	}
}

// disturbed counts the measurements during which all else used more than a tenth of the machine.
func (f *figures) disturbed() (n int) {
	for _, s := range slices.Concat(f.native, f.redferry) {
		if s.others > s.wall*time.Duration(runtime.NumCPU())/10 {
			n++
		}
	}
	return n
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "NOT MET"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func mib(bytes int64) string { return fmt.Sprintf("%d MiB", (bytes+1<<19)>>20) }

func list(samples []sample) string {
	return strings.Join(values(samples, func(s sample) string { return seconds(s.wall) }), ", ")
}

func values[T any](samples []sample, of func(sample) T) []T {
	out := make([]T, len(samples))
	for i, s := range samples {
		out[i] = of(s)
	}
	return out
}

// median is the middle one; of an even number the mean of both in the middle.
func median(samples []sample, of func(sample) time.Duration) time.Duration {
	v := values(samples, of)
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// machine is one line about where and what was measured.
func machine(b redistest.Build, binary string) string {
	cpu := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	version := "redferry of unknown version"
	if out, err := exec.Command(binary, "version").Output(); err == nil {
		version = strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%s; %s %s on both ends; %d × %s, %s; %s", version, b.Server, b.Version, runtime.NumCPU(), cpu, runtime.GOOS, runtime.Version())
}
