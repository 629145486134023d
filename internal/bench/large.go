package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/dustin/go-humanize"

	"redferry/internal/redistest"
)

// largeBar is redferry's peak memory over the size of the one thing that it carries.
const largeBar = 2.2

// largeThing is one value, or one transaction, of a given size.
type largeThing struct {
	name   string
	stream bool   // it comes in the stream; else it is in the snapshot
	times  int    // so many of them come, one behind the other
	script string // makes it, of ARGV[1] bytes
}

// largeThings are what takes memory as a whole: RESTORE takes a value only whole, and EXEC makes a transaction one.
var largeThings = []largeThing{
	{"a string, in the snapshot", false, 2, "redis.call('SET', 'large', string.rep('x', ARGV[1]))"},
	{"a list of 1 kB elements, in the snapshot", false, 2, "local v = string.rep('x', 1000) for i = 1, ARGV[1] / 1000 do redis.call('RPUSH', 'large', v) end"},
	{"a string, in the stream", true, 2, "redis.call('SET', 'large', string.rep('x', ARGV[1]))"},
	{"a transaction of 1 MB values", true, 2, "local v = string.rep('x', 1e6) for i = 1, ARGV[1] / 1e6 do redis.call('SET', 'large:' .. i, v) end"},
	{"a transaction of 1 kB values", true, 2, "local v = string.rep('x', 1000) for i = 1, ARGV[1] / 1000 do redis.call('SET', 'large:' .. i, v) end"},
	{"a transaction of 50 B values", true, 1, "local v = string.rep('x', 50) for i = 1, ARGV[1] / 100 do redis.call('SET', 'large:' .. i, v) end"},
}

// largeResult is what one of them has taken.
type largeResult struct {
	name string
	size int64 // in the snapshot or the stream
	peak int64
}

type largeResults []largeResult

// large measures redferry's peak memory with things of b.Large bytes.
func (b *bench) large() largeResults {
	b.Helper()
	var all largeResults
	for _, thing := range largeThings {
		r := b.largest(thing)
		b.progress("%s: %s of memory for %s", r.name, mib(r.peak), mib(r.size))
		all = append(all, r)
	}
	return all
}

func (b *bench) largest(thing largeThing) largeResult {
	b.Helper()
	roomy := redistest.Config("proto-max-bulk-len 4gb", "client-query-buffer-limit 8gb", "repl-backlog-size 2gb",
		"client-output-buffer-limit replica 0 0 0", "rdbcompression no", "lua-time-limit 600000")
	source := redistest.Start(b, b.build, roomy)
	f := b.ferry(source)
	f.target.Do(b, "CONFIG", "SET", "proto-max-bulk-len", "4gb", "client-query-buffer-limit", "8gb")
	make := func() {
		for i := range thing.times {
			source.Do(b, "EVAL", thing.script, "0", strconv.Itoa(b.Large))
			source.Do(b, "SET", fmt.Sprint("between:", i), "x")
			if !thing.stream && i < thing.times-1 {
				source.Do(b, "RENAME", "large", fmt.Sprint("large:", i))
			}
		}
	}
	size := int64(b.Large)
	if !thing.stream {
		make()
		f.start()
		b.until("the snapshot to be loaded", f.loaded)
	} else {
		f.start()
		b.until("the snapshot to be loaded", f.loaded)
		before := source.Offset(b)
		make()
		goal := source.Offset(b)
		size = (goal - before) / int64(thing.times)
		b.until("the target to have it", func() bool { return f.offset() >= goal })
	}
	r := largeResult{name: fmt.Sprintf("%d × %s", thing.times, thing.name), size: size, peak: f.usage().peak}
	f.end()
	b.verify(f, b.contents(source))
	f.target.Kill()
	source.Kill()
	return r
}

func (r largeResults) print(w io.Writer) {
	t := newTable(w, "Peak memory with something large")
	t.row("", "its size", "redferry", "ratio", "goal")
	for _, l := range r {
		ratio := float64(l.peak) / float64(l.size)
		t.row(l.name, humanize.Bytes(uint64(l.size)), humanize.Bytes(uint64(l.peak)), fmt.Sprintf("%.2f", ratio), fmt.Sprintf("≤ %.1f %s", largeBar, met(ratio <= largeBar)))
	}
	t.end()
}
