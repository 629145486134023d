package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
)

// found is a file in the folder that is a spool's.
type found struct {
	header
	name  string
	size  int64 // bytes behind the header
	newer *newerError
}

// survey lists a spool's files but for the state. A file is one by its name and its header; without a header it is one if it is empty where the
// header should be: a crash may leave that, and nobody loses anything by it.
func survey(d disk) ([]found, error) {
	entries, err := d.list()
	if err != nil {
		return nil, err
	}
	var all []found
	for _, e := range entries {
		if !isSegmentName(e.name) {
			continue
		}
		b, err := readHeader(d, e.name)
		if errors.Is(err, fs.ErrNotExist) { // Append takes back a segment that it began when all was dropped
			continue
		}
		if err != nil {
			return nil, err
		}
		f := found{name: e.name, size: max(e.size-headerSize, 0)}
		f.header, err = decodeHeader(b)
		switch {
		case errors.As(err, &f.newer), len(bytes.Trim(b, "\x00")) == 0:
		case err != nil, f.header.name() != e.name:
			continue
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b found) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	return all, nil
}

// readHeader reads as much of a file's beginning as there is.
func readHeader(d disk, name string) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	b := make([]byte, headerSize)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], errors.Join(err, f.Close())
}

// removeAll removes all of a spool: the state first and for good, then the files that it vouched for.
func removeAll(d disk) error {
	for _, name := range []string{stateName, stateTemp} {
		if err := d.remove(name); err != nil {
			return err
		}
	}
	if err := d.sync(); err != nil {
		return err
	}
	files, err := survey(d)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := d.remove(f.name); err != nil {
			return err
		}
	}
	return nil
}

// recover takes over what is in the folder and can be trusted, and removes the rest.
func (s *Spool) recover() error {
	files, err := survey(s.disk)
	if err != nil {
		return err
	}
	var all int64
	for _, f := range files {
		if f.newer != nil {
			return f.newer
		}
		if f.kind != kindTime {
			all += f.size
		}
	}
	raw, err := readState(s.disk)
	if err != nil || raw == nil && len(files) == 0 {
		return err
	}
	st, doubt := s.vouched(raw)
	if errors.As(doubt, new(*newerError)) {
		return doubt
	}
	if doubt == nil {
		if err := s.adopt(st, files); err != nil {
			return err
		}
		if s.Generation == "" {
			doubt = errors.New("nothing of it holds together")
		}
	}
	if doubt != nil {
		s.found = fmt.Sprintf("dropped the spool's %d bytes: %v", all, doubt)
		return removeAll(s.disk)
	}
	s.found = s.describe(all - s.used)
	return nil
}

// vouched reads the state, and tells why nothing may be believed by it.
func (s *Spool) vouched(raw []byte) (state, error) {
	if raw == nil {
		return state{}, errors.New("there is no state that vouches for them")
	}
	st, err := decodeState(raw)
	switch {
	case err != nil:
		return state{}, err
	case st.Place != s.place:
		return state{}, errors.New("the folder was copied or moved here, or it is another machine's")
	case st.Snapshot != nil && !st.Snapshot.Complete:
		return state{}, errors.New("its RDB had not arrived whole")
	}
	return st, nil
}

