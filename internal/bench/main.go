// Command bench measures redferry against native replication, REPLICAOF, on this machine: the snapshot of a large keyspace, the time
// until a loaded stream is caught up, how fast an RDB is received while the target stands still, what a snapshot costs the source while the target is
// slow, and what memory something large takes. `make bench` builds redferry and runs it; docs/benchmarks.md has its figures and says what they mean.
//
// All contenders meet the same source, and targets of the same build and configuration, each a fresh process; rounds are interleaved, and
// the medians count. After every measurement the target is compared with the source by DEBUG DIGEST. All runs on one goroutine, but for the load and the
// proxy of the last measurement, which redistest ends, and for who watches; every process that it starts has ended before main returns.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"redferry/internal/redistest"
)

// options are the command line's; each has an environment twin.
type options struct {
	Keys     int      `default:"2000000" env:"KEYS" help:"Keys in the snapshot."`
	Commands int      `default:"2000000" env:"COMMANDS" help:"Commands in the stream."`
	Rounds   int      `default:"3" env:"ROUNDS" help:"Rounds of each measurement."`
	Server   string   `env:"SERVER" help:"The server build, as servers.sh names it: redis-7.0, valkey-9. Default: the newest Redis."`
	Large    int      `default:"300000000" env:"LARGE" help:"Bytes of a large value or transaction."`
	Only     []string `enum:"snapshot,stream,receive,source,large" default:"snapshot,stream,receive,source,large" env:"ONLY" help:"What to measure (${enum})."`
	Watched  bool     `env:"WATCHED" help:"Measure snapshot and stream of a redferry that is scraped, and asked for its status, each second, in the place of one without spool."`
	Redferry string   `default:"bin/redferry" help:"The redferry to measure. REDFERRY_… variables reach it."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("bench"), kong.Description("Measures redferry against native replication on this machine."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run measures and prints, and returns the exit code.
func run(ctx context.Context, o options, out, errs io.Writer) int {
	err := redistest.Outside("redferry-bench", io.Discard, func(t redistest.TB) {
		b := &bench{TB: t, options: o, interrupted: ctx.Done(), errs: errs}
		b.build = redistest.Latest(t)
		if o.Server != "" {
			b.build = redistest.ServerNamed(t, o.Server)
		}
		fmt.Fprintln(out, machine(b.build, o.Redferry))
		if slices.Contains(o.Only, "snapshot") {
			b.snapshot().print(out)
		}
		if slices.Contains(o.Only, "stream") {
			b.stream().print(out)
		}
		if slices.Contains(o.Only, "receive") {
			b.receive().print(out)
		}
		if slices.Contains(o.Only, "source") {
			b.burden().print(out)
		}
		if slices.Contains(o.Only, "large") {
			b.large().print(out)
		}
	})
	if err != nil {
		fmt.Fprintf(errs, "bench: %v\n", err)
		return 1
	}
	return 0
}
