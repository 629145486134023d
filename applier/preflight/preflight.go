package preflight

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"redferry/applier"
	"redferry/replica"
)

// Config is the migration that is checked, with those of a run's flags that change what is found.
type Config struct {
	Name           string
	Source, Target replica.Endpoint
	Dir            string // the state directory, of all migrations

	OnFullResync, OnNotEmpty applier.Choice
	Expiry                   applier.Expiry
	PSYNCCommand             string // the source's name for PSYNC; empty for the usual one
	RaiseLimits              bool
	Publish                  bool // forward PUBLISH
	Spool                    bool
	SpoolMax                 int64 // bytes; 0 for the default share of what is free

	RateSample time.Duration // how long the source's write rate is measured; 0 for the default
}

const (
	defaultRateSample = 1500 * time.Millisecond
	// patience is how long both ends together may take to answer.
	patience = 20 * time.Second
)

// facts are what was gathered, all that checks judge by.
type facts struct {
	Config
	source source
	target target
	home   home
}

// check is one thing to look at.
type check struct {
	id, title string
	needs     needs
	judge     func(f *facts) verdict
}

// needs are the ends without which a check has nothing to say.
type needs uint8

const (
	ofSource needs = 1 << iota
	ofTarget
	ofContents needs = 1<<iota | ofTarget // the target, and what it holds
	ofDataset  needs = 1<<iota | ofSource // the source, and all that it holds: it is loading no more
	nothing    needs = 0
	ofBoth           = ofSource | ofTarget
)

// checks are all of them, in the order in which they are shown. docs/operations.md has the same list.
func checks() []check {
	return slices.Concat(endChecks(), rightChecks(), dataChecks(), targetChecks(), sourceChecks(), planChecks())
}

// IDs are the names of all checks, in the order of a [Report].
func IDs() (ids []string) {
	for _, c := range checks() {
		ids = append(ids, c.id)
	}
	return ids
}

// Run gathers and judges, in some seconds. Its error says that ctx ended; whatever is wrong with the ends is a finding.
func Run(ctx context.Context, c Config) (Report, error) {
	if c.Expiry == "" {
		c.Expiry = applier.Shift
	}
	if c.RateSample <= 0 {
		c.RateSample = defaultRateSample
	}
	f := &facts{Config: c}
	inTime, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { f.source = gatherSource(inTime, c); return nil })
	g.Go(func() error { f.target = gatherTarget(inTime, c); return nil })
	f.home = gatherHome(c.Dir)
	_ = g.Wait() // neither has an error: what went wrong is among the facts
	defer f.target.close()
	f.target.ask(inTime, f)
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	return f.report(), nil
}

func (f *facts) report() Report {
	var there needs
	if f.source.err == nil {
		there |= ofSource
		if f.source.info["loading"] != "1" {
			there |= ofDataset
		}
	}
	if f.target.err == nil {
		there |= ofTarget
		if f.target.unsupported == nil {
			there |= ofContents
		}
	}
	var r Report
	for _, c := range checks() {
		if c.needs&there != c.needs {
			continue
		}
		v := c.judge(f)
		r.Findings = append(r.Findings, Finding{ID: c.id, Title: c.title, Level: v.level, Found: v.found, Why: v.why, Fix: v.fix})
	}
	return r
}
