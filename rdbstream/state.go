package rdbstream

import (
	"bufio"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// State is what a Reader has to know of the bytes before an entry's end to go on behind it. The zero value is the RDB's beginning. Templates
// is shared with the Reader that gave it, and is not to be written to.
type State struct {
	Offset    int64 // bytes of the RDB up to here
	Version   Version
	DB        int
	CRC       uint64 // of those bytes
	Templates []Template

	// For eyes, not for reading on.
	Keys      uint64 // handed out so far
	Announced uint64 // by all RESIZEDB so far
}

// Template is a HASH_TEMPLATE record: a later one of the same ID replaces it.
type Template struct {
	ID, Fields uint64
}

// stateForm is the text of a state but for its templates. It begins with the form's version: a text of another one is refused.
const stateForm = "1 %s offset=%d db=%d crc=%x keys=%d announced=%d"

// String is the state as a line of text, as [ParseState] takes it; empty for the beginning.
func (s State) String() string {
	if s.Offset == 0 {
		return ""
	}
	b := fmt.Appendf(nil, stateForm, s.Version, s.Offset, s.DB, s.CRC, s.Keys, s.Announced)
	for i, t := range s.Templates {
		if i == 0 {
			b = append(b, " templates="...)
		} else {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, t.ID, 10)
		b = append(b, ':')
		b = strconv.AppendUint(b, t.Fields, 10)
	}
	return string(b)
}

// ParseState reads what [State.String] has written, and nothing else: the text may have been in other hands. The beginning has none.
func ParseState(text string) (State, error) {
	s, ok := scanState(text)
	if !ok || s.Offset < magicLen || s.Offset > maxLength || s.DB < 0 || s.DB > math.MaxInt32 || s.String() != text {
		return State{}, fmt.Errorf("no state of an RDB's reader: %.200q", text)
	}
	return s, nil
}

// scanState is lenient: ParseState compares.
func scanState(text string) (s State, ok bool) {
	var magic string
	head, templates, _ := strings.Cut(text, " templates=")
	if _, err := fmt.Sscanf(head, stateForm, &magic, &s.Offset, &s.DB, &s.CRC, &s.Keys, &s.Announced); err != nil {
		return s, false
	}
	var err error
	if s.Version, err = parseMagic(magic); err != nil {
		return s, false
	}
	for templates != "" {
		var one string
		one, templates, _ = strings.Cut(templates, ",")
		id, fields, _ := strings.Cut(one, ":")
		var t Template
		if t.ID, err = strconv.ParseUint(id, 10, 64); err != nil {
			return s, false
		}
		if t.Fields, err = strconv.ParseUint(fields, 10, 64); err != nil || t.Fields > maxLength {
			return s, false
		}
		s.Templates = append(s.Templates, t)
	}
	return s, true
}

// State is that at the end of the entry that Next has just handed out, or at the RDB's beginning before the first one. It is not to be asked
// for after an error, io.EOF included. It allocates nothing, and leaves the entry valid.
func (r *Reader) State() State {
	r.w.sum()
	return State{
		Offset: r.w.offset(), Version: r.version, DB: r.db, CRC: r.w.crc, Templates: slices.Clip(r.templates),
		Keys: r.keys, Announced: r.announced,
	}
}

// NewReaderAt is NewReader for an RDB of which br yields what comes behind a state. Places go on from the RDB's beginning, and the CRC is that
// of the whole RDB.
func NewReaderAt(br *bufio.Reader, s State) *Reader {
	r := NewReader(br)
	r.w.base, r.w.crc = s.Offset, s.CRC
	r.version, r.db, r.keys, r.announced = s.Version, s.DB, s.Keys, s.Announced
	for _, t := range s.Templates {
		r.keep(t)
	}
	return r
}
