package preflight

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

const (
	maxSkew = time.Second // as a run warns
	// keysPerSecond is what a snapshot loads in a second at best, on the two cores of docs/benchmarks.md: a guess for other machines.
	keysPerSecond = 200_000
	// leastDisk is the least that --spool-max may be.
	leastDisk = 16 << 20
	// spoolShare is how much of the free disk the spool takes, in percent.
	spoolShare = 80
)

func planChecks() []check {
	return []check{
		{"clocks", "clocks", ofBoth, clocks},
		{"spool", "disk for the spool", nothing, spool},
		{"duration", "duration of the snapshot", ofDataset, duration},
	}
}

func clocks(f *facts) verdict {
	const why = "an expiry is a moment: once the target expires keys by itself, they die there earlier or later by so much"
	ahead := f.target.skew - f.source.skew
	switch {
	case !f.source.hasSkew || !f.target.hasSkew:
		return untold("a server does not permit TIME", why, "ACL SETUSER <user> +time on both servers")
	case ahead.Abs() > maxSkew:
		first, second := "target", "source"
		if ahead < 0 {
			first, second = second, first
		}
		return verdict{Warn, fmt.Sprintf("the %s's clock is %v ahead of the %s's", first, ahead.Abs().Round(100*time.Millisecond), second), why, "set both clocks by NTP before the migration ends"}
	}
	return good("the clocks differ by less than %v", maxSkew)
}

func spool(f *facts) verdict {
	h := f.home
	if h.writable != nil {
		return verdict{Block, fmt.Sprintf("%s cannot be written to: %v", h.dir, h.writable), "a run keeps its lock and its spool there (exit code 2)", "another --dir"}
	}
	if !f.Spool {
		return good("--spool=off: nothing is kept on the disk; a target that is away holds up the source after some four megabytes")
	}
	if h.free < 0 {
		return untold("the file system does not tell its free space", "when the spool is full, the source is held up", "--spool-max SIZE")
	}
	allowed := h.free / 100 * spoolShare
	if f.SpoolMax > 0 {
		allowed = min(f.SpoolMax, h.free)
	}
	text := fmt.Sprintf("the spool may take %s of the %s that are free in %s", humanize.IBytes(uint64(allowed)), humanize.IBytes(uint64(h.free)), h.dir)
	if f.source.err == nil && f.source.rate > 0 {
		text += fmt.Sprintf("; at %s the target may be away for %s", f.source.speed(), span(f.source.lasts(allowed)))
	}
	need := dataset(f.source.info)
	switch {
	case allowed < leastDisk:
		return verdict{Block, text, "that is less than a few segments", "make room there, or another --dir, or --spool=off"}
	case need > allowed && !f.following():
		return verdict{
			Warn, fmt.Sprintf("%s; the source's data takes %s in memory", text, humanize.IBytes(uint64(need))),
			"if the target is slower than the source, the spool fills up during the snapshot, and the source's child and its buffer have to wait", "another --dir, or a larger --spool-max",
		}
	}
	return good("%s", text)
}

func duration(f *facts) verdict {
	if f.following() {
		return good("no snapshot is needed: a run goes on from the checkpoint")
	}
	var keys int64
	for _, d := range keyspace(f.source.info) {
		keys += d.Keys
	}
	if f.source.took == 0 {
		return untold("the source does not tell its size", "", "ACL SETUSER <user> +info on the source")
	}
	took := max(f.source.took, time.Duration(float64(keys)/keysPerSecond*float64(time.Second)))
	text := fmt.Sprintf("%s for %s, if the network and the target keep up", span(took), plural(keys, "key", "keys"))
	if s := &f.source.sample; s.dumped > 0 {
		text += fmt.Sprintf("; %s of values by the %d that were sampled", humanize.IBytes(uint64(float64(s.values)/float64(s.dumped)*float64(keys))), s.dumped)
	} else {
		text += "; " + f.source.tookWhy
	}
	return good("%s", text)
}
