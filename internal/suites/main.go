// Command suites runs the servers' own test suites, the TCL of their source packages, against a source that redferry follows, and compares after each test. `make suites` fetches the
// suites (outside of the tree), builds redferry and runs it.
//
// For each file of a suite it starts a source, a native replica of it as the control, a target, and bin/redferry between source and target. The file runs in the suite's external mode
// (--host, --port); redferry is killed with SIGKILL at random moments meanwhile. After each test the suite waits, by a hook in a copy of it, until control and target have all that the source
// has written, and until they were compared with it. What the control lacks, too, is the server's own gap.
//
// It is a program and not a test: it runs for as long as it is told to, begins elsewhere with each seed, and its result is a table. `go test` has only the parts of it that are quick.
//
// Files run one after the other, on one goroutine; beside it one takes what the hook says, and ends with its file. The exit code is 1 where redferry differs from the source and the control does not,
// where redferry ended by itself, and where the target refused a write.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"redferry/internal/redistest"
)

// options are the command line's; each has an environment twin.
type options struct {
	Time     time.Duration `default:"5m" env:"SUITETIME" help:"For how long to begin further files, all servers together."`
	Seed     uint64        `env:"SEED" help:"Draws the order of the files and the moments of the kills. Default: another one each time."`
	Server   []string      `env:"SERVER" help:"The builds whose suites to run, as servers.sh names them: redis-7.0, valkey-9. Default: all."`
	Target   string        `env:"TARGET" help:"The build of the target. Default: the source's own."`
	Files    []string      `env:"FILES" help:"Only these files, as unit/type/string, in this order."`
	Kill     time.Duration `default:"2s" env:"KILL" help:"How long redferry lives on average before it is killed; 0 for ever."`
	Verbose  bool          `env:"VERBOSE" help:"Name the tests that failed in the suite, and show what redferry logged."`
	Redferry string        `default:"bin/redferry" help:"The redferry to test."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("suites"), kong.Description("Runs the servers' own test suites against a source that redferry follows."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs files until the time is over, prints the table, and returns the exit code.
func run(ctx context.Context, o options, out, errs io.Writer) int {
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1 << 32)
	}
	fmt.Fprintf(out, "SEED=%d\n", o.Seed)
	plans, err := makePlans(o)
	if err != nil {
		fmt.Fprintf(errs, "suites: %v\n", err)
		return 1
	}
	began := time.Now()
	var all []result
	for i, p := range plans {
		share := (o.Time - time.Since(began)) / time.Duration(len(plans)-i) // what one server does not use is the others'
		all = append(all, p.run(ctx, o, time.Now().Add(share), out)...)
	}
	printTable(out, all)
	if ctx.Err() != nil {
		return 130
	}
	return verdict(out, all)
}

// plan is the files of one build's suite.
type plan struct {
	build, target redistest.Build
	suite         suite
	files         []string
	random        *rand.Rand
}

// makePlans finds the builds and their suites, and draws the files' order.
func makePlans(o options) (plans []plan, err error) {
	failed := redistest.Outside("suites", io.Discard, func(t redistest.TB) {
		builds := redistest.Servers(t)
		if len(o.Server) > 0 {
			builds = nil
			for _, name := range o.Server {
				builds = append(builds, redistest.ServerNamed(t, name))
			}
		}
		for _, b := range builds {
			p := plan{build: b, target: b, random: rand.New(rand.NewPCG(o.Seed, 0))}
			if o.Target != "" {
				p.target = redistest.ServerNamed(t, o.Target)
			}
			if p.suite, err = findSuite(b.Name); err != nil {
				return
			}
			if p.files = o.Files; len(p.files) == 0 {
				if p.files, err = p.suite.files(); err != nil {
					return
				}
				p.random.Shuffle(len(p.files), func(i, j int) { p.files[i], p.files[j] = p.files[j], p.files[i] })
			}
			plans = append(plans, p)
		}
	})
	return plans, errors.Join(failed, err)
}

// run runs files one after the other until the deadline.
func (p *plan) run(ctx context.Context, o options, deadline time.Time, out io.Writer) []result {
	fmt.Fprintf(out, "\n%s %s, target %s %s\n", p.build.Name, p.build.Version, p.target.Name, p.target.Version)
	var results []result
	for _, file := range p.files {
		if ctx.Err() != nil || time.Now().After(deadline) {
			results = append(results, result{server: p.build.Name, file: file, skipped: tooLate})
			continue
		}
		r := result{server: p.build.Name, file: file, skipped: p.suite.leftOut(file)}
		if r.skipped == "" {
			f := &fileRun{plan: p, options: o, result: &r, out: out, deadline: deadline.Add(grace)}
			r.fault = redistest.Outside("redferry-suites", io.Discard, func(t redistest.TB) { f.run(ctx, t) })
			fmt.Fprintf(out, "  %v\n", r.line())
			if o.Verbose {
				f.tell()
			}
		}
		results = append(results, r)
	}
	return results
}
