package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
	"redferry/replica/admin"
)

// patience is how long redferry may take for what should take a moment.
const patience = time.Minute

// migration is the name that redferry gives one that has no other.
const migration = "default"

// start runs redferry, and shows the command and what it says.
func (d *demo) start(args ...string) *redistest.Process {
	d.Helper()
	return d.startInto(d.out, args...)
}

// startInto is start for what is not all shown.
func (d *demo) startInto(out io.Writer, args ...string) *redistest.Process {
	d.Helper()
	fmt.Fprintf(d.out, "\n   $ redferry %s\n", strings.Join(args, " "))
	cmd := exec.Command(d.binary, args...)
	d.last = &page{w: out} // one for both, so that one goroutine writes to it
	cmd.Stdout, cmd.Stderr = d.last, d.last
	cmd.Env = append(environ(os.Environ()), "REDFERRY_DIR="+d.dir, "REDFERRY_LOG_FORMAT=console", "REDFERRY_LOG_INTERVAL=0") // also where this goes to a file: it is for people
	return redistest.StartProcess(d, cmd)
}

// environ is the environment without what somebody has set for another redferry.
func environ(of []string) (env []string) {
	for _, e := range of {
		if !strings.HasPrefix(e, "REDFERRY_") {
			env = append(env, e)
		}
	}
	return env
}

// run runs redferry until it ends by itself, which is to be with exit code 0.
func (d *demo) run(ctx context.Context, args ...string) {
	d.Helper()
	d.finish(ctx, d.start(args...))
}

// startRun starts the migration.
func (d *demo) startRun(more ...string) *redistest.Process {
	d.Helper()
	return d.start(append([]string{"run", "--source", d.source.URL(), "--target", d.target.URL()}, more...)...)
}

// check has redferry look at both servers, and shows what it has to remark.
func (d *demo) check(ctx context.Context) {
	d.Helper()
	var all bytes.Buffer
	d.finish(ctx, d.startInto(&all, "check", "--source", d.source.URL(), "--target", d.target.URL()))
	fmt.Fprint(d.out, remarks(all.String()))
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

// checkpoint is what the target knows of the migration.
func (d *demo) checkpoint() checkpoint.Record {
	d.Helper()
	reply := d.target.Do(d, "HGETALL", checkpoint.Key(migration))
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

// inSync tells whether the run says so.
func (d *demo) inSync(ctx context.Context) bool {
	d.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := admin.Dial(ctx, filepath.Join(d.dir, migration, "redferry.sock"))
	if errors.Is(err, admin.ErrNotRunning) { // not yet
		return false
	}
	if err != nil {
		d.Fatalf("ask redferry how it does: %v", err)
	}
	defer client.Close()
	r, err := client.Status(ctx)
	if err != nil {
		d.Fatalf("ask redferry how it does: %v", err)
	}
	return r.State == replica.InSync
}
