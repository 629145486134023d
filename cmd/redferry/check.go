package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"redferry/applier"
	"redferry/applier/preflight"
	"redferry/replica"
)

// planFlags are those of run that change what check finds.
type planFlags struct {
	OnFullResync      string `enum:"refuse,flush,merge" default:"refuse" help:"When a full resync is needed and the target holds data of this migration: stop with exit code 3, empty the target first, or load over what is there (${enum})."`
	OnTargetNotEmpty  string `enum:"refuse,flush,merge" default:"refuse" help:"When the target holds anything at the first start (${enum})."`
	Expiry            string `enum:"shift,import" default:"shift" help:"How to keep the target from expiring keys before the source does: write expiries far in the future and bring them back at the end, or Valkey's import mode, for a target of Valkey 8.1 or later that does not restart meanwhile (${enum})."`
	Publish           bool   `default:"true" negatable:"" help:"Forward PUBLISH and SPUBLISH."`
	PsyncCommand      string `placeholder:"NAME" help:"The source's name for PSYNC, if it was renamed."`
	RaiseSourceLimits bool   `help:"Lift the source's client-output-buffer-limit for replicas while it sends a snapshot, and put it back."`
}

type checkCmd struct {
	Source    string   `required:"" placeholder:"URL" help:"The server to replicate from, as for run."`
	SourceTLS tlsFlags `embed:"" prefix:"source-tls-" group:"TLS to the source:"`
	targetFlags
	homeFlags
	planFlags
	spoolFlags
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Run prints what would stop a migration, or harm the source. It is a Stop of kind Decide when anything blocks one.
func (c *checkCmd) Run(ctx context.Context, s *streams) error {
	plan, err := c.plan()
	if err != nil {
		return err
	}
	report, err := preflight.Run(ctx, plan)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(s.out, checkOf(&plan, report))
	} else {
		err = printReport(s.out, report)
	}
	if blocks := report.IDs(preflight.Block); err == nil && len(blocks) > 0 {
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("a run would not get through: %s", strings.Join(blocks, ", ")),
			Hint: "mend what blocks as it is said there, and check again",
		}
	}
	return err
}

// plan reads the flags.
func (c *checkCmd) plan() (preflight.Config, error) {
	p := preflight.Config{
		Name: c.Name, OnFullResync: applier.Choice(c.OnFullResync), OnNotEmpty: applier.Choice(c.OnTargetNotEmpty), Expiry: applier.Expiry(c.Expiry),
		PSYNCCommand: c.PsyncCommand, RaiseLimits: c.RaiseSourceLimits, Publish: c.Publish, Spool: c.Spool == "on", SpoolMax: int64(c.SpoolMax),
	}
	var err error
	if p.Source, err = endpoint("source", c.Source, c.SourceTLS); err != nil {
		return p, err
	}
	if p.Target, err = endpoint("target", c.Target, c.TargetTLS); err != nil {
		return p, err
	}
	if err = c.check(); err != nil {
		return p, err
	}
	p.Dir, err = c.root()
	return p, err
}

// printReport prints a line for each finding, and below those that are not ok why it matters and what to do.
func printReport(w io.Writer, report preflight.Report) error {
	var b strings.Builder
	for _, f := range report.Findings {
		fmt.Fprintf(&b, "%-6s %-16s %s\n", f.Level, f.ID, f.Found)
		for _, more := range []struct{ name, text string }{{"why", f.Why}, {"try", f.Fix}} {
			if more.text != "" {
				fmt.Fprintf(&b, "%24s%s: %s\n", "", more.name, strings.ReplaceAll(more.text, "\n", "\n"+strings.Repeat(" ", 29)))
			}
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d warn, %d block\n", len(report.IDs(preflight.OK)), len(report.IDs(preflight.Warn)), len(report.IDs(preflight.Block)))
	_, err := io.WriteString(w, redact(b.String()))
	return err
}

// checkJSON is what check --json prints; people script against it.
type checkJSON struct {
	Name     string              `json:"name"`
	Source   string              `json:"source"`
	Target   string              `json:"target"`
	OK       int                 `json:"ok"`
	Warn     int                 `json:"warn"`
	Block    int                 `json:"block"`
	Findings []preflight.Finding `json:"findings"`
}

func checkOf(c *preflight.Config, r preflight.Report) checkJSON {
	return checkJSON{
		Name: c.Name, Source: c.Source.String(), Target: c.Target.String(),
		OK: len(r.IDs(preflight.OK)), Warn: len(r.IDs(preflight.Warn)), Block: len(r.IDs(preflight.Block)), Findings: r.Findings,
	}
}
