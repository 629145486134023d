package spool

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
)

// BeginSnapshot drops everything there is and makes ready for the RDB of a full resync. size is what the source announced, -1 if it does not
// know.
func (s *Spool) BeginSnapshot(id string, offset, size int64) error {
	err := s.begin(&s.rdb, kindRDB, 0, description{Snapshot: &snapshot{ID: id, At: offset, Size: size}})
	if err != nil {
		return fmt.Errorf("begin a snapshot in the spool: %w", err)
	}
	return nil
}

// BeginStream drops everything there is and makes ready for the stream behind a position.
func (s *Spool) BeginStream(id string, offset int64) error {
	err := s.begin(&s.stream, kindStream, offset, description{Links: []link{{id, offset}}})
	if err != nil {
		return fmt.Errorf("begin a stream in the spool: %w", err)
	}
	return nil
}

// begin goes in steps that a crash may fall between: the old state goes, so that nobody believes the old files; they go; the first segment of a new
// generation comes; the new state vouches for it.
func (s *Spool) begin(p *part, k kind, first int64, d description) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if err := s.clear(); err != nil {
		return err
	}
	d.Generation = rand.Text()
	g, err := s.newSegment(header{k, d.Generation, first})
	if err != nil {
		return err
	}
	if err := s.change(d, func() { p.segments = []*segment{g} }); err != nil {
		return errors.Join(err, s.clear())
	}
	return nil
}

// EndSnapshot says that the RDB is whole. What is appended from now on is the stream. It does not wait for the RDB to be on disk: after a
// kill the RDB is there, after a power cut only if a second or so went by.
func (s *Spool) EndSnapshot() error {
	s.structure.Lock()
	defer s.structure.Unlock()
	d, end, err := s.described(func() error {
		if s.Snapshot == nil || s.Snapshot.Complete {
			return fmt.Errorf("end the snapshot in the spool: none is being received: %w", ErrDropped)
		}
		return nil
	})
	if err != nil {
		return err
	}
	n := *d.Snapshot
	n.Complete, n.Size = true, end
	d.Snapshot, d.Links = &n, []link{{n.ID, n.At}}
	g, err := s.newSegment(header{kindStream, d.Generation, n.At})
	if err == nil {
		err = s.change(d, func() { s.stream.segments = []*segment{g} })
		if err != nil {
			err = errors.Join(err, s.remove(g))
		}
	}
	if err != nil {
		return fmt.Errorf("end the snapshot in the spool: %w", err)
	}
	s.report(s.free(0)) // the RDB's reader may have passed the last segment already
	return nil
}

// Continue says that from End on the history is called by another replication ID: a +CONTINUE that names one. For the ID it has already it
// does nothing.
func (s *Spool) Continue(id string) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	d, end, err := s.described(func() error {
		if s.Links == nil {
			return fmt.Errorf("continue the stream in the spool: there is none: %w", ErrDropped)
		}
		return nil
	})
	if err != nil || d.Links[len(d.Links)-1].ID == id {
		return err
	}
	d.Links = append(slices.Clip(d.Links), link{id, end})
	if err := s.change(d, func() {}); err != nil {
		return fmt.Errorf("continue the stream in the spool: %w", err)
	}
	return nil
}

// described is a copy of the description and the end of what is being appended to, if ok says so under the lock.
func (s *Spool) described(ok func() error) (d description, end int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return d, 0, ErrClosed
	}
	if err := ok(); err != nil {
		return d, 0, err
	}
	return s.description, s.receiving().end(), nil
}

// CutBack drops the stream's bytes beyond offset, which lies in [First, End]; a reader that is beyond gets ErrDropped. When it fails half way,
// everything is dropped.
func (s *Spool) CutBack(offset int64) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	d, end, err := s.described(func() error {
		switch {
		case s.Links == nil:
			return fmt.Errorf("cut the stream in the spool: there is none: %w", ErrDropped)
		case offset < s.stream.first() || offset > s.stream.end():
			return fmt.Errorf("cut the stream in the spool at %d: it reaches from %d to %d", offset, s.stream.first(), s.stream.end())
		}
		return nil
	})
	if err != nil || offset == end {
		return err
	}
	// First a state that trusts nothing beyond offset, and no file's size in any boot. The next one, within a second, is like any other.
	d.Links = slices.DeleteFunc(slices.Clone(d.Links), func(l link) bool { return l.From > offset })
	err = s.save(d, func(st *state) {
		st.Boot = ""
		st.TrustedStream = min(st.TrustedStream, offset)
	})
	if err == nil {
		if err = s.cutBack(d, offset); err != nil {
			err = errors.Join(err, s.clear())
		}
	}
	if err != nil {
		return fmt.Errorf("cut the stream in the spool at %d: %w", offset, err)
	}
	return nil
}

// cutBack cuts the memory, and then the files, the newest first.
func (s *Spool) cutBack(d description, offset int64) error {
	s.mu.Lock()
	if offset < s.stream.first() {
		s.mu.Unlock()
		return errors.New("what comes before was freed meanwhile")
	}
	s.epoch++
	s.setDescription(d)
	s.unsaved = true
	s.dropReaders(func(r *Reader) bool { return r.part == &s.stream && r.reach > offset })
	var gone []*segment
	for len(s.stream.segments) > 1 && s.stream.last().first >= offset {
		gone = append(gone, s.stream.pop(len(s.stream.segments)-1))
	}
	last := s.stream.last()
	last.size = offset - last.first
	last.synced = min(last.synced, last.size)
	last.marks.cut(offset)
	s.used = s.rdb.bytes() + s.stream.bytes()
	s.changed.Broadcast()
	s.mu.Unlock()
	for _, g := range gone {
		if err := s.remove(g); err != nil {
			return err
		}
	}
	if err := s.reopen(last); err != nil {
		return err
	}
	return errors.Join(last.truncate(), last.sync())
}

// reopen opens a segment's files for writing that became the last one again.
func (s *Spool) reopen(g *segment) error {
	if g.file != nil {
		return nil
	}
	files := segment{header: g.header, marks: marks{kept: g.marks.kept}}
	if err := files.open(s.disk); err != nil {
		return errors.Join(err, files.close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.file, g.marks.file = files.file, files.marks.file
	return nil
}

// Drop forgets everything, for a cache that proved to be damaged. Readers and Append get ErrDropped until the next Begin.
func (s *Spool) Drop() error {
	s.structure.Lock()
	defer s.structure.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if err := s.clear(); err != nil {
		return fmt.Errorf("drop the spool: %w", err)
	}
	return nil
}

// clear forgets everything: first in memory, then the state, then the files that it vouched for. The caller holds structure.
func (s *Spool) clear() error {
	s.mu.Lock()
	old := slices.Concat(s.rdb.segments, s.stream.segments)
	s.epoch++
	s.setDescription(description{})
	s.rdb, s.stream = part{passed: -1}, part{passed: -1}
	s.used, s.unsaved, s.trouble = 0, true, nil
	s.dropReaders(func(*Reader) bool { return true })
	for _, g := range old {
		g.gone = true
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	s.freeing.Lock()
	defer s.freeing.Unlock()
	var err error
	for _, g := range old {
		err = errors.Join(err, g.close())
	}
	if err := errors.Join(err, removeAll(s.disk)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsaved = false
	return nil
}

func (s *Spool) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// change brings a description to disk and then takes it over, together with what and makes of it. The caller holds structure.
func (s *Spool) change(d description, and func()) error {
	if err := s.save(d, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setDescription(d)
	and()
	s.changed.Broadcast()
	return nil
}
