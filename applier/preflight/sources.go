package preflight

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

const (
	enoughOutage = 10 * time.Minute // a redferry that may be down for less gives an operator no time
	goodOutage   = time.Hour        // what is recommended
	shortTimeout = 15               // seconds of repl-timeout
	longFork     = 500 * time.Millisecond
)

func sourceChecks() []check {
	return []check{
		{"fork", "fork of the source", ofDataset, fork},
		{"sync-method", "how the source makes its RDB", ofSource, syncMethod},
		{"replica-buffer", "the source's buffer during the snapshot", ofDataset, replicaBuffer},
		{"backlog", "how long redferry may be down", ofSource, backlog},
		{"backlog-ttl", "how long the source keeps its backlog", ofSource, backlogTTL},
		{"repl-timeout", "timeout of the link", ofSource, replTimeout},
		{"min-replicas", "writes that need replicas", ofSource, minReplicas},
		{"source-sentinel", "failover of the source", ofSource, func(f *facts) verdict { return f.source.sentinel("source", len(f.Source.Hosts) > 0) }},
		{"sentinels", "sentinels of both sides", ofBoth, sentinels},
	}
}

// setting reads a number of the source's configuration, or the verdict where it does not tell.
func (s *source) setting(name, why string) (n int64, v verdict, ok bool) {
	n, ok = number(s.config[name])
	if !ok {
		v = untold("the source does not tell its "+name, why, fmt.Sprintf("ACL SETUSER %s +config|get on the source", s.rights.user))
	}
	return n, v, ok
}

func fork(f *facts) verdict {
	const why = "while the child of the fork lives, what clients write is copied: up to twice the memory, and the kernel kills a process when there is none"
	info := f.source.info
	rss, ok := number(info["used_memory_rss"])
	if !ok {
		return untold("the source does not tell its memory", why, "ACL SETUSER <user> +info on the source")
	}
	takes := fmt.Sprintf("the source takes %s", humanize.IBytes(uint64(rss)))
	if m := f.source.machine; m != nil {
		switch {
		case m.overcommit == 2, m.overcommit == 0 && m.available >= 0 && rss > m.available:
			return verdict{Warn, fmt.Sprintf("%s, and vm.overcommit_memory is %d", takes, m.overcommit), "the fork may be refused", "sysctl vm.overcommit_memory=1 on the source's machine"}
		case m.available >= 0 && rss > m.available:
			return verdict{Warn, fmt.Sprintf("%s, and its machine has %s available", takes, humanize.IBytes(uint64(m.available))), why, "more memory, or a quiet hour; or give a replica of the source as --source"}
		}
	} else if total, ok := number(info["total_system_memory"]); ok && total > 0 {
		if rss > total/2 {
			return verdict{Warn, fmt.Sprintf("%s of its machine's %s", takes, humanize.IBytes(uint64(total))), why, "more memory, or a quiet hour; or give a replica of the source as --source"}
		}
		takes += fmt.Sprintf(" of its machine's %s", humanize.IBytes(uint64(total)))
	}
	usec, _ := number(info["latest_fork_usec"])
	last := time.Duration(usec) * time.Microsecond
	if last > longFork {
		return verdict{Warn, fmt.Sprintf("%s, and its last fork stopped it for %v", takes, last.Round(time.Millisecond)), "its clients wait that long, once", "choose a quiet hour, or give a replica of the source as --source"}
	}
	if last > 0 {
		takes += fmt.Sprintf("; its last fork took %v", last.Round(10*time.Microsecond))
	}
	return good("%s", takes)
}

func syncMethod(f *facts) verdict {
	if f.source.info["rdb_last_bgsave_status"] == "err" {
		return verdict{Warn, "the source's last BGSAVE failed", "a snapshot is made in the same way", "look into the source's log; BGSAVE there must succeed"}
	}
	switch f.source.config["repl-diskless-sync"] {
	case "yes":
		return good("the source sends its RDB while it makes it (repl-diskless-sync yes)")
	case "no":
		return good("the source writes its RDB to its own disk first, which needs the room there (repl-diskless-sync no)")
	}
	return untold("the source does not tell its repl-diskless-sync", "without it the source writes the RDB to its own disk first, which needs the room there",
		fmt.Sprintf("ACL SETUSER %s +config|get on the source", f.source.rights.user))
}

func replicaBuffer(f *facts) verdict {
	r := f.source.risk
	switch {
	case f.following():
		return good("no snapshot is to come")
	case f.RaiseLimits:
		return good("--raise-source-limits lifts the source's limit meanwhile")
	}
	v := verdict{level: riskLevel(r.Level), found: r.Text}
	if v.level != OK {
		v.why, v.fix = "the source closes the link at its limit, and the snapshot has to begin anew; a run stops when that has happened twice (exit code 3)", r.Hint
	}
	if r.Level == replica.RiskUnknown {
		v.found = "cannot be told: " + v.found
	}
	return v
}

// speed is the write rate for people.
func (s *source) speed() string {
	text := humanize.IBytes(uint64(s.rate)) + "/s of writes"
	if s.atMost {
		text += " (at most: before its first replica the source counts none)"
	}
	return text
}

// lasts is how long something of this size holds what is written at the source.
func (s *source) lasts(size int64) time.Duration {
	const long = 1000 * time.Hour
	if s.rate <= 0 {
		return long
	}
	return time.Duration(min(float64(size)/s.rate, long.Seconds()) * float64(time.Second))
}

// span is a time for people.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than a second"
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	case d < 100*time.Hour:
		return d.Round(time.Second).String()
	}
	return "more than four days"
}

