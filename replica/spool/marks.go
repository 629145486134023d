package spool

import (
	"encoding/binary"
	"errors"
	"sort"
	"time"
)

const (
	markSize     = 16
	markInterval = 100 // milliseconds between two marks
	markMax      = 4096
)

// mark says when a byte of the stream was received: the one that brings the offset to this.
type mark struct{ offset, ms int64 }

// marks are the times of a segment. On disk each is two numbers of 64 bits, the low byte first.
type marks struct {
	all  []mark
	kept bool // there is a file of them
	file file // nil when nobody writes it
}

// size is the file's.
func (m *marks) size() int64 { return headerSize + int64(len(m.all))*markSize }

// due tells whether a time is worth a mark. It also is when the clock went back.
func (m *marks) due(at time.Time) bool {
	if at.IsZero() {
		return false
	}
	if len(m.all) == 0 {
		return true
	}
	passed := at.UnixMilli() - m.all[len(m.all)-1].ms
	return passed >= markInterval || passed <= -markInterval
}

// add adds a mark, if it is due.
func (m *marks) add(offset int64, at time.Time) {
	if m.due(at) {
		m.all = append(m.all, mark{offset, at.UnixMilli()})
	}
}

// cut forgets the marks beyond offset.
func (m *marks) cut(offset int64) { m.all = m.all[:m.upTo(offset)] }

// upTo counts the marks at or before offset.
func (m *marks) upTo(offset int64) int {
	return sort.Search(len(m.all), func(i int) bool { return m.all[i].offset > offset })
}

func (m mark) encode(b []byte) {
	binary.LittleEndian.PutUint64(b, uint64(m.offset))
	binary.LittleEndian.PutUint64(b[8:], uint64(m.ms))
}

// decodeMarks reads marks of a segment's bytes (first, end]. It ends at the first that is torn or cannot be one.
func decodeMarks(b []byte, first, end int64) []mark {
	var all []mark
	for ; len(b) >= markSize; b = b[markSize:] {
		m := mark{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))}
		if m.offset <= first || m.offset > end || m.ms <= 0 {
			break
		}
		all, first = append(all, m), m.offset
	}
	return all
}

// mark writes down when the bytes came that follow what the segment has, if it is time to.
func (to tail) mark(b []byte, at time.Time) error {
	if to.times == nil || !to.marks.due(at) {
		return nil
	}
	mark{to.end() + 1, at.UnixMilli()}.encode(b)
	_, err := to.times.WriteAt(b, to.marks.size())
	return err
}

// TimeAt tells when the stream's byte that brings the offset to this was received, by the source's
// clock: not before earliest and not after latest, which are at most 100 ms apart. ok is false when
// nobody knows.
func (s *Spool) TimeAt(offset int64) (earliest, latest time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.stream.find(offset - 1); i >= 0; i-- {
		m := &s.stream.segments[i].marks
		n := m.upTo(offset)
		if n == 0 {
			continue
		}
		ms := m.all[n-1].ms
		until := ms + markInterval // else there would be another mark
		if next, ok := s.stream.markBehind(i, n); ok && next.ms >= ms {
			until = min(until, next.ms)
		}
		return time.UnixMilli(ms), time.UnixMilli(until), true
	}
	return time.Time{}, time.Time{}, false
}

// markBehind is the mark that follows the first n of segment i.
func (p *part) markBehind(i, n int) (next mark, ok bool) {
	for _, g := range p.segments[i:] {
		if n < len(g.marks.all) {
			return g.marks.all[n], true
		}
		n = 0
	}
	return mark{}, false
}

// loadMarks reads the marks of a segment that was found, from a file with so many bytes of them.
func (g *segment) loadMarks(d disk, size int64) error {
	f, err := d.open(g.times().name())
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, headerSize); err != nil {
		return errors.Join(err, f.Close())
	}
	g.marks.all, g.marks.kept = decodeMarks(b, g.first, g.end()), true
	return f.Close()
}
