// Command demo shows a migration on this machine, from its check to its cutover: it starts two throw-away servers, fills one, keeps writing to it, has bin/redferry carry
// it over, kills redferry on the way, holds up the target, cuts over under the writes, and compares both servers. `make demo` builds redferry and runs it.
//
// One goroutine tells the story; the writer and the clients beside it, and the goroutine that waits for Ctrl-C, are joined before main returns. Whatever was started is ended by
// then: servers and redferry by their pid, the temporary folder removed. The exit code is 0 only when both servers were equal, with all that was acknowledged, and the source
// refused writes after the cutover.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"redferry/internal/redistest"
)

func main() {
	var o options
	flag.StringVar(&o.binary, "redferry", "bin/redferry", "the redferry to show")
	flag.IntVar(&o.keys, "keys", 50_000, "keys in the source at the start, about")
	flag.IntVar(&o.rate, "rate", 5000, "commands a second that the writer sends")
	flag.BoolVar(&o.spoil, "spoil", false, "change a key of the target before the comparison, to see it noticed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run tells the story and returns the exit code.
func run(ctx context.Context, o options, out, errs io.Writer) int {
	if _, err := os.Stat(o.binary); err != nil {
		fmt.Fprintf(errs, "demo: %v; run `make demo`, which builds it\n", err)
		return 1
	}
	// A server's log is of no use to somebody who pressed Ctrl-C.
	log := writerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return len(p), nil
		}
		return errs.Write(p)
	})
	var verdict error
	err := redistest.Outside("redferry-demo", log, func(t redistest.TB) {
		d := &demo{TB: t, options: o, out: out, errs: errs}
		verdict = d.tell(ctx)
	})
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(out, "\nInterrupted. The servers are gone, the folder too.")
		return 130
	case err != nil:
		fmt.Fprintf(errs, "demo: %v\n", err)
		return 1
	case verdict != nil:
		fmt.Fprintf(out, "\nNOT AS IT SHOULD BE: %v\n", verdict)
		return 1
	}
	fmt.Fprintln(out, "\nBoth sides are equal: nothing was lost, and nothing was done twice.")
	return 0
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
