// Command redferry moves a live Redis or Valkey keyspace into another server: it replicates from a source as a fake replica and applies
// what it hears to a target, exactly once.
//
// This package is the command line: one file per subcommand, wiring, signals and exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"redferry/replica"
)

// The exit codes; people script against them.
const (
	exitDone    = 0 // done, or stopped cleanly
	exitFailed  = 1 // failed; run the same command again
	exitUsage   = 2 // usage or configuration
	exitDecide  = 3 // the operator must decide
	exitRefused = 4 // the target refused a write
	exitOwned   = 5 // another process owns this migration
)

type cli struct {
	Config kong.ConfigFlag `placeholder:"FILE.yaml" help:"Read flags from this file, too: one key per flag, by its long name. Flags and REDFERRY_… variables come first."`

	Run     runCmd     `cmd:"" help:"Replicate from the source into the target: the snapshot, then the stream. The same command goes on after any crash."`
	Status  statusCmd  `cmd:"" help:"Show how far a migration is, from the checkpoint in its target."`
	Reset   resetCmd   `cmd:"" help:"Remove a migration's own keys from the target, and what this machine knows of it. Data stays."`
	Inspect inspectCmd `cmd:"" help:"Show what is in an RDB file, or in a target's checkpoint."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	hideSecrets()
	os.Exit(start(os.Args[1:], os.Stdout, os.Stderr))
}

// start runs the command line and returns the exit code.
func start(args []string, stdout, stderr io.Writer) (code int) {
	ctx, stop := signalContext()
	defer stop()
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("redferry"),
		kong.Description("Moves a Redis or Valkey keyspace while it is in use, as a fake replica of the source, exactly once.\n\nExit codes: 0 done or stopped cleanly, 1 failed (run the same command again), 2 usage or configuration, 3 the operator must decide, 4 the target refused a write, 5 another process owns this migration."),
		kong.Writers(stdout, stderr),
		kong.DefaultEnvars("REDFERRY"),
		kong.Configuration(loadConfig),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Exit(func(code int) { exited = code; panic(exitPanic{}) }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&streams{out: stdout, err: stderr}),
	)
	if err != nil {
		return report(stderr, err)
	}
	defer func() { // kong exits after --help by calling Exit and relying on it not to return
		if r := recover(); r != nil {
			if _, ok := r.(exitPanic); !ok {
				panic(r)
			}
			code = exited
		}
	}()
	k, err := parser.Parse(args)
	if err != nil {
		return report(stderr, &replica.Stop{Kind: replica.Config, Reason: "usage", Err: err, Hint: "redferry --help, redferry run --help"})
	}
	return report(stderr, k.Run())
}

type exitPanic struct{}

// streams are where a command prints.
type streams struct{ out, err io.Writer }

// report prints an error as one sentence and a way out, and gives its exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	if errors.Is(err, replica.ErrCompleted) {
		fmt.Fprintln(w, "redferry:", err)
		return exitDone
	}
	fmt.Fprintln(w, "redferry:", err)
	stop := replica.AsStop(err)
	if stop == nil {
		return exitFailed
	}
	if stop.Hint != "" {
		fmt.Fprintln(w, "  try:", stop.Hint)
	}
	switch stop.Kind {
	case replica.Config:
		return exitUsage
	case replica.Decide:
		return exitDecide
	case replica.Refused:
		return exitRefused
	case replica.Fenced:
		return exitOwned
	}
	return exitFailed
}

// signalContext ends at the first SIGTERM or Ctrl-C; a second one ends the process at once.
func signalContext() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-c:
			cancel()
		case <-done:
			return
		}
		select {
		case <-c:
			os.Exit(exitFailed) // nothing is lost: the target's checkpoint says how far it is
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(c)
		close(done)
		cancel()
	}
}