// adopt takes over what the state vouches for: in the same boot, files are whole up to their size; otherwise only up to the trusted ends. The
// error is the file system's.
func (s *Spool) adopt(st state, files []found) error {
	if err := s.disk.sync(); err != nil { // a process that was killed may have put the state into place just so: an older one must not come back
		return err
	}
	same := st.Boot != "" && st.Boot == s.boot
	rdb := st.segments(files, kindRDB, 0)
	if !same && st.Snapshot != nil && st.TrustedRDB < st.Snapshot.Size || st.Snapshot == nil {
		rdb = nil
	}
	limit := st.TrustedStream
	if same {
		limit = math.MaxInt64
	}
	stream := beginning(st.segments(files, kindStream, max(st.First, st.Links[0].From)), limit)
	if st.Snapshot != nil {
		rdb = ending(rdb, st.Snapshot.Size)
		if len(stream) > 0 && stream[0].first != st.Snapshot.At {
			rdb = nil // its stream has gone on without it
		}
	}
	if err := s.keepOnly(append(slices.Clone(rdb), stream...), files); err != nil {
		return err
	}
	d := st.description
	switch {
	case len(rdb) == 0 && len(stream) == 0:
		return nil
	case len(rdb) == 0:
		d.Snapshot = nil
	case len(stream) == 0: // all of it is lost: it begins again
		g, err := s.newSegment(header{kindStream, st.Generation, st.Snapshot.At})
		if err != nil {
			return err
		}
		stream = []*segment{g}
	}
	s.rdb.segments, s.stream.segments = rdb, stream
	d.Links = slices.DeleteFunc(d.Links, func(l link) bool { return l.From > s.stream.end() })
	s.used = s.rdb.bytes() + s.stream.bytes()
	s.rdb.setSynced(st.TrustedRDB)
	s.stream.setSynced(st.TrustedStream)
	s.setDescription(d)
	s.unsaved = true
	if err := s.adoptTimes(files); err != nil {
		return err
	}
	if s.stream.end() >= st.TrustedStream {
		return nil // the old state may stay until the next one: it trusts nothing that is still to come
	}
	return s.save(d, nil)
}

// segments lists the files of a kind and the state's generation that begin at first or behind it.
func (st state) segments(files []found, k kind, first int64) []*segment {
	var all []*segment
	for _, f := range files {
		if f.kind == k && f.generation == st.Generation && f.first >= first {
			all = append(all, &segment{header: f.header, size: f.size})
		}
	}
	return all
}

// beginning is as many of the segments as follow one another without a gap, up to limit.
func beginning(all []*segment, limit int64) []*segment {
	for i, g := range all {
		if g.first > limit || i > 0 && g.first != all[i-1].end() {
			return all[:i]
		}
		g.size = min(g.size, limit-g.first)
	}
	return all
}

// ending is as many of the segments as lead to end without a gap: those before were freed.
func ending(all []*segment, end int64) []*segment {
	for i, g := range slices.Backward(all) {
		if g.end() != end {
			return all[i+1:]
		}
		end = g.first
	}
	return all
}

// keepOnly removes the files that do not belong to the given segments.
func (s *Spool) keepOnly(kept []*segment, files []found) error {
	names := map[header]bool{}
	for _, g := range kept {
		names[g.header], names[g.times()] = true, g.kind == kindStream
	}
	for _, f := range slices.Backward(files) {
		if !names[f.header] {
			if err := s.disk.remove(f.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// setSynced says how much of the segments is on disk: all that is there and trusted.
func (p *part) setSynced(trusted int64) {
	for _, g := range p.segments {
		if g.synced = min(g.size, trusted-g.first); g.synced <= 0 {
			g.synced = -1
		}
	}
}

// adoptTimes reads the times of the stream's segments, and opens the last segment for writing.
func (s *Spool) adoptTimes(files []found) error {
	sizes := map[header]int64{}
	for _, f := range files {
		sizes[f.header] = f.size
	}
	for _, g := range s.stream.segments {
		if size, ok := sizes[g.times()]; ok && g.file == nil {
			if err := g.loadMarks(s.disk, size); err != nil {
				return err
			}
		}
	}
	last := s.stream.last()
	if !last.marks.kept {
		f, err := create(s.disk, last.times())
		if err != nil {
			return err
		}
		last.marks.kept, last.marks.file = true, f
	}
	if err := last.open(s.disk); err != nil {
		return err
	}
	return errors.Join(last.truncate(), last.sync())
}

// describe says what was found, and how many bytes were not kept.
func (s *Spool) describe(dropped int64) string {
	var b []byte
	if n := s.Snapshot; n != nil {
		b = fmt.Appendf(b, "found an RDB of %d bytes", n.Size)
		if first := s.rdb.first(); first > 0 {
			b = fmt.Appendf(b, " (from byte %d on)", first)
		}
		b = append(b, " and "...)
	} else {
		b = append(b, "found "...)
	}
	b = fmt.Appendf(b, "the stream from offset %d to %d of %s", s.stream.first(), s.stream.end(), s.Links[len(s.Links)-1].ID)
	if dropped > 0 {
		b = fmt.Appendf(b, "; dropped %d bytes that nothing vouches for", dropped)
	}
	return string(b)
}
