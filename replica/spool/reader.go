package spool

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
)

// Reader reads the snapshot or the stream from a place on. One goroutine reads and closes it; any may interrupt it.
type Reader struct {
	s    *Spool
	part *part

	open *segment // that file belongs to; nil before the first read
	file file

	// Under the spool's mu.
	pos         int64 // what the next Read begins with
	reach       int64 // how far the Read under way may come, or pos
	waiting     bool
	dropped     bool // what it reads is gone
	interrupted bool
	closed      bool
}

// ReadSnapshot reads the RDB from a byte that is there. The reader tells io.EOF at the RDB's end, once it is complete.
func (s *Spool) ReadSnapshot(from int64) (*Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rdb.segments) == 0 || from < s.rdb.first() || from > s.rdb.end() {
		return nil, fmt.Errorf("read the snapshot from byte %d: %w", from, ErrDropped)
	}
	return s.read(&s.rdb, from)
}

// ReadStream reads the stream's bytes behind an offset, which lies in [First, End].
func (s *Spool) ReadStream(from int64) (*Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Links == nil || from < s.stream.first() || from > s.stream.end() {
		return nil, fmt.Errorf("read the stream behind offset %d: %w", from, ErrDropped)
	}
	return s.read(&s.stream, from)
}

func (s *Spool) read(p *part, from int64) (*Reader, error) {
	if s.closed {
		return nil, ErrClosed
	}
	r := &Reader{s: s, part: p, pos: from, reach: from}
	s.readers = append(s.readers, r)
	return r, nil
}

// Read reads what is there, and waits when nothing is. Its errors for good: ErrDropped when the bytes are not there any more, because they were
// freed, cut back or dropped; ErrInterrupted; ErrClosed. Others are the file system's, and ErrUnreadable.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	g, n, err := r.next(len(p))
	if err != nil {
		return 0, err
	}
	if n, err = r.readAt(p[:n], g); err != nil {
		err = fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return r.took(n, err)
}

// next waits for bytes, and says in which segment they are, and how many.
func (r *Reader) next(most int) (*segment, int, error) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := r.ended(); err != nil {
			return nil, 0, err
		}
		if i := r.part.find(r.pos); i >= 0 && r.part.segments[i].end() > r.pos {
			g := r.part.segments[i]
			n := min(int64(most), g.end()-r.pos)
			r.reach = r.pos + n
			return g, int(n), nil
		}
		if r.part == &s.rdb && s.Snapshot.Complete {
			return nil, 0, io.EOF
		}
		r.waiting = true
		if s.blocked {
			s.changed.Broadcast() // Append need not wait for room that nobody will make
		}
		s.changed.Wait()
		r.waiting = false
	}
}

// ended is the reason why nothing more can be read. The caller holds mu.
func (r *Reader) ended() error {
	switch s := r.s; {
	case r.closed, s.closed:
		return ErrClosed
	case r.interrupted:
		return ErrInterrupted
	case r.dropped, len(r.part.segments) > 0 && r.pos < r.part.first():
		return ErrDropped
	case len(r.part.segments) == 0 && r.pos < s.Snapshot.Size: // the whole RDB was freed
		return ErrDropped
	}
	return nil
}

// readAt reads from the segment's file, which it opens when it is another than before.
func (r *Reader) readAt(p []byte, g *segment) (int, error) {
	if r.open != g {
		if err := r.closeFile(); err != nil {
			return 0, err
		}
		f, err := r.s.disk.open(g.name())
		if err != nil {
			return 0, err
		}
		r.open, r.file = g, f
	}
	n, err := r.file.ReadAt(p, headerSize+r.pos-g.first)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s is shorter than what was written to it: %w", g.name(), io.ErrUnexpectedEOF)
	}
	return 0, err
}

// took goes on to behind what was read, if that was still there.
func (r *Reader) took(n int, err error) (int, error) {
	s := r.s
	s.mu.Lock()
	if gone := r.ended(); gone != nil {
		n, err = 0, gone
	}
	r.pos += int64(n)
	r.reach = r.pos
	done := s.volatile && r.open != nil && r.pos == r.open.end()
	if s.volatile {
		s.pass(r.part, r.pos)
	}
	s.mu.Unlock()
	if done {
		err = errors.Join(err, s.free(0))
	}
	return n, err
}

// Interrupt ends a Read that waits, and all later ones, with ErrInterrupted. Any goroutine may call it.
func (r *Reader) Interrupt() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.interrupted = true
	r.s.changed.Broadcast()
}

// Close lets go of the file. What was not read stays.
func (r *Reader) Close() error {
	r.s.mu.Lock()
	r.closed = true
	r.s.readers = slices.DeleteFunc(r.s.readers, func(o *Reader) bool { return o == r })
	r.s.mu.Unlock()
	return r.closeFile()
}

func (r *Reader) closeFile() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.open, r.file = nil, nil
	return f.Close()
}

// dropReaders takes from the readers that it is about what they read.
func (s *Spool) dropReaders(about func(*Reader) bool) {
	for _, r := range s.readers {
		if about(r) {
			r.dropped = true
		}
	}
}

// find is the segment in which the byte behind pos is, or will be if it is the last; -1 when it is before all, or there is none.
func (p *part) find(pos int64) int {
	return sort.Search(len(p.segments), func(i int) bool { return p.segments[i].first > pos }) - 1
}
