package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table is what a measurement prints: a line a row, in columns.
type table struct {
	w *tabwriter.Writer
}

func newTable(w io.Writer, title string) table {
	fmt.Fprintf(w, "\n%s\n\n", title)
	return table{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
}

func (t table) row(cells ...string) { fmt.Fprintln(t.w, "  "+strings.Join(cells, "\t")) }

func (t table) end() { _ = t.w.Flush() }

// columns are the contenders' samples, native replication's first.
type columns[S any] []column[S]

type column[S any] struct {
	name    string
	samples []S
}

func (c *columns[S]) add(name string, s S) {
	i := slices.IndexFunc(*c, func(col column[S]) bool { return col.name == name })
	if i < 0 {
		i = len(*c)
		*c = append(*c, column[S]{name: name})
	}
	(*c)[i].samples = append((*c)[i].samples, s)
}

// median is the middle one; of an even number the mean of both in the middle.
func median[T any, N ~int64 | ~float64](samples []T, of func(T) N) N {
	v := values(samples, of)
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func values[T, V any](samples []T, of func(T) V) []V {
	out := make([]V, len(samples))
	for i, s := range samples {
		out[i] = of(s)
	}
	return out
}

// list is the values one after another.
func list[T any](samples []T, of func(T) string) string {
	return strings.Join(values(samples, of), ", ")
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "NOT MET"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func mib(bytes int64) string { return fmt.Sprintf("%d MiB", (bytes+1<<19)>>20) }
