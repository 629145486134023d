package spool

import (
	"context"
	"time"
)

// Append adds bytes: of the RDB until EndSnapshot, then of the stream. at is the source's clock when they were received, zero if unknown. p is not
// kept.
//
// While the spool is full Append waits, until there is room, or ctx ends (its cause is the error), or everything is dropped (ErrDropped). It does
// not wait for ever when a reader has read all there is and waits for more, as for the rest of a value larger than the spool: then nobody would make room.
// What was read may be passed a little later, so a few seconds must go by first; from then on more is taken, until something is freed.
//
// Any other error is the file system's. Whatever the error, the bytes up to the new end, which [Spool.Contents] tells, are in the spool, and the
// rest may be appended again. An error may also be one that happened in the background since the last Append, to what has not been dropped since.
func (s *Spool) Append(ctx context.Context, p []byte, at time.Time) error {
	for len(p) > 0 {
		to, err := s.tail(ctx, int64(len(p)))
		if err != nil {
			return err
		}
		// The mark comes first: a process that dies behind it leaves one beyond the end, which the next
		// one drops. Bytes without a mark would seem to have come with those before.
		n := 0
		if err = to.mark(s.scratch[:], at); err == nil {
			n, err = to.file.WriteAt(p[:to.room], headerSize+to.size)
		}
		if err := s.took(to, int64(n), at, err); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// tail is where the next bytes go, with the files as the writer may use them without a lock.
type tail struct {
	*segment
	file, times file
	room        int64
}

// took makes bytes known that are in the segment's file, unless the segment was dropped meanwhile. err is what stopped the writing.
func (s *Spool) took(to tail, n int64, at time.Time, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to.gone {
		return ErrDropped
	}
	if n > 0 && to.kind == kindStream { // also of a write in part: its mark is there
		to.marks.add(to.end()+1, at)
	}
	to.size += n
	s.used += n
	if s.space >= 0 {
		s.space = max(s.space-n, 0)
	}
	s.changed.Broadcast()
	return err
}

// tail waits for room and says where the next bytes go: into which segment, and how many of them.
func (s *Spool) tail(ctx context.Context, want int64) (tail, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.trouble; err != nil {
		s.trouble = nil
		return tail{}, err
	}
	p := s.receiving()
	switch {
	case s.closed:
		return tail{}, ErrClosed
	case p == nil:
		return tail{}, ErrDropped
	}
	g := p.last()
	room := s.segment - g.size
	full := room <= 0 || len(g.marks.all) >= markMax
	if full {
		room = s.segment
	}
	n := min(want, room)
	if err := s.room(ctx, p, n); err != nil {
		return tail{}, err
	}
	if full {
		var err error
		if g, err = s.roll(p); err != nil {
			return tail{}, err
		}
	}
	return tail{g, g.file, g.marks.file, n}, nil
}

// receiving is the part that is appended to; nil when there is none.
func (s *Spool) receiving() *part {
	switch {
	case s.Links != nil:
		return &s.stream
	case s.Snapshot != nil:
		return &s.rdb
	}
	return nil
}

// roll begins the next segment. It lets go of mu meanwhile, so that a Drop may come between.
func (s *Spool) roll(p *part) (*segment, error) {
	epoch, h := s.epoch, p.last().header
	h.first = p.end()
	s.mu.Unlock()
	g, err := s.newSegment(h)
	s.mu.Lock()
	if err != nil {
		return nil, err
	}
	if s.epoch != epoch {
		s.mu.Unlock()
		err := s.remove(g)
		s.mu.Lock()
		if err != nil {
			return nil, err
		}
		return nil, ErrDropped
	}
	p.segments = append(p.segments, g)
	s.wake()
	return g, nil
}

// room waits until n more bytes fit, and lets go of mu meanwhile.
func (s *Spool) room(ctx context.Context, p *part, n int64) error {
	if s.fits(n) {
		return nil
	}
	defer s.wakeAtEnd(ctx)()
	defer func() { s.blocked = false }()
	var hungry time.Time // since when waiting brings no room
	timer := time.AfterFunc(s.patience, s.nudge)
	defer timer.Stop()
	for epoch := s.epoch; ; s.changed.Wait() {
		s.blocked = true
		s.mu.Unlock()
		err := s.free(n)
		s.mu.Lock()
		switch {
		case err != nil:
			return err
		case s.closed:
			return ErrClosed
		case s.epoch != epoch:
			return ErrDropped
		case s.fits(n):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !s.starves(p):
			hungry = time.Time{}
		case s.beyond:
			return nil
		case hungry.IsZero():
			hungry = time.Now()
			timer.Reset(s.patience)
		case time.Since(hungry) >= s.patience:
			s.beyond = true
			return nil
		}
	}
}

// nudge has those who wait look again.
func (s *Spool) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// fits tells whether n more bytes may be there.
func (s *Spool) fits(n int64) bool {
	return s.used+n <= s.max && (s.space < 0 || s.space-n >= reserve)
}

// starves tells whether waiting for room brings none: all of a part is passed, so that nothing more of it will be, or a reader has read all of it and waits for more.
func (s *Spool) starves(p *part) bool {
	if p.passed >= p.end() {
		return true
	}
	for _, r := range s.readers {
		if r.waiting && r.part == p && r.pos == p.end() {
			return true
		}
	}
	return false
}
