package spool

import (
	"errors"
	"fmt"
	"time"
)

// start starts the goroutine that tends the spool, now and each second.
func (s *Spool) start() {
	s.wake()
	go func() {
		defer close(s.done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			case <-s.kick:
			}
			s.report(s.tend())
		}
	}()
}

// wake makes the goroutine tend at once.
func (s *Spool) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// tend does once what has to be done each second.
func (s *Spool) tend() error {
	err := s.free(0)
	s.look()
	return errors.Join(err, s.flush())
}

// flush brings to disk what came, and then a state that says so.
func (s *Spool) flush() error {
	if s.volatile {
		return nil
	}
	s.mu.Lock()
	epoch, pending, unsaved := s.epoch, s.unsynced(), s.unsaved
	s.mu.Unlock()
	for _, u := range pending {
		if err := u.sync(s.disk); err != nil {
			if err := s.distrust(u.of, err); err != nil {
				return err
			}
		}
	}
	if len(pending) > 0 {
		if err := s.disk.sync(); err != nil {
			return fmt.Errorf("bring the spool to disk: %w", err)
		}
		if err := s.synced(epoch, pending); err != nil {
			return err
		}
	}
	if !unsaved && len(pending) == 0 {
		return nil
	}
	s.structure.Lock()
	defer s.structure.Unlock()
	s.mu.Lock()
	d := s.description
	s.mu.Unlock()
	var err error
	if d.Generation != "" {
		err = s.save(d, nil)
	} else if unsaved {
		err = s.clear() // which failed before
	}
	if err != nil {
		return fmt.Errorf("write the spool's state: %w", err)
	}
	return nil
}

// unsynced is a segment with bytes up to a size that may not be on disk.
type unsynced struct {
	of    *segment
	upTo  int64
	files segment // its files as they were open
}

// unsynced lists what may not be on disk. The caller holds mu.
func (s *Spool) unsynced() []unsynced {
	var pending []unsynced
	for _, p := range []*part{&s.rdb, &s.stream} {
		for _, g := range p.segments {
			if g.synced < g.size || g.synced < 0 {
				files := segment{header: g.header, file: g.file, marks: marks{kept: g.marks.kept, file: g.marks.file}}
				pending = append(pending, unsynced{g, g.size, files})
			}
		}
	}
	return pending
}

// sync brings the files to disk, and opens them for that if they are not open.
func (u *unsynced) sync(d disk) error {
	if u.files.file != nil {
		return u.files.sync()
	}
	if err := u.files.open(d); err != nil {
		return err
	}
	return errors.Join(u.files.sync(), u.files.close())
}

// synced notes what is on disk now, unless bytes were taken back meanwhile, and closes the files that nobody will write to.
func (s *Spool) synced(epoch int, pending []unsynced) error {
	s.mu.Lock()
	var done []segment
	if s.epoch == epoch {
		for _, u := range pending {
			g := u.of
			g.synced = u.upTo
			if !g.gone && g != s.rdb.last() && g != s.stream.last() && g.file != nil {
				done = append(done, u.files)
				g.file, g.marks.file = nil, nil
			}
		}
	}
	s.mu.Unlock()
	var err error
	for i := range done {
		err = errors.Join(err, done[i].close())
	}
	return err
}

// distrust drops everything after an fsync that failed: nobody knows what the page cache still has, and later it may give back what was never
// written. A segment that was freed or dropped, and hence closed, meanwhile is no reason to.
func (s *Spool) distrust(g *segment, why error) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	if s.lost(g) {
		return nil
	}
	return errors.Join(fmt.Errorf("bring the spool to disk: %w", why), s.clear())
}

// lost tells whether a segment was freed or dropped.
func (s *Spool) lost(g *segment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.gone
}
