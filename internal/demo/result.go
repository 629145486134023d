package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"redferry/internal/redistest"
)

// result is what the demo found at its end.
type result struct {
	want, got     counts // of the source, of the target
	written       redistest.LoadResult
	differences   []redistest.Difference
	full, partial int // resyncs that the source has granted
	took          time.Duration
}

// counts are a server's, without redferry's own keys.
type counts struct{ keys, expires, databases, functions int }

// judge is nil when the servers are equal after exactly one full resync.
func (r *result) judge() error {
	switch {
	case len(r.differences) > 0:
		var text strings.Builder
		text.WriteString("the target differs from the source:")
		for _, d := range r.differences {
			fmt.Fprintf(&text, "\n  %v", d)
		}
		return errors.New(text.String())
	case r.want != r.got:
		return fmt.Errorf("the target differs from the source: it has %+v, the source %+v", r.got, r.want)
	case r.full != 1:
		return fmt.Errorf("the source was asked for %d full resyncs, and one is enough", r.full)
	case r.partial < 1:
		return errors.New("the source has seen no partial resync: redferry was not killed on its way")
	}
	return nil
}

func (r *result) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, "   "+strings.Join(cells, "\t")) }
	fmt.Fprintln(table)
	row("", "source", "target")
	row("keys", comma(r.want.keys), comma(r.got.keys))
	row("with a TTL", comma(r.want.expires), comma(r.got.expires))
	row("databases", strconv.Itoa(r.want.databases), strconv.Itoa(r.got.databases))
	row("function libraries", strconv.Itoa(r.want.functions), strconv.Itoa(r.got.functions))
	row("differences", "", strconv.Itoa(len(r.differences)))
	fmt.Fprintln(table)
	row("commands written meanwhile", comma(r.written.Acknowledged))
	row("full resyncs (sync_full)", strconv.Itoa(r.full))
	row("partial resyncs", strconv.Itoa(r.partial))
	row("time in all", fmt.Sprintf("%.0f s", r.took.Seconds()))
	_ = table.Flush()
}

// count asks a server how much it holds. The target's own share of it, redferry's keys in database 0, does not count.
func (d *demo) count(s *redistest.Server) (c counts) {
	d.Helper()
	for name, value := range s.Info(d, "keyspace") {
		var db, keys, expires int
		if _, err := fmt.Sscanf(name, "db%d", &db); err != nil {
			continue
		}
		if _, err := fmt.Sscanf(value, "keys=%d,expires=%d", &keys, &expires); err != nil {
			d.Fatalf("INFO keyspace says %q", value)
		}
		if db == 0 {
			keys -= len(d.own(s))
		}
		if keys == 0 {
			continue
		}
		c.keys += keys
		c.expires += expires
		c.databases++
	}
	if s.Build.Has70() {
		reply := s.Do(d, "FUNCTION", "LIST")
		list, err := reply.ToArray()
		if err != nil {
			d.Fatalf("FUNCTION LIST: %v", err)
		}
		c.functions = len(list)
	}
	return c
}

// own are redferry's keys in a server.
func (d *demo) own(s *redistest.Server) []string { return s.DoStrings(d, "KEYS", "redferry:*") }

// stat is a number of the source's INFO stats.
func (d *demo) stat(name string) int {
	d.Helper()
	n, err := strconv.Atoi(d.source.Info(d, "stats")[name])
	if err != nil {
		d.Fatalf("INFO stats, %s: %v", name, err)
	}
	return n
}
