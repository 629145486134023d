package replica

import (
	"errors"
	"fmt"
	"io"
)

// frame is the bytes of one command, or of the newline that may stand between two and is counted as a real replica does (protocol 1.4).
type frame struct {
	bytes []byte
	args  int  // 0 for the newline
	own   bool // in memory of its own; otherwise in the reader's buffer, until the next read
}

// frame reads the next one, where it lies in the reader's buffer if it fits.
func (s *Stream) frame() (frame, error) {
	p, err := s.more(0, false)
	if err != nil {
		return frame{}, err
	}
	if p[0] == '\n' {
		s.take(1)
		return frame{bytes: p[:1]}, nil
	}
	var f framer
	for n := 0; ; {
		k, done, reason := f.feed(p[n:])
		n += k
		switch {
		case reason != "":
			s.take(n)
			return frame{}, s.badByte(reason, p[:n], p[n:])
		case done:
			s.take(n)
			return frame{bytes: p[:n], args: int(f.args)}, nil
		case n == s.br.Size():
			s.take(n)
			return s.longFrame(&f, p)
		}
		if p, err = s.more(n, true); err != nil {
			return frame{}, err
		}
	}
}

// longFrame goes on with a command of which all of p, the whole buffer, is only the beginning.
func (s *Stream) longFrame(f *framer, p []byte) (frame, error) {
	b := append([]byte(nil), p...)
	for {
		p, err := s.more(0, true)
		if err != nil {
			return frame{}, err
		}
		n, done, reason := f.feed(p)
		b = append(grow(b, n, f.body), p[:n]...)
		s.take(n)
		if reason != "" {
			return frame{}, s.badByte(reason, b, p[n:])
		}
		if done {
			return frame{bytes: b, args: int(f.args), own: true}, nil
		}
	}
}

// more waits for a byte beyond the first n in the reader's buffer, and returns all that is in it. inside says that the bytes belong to a
// command that has begun.
func (s *Stream) more(n int, inside bool) ([]byte, error) {
	if _, err := s.br.Peek(n + 1); err != nil {
		switch {
		case !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("read the replication stream: %w", err)
		case inside || s.taken > 0:
			return nil, io.ErrUnexpectedEOF
		}
		return nil, io.EOF
	}
	return s.br.Peek(s.br.Buffered())
}

// take counts n bytes as read. They stay where they are until the next read.
func (s *Stream) take(n int) {
	s.taken += int64(n)
	_, _ = s.br.Discard(n) // they are in the buffer
}

// badByte is the error of a byte that cannot stand where it does: the first of behind. All of before has been taken.
func (s *Stream) badByte(reason string, before, behind []byte) error {
	before = before[max(0, len(before)-nearBefore):]
	return &ProtocolError{Offset: s.at.Offset + s.taken - int64(len(before)) + 1, Near: near(before, behind), Reason: reason}
}

const (
	nearBefore = 32
	nearMax    = 64
)

// near copies what an error message shows of a place: the bytes before it and the first ones behind it.
func near(before, behind []byte) []byte {
	behind = behind[:min(len(behind), nearMax-len(before))]
	return append(append(make([]byte, 0, nearMax), before...), behind...)
}

// grow makes room in b for n more bytes. It doubles, until an eighth of a long argument is there: then it makes room for the rest of
// it too, so that a value of 600 MB is not copied at the very end, and a false length never costs more than eight times what arrived.
func grow(b []byte, n int, rest int64) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	have := len(b) + n
	size := 2 * have
	if whole := int64(have) + rest + 2; whole > int64(size) && whole <= 8*int64(have) {
		size = int(whole)
	}
	return append(make([]byte, 0, size), b...)
}

// maxChunk bounds what an arena allocates in advance, in elements.
const maxChunk = 1 << 18

// arena hands out memory in pieces that never move, and takes it back all at once.
type arena[T any] struct{ free, all []T }

// take returns an empty slice with room for n.
func (a *arena[T]) take(n int) []T {
	if cap(a.free) < n {
		a.all = make([]T, 0, max(n, min(2*cap(a.all), maxChunk), 64))
		a.free = a.all
	}
	piece := a.free[:0:n]
	a.free = a.free[n:n:cap(a.free)]
	return piece
}

// reset takes back all pieces. Of the memory, the newest chunk is kept.
func (a *arena[T]) reset() { a.free = a.all }
