package preflight

import (
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"redferry/replica"
)

func endChecks() []check {
	return []check{
		{"source-reached", "connection to the source", nothing, func(f *facts) verdict { return reached(&f.source.end, "source") }},
		{"target-reached", "connection to the target", nothing, func(f *facts) verdict { return reached(&f.target.end, "target") }},
		{"pair", "source and target", ofBoth, pair},
		{"source-kind", "kind of source", ofSource, sourceKind},
		{"target-kind", "kind of target", ofTarget, func(f *facts) verdict {
			if f.target.unsupported != nil {
				return stopped(f.target.unsupported, "a run refuses it")
			}
			return good("%s, not a cluster", f.target.version)
		}},
		{"source-role", "role of the source", ofSource, sourceRole},
		{"target-role", "role of the target", ofTarget, func(f *facts) verdict {
			if f.target.readOnly != nil {
				return stopped(f.target.readOnly, "every write would be refused")
			}
			return good("the target is a primary")
		}},
		{"psync", "PSYNC on the source", ofSource, psync},
	}
}

// reached judges an end's connection: address, TLS, user and password.
func reached(e *end, name string) verdict {
	if e.err == nil {
		if e.version == "" {
			return untold(fmt.Sprintf("%s answers, and does not permit INFO", e.addr), "without INFO nobody sees before PSYNC whether it has what is needed, and most of what follows is unknown",
				"ACL SETUSER <user> +info on the "+name)
		}
		return good("%s is %s", e.addr, e.version)
	}
	const why = "nothing else can be looked at"
	v := verdict{level: Block, found: e.err.Error(), why: why, fix: "check host, port and scheme of --" + name + ", and that redferry's machine may connect"}
	if _, answers := rueidis.IsRedisErr(e.err); answers {
		v.fix = "the " + name + " itself says so: mend it there; a run asks it again until it does not"
	}
	if stop := replica.AsStop(e.err); stop != nil && stop.Hint != "" {
		v.fix = stop.Hint
	}
	return v
}

func pair(f *facts) verdict {
	if f.target.loops != nil {
		return stopped(f.target.loops, "what is written to the target would come back, or be overwritten")
	}
	if f.source.blind {
		return untold("the source does not permit INFO", "one that replicates the other would lose data", "ACL SETUSER <user> +info on the source")
	}
	return good("source and target are two servers, with two replication IDs")
}

func sourceKind(f *facts) verdict {
	switch {
	case f.source.refusal != nil:
		return stopped(f.source.refusal, "it cannot be read from")
	case f.source.blind:
		return untold("the source does not permit INFO", "a cluster of several shards cannot be a source yet", "ACL SETUSER <user> +info on the source")
	}
	return good("%s, one shard", f.source.version)
}

func sourceRole(f *facts) verdict {
	switch info := f.source.info; {
	case f.source.blind:
		return untold("the source does not permit INFO", "a replica that has lost its primary sends nothing", "ACL SETUSER <user> +info on the source")
	case info["role"] != "slave":
		return good("the source is a primary")
	case info["master_link_status"] != "up":
		return verdict{
			Warn, fmt.Sprintf("the source is a replica of %s and has lost it", f.source.about.Primary), "it refuses PSYNC (NOMASTERLINK) until it has its primary again; a run waits",
			"mend its replication, or give the primary as --source",
		}
	}
	return good("the source is a replica of %s, and in touch with it", f.source.about.Primary)
}

func psync(f *facts) verdict {
	name := psyncName(f.Config)
	const managed = "services that hide PSYNC cannot be a source"
	switch f.source.psync {
	case unknown:
		return untold("the source does not permit COMMAND", managed, "ACL SETUSER <user> +command on the source")
	case no:
		v := verdict{level: Block, found: "the source has no command " + name, why: "redferry reads as a replica does, by PSYNC; " + managed, fix: "undo rename-command PSYNC in the source's configuration"}
		if f.PSYNCCommand != "" {
			v.fix = "leave out --psync-command, or give the name that the service documents"
		}
		return v
	}
	if !strings.EqualFold(name, "PSYNC") {
		return verdict{
			Warn, "the source has a command " + name, "a server that merely renamed PSYNC takes it for SYNC, which cannot be resumed; then a run stops with exit code 2",
			"undo rename-command PSYNC there, unless a service documents this name",
		}
	}
	return good("the source has it")
}

// level of a risk, as a finding.
func riskLevel(l replica.RiskLevel) Level {
	switch l {
	case replica.RiskFine:
		return OK
	case replica.RiskCertain:
		return Block
	}
	return Warn
}
