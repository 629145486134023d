package spool

import (
	"fmt"
	"time"
)

// PassSnapshot says that the RDB's bytes before read are durable in the target: their segments are freed. Once that is all of a complete RDB,
// there is no snapshot any more. What cannot be removed the next Append tells.
func (s *Spool) PassSnapshot(read int64) {
	s.mu.Lock()
	s.pass(&s.rdb, read)
	s.mu.Unlock()
	s.report(s.free(0))
}

// PassStream says that the stream is durable in the target up to offset, or, when that went back, only up to there. Segments before it are freed
// once they were passed for the time to keep them, or when room is needed; the newest one never.
func (s *Spool) PassStream(offset int64) {
	s.mu.Lock()
	s.pass(&s.stream, offset)
	s.mu.Unlock()
	s.report(s.free(0))
}

// pass notes how far a part is done with, and when its segments were. The caller holds mu.
func (s *Spool) pass(p *part, to int64) {
	if to == p.passed {
		return
	}
	p.passed = to
	now := time.Now()
	frontier := max(p.find(to), 0)
	for i := frontier; i < len(p.segments) && !p.segments[i].passed.IsZero(); i++ {
		p.segments[i].passed = time.Time{} // the target went back
	}
	for i := frontier - 1; i >= 0 && p.segments[i].passed.IsZero(); i-- {
		p.segments[i].passed = now
	}
	if s.blocked {
		s.changed.Broadcast()
	}
}

// free removes segments that were passed, the oldest first: those that were kept long enough, and as many more as it takes to have room for n bytes.
func (s *Spool) free(n int64) error {
	s.freeing.Lock()
	defer s.freeing.Unlock()
	for {
		s.mu.Lock()
		g := s.freeable(n)
		s.mu.Unlock()
		if g == nil {
			break
		}
		if err := s.remove(g); err != nil {
			return err
		}
		s.look()
	}
	if n > 0 {
		s.look()
	}
	return nil
}

// freeable takes the next segment to free out of its part; nil when there is none.
func (s *Spool) freeable(n int64) *segment {
	for _, p := range []*part{&s.rdb, &s.stream} {
		if s.closed || len(p.segments) == 0 {
			continue
		}
		g := p.segments[0]
		last := len(p.segments) == 1
		switch {
		case g.end() > p.passed:
		case p == &s.rdb && last && !s.Snapshot.Complete:
		case p == &s.stream && (last || s.fits(n) && time.Since(g.passed) < s.keep):
		default:
			s.used -= g.size
			s.unsaved, s.beyond = true, false
			return p.pop(0)
		}
	}
	return nil
}

// look asks how much space is free, and what the spool may take of it.
func (s *Spool) look() {
	free := s.disk.free()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.space = free
	s.share()
	if s.blocked {
		s.changed.Broadcast()
	}
}

// Ready tells whether something new can be begun, for which all there is would go; its error, that there would be no room, or that the disk takes no
// writes. A source that is asked for its RDB forks, so this is asked before.
func (s *Spool) Ready() error {
	s.look()
	s.mu.Lock()
	full, space := s.space >= 0 && s.space+s.used < least, s.space
	s.mu.Unlock()
	if full {
		return fmt.Errorf("the disk is full: %d bytes are free", space)
	}
	if s.volatile {
		return nil
	}
	s.structure.Lock()
	defer s.structure.Unlock()
	return state{}.write(s.disk) // beside the one that counts
}

// report keeps an error for the next Append.
func (s *Spool) report(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err
}

// Usage is how much of what it may use a spool uses, in bytes.
type Usage struct {
	Used, Max int64
	Full      bool  // Append waits for room; never said of a spool in memory, whose writer always waits for its reader
	Free      int64 // of the file system; -1: unknown
}

// Usage tells how full the spool is.
func (s *Spool) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{Used: s.used, Max: s.max, Full: s.blocked && !s.volatile, Free: s.space}
}
