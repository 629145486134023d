package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"redferry/replica/events"
)

// hookLimit is how long a hook may take; what it has started is killed then, too.
const hookLimit = 10 * time.Second

// hookVariables are what a hook finds in its environment, beside what redferry itself was given, its passwords and other flags left out.
func hookVariables() []string {
	return []string{envPrefix + "STATE", envPrefix + "WHY", envPrefix + "SINCE", envPrefix + "NAME", envPrefix + "DIR"}
}

// hook runs the operator's command for changes of state, one at a time. A change that comes while it runs waits; of several, the last one does.
type hook struct {
	command   string
	name, dir string
	log       zerolog.Logger
	limit     time.Duration

	pending chan events.Event // of one
	done    chan struct{}
}

// newHook begins one; end ends it.
func newHook(command, name, root string, log zerolog.Logger) *hook {
	h := &hook{command: command, name: name, dir: root, log: log, limit: hookLimit, pending: make(chan events.Event, 1), done: make(chan struct{})}
	go func() {
		defer close(h.done)
		for e := range h.pending {
			h.run(e)
		}
	}()
	return h
}

// tell has the hook run for a change of state. One goroutine at a time calls it.
func (h *hook) tell(e events.Event) {
	for {
		select {
		case h.pending <- e:
			return
		default:
		}
		select {
		case <-h.pending: // an older one
		default:
		}
	}
}

// end waits until the hook has run for the last change.
func (h *hook) end() {
	close(h.pending)
	<-h.done
}

func (h *hook) run(e events.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), h.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", h.command)
	cmd.Env = append(withoutFlags(os.Environ()),
		envPrefix+"STATE="+e.State, envPrefix+"WHY="+e.Why, envPrefix+"SINCE="+e.Time.UTC().Format(time.RFC3339), envPrefix+"NAME="+h.name, envPrefix+"DIR="+h.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C is not the hook's, and that all of it can be killed
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var said firstBytes
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		h.log.Warn().Err(err).Str("for", e.State).Str("said", redact(strings.TrimSpace(said.String()))).Msg("the hook of --on-state failed")
	}
}

// withoutFlags leaves our own variables out of an environment: some hold passwords.
func withoutFlags(environ []string) []string {
	return slices.DeleteFunc(environ, func(v string) bool { return strings.HasPrefix(v, envPrefix) })
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct{ bytes.Buffer }

func (b *firstBytes) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, 500-b.Len()))])
	return len(p), nil
}
