// Command redferry moves a Redis or Valkey keyspace while it is in use: as a fake replica of the source, exactly once.
//
// This package is the command line and nothing else: one file for each subcommand, and the flags, configuration, signals, screen and exit
// codes around them. What is worth knowing of a migration is in packages replica and applier.
//
// Goroutines: one hears signals for as long as a command runs, and a run has one more that shows its progress; both are waited for. Invariants:
// a password never reaches stdout, stderr or the process list; report alone turns an error into words and an exit code; os.Exit is called in
// main and for a second signal, nowhere else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"redferry/replica"
)

// The exit codes; people script against them.
const (
	exitDone    = 0 // done, or stopped cleanly
	exitFailed  = 1 // failed; run the same command again
	exitUsage   = 2 // usage or configuration
	exitDecide  = 3 // the operator must decide
	exitRefused = 4 // the target refused a write, or verify found differences
	exitOwned   = 5 // another process owns this migration
)

const description = `Moves a Redis or Valkey keyspace while it is in use, as a fake replica of the source, exactly once.

Every flag can also be given as a variable, as REDFERRY_ON_ERROR for --on-error, or in the file of --config. A flag wins over a variable, and a variable over the file.

Exit codes: 0 done or stopped cleanly, 1 failed (run the same command again), 2 usage or configuration, 3 the operator must decide, 4 the target refused a write, or verify found differences, 5 another process owns this migration.`

type cli struct {
	Config configFlag `placeholder:"FILE.yaml" help:"Read flags from this file, too: one key per flag, by its long name."`

	Run     runCmd     `cmd:"" help:"Replicate from the source into the target: the snapshot, then the stream. The same command goes on after any crash."`
	Check   checkCmd   `cmd:"" help:"Find out, changing nothing, what would stop a migration or harm the source, and how to mend it."`
	Status  statusCmd  `cmd:"" help:"Show how a migration does: of one that runs here, from the run itself; of any other, from the checkpoint in its target."`
	Pause   pauseCmd   `cmd:"" help:"Stop a run from writing to its target, while it goes on receiving into its spool."`
	Resume  resumeCmd  `cmd:"" help:"Have a paused run go on."`
	Events  eventsCmd  `cmd:"" help:"Show a migration's changes of state, with their reasons; also when it does not run."`
	Verify  verifyCmd  `cmd:"" help:"Compare a source with a target, both ways, while they are in use; exit code 4 where they differ."`
	Cutover cutoverCmd `cmd:"" help:"End a migration while the source is in use: stop its writes, wait until the target has all of them, and make the target the one to write to."`
	Reset   resetCmd   `cmd:"" help:"Settle a migration's target, and remove its own keys there and what this machine knows of it. Data stays."`
	Inspect inspectCmd `cmd:"" help:"Show what is in an RDB file, or in a target's checkpoint."`
	Version versionCmd `cmd:"" help:"Print the version."`
	Help    helpCmd    `cmd:"" help:"Show help, of a command or of all."`
}

func main() {
	if err := hideSecrets(); err != nil {
		fmt.Fprintln(os.Stderr, "redferry: warning: a password stays visible in the process list:", err)
	}
	os.Exit(start(os.Args[1:], os.Stdout, os.Stderr))
}

// streams are where a command prints, and what it has to say before it begins.
type streams struct {
	out, err io.Writer
	warnings []string
	json     *zerolog.Logger // the log, where it is the only thing on err: of a run that is not watched on a terminal
}

func (s *streams) warn(format string, args ...any) {
	s.warnings = append(s.warnings, redact(fmt.Sprintf(format, args...)))
}

// start runs the command line and returns the exit code.
func start(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signalContext()
	defer stop()
	s := &streams{out: stdout, err: stderr}
	parser, err := newParser(ctx, &cli{}, s)
	if err != nil {
		return report(s, err)
	}
	if len(args) == 0 { // a script whose variable was empty should notice
		parser.Stdout = stderr
		_, _ = parser.Parse([]string{"--help"})
		return exitUsage
	}
	k, err := parser.Parse(args)
	if errors.Is(err, errHelpShown) {
		return exitDone
	}
	// A misspelt variable explains most errors of parsing, so it comes first.
	if err := checkEnvironment(parser.Model, os.Environ(), s); err != nil {
		return report(s, err)
	}
	if err != nil {
		return report(s, usage(err))
	}
	if k.Selected().Name != "run" { // which logs them
		for _, w := range s.warnings {
			fmt.Fprintln(stderr, "redferry: warning:", w)
		}
	}
	err = k.Run()
	if errors.Is(err, errHelpShown) {
		return exitDone
	}
	return report(s, err)
}

func newParser(ctx context.Context, c *cli, s *streams) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("redferry"),
		kong.Description(description),
		kong.Writers(s.out, s.err),
		kong.DefaultEnvars("REDFERRY"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.Help(showHelp),
		kong.ValueFormatter(func(v *kong.Value) string { return v.Help }), // without each flag's variable: the description gives the rule
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
	)
}

// usage makes the Stop of a command line that cannot be understood.
func usage(err error) error {
	if replica.AsStop(err) != nil {
		return err
	}
	hint := "redferry --help"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			hint = "redferry " + node.Name + " --help"
		}
	}
	return &replica.Stop{Kind: replica.Config, Reason: err.Error(), Hint: hint}
}

// report prints an error as one sentence and a way out, and gives its exit code. Where a log of JSON is all that stderr has, the error is a
// line of it.
func report(s *streams, err error) int {
	code, hint := verdict(err)
	if err == nil {
		return code
	}
	text := redact(err.Error())
	switch {
	case s.json != nil && code == exitDone:
		s.json.Info().Int("exit_code", code).Msg(text)
	case s.json != nil:
		e := s.json.Error().Int("exit_code", code)
		if hint != "" {
			e.Str("hint", hint)
		}
		e.Msg(text)
	default:
		fmt.Fprintln(s.err, "redferry:", text)
		if hint != "" {
			fmt.Fprintln(s.err, "  try:", strings.ReplaceAll(hint, "\n", "\n       "))
		}
	}
	return code
}

// verdict is an error's exit code, and the way out where there is one.
func verdict(err error) (code int, hint string) {
	if err == nil || errors.Is(err, replica.ErrCompleted) {
		return exitDone, ""
	}
	stop := replica.AsStop(err)
	if stop == nil {
		return exitFailed, ""
	}
	switch stop.Kind {
	case replica.Config:
		return exitUsage, stop.Hint
	case replica.Decide:
		return exitDecide, stop.Hint
	case replica.Refused:
		return exitRefused, stop.Hint
	case replica.Fenced:
		return exitOwned, stop.Hint
	}
	return exitFailed, stop.Hint
}