func backlog(f *facts) verdict {
	const why = "redferry may be down for that long; after it only a full resync helps"
	size, ok := number(f.source.config["repl-backlog-size"])
	if !ok { // which some services hide in one place
		size, ok = number(f.source.info["repl_backlog_size"])
	}
	switch {
	case !ok:
		return untold("the source does not tell its repl-backlog-size", why, fmt.Sprintf("ACL SETUSER %s +config|get on the source", f.source.rights.user))
	case f.source.rate < 0:
		return untold("the source does not tell how much is written there", why, "ACL SETUSER <user> +info on the source")
	}
	lasts := f.source.lasts(size)
	text := fmt.Sprintf("%s of repl-backlog-size at %s lasts %s: so long may redferry be down", humanize.IBytes(uint64(size)), f.source.speed(), span(lasts))
	if lasts >= enoughOutage {
		return good("%s", text)
	}
	mb := int64(math.Ceil(f.source.rate * goodOutage.Seconds() / (1 << 20)))
	return verdict{Warn, text, why, fmt.Sprintf("CONFIG SET repl-backlog-size %dmb on the source, for %v", max(mb, 1), goodOutage)}
}

func backlogTTL(f *facts) verdict {
	const why = "a source that has no other replica drops its backlog when redferry was away for so long"
	ttl, v, ok := f.source.setting("repl-backlog-ttl", why)
	switch others, _ := number(f.source.info["connected_slaves"]); {
	case !ok:
		return v
	case ttl == 0:
		return good("the backlog is kept for ever (repl-backlog-ttl 0)")
	case others > 0:
		return good("the source has %s, so that it keeps its backlog", plural(others, "other replica", "other replicas"))
	case seconds(ttl) < enoughOutage:
		return verdict{Warn, fmt.Sprintf("repl-backlog-ttl is %d s", ttl), why, "CONFIG SET repl-backlog-ttl 3600 on the source"}
	}
	return good("the backlog is kept for %v without a replica (repl-backlog-ttl)", seconds(ttl))
}

func seconds(n int64) time.Duration { return time.Duration(min(n, math.MaxInt32)) * time.Second }

func replTimeout(f *facts) verdict {
	const why = "the source closes a link that is silent for so long, and redferry gives one up"
	n, v, ok := f.source.setting("repl-timeout", why)
	switch {
	case !ok:
		return v
	case n < shortTimeout:
		return verdict{Warn, fmt.Sprintf("repl-timeout is %d s", n), why + ": a pause of either is enough", "CONFIG SET repl-timeout 60 on the source"}
	}
	return good("repl-timeout is %d s", n)
}

func minReplicas(f *facts) verdict {
	const why = "redferry counts as a replica for as long as it is connected: writes are accepted that no real replica has"
	n, v, ok := f.source.setting("min-replicas-to-write", why)
	switch {
	case !ok:
		return v
	case n == replica.RefusingReplicas && f.target.found.Record.Refusal != "":
		const found, undo = "min-replicas-to-write is %d: %s has made the source refuse writes", "redferry cutover --undo --source URL --target URL opens the source"
		if f.target.found.Record.Phase == checkpoint.PhaseCompleted {
			return verdict{Warn, fmt.Sprintf(found, n, "the cutover of this migration"), "nobody can write to the source, which is what a cutover leaves", undo}
		}
		return verdict{Warn, fmt.Sprintf(found, n, "a cutover of this migration that has not come to its end"), "nobody can write to the source", "redferry run finishes it; or " + undo}
	case n == replica.RefusingReplicas:
		return verdict{
			Warn, fmt.Sprintf("min-replicas-to-write is %d: a cutover of another migration has made the source refuse writes", n),
			"nobody can write to the source, and a cutover of this migration would be refused",
			"redferry cutover --undo --source URL, with the --name and --target of that migration; or CONFIG SET min-replicas-to-write 0 and CLIENT UNPAUSE on the source",
		}
	case n > 0:
		return verdict{Warn, fmt.Sprintf("min-replicas-to-write is %d", n), why, "CONFIG SET min-replicas-to-write " + strconv.FormatInt(n+1, 10) + " on the source, while redferry is connected"}
	}
	return good("min-replicas-to-write is 0")
}

// sentinel judges one end, "source" or "target", whose URL names several hosts or one.
func (e *end) sentinel(name string, several bool) verdict {
	const why = "after a failover redferry would go on asking the old primary"
	switch {
	case several && e.watched == yes:
		return good("sentinels watch the %s, and --%[1]s names them or all servers", name)
	case several:
		return good("--%s names several hosts", name)
	case e.watched == yes:
		return verdict{Warn, fmt.Sprintf("sentinels watch the %s, and --%[1]s is one server", name), why, fmt.Sprintf("--%s redis+sentinel://host:26379,…/NAME", name)}
	case e.watched == unknown:
		return untold(fmt.Sprintf("the %s does not permit PUBSUB NUMSUB, which shows sentinels", name), why, fmt.Sprintf("ACL SETUSER %s +pubsub|numsub on the %s, for this check", e.rights.user, name))
	}
	return good("no sentinel watches the %s", name)
}

// sentinels warns of those that watch both sides. What they publish is not forwarded; but whatever
// else tells one of them of the other side, a REPLICAOF or another tool, has it take one primary
// for the other's replica, where both have one name.
func sentinels(f *facts) verdict {
	if f.source.watched != yes || f.target.watched != yes {
		return good("sentinels do not watch both sides")
	}
	return verdict{
		Warn, "sentinels watch both sides",
		"sentinels that use one name for both, and hear of each other, make one primary a replica of the other; " +
			"redferry does not forward what they publish",
		"use different names (sentinel monitor NAME …), or stop the target's sentinels until the cutover is done",
	}
}
