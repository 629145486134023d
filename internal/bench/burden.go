package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/internal/redistest"
)

const (
	burdenEvery    = 10 * time.Millisecond // a look at the source
	burdenLoad     = 10_000                // commands a second that the source's clients write meanwhile
	burdenThrottle = 10                    // redferry's target takes one of so many bytes that it could
	pipelines      = 3                     // redferry's --snapshot-pipelines: the proxy throttles each connection by itself
)

// burden is what a snapshot costs its source.
type burden struct {
	fork   time.Duration // that the source's child lived
	buffer int64         // bytes that waited in the source for the replica, at most: omem of CLIENT LIST
	memory int64         // mem_clients_slaves of INFO memory, at most
	wall   time.Duration // until the snapshot was in the target
}

// burdens are those of all contenders, native first.
type burdens struct {
	title   string
	columns columns[burden]
}

// burden measures what a snapshot costs the source while its clients write: with redferry, whose target takes a tenth of what it could, and with a replica
// that takes all.
func (b *bench) burden() *burdens {
	b.Helper()
	keys := b.Keys / 4 // it takes ten times as long as it could
	source := b.filled(keys, redistest.Config("client-output-buffer-limit replica 0 0 0"))
	rate := b.loadRate(source) / burdenThrottle
	all := &burdens{title: fmt.Sprintf("The source's side of a snapshot of %s keys, at %s commands a second; redferry's target throttled to %s a second",
		humanize.Comma(int64(keys)), humanize.Comma(burdenLoad), humanize.Bytes(uint64(rate)))}
	for round := range b.Rounds {
		contenders := b.contenders(round, source)
		for _, c := range contenders {
			var proxy *redistest.Proxy
			if f, ok := c.(*ferry); ok {
				proxy = f.through(b)
				proxy.Throttle(redistest.FromClient, rate/pipelines)
			}
			stop := redistest.StartLoad(b, source, redistest.LoadOptions{Seed: uint64(round), Keys: 1000, Rate: burdenLoad})
			s := b.look(c, source)
			if proxy != nil {
				proxy.Throttle(redistest.FromClient, 0)
			}
			load := stop()
			b.progress("%s: a fork of %.2f s, %s buffered, %d commands written in %.2f s", c.name(), s.fork.Seconds(), humanize.Bytes(uint64(s.buffer)), load.Acknowledged, s.wall.Seconds())
			goal := source.Offset(b)
			b.until(c.name()+" to have the stream", func() bool { return c.offset() >= goal })
			c.end()
			b.verify(c, b.contents(source))
			c.server().Kill()
			all.columns.add(c.name(), s)
		}
	}
	source.Kill()
	return all
}

// through puts a proxy in front of redferry's target.
func (f *ferry) through(b *bench) *redistest.Proxy {
	b.Helper()
	proxy := redistest.NewProxy(b, f.target.Addr())
	f.targetURL = f.target.URLAt(proxy.Addr())
	return proxy
}

// loadRate is how many bytes a second redferry sends to a target that takes all.
func (b *bench) loadRate(source *redistest.Server) int {
	b.Helper()
	f := b.ferry(source)
	proxy := f.through(b)
	began := time.Now()
	f.start()
	b.until("a snapshot to be loaded", f.loaded)
	wall := time.Since(began)
	f.end()
	f.target.Kill()
	return int(float64(proxy.Passed(redistest.FromClient)) / wall.Seconds())
}

// look runs one contender until it has loaded the snapshot, and looks at the source all the while.
func (b *bench) look(c contender, source *redistest.Server) (s burden) {
	b.Helper()
	began := time.Now()
	var forked time.Time
	c.start()
	tick := time.NewTicker(burdenEvery)
	defer tick.Stop()
	for loaded := false; !loaded; {
		select {
		case <-b.interrupted:
			b.Fatalf("interrupted")
		case <-tick.C:
		}
		switch busy := source.Info(b, "persistence")["rdb_bgsave_in_progress"] == "1"; {
		case busy && forked.IsZero():
			forked = time.Now()
		case busy:
			s.fork = time.Since(forked)
		}
		s.memory = max(s.memory, b.number("mem_clients_slaves", source.Info(b, "memory")["mem_clients_slaves"]))
		s.buffer = max(s.buffer, omem(source.DoString(b, "CLIENT", "LIST", "TYPE", "replica")))
		if s.wall = time.Since(began); s.wall > patience {
			b.Fatalf("waited %v in vain for %s to load a snapshot", patience, c.name())
		}
		loaded = c.loaded()
	}
	return s
}

// omem is the largest omem field of a CLIENT LIST.
func omem(clients string) (most int64) {
	for _, field := range strings.Fields(clients) {
		if text, ok := strings.CutPrefix(field, "omem="); ok {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				most = max(most, n)
			}
		}
	}
	return most
}

// print writes the medians, with the ratios to native's.
func (all *burdens) print(w io.Writer) {
	t := newTable(w, all.title)
	native := all.columns[0]
	head := []string{"median of " + fmt.Sprint(len(native.samples))}
	for i, col := range all.columns {
		head = append(head, col.name)
		if i > 0 {
			head = append(head, "ratio")
		}
	}
	t.row(head...)
	row := func(name string, of func(burden) int64, text func(int64) string) {
		cells := []string{name}
		for i, col := range all.columns {
			m := median(col.samples, of)
			cells = append(cells, text(m))
			if i > 0 {
				cells = append(cells, ratio(m, median(native.samples, of)))
			}
		}
		t.row(cells...)
	}
	span := func(ns int64) string { return seconds(time.Duration(ns)) }
	size := func(n int64) string { return humanize.Bytes(uint64(n)) }
	row("lifetime of the source's fork", func(s burden) int64 { return int64(s.fork) }, span)
	row("most in the replica's output buffer", func(s burden) int64 { return s.buffer }, size)
	row("most of mem_clients_slaves", func(s burden) int64 { return s.memory }, size)
	row("until the snapshot was loaded", func(s burden) int64 { return int64(s.wall) }, span)
	t.end()
}

// ratio is a dash where there is nothing to compare with.
func ratio(n, of int64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(n)/float64(of))
}
