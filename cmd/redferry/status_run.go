package main

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/replica"
	"redferry/replica/admin"
)

// printRun prints what a run says of itself.
func printRun(w io.Writer, r *admin.Report) error {
	p := &table{w: w}
	p.row("migration", "%s: from %s to %s", r.Server.Name, r.Server.Source, r.Server.Target)
	p.row("run", "pid %d, for %s; redferry %s, in %s", r.Server.PID, sinceText(r.Server.Started), r.Server.Version, r.Server.Dir)
	p.row("state", "%s for %s: %s", r.State, sinceText(r.Since), r.Why)
	if r.Snapshot.Keys > 0 || r.Loading() {
		p.row("snapshot", "%s", snapshotRun(r))
	}
	o := &r.Offset
	p.row("source", "at offset %s", humanize.Comma(o.Source))
	if r.ForeignRefusal {
		p.row("", "it refuses writes: a cutover of another migration has left it so")
	}
	p.row("received", "%s", humanize.Comma(o.Received))
	if !r.Loading() {
		p.row("applied", "%s", humanize.Comma(o.Taken))
		p.row("checkpointed", "%s", humanize.Comma(o.Checkpointed))
		p.row("acked", "%s", humanize.Comma(o.Acked))
		p.row("lag", "%s", lagText(r))
		p.row("rate", "%s commands/s, %s/s", amount(r.Rate.Commands), humanize.Bytes(uint64(r.Rate.Bytes)))
	}
	p.row("may be down", "%s", downText(r))
	p.row("expiry", "%s", settleText(r))
	p.row("divergence", "%s", divergenceText(r.Loss.Divergence, r.Loss.DivergenceKinds))
	p.row("rejected", "%s", countText(r.Loss.Rejected, "writes that the target refused, in this run; they are in rejected.resp"))
	if r.Loss.Evicted > 0 {
		p.row("evicted", "%s", countText(r.Loss.Evicted, "keys that the target evicted, in this run"))
	}
	p.row("retries", "%s, %s", plural(r.Retry.Reconnects, "reconnect"), plural(r.Retry.FullResyncs, "full resync"))
	p.row("spool", "%s", spoolText(&r.Spool))
	p.row("memory", "%s", humanize.IBytes(uint64(r.Memory.RSS)))
	return p.err
}

func snapshotRun(r *admin.Report) string {
	s := &r.Snapshot
	if !r.Loading() {
		return fmt.Sprintf("loaded: %s, %s", plural(s.Keys, "key"), humanize.Bytes(uint64(s.Read)))
	}
	text := humanize.Bytes(uint64(s.Read))
	if s.Size > 0 {
		text += " of " + humanize.Bytes(uint64(s.Size))
	}
	text += fmt.Sprintf(" (%.0f%%), %s received; %s keys of %s so far; %s/s, %s keys/s", s.Percent, humanize.Bytes(uint64(s.Received)),
		humanize.Comma(s.Keys), humanize.Comma(s.Total), humanize.Bytes(uint64(r.Rate.Bytes)), amount(r.Rate.Keys))
	return text + leftText(r.Left)
}

func leftText(left replica.Span) string {
	if left <= 0 {
		return ""
	}
	return "; another " + short(time.Duration(left))
}

// spanText is a time that may not be known.
func spanText(s replica.Span) string {
	if s < 0 {
		return "an unknown time"
	}
	return short(time.Duration(s).Truncate(100 * time.Millisecond))
}

func lagText(r *admin.Report) string {
	l := &r.Lag
	if l.Bytes < 0 {
		return "not known yet"
	}
	text := fmt.Sprintf("%s, %s: %s (%s) to receive, %s (%s) to apply", humanize.Bytes(uint64(l.Bytes)), spanText(l.Time),
		humanize.Bytes(uint64(l.ToReceive)), spanText(l.Receive), humanize.Bytes(uint64(l.ToApply)), spanText(l.Apply))
	if r.State == replica.CatchingUp {
		text += leftText(r.Left)
	}
	return text
}

func downText(r *admin.Report) string {
	b := &r.Backlog
	switch {
	case b.Size == 0:
		return "not known: the source has no backlog yet, or does not say"
	case b.Spare < 0:
		return fmt.Sprintf("not known yet; the source's backlog takes %s", humanize.Bytes(uint64(b.Size)))
	case b.Down < 0:
		return fmt.Sprintf("as long as the source writes no more than %s", humanize.Bytes(uint64(b.Spare)))
	}
	return fmt.Sprintf("%s: the source's backlog has room for %s, at %s/s", spanText(b.Down), humanize.Bytes(uint64(b.Spare)), humanize.Bytes(uint64(r.Rate.Source)))
}

func settleText(r *admin.Report) string {
	s := &r.Settle
	if r.Phase != replica.Settling {
		return "the source expires keys, the target does not, until it settles"
	}
	return fmt.Sprintf("settling: %s expiries brought back, %s of %s keys left to look at%s", humanize.Comma(s.Settled), humanize.Comma(s.Left), humanize.Comma(s.Total), leftText(r.Left))
}

func spoolText(s *replica.SpoolView) string {
	text := humanize.Bytes(uint64(s.Used))
	if s.Max > 0 {
		text += " of " + humanize.Bytes(uint64(s.Max))
	}
	return text
}
