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
	source, target counts
	written        redistest.LoadResult
	differences    []redistest.Difference
	full, partial  int // resyncs that the source has granted
	took           time.Duration

	seen []redistest.Sight // by the clients
	got  []int64           // the clients' counts in the target

	cutOver bool  // instead of stopping the writers
	refusal error // of a write to the source after the cutover
}

// counts are a server's, without redferry's own keys.
type counts struct{ keys, expires, databases, functions int }

// judge is nil when the servers are equal after exactly one full resync, with all that was acknowledged, and the source was left as it should be.
func (r *result) judge() error {
	switch {
	case r.cutOver && r.refusal == nil:
		return errors.New("the source takes writes after the cutover")
	case r.cutOver && !strings.HasPrefix(r.refusal.Error(), redistest.Refusal):
		return fmt.Errorf("after the cutover the source says %w", r.refusal)
	case len(r.differences) > 0:
		var text strings.Builder
		text.WriteString("the target differs from the source:")
		for _, d := range r.differences {
			fmt.Fprintf(&text, "\n  %v", d)
		}
		return errors.New(text.String())
	case r.source != r.target:
		return fmt.Errorf("the target differs from the source: it has %+v, the source %+v", r.target, r.source)
	case r.full != 1:
		return fmt.Errorf("the source was asked for %d full resyncs, and one is enough", r.full)
	case r.partial < 1:
		return errors.New("the source has seen no partial resync: redferry was not killed on its way")
	}
	return judgeClients(r.seen, r.got, r.cutOver)
}

func (r *result) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, "   "+strings.Join(cells, "\t")) }
	fmt.Fprintln(table)
	row("", "source", "target")
	row("keys", comma(r.source.keys), comma(r.target.keys))
	row("with a TTL", comma(r.source.expires), comma(r.target.expires))
	row("databases", strconv.Itoa(r.source.databases), strconv.Itoa(r.target.databases))
	row("function libraries", strconv.Itoa(r.source.functions), strconv.Itoa(r.target.functions))
	row("differences", "", strconv.Itoa(len(r.differences)))
	_ = table.Flush()

	acked, stopped := sum(r.seen)
	var got int64
	for _, n := range r.got {
		got += n
	}
	fmt.Fprintln(table)
	row("acknowledged to the clients", comma(acked)+" writes")
	row("of these in the target", comma(got))
	row("commands of the writer", comma(r.written.Acknowledged))
	row("full resyncs (sync_full)", strconv.Itoa(r.full))
	row("partial resyncs", strconv.Itoa(r.partial))
	if r.cutOver {
		row("nobody could write for", fmt.Sprintf("%d ms (the longest of a client, from its last acknowledged write to its first refused one)", stopped.Milliseconds()))
		row("the source now says", fmt.Sprintf("%v", r.refusal))
	}
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
