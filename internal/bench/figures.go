package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"redferry/internal/redistest"
)

// figures are the samples of one measurement.
type figures struct {
	title   string
	bar     float64 // for the ratio of the wall times
	columns columns[sample]
}

// print writes the medians as a table, with the ratios to native's and the goals.
func (f *figures) print(w io.Writer) {
	t := newTable(w, f.title)
	native, own := f.columns[0], f.columns[1:]
	head := []string{"median of " + fmt.Sprint(len(native.samples)), native.name}
	for _, col := range own {
		head = append(head, col.name, "ratio")
	}
	t.row(append(head, "goal")...)
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
		t.row(cells...)
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
	t.row(cells...)
	t.row(others...)
	t.row(append(memory, fmt.Sprintf("≤ %s %s", mib(memoryBar), met(peak <= memoryBar)))...)
	t.end()
	var walls []string
	for _, col := range f.columns {
		walls = append(walls, col.name+" "+list(col.samples, func(s sample) string { return seconds(s.wall) }))
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
