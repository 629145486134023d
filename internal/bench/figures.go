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
	title   string
	bar     float64  // for the ratio of the wall times
	columns []column // native first
}

// column is one contender's samples.
type column struct {
	name    string
	samples []sample
}

func (f *figures) add(c contender, s sample) {
	i := slices.IndexFunc(f.columns, func(col column) bool { return col.name == c.name() })
	if i < 0 {
		i = len(f.columns)
		f.columns = append(f.columns, column{name: c.name()})
	}
	f.columns[i].samples = append(f.columns[i].samples, s)
}

// print writes the medians as a table, with the ratios to native's and the goals.
func (f *figures) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", f.title)
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, "  "+strings.Join(cells, "\t")) }
	native, own := f.columns[0], f.columns[1:]
	head := []string{"median of " + fmt.Sprint(len(native.samples)), native.name}
	for _, col := range own {
		head = append(head, col.name, "ratio")
	}
	row(append(head, "goal")...)
	times := func(name string, of func(sample) time.Duration, goal func(worst float64) string) {
		n, worst := median(native.samples, of), 0.0
		cells := []string{name, seconds(n)}
		for _, col := range own {
			r := median(col.samples, of)
			ratio := r.Seconds() / n.Seconds()
			worst = max(worst, ratio)
			cells = append(cells, seconds(r), fmt.Sprintf("%.2f", ratio))
		}
		if goal != nil {
			cells = append(cells, goal(worst))
		}
		row(cells...)
	}
	times("wall time", func(s sample) time.Duration { return s.wall }, func(worst float64) string {
		return fmt.Sprintf("≤ %.2f %s", f.bar, met(worst <= f.bar))
	})
	times("CPU of the source", func(s sample) time.Duration { return s.source }, nil)
	times("CPU of the target", func(s sample) time.Duration { return s.target }, nil)
	cells, others := []string{"CPU of redferry", ""}, []string{"CPU of all else", seconds(median(native.samples, func(s sample) time.Duration { return s.others }))}
	memory, peak := []string{"peak memory of redferry", ""}, int64(0)
	for _, col := range own {
		cells = append(cells, seconds(median(col.samples, func(s sample) time.Duration { return s.own.cpu })), "")
		others = append(others, seconds(median(col.samples, func(s sample) time.Duration { return s.others })), "")
		p := slices.Max(values(col.samples, func(s sample) int64 { return s.own.peak }))
		memory, peak = append(memory, mib(p), ""), max(peak, p)
	}
	row(cells...)
	row(others...)
	row(append(memory, fmt.Sprintf("≤ %s %s", mib(memoryBar), met(peak <= memoryBar)))...)
	_ = table.Flush()
	var walls []string
	for _, col := range f.columns {
		walls = append(walls, col.name+" "+list(col.samples))
	}
	fmt.Fprintf(w, "\n  wall times: %s\n", strings.Join(walls, "; "))
	if n, of := f.disturbed(); n > 0 {
		fmt.Fprintf(w, "  the machine was busy with something else in %d of %d measurements: wall times are worth little, CPU times are\n", n, of)
	}
}

// disturbed counts the measurements during which all else used more than a tenth of the machine, and all of them.
func (f *figures) disturbed() (n, of int) {
	for _, col := range f.columns {
		of += len(col.samples)
		for _, s := range col.samples {
			if s.others > s.wall*time.Duration(runtime.NumCPU())/10 {
				n++
			}
		}
	}
	return n, of
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
