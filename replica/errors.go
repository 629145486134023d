package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// Kind says what an operator has to do about an error that ends a run. The command line turns it into the exit code.
type Kind int

// The kinds of a [Stop], in the order of the exit codes 1 to 5.
const (
	Failed  Kind = iota + 1 // failed; run the same command again
	Config                  // usage or configuration: the same command cannot succeed
	Decide                  // the operator must decide: going on could lose or overwrite something
	Refused                 // the target refused a write
	Fenced                  // another process owns this migration
)

// Stop is an error that ends the run, in contrast to all others, which are waited out and tried again.
type Stop struct {
	Kind   Kind
	Reason string // what happened, naming the thing; a sentence without its full stop
	Hint   string // the way out: a command or a flag; may be empty
	Err    error  // the cause, if there is one
}

func (s *Stop) Error() string {
	if s.Err == nil {
		return s.Reason
	}
	return s.Reason + ": " + s.Err.Error()
}

// Unwrap gives the cause.
func (s *Stop) Unwrap() error { return s.Err }

// AsStop finds the Stop in an error's chain, or nil: an error without one is transient.
func AsStop(err error) *Stop {
	var s *Stop
	if errors.As(err, &s) {
		return s
	}
	return nil
}

// ErrCompleted says that a cutover has completed the migration: there is nothing to do, and nothing wrong.
var ErrCompleted = errors.New("this migration is completed")

// ErrDamaged says that what the RDB yields is not what a source sends, or nothing that this program can read: the cached copy must not be used again.
var ErrDamaged = errors.New("the RDB cannot be used")

// ProtocolError says that the source sent what no Redis or Valkey sends at this place. Offset is the replication offset of the first byte
// of Near, or -1 before the stream; Near holds at most 64 bytes.
type ProtocolError struct {
	Offset int64
	Near   []byte
	Reason string
}

func (e *ProtocolError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("protocol error: %s: %q", e.Reason, e.Near)
	}
	return fmt.Sprintf("protocol error at offset %d: %s: %q", e.Offset, e.Reason, e.Near)
}

// causeOf is why a context has ended, when that is why an error came.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// ClosedByPeer reports whether a connection ended because the other side closed it, rather than by silence or by a fault here.
func ClosedByPeer(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}
