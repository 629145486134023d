package main

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/internal/redistest"
)

// The goals that are printed beside the figures.
const (
	snapshotBar = 1.3       // redferry's wall time over native replication's
	streamBar   = 1.4       // the same
	receiveBar  = 0.9       // the rate at which redferry receives over that of redis-cli --rdb
	memoryBar   = 128 << 20 // bytes
)

// snapshot measures a full resync, from the start of redferry, or REPLICAOF, until the target says that the snapshot is in.
func (b *bench) snapshot() *figures {
	b.Helper()
	source := b.filled(b.Keys)
	want := b.contents(source)
	f := &figures{
		title: fmt.Sprintf("Snapshot of %s mixed keys (%s of the source's memory)", humanize.Comma(int64(b.Keys)), b.memory(source)),
		bar:   snapshotBar,
	}
	for round := range b.Rounds {
		for _, c := range b.contenders(round, source) {
			f.columns.add(c.name(), b.measure(c, source, b.cpu(c.server()), c.loaded))
			c.end()
			b.verify(c, want)
			c.server().Kill()
		}
	}
	source.Kill()
	return f
}

// stream measures how long it takes to catch up with what was written while the contender was away, from the backlog of the source: from the
// start of redferry, or the thawing of the replica, until the target has the source's offset. Both catch up with the same bytes, one after the other.
func (b *bench) stream() *figures {
	b.Helper()
	f := &figures{bar: streamBar}
	for round := range b.Rounds {
		source := b.filled(streamKeys/2, redistest.Config("repl-backlog-size 1gb", "client-output-buffer-limit replica 0 0 0"))
		contenders := b.contenders(round, source)
		before := map[contender]time.Duration{}
		for _, c := range contenders {
			c.start()
			b.until(c.name()+" to be in sync", c.loaded)
			before[c] = b.cpu(c.server())
			c.suspend()
		}
		b.progress("stream: writing %s commands", humanize.Comma(int64(b.Commands)))
		from := source.Offset(b)
		b.load(source, b.Commands, uint64(round))
		goal := source.Offset(b)
		f.title = fmt.Sprintf("Catching up with a stream of %s mixed commands (%s)", humanize.Comma(int64(b.Commands)), humanize.Bytes(uint64(goal-from)))
		want := b.contents(source)
		for _, c := range contenders {
			f.columns.add(c.name(), b.measure(c, source, before[c], func() bool { return c.offset() >= goal }))
			c.end()
			b.verify(c, want)
			c.server().Kill()
		}
		want = fmt.Sprint(len(contenders))
		if stats := source.Info(b, "stats"); stats["sync_full"] != want || stats["sync_partial_ok"] != want {
			b.Fatalf("%s full and %s partial resyncs, want %s of each", stats["sync_full"], stats["sync_partial_ok"], want)
		}
		source.Kill()
	}
	return f
}

// filled starts a source with that many keys.
func (b *bench) filled(keys int, opts ...redistest.Option) *redistest.Server {
	b.Helper()
	source := redistest.Start(b, b.build, opts...)
	b.progress("filling a source with %s keys", humanize.Comma(int64(keys)))
	b.fill(source, keys)
	return source
}

func (b *bench) memory(s *redistest.Server) string {
	b.Helper()
	return humanize.Bytes(uint64(b.number("used_memory", s.Info(b, "memory")["used_memory"])))
}
