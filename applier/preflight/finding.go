package preflight

import (
	"fmt"

	"redferry/replica"
)

// Level is what a finding means for a migration.
type Level string

// The levels.
const (
	OK    Level = "ok"    // nothing to do
	Warn  Level = "warn"  // a run works, but something can go wrong, or could not be told
	Block Level = "block" // a run would stop, or never get through
)

// Finding is what one check came to. Its texts are for people, but ID and Level, which scripts may rely on.
type Finding struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	Title string `json:"title"`         // what was looked at
	Found string `json:"found"`         // what there is: a sentence without its full stop
	Why   string `json:"why,omitempty"` // why it matters; empty where all is well
	Fix   string `json:"fix,omitempty"` // the way out, a command where there is one; likewise
}

// verdict is a finding without what all findings of a check have in common.
type verdict struct {
	level           Level
	found, why, fix string
}

// good is a verdict of a check that found nothing wrong.
func good(format string, args ...any) verdict {
	return verdict{level: OK, found: fmt.Sprintf(format, args...)}
}

// untold is the verdict where a server does not say what a check needs.
func untold(what, why, fix string) verdict {
	return verdict{level: Warn, found: "cannot be told: " + what, why: why, fix: fix}
}

// stopped is the verdict about an error that a run would meet. One without a [replica.Stop] is waited out by a run, and may be over by then.
func stopped(err error, why string) verdict {
	v := verdict{level: Warn, found: err.Error(), why: why, fix: "wait until it is over, as a run does, and check again"}
	if stop := replica.AsStop(err); stop != nil {
		v = verdict{level: Block, found: stop.Error(), why: why, fix: stop.Hint}
	}
	return v
}

// Report is the outcome of all checks, in the order of the checks.
type Report struct {
	Findings []Finding
}

// IDs are the findings of this level.
func (r Report) IDs(l Level) (ids []string) {
	for _, f := range r.Findings {
		if f.Level == l {
			ids = append(ids, f.ID)
		}
	}
	return ids
}
