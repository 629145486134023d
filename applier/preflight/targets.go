package preflight

import (
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
)

func targetChecks() []check {
	return []check{
		{"target-data", "what the target holds", ofContents, targetData},
		{"resume", "going on from the checkpoint", ofSource | ofContents, resume},
		{"owner", "owner of the migration", ofContents, owner},
		{"expiry", "expiry in the target", ofTarget, expiry},
		{"target-memory", "memory of the target", ofTarget | ofDataset, targetMemory},
		{"eviction", "eviction in the target", ofTarget, eviction},
		{"target-sentinel", "failover of the target", ofTarget, func(f *facts) verdict { return f.target.sentinel("target", len(f.Target.Hosts) > 0) }},
	}
}

func targetData(f *facts) verdict {
	err, rec := f.target.data, &f.target.found.Record
	switch {
	case errors.Is(err, replica.ErrCompleted):
		return verdict{Warn, "a cutover has completed this migration", "a run has nothing to do, and ends with exit code 0", "redferry reset, or another --name, for a new one"}
	case err != nil:
		return stopped(err, "a run neither empties nor overwrites anything that it was not told to")
	case !f.target.found.HasRecord && (f.OnNotEmpty == applier.Flush || f.OnNotEmpty == applier.Merge):
		return good("the target may hold anything: --on-target-not-empty=%s", f.OnNotEmpty)
	case !f.target.found.HasRecord:
		return good("the target is empty")
	case rec.Phase == checkpoint.PhaseSnapshot:
		return good("the target holds a part of this migration's snapshot")
	}
	return good("the target holds this migration, up to offset %s", humanize.Comma(rec.Offset))
}

// following tells whether the target holds what the source had at its checkpoint.
func (f *facts) following() bool {
	t := &f.target.found
	return t.HasRecord && t.Record.Phase == checkpoint.PhaseStream
}

func resume(f *facts) verdict {
	const why = "then a full resync is needed, which a run does only when it is told to"
	switch {
	case !f.following():
		return good("there is no checkpoint yet: a run begins with a snapshot")
	case f.source.backless != nil:
		return untold(f.source.backless.Error(), why, "ACL SETUSER <user> +info on the source")
	}
	rec := &f.target.found.Record
	ok, missing := f.source.backlog.Has(rec.Position())
	switch {
	case ok:
		return good("the source's backlog reaches back to %s", humanize.Comma(rec.Offset))
	case f.OnFullResync == applier.Flush || f.OnFullResync == applier.Merge:
		return good("%s; the target is loaded again: --on-full-resync=%s", missing, f.OnFullResync)
	}
	return verdict{Warn, missing, "unless the spool has what is missing, " + why, "--on-full-resync=flush empties the target and loads it again, =merge loads over what is there"}
}

func owner(f *facts) verdict {
	t := &f.target.found
	if !t.Alive() {
		return good("nobody else is at it")
	}
	return verdict{
		Block, fmt.Sprintf("it is owned by %s, whose lease runs for another %v", t.Owner.Text, t.Owner.Lease.Sub(t.Now).Round(time.Second)),
		"a run does not replace a process that lives (exit code 5)", "stop that process, or give run --takeover; one that was killed lets go when its lease ends",
	}
}

func expiry(f *facts) verdict {
	if f.target.expiry != nil {
		return stopped(f.target.expiry, "import mode cannot be switched on")
	}
	if f.Expiry == applier.Import {
		return good("the target has an import mode, which a restart or failover of the target loses")
	}
	return good("--expiry=shift works with every target")
}

// dataset is about what the source's data takes in memory; negative when it does not tell.
func dataset(info map[string]string) int64 {
	for _, field := range []string{"used_memory_dataset", "used_memory"} {
		if n, ok := number(info[field]); ok {
			return n
		}
	}
	return -1
}

func targetMemory(f *facts) verdict {
	need := dataset(f.source.info)
	limit, ok := number(f.target.info["maxmemory"])
	used, too := number(f.target.info["used_memory"])
	const why = "at its maxmemory a target refuses writes, and a run waits; or it evicts keys"
	switch {
	case f.following():
		return good("the data is there: the target takes %s", humanize.IBytes(uint64(used)))
	case need < 0 || !ok || !too:
		return untold("a server does not tell its memory", why, "ACL SETUSER <user> +info on both servers")
	}
	what := "maxmemory"
	if limit == 0 {
		what = "machine's memory"
		limit, _ = number(f.target.info["total_system_memory"])
		used, _ = number(f.target.info["used_memory_rss"])
	}
	if limit == 0 {
		return good("the target has no maxmemory")
	}
	if f.OnNotEmpty == applier.Flush {
		used = 0
	}
	room := max(limit-used, 0)
	text := fmt.Sprintf("the source's data takes %s, and the target has %s left of its %s of %s",
		humanize.IBytes(uint64(need)), humanize.IBytes(uint64(room)), what, humanize.IBytes(uint64(limit)))
	fix := fmt.Sprintf("CONFIG SET maxmemory %dmb on the target, or 0, or a larger machine", (need+need/4+used)>>20+1)
	switch { // what the same data takes in another version is known to a quarter or so
	case need > room+room/4:
		return verdict{Block, text, why, fix}
	case need > room-room/5:
		return verdict{Warn, text, why, fix}
	}
	return good("%s", text)
}

func eviction(f *facts) verdict {
	if policy := f.target.policy; policy != "" {
		return verdict{
			Warn, "the target's maxmemory-policy is " + policy, "keys that it drops when its maxmemory is reached are lost there, the checkpoint among them perhaps",
			"CONFIG SET maxmemory-policy noeviction on the target, until the migration is done",
		}
	}
	return good("the target has no maxmemory, or the policy noeviction")
}
