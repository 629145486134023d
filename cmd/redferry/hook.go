package main

import (
	"context"
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
	said, err := shell(ctx, h.command, "STATE="+e.State, "WHY="+e.Why, "SINCE="+e.Time.UTC().Format(time.RFC3339), "NAME="+h.name, "DIR="+h.dir)
	if err != nil {
		h.log.Warn().Err(err).Str("for", e.State).Str("said", said).Msg("the hook of --on-state failed")
	}
}
