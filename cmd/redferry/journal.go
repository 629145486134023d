package main

import (
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier"
	"redferry/replica"
	"redferry/replica/events"
)

// eventsFile is where a migration's changes of state are kept.
func eventsFile(dir string) string { return filepath.Join(dir, "events.jsonl") }

// The states that only the end of a run has.
const (
	stateStopped replica.State = "stopped"
	stateFailed  replica.State = "failed"
)

// journal keeps the changes of state in the migration's directory, and tells the operator's hook of each. It does so in a goroutine of its own, between newJournal and end: a
// disk or a hook that hangs holds up nothing.
type journal struct {
	log    zerolog.Logger
	queue  chan events.Event
	missed atomic.Int64 // changes that came while the queue was full
	hook   *hook        // nil without one
	done   chan struct{}
}

// newJournal begins one. A file that cannot be written is a warning: it is for eyes, and the run does without.
func newJournal(home *applier.Home, h *hook, log zerolog.Logger) *journal {
	j := &journal{log: log, queue: make(chan events.Event, 256), hook: h, done: make(chan struct{})}
	file, err := events.Open(eventsFile(home.Dir()))
	if err != nil {
		log.Warn().Err(err).Msg("changes of state are not kept")
	}
	go func() {
		defer close(j.done)
		j.keep(file)
	}()
	return j
}

// observe takes a change of state. It never blocks.
func (j *journal) observe(state replica.State, why string) {
	e := events.Event{Time: time.Now(), State: string(state), Why: redact(why)}
	select {
	case j.queue <- e:
	default:
		j.missed.Add(1)
	}
	if j.hook != nil {
		j.hook.tell(e)
	}
}

// keep writes what is observed, to file where there is one, until the queue is closed.
func (j *journal) keep(file *events.Log) {
	failed := false
	for e := range j.queue {
		if file == nil {
			continue
		}
		err := file.Append(e)
		if err != nil && !failed { // once: a full disk would fill the log, too
			j.log.Warn().Err(err).Msg("a change of state is not kept")
		}
		failed = err != nil
	}
	if n := j.missed.Load(); n > 0 {
		j.log.Warn().Int64("changes", n).Msg("some changes of state came faster than they could be kept")
	}
	if file != nil {
		if err := file.Close(); err != nil {
			j.log.Warn().Err(err).Msg("close the file of events")
		}
	}
}

// end keeps how the run ended, and waits until that is written and the hook has heard of it. Nothing is observed any more.
func (j *journal) end(err error, why string) {
	state := stateStopped
	if code, _ := verdict(err); code != exitDone {
		state = stateFailed
	}
	if err != nil {
		why = err.Error()
	}
	j.observe(state, why)
	close(j.queue)
	<-j.done
	if j.hook != nil {
		j.hook.end()
	}
}
