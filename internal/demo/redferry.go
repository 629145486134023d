package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
)

// patience is how long redferry may take for what should take a moment.
const patience = time.Minute

// start runs redferry from the source to the target, on this terminal.
func (d *demo) start(more ...string) *redistest.Process {
	d.Helper()
	args := append([]string{"run", "--source", d.source.URL(), "--target", d.target.URL(), "--dir", d.dir}, more...)
	fmt.Fprintf(d.out, "\n   $ %s %s\n", d.binary, strings.Join(args, " "))
	cmd := exec.Command(d.binary, args...)
	cmd.Stdout, cmd.Stderr = d.out, d.errs
	cmd.Env = append(os.Environ(), "REDFERRY_LOG_FORMAT=console") // also where this goes to a file: it is for people
	return redistest.StartProcess(d, cmd)
}

// end stops redferry as an operator does.
func (d *demo) end(p *redistest.Process) {
	d.Helper()
	p.Signal(syscall.SIGTERM)
	d.wants(p)
}

// finish waits until redferry has ended by itself.
func (d *demo) finish(ctx context.Context, p *redistest.Process) {
	d.Helper()
	select {
	case <-p.Exited():
	case <-ctx.Done():
	case <-time.After(patience):
	}
	d.alive(ctx)
	d.wants(p)
}

// wants ends the demo unless redferry ends in time, with exit code 0.
func (d *demo) wants(p *redistest.Process) {
	d.Helper()
	code, err := p.ExitCode(patience)
	if err != nil {
		d.Fatalf("%v", err)
	}
	if code != 0 {
		d.Fatalf("redferry ended with exit code %d", code)
	}
}

// until waits for cond, and ends the demo when redferry ends first or the time is over.
func (d *demo) until(ctx context.Context, p *redistest.Process, within time.Duration, what string, cond func() bool) {
	d.Helper()
	for deadline := time.Now().Add(within); !cond(); d.pass(ctx, p, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			d.Fatalf("redferry did not %s within %v", what, within)
		}
	}
}

// pass lets time go by, while redferry, if it is given, must not end.
func (d *demo) pass(ctx context.Context, p *redistest.Process, how time.Duration) {
	d.Helper()
	var ended <-chan struct{}
	if p != nil {
		ended = p.Exited()
	}
	timer := time.NewTimer(how)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-ended:
		d.alive(ctx) // Ctrl-C at a terminal ends redferry, too
		d.Fatalf("redferry ended before it was told to")
	}
	d.alive(ctx)
}

// alive ends the demo when it was interrupted.
func (d *demo) alive(ctx context.Context) {
	d.Helper()
	if ctx.Err() != nil {
		d.Fatalf("interrupted")
	}
}

// checkpoint is what the target knows of the migration; zero before there is one.
func (d *demo) checkpoint() checkpoint.Record {
	d.Helper()
	reply := d.target.Do(d, "HGETALL", checkpoint.Key("default"))
	fields, err := reply.AsStrMap()
	if err != nil {
		d.Fatalf("read the checkpoint: %v", err)
	}
	rec, _, err := checkpoint.Parse(fields)
	if err != nil {
		d.Fatalf("read the checkpoint: %v", err)
	}
	return rec
}

func (d *demo) inStream() bool { return d.checkpoint().Phase == checkpoint.PhaseStream }
