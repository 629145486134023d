package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

const (
	magic      = "redferry-spool"
	format     = 1   // of the segments and of the state
	headerSize = 128 // bytes in front of a segment's own
)

// kind is what a segment holds.
type kind string

const (
	kindRDB    kind = "rdb"    // first is a byte of the RDB
	kindStream kind = "stream" // first is the offset that the bytes come after
	kindTime   kind = "time"   // the times of the stream's segment with the same first
)

// header is in front of a segment's bytes: a line of text, padded with spaces.
type header struct {
	kind       kind
	generation string
	first      int64
}

// name is the file's.
func (h header) name() string { return fmt.Sprintf("%s-%020d", h.kind, h.first) }

func (h header) encode() []byte {
	line := fmt.Sprintf("%s %d %s %s %d", magic, format, h.kind, h.generation, h.first)
	return fmt.Appendf(nil, "%-*s\n", headerSize-1, line)
}

// newerError says that files were written by a redferry which knows more than this one.
type newerError struct{ format int }

func (e *newerError) Error() string {
	return fmt.Sprintf("its files have format %d, and this redferry knows up to %d: use the newer redferry that wrote them, or another --dir, or "+
		"`redferry reset` to remove them", e.format, format)
}

var errHeader = errors.New("not the header of a spool's file")

// decodeMagic splits a first line and checks what all formats have in common. The error is errHeader or a newerError.
func decodeMagic(line []byte) ([]string, error) {
	words := strings.Fields(string(line))
	if len(words) < 2 || words[0] != magic {
		return nil, errHeader
	}
	switch n, err := strconv.Atoi(words[1]); {
	case err != nil, n < 1:
		return nil, errHeader
	case n > format:
		return nil, &newerError{n}
	}
	return words[2:], nil
}

// decodeHeader reads the beginning of a file. Nothing but what encode made is taken.
func decodeHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, errHeader
	}
	words, err := decodeMagic(b[:headerSize])
	if err != nil {
		return header{}, err
	}
	if len(words) != 3 {
		return header{}, errHeader
	}
	first, err := strconv.ParseInt(words[2], 10, 64)
	h := header{kind: kind(words[0]), generation: words[1], first: first}
	if err != nil || !bytes.Equal(h.encode(), b[:headerSize]) {
		return header{}, errHeader
	}
	return h, nil
}

// isSegmentName tells whether a file may be ours by its name.
func isSegmentName(name string) bool {
	k, digits, ok := strings.Cut(name, "-")
	if !ok || k != string(kindRDB) && k != string(kindStream) && k != string(kindTime) {
		return false
	}
	first, err := strconv.ParseInt(digits, 10, 64)
	return err == nil && first >= 0 && name == header{kind: kind(k), first: first}.name()
}

// segment is a file of the snapshot or the stream, and for the stream the times beside it. All but file and times is under Spool.mu; these
// belong to the writer, and to whoever takes the segment away.
type segment struct {
	header
	size   int64 // bytes that may be read
	synced int64 // bytes of them that are on disk; -1 while not even the name is
	passed time.Time
	gone   bool // freed, or dropped
	file   file // nil when nobody writes or has to fsync it
	marks  marks
}

func (g *segment) end() int64 { return g.first + g.size }

// times is the header of the file beside it.
func (g *segment) times() header { return header{kindTime, g.generation, g.first} }

// close closes what is open for writing.
func (g *segment) close() error {
	var err error
	if g.file != nil {
		err = g.file.Close()
		g.file = nil
	}
	if g.marks.file != nil {
		err = errors.Join(err, g.marks.file.Close())
		g.marks.file = nil
	}
	return err
}

// truncate shortens the files, which are open, to what the segment has.
func (g *segment) truncate() error {
	if g.marks.file != nil {
		if err := g.marks.file.Truncate(g.marks.size()); err != nil {
			return err
		}
	}
	return g.file.Truncate(headerSize + g.size)
}

// open opens the files for writing, if they are not.
func (g *segment) open(d disk) (err error) {
	if g.file == nil {
		if g.file, err = d.open(g.name()); err != nil {
			return err
		}
	}
	if g.marks.file == nil && g.marks.kept {
		g.marks.file, err = d.open(g.times().name())
	}
	return err
}

// sync brings the files, which are open, to disk.
func (g *segment) sync() error {
	if g.marks.file != nil {
		if err := g.marks.file.Sync(); err != nil {
			return err
		}
	}
	return g.file.Sync()
}

// newSegment makes an empty segment, and its files, open for writing.
func (s *Spool) newSegment(h header) (*segment, error) {
	f, err := create(s.disk, h)
	if err != nil {
		return nil, err
	}
	g := &segment{header: h, synced: -1, file: f}
	if h.kind == kindStream && !s.volatile {
		g.marks.kept = true
		if g.marks.file, err = create(s.disk, g.times()); err != nil {
			return nil, errors.Join(err, s.remove(g))
		}
	}
	return g, nil
}

// remove closes and removes a segment's files. Nobody but a reader, which has its own, uses them any more.
func (s *Spool) remove(g *segment) error {
	err := g.close()
	if g.marks.kept {
		err = errors.Join(err, s.disk.remove(g.times().name()))
	}
	return errors.Join(err, s.disk.remove(g.name()))
}

// create makes a file that has its header and nothing else.
func create(d disk, h header) (file, error) {
	f, err := d.create(h.name())
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w, and it is not the spool's: move it away, the folder is for the spool alone", err)
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return nil, errors.Join(err, f.Close(), d.remove(h.name()))
	}
	return f, nil
}
