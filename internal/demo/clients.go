package main

import (
	"errors"
	"fmt"
	"time"

	"redferry/internal/redistest"
)

// clientPause is how long a client waits between two writes.
const clientPause = 5 * time.Millisecond

// judgeClients is nil when all that was acknowledged to the clients is in the target, whose counts are got, and when nothing was refused to them: or, after a cutover, everything
// from some moment on, with only a short time before it in which nobody answered.
func judgeClients(seen []redistest.Sight, got []int64, cutOver bool) error {
	var errs []error
	for i, s := range seen {
		wrong := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("client %d: "+format, append([]any{i}, args...)...))
		}
		switch stopped := s.Stopped(); {
		case s.Lost != nil:
			wrong("lost its connection: %w", s.Lost)
		case s.Acked == 0:
			wrong("no write was acknowledged")
		case got[i] != s.Acked:
			wrong("%d writes were acknowledged, and the target has %d", s.Acked, got[i])
		case !cutOver && !s.Refused.IsZero():
			wrong("was told %q", s.Said[0])
		case !cutOver:
		case s.Refused.IsZero():
			wrong("the source did not refuse its writes after the cutover")
		case s.Wrong() != "":
			wrong("was told %q", s.Wrong())
		case s.Late > 0:
			wrong("the source took %d writes after it had refused one", s.Late)
		case stopped > mostStopped:
			wrong("its writes were stopped for %v, and %v is the most", stopped, mostStopped)
		}
	}
	return errors.Join(errs...)
}

// mostStopped is how long a cutover of this much may stop writes, on a slow machine.
const mostStopped = 5 * time.Second

// sum tells of all clients: their acknowledged writes, and the longest that one was stopped for.
func sum(seen []redistest.Sight) (acked int64, stopped time.Duration) {
	for _, s := range seen {
		acked += s.Acked
		stopped = max(stopped, s.Stopped())
	}
	return acked, stopped
}
