package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// truth is what a spool was told, all of it, whatever was freed meanwhile.
type truth struct {
	begun    int // number of the Begin
	snapshot *snapshot
	rdb      []byte
	links    []link
	stream   []byte // from links[0].From on
}

func (m truth) end() int64 {
	if m.links == nil {
		return 0
	}
	return m.links[0].From + int64(len(m.stream))
}

func (m truth) clone() truth {
	if m.snapshot != nil {
		n := *m.snapshot
		m.snapshot = &n
	}
	m.rdb, m.links, m.stream = slices.Clone(m.rdb), slices.Clone(m.links), slices.Clone(m.stream)
	return m
}

// cut is the truth up to an offset of the stream.
func (m truth) cut(offset int64) truth {
	m = m.clone()
	m.stream = m.stream[:offset-m.links[0].From]
	m.links = slices.DeleteFunc(m.links, func(l link) bool { return l.From > offset })
	return m
}

// machine drives a spool on a fake disk beside its truth.
type machine struct {
	disk  *fakeDisk
	boot  int
	spool *Spool
	truth truth
	// flushed is the truth that a power cut has to leave; exact says that a kill has to leave all.
	flushed truth
	exact   bool
	older   []truth // what the state on disk may say still, after an error or a kill
	passed  int64   // the stream's offset that was passed
	applied int64   // the RDB's bytes that were
	freed   bool    // the RDB is not there any more
	begun   int
	n       int // makes bytes differ
	ids     int
	reader  *Reader
	lost    bool // it has to say ErrDropped
	inRDB   bool
}

func (m *machine) config() Config { return Config{Place: "here", Segment: 16, Max: 1 << 20} }

func (m *machine) reopen(t *rapid.T) {
	s, err := open(m.config(), m.disk.process(), fmt.Sprint("boot", m.boot))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	m.spool, m.reader, m.applied, m.passed = s, nil, s.Contents().RDBFirst, s.Contents().First
}

func (m *machine) id() string { m.ids++; return fmt.Sprintf("%040d", m.ids) }

func (m *machine) bytes(t *rapid.T) []byte {
	b := make([]byte, rapid.IntRange(1, 40).Draw(t, "bytes"))
	for i := range b {
		m.n++
		b[i] = byte(m.n*7) | 1
	}
	return b
}

// holds says where a spool differs from a truth of which it may have lost the end, and have freed the beginning; "" for nowhere.
func holds(s *Spool, m truth) string {
	c := s.Contents()
	if c.EndID == "" && !c.Snapshot {
		return ""
	}
	if c.Snapshot {
		n := m.snapshot
		if n == nil || c.ID != n.ID || c.At != n.At || c.Size != n.Size || c.Complete != n.Complete || c.RDBEnd > int64(len(m.rdb)) ||
			c.Complete && c.RDBEnd != int64(len(m.rdb)) {
			return fmt.Sprintf("an RDB %+v of %+v with %d bytes", c, n, len(m.rdb))
		}
		if c.RDBEnd > c.RDBFirst {
			r, err := s.ReadSnapshot(c.RDBFirst)
			if got := all(r, err, c.RDBEnd-c.RDBFirst); !bytes.Equal(got, m.rdb[c.RDBFirst:c.RDBEnd]) {
				return fmt.Sprintf("RDB bytes from %d: %x for %x", c.RDBFirst, got, m.rdb[c.RDBFirst:c.RDBEnd])
			}
		}
	}
	if c.EndID == "" {
		return ""
	}
	if m.links == nil || c.First < m.links[0].From || c.End > m.end() {
		return fmt.Sprintf("a stream %+v of %+v up to %d", c, m.links, m.end())
	}
	r, err := s.ReadStream(c.First)
	from := m.links[0].From
	if got := all(r, err, c.End-c.First); !bytes.Equal(got, m.stream[c.First-from:c.End-from]) {
		return fmt.Sprintf("stream from %d: %x for %x", c.First, got, m.stream[c.First-from:c.End-from])
	}
	return chain(s, m.cut(c.End), c)
}

// chain says where the IDs differ.
func chain(s *Spool, m truth, c Contents) string {
	if c.EndID != m.links[len(m.links)-1].ID {
		return fmt.Sprintf("newest ID %s of %v", c.EndID, m.links)
	}
	for o := c.First - 2; o <= c.End+2; o++ {
		at := ""
		for i, l := range m.links {
			want := o >= c.First && o <= c.End && (i == len(m.links)-1 || o <= m.links[i+1].From)
			if got := s.Holds(l.ID, o); got != want {
				return fmt.Sprintf("Holds(%s, %d) = %v, chain %v", l.ID, o, got, m.links)
			}
			if l.From <= o {
				at = l.ID
			}
		}
		if got := s.IDAt(o); got != at {
			return fmt.Sprintf("IDAt(%d) = %s, chain %v", o, got, m.links)
		}
	}
	return ""
}

// all reads so many bytes.
func all(r *Reader, err error, n int64) []byte {
	if err != nil {
		return []byte(err.Error())
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return []byte(err.Error())
	}
	if err := r.Close(); err != nil {
		return []byte(err.Error())
	}
	return b
}

// equals says where a spool differs from its truth of which nothing was lost.
func (m *machine) equals(want truth) string {
	if diff := holds(m.spool, want); diff != "" {
		return diff
	}
	c := m.spool.Contents()
	switch {
	case c.EndID == "" != (want.links == nil), c.EndID != "" && c.End != want.end():
		return fmt.Sprintf("a stream %+v of %+v up to %d", c, want.links, want.end())
	case c.EndID != "" && c.First > max(want.links[0].From, m.passed):
		return fmt.Sprintf("a stream %+v that was passed up to %d only", c, m.passed)
	case !c.Snapshot && want.snapshot != nil && !m.freed, c.Snapshot && want.snapshot == nil, c.Snapshot && c.RDBEnd != int64(len(want.rdb)):
		return fmt.Sprintf("an RDB %+v of %+v with %d bytes", c, want.snapshot, len(want.rdb))
	}
	return ""
}

// do runs an operation that is to turn the truth into another, perhaps with a fault or a crash at one of its operations on the disk.
func (m *machine) do(t *rapid.T, op func() error, after truth) {
	appending := after.begun == m.truth.begun && len(after.rdb)+len(after.stream) > len(m.truth.rdb)+len(m.truth.stream)
	fate := rapid.SampledFrom([]string{"", "", "", "", "fault", "kill", "power"}).Draw(t, "fate")
	n := m.disk.ops + rapid.IntRange(1, 14).Draw(t, "at operation")
	switch fate {
	case "fault":
		m.disk.failAt = n
	case "kill", "power":
		m.disk.dieAt = n
	}
	life := m.disk.life
	err := op()
	if err == nil && m.disk.life != life { // in what is done behind the operation, and fails by itself: freeing
		err = errPower
	}
	m.disk.dieAt, m.disk.failAt = 0, 0
	before := m.truth
	switch {
	case err == nil:
		m.truth = after
		if !appending {
			m.older = nil
		}
		m.exact = m.exact || after.begun != before.begun
		return
	case fate == "fault":
		m.settle(t, fmt.Sprintf("after the error %v", err), before, after)
		if m.spool.Generation == "" {
			m.older = append(m.older, before, after)
			m.lost, m.exact = true, false
		}
	case fate == "kill":
		m.crash(t, false, before, after)
	case fate == "power":
		m.crash(t, true, before, after)
	default:
		t.Fatalf("failed: %v", err)
	}
}

// settle finds out which truth there is now.
func (m *machine) settle(t *rapid.T, when string, candidates ...truth) {
	var why []string
	for _, c := range candidates {
		diff := holds(m.spool, c)
		if diff == "" {
			m.truth = m.left(c)
			return
		}
		why = append(why, diff)
	}
	t.Fatalf("%s: %v", when, why)
}

// left is what a spool has of a truth.
func (m *machine) left(of truth) truth {
	c := m.spool.Contents()
	if !c.Snapshot && c.EndID == "" {
		m.freed = false
		return truth{}
	}
	left := of.clone()
	m.freed = left.snapshot != nil && left.snapshot.Complete && !c.Snapshot // a power cut may bring it back
	if !m.freed && !c.Snapshot {
		left.snapshot, left.rdb = nil, nil
	} else if c.Snapshot {
		left.rdb = left.rdb[:c.RDBEnd]
	}
	if c.EndID == "" {
		left.links, left.stream = nil, nil
	} else {
		left = left.cut(c.End)
	}
	return left
}

// crash ends the process, perhaps the machine too, and opens the spool again. It has to hold one of the truths, up to some end.
func (m *machine) crash(t *rapid.T, power bool, candidates ...truth) {
	ordered, first := false, m.spool.Contents().First
	if power {
		m.boot++
		ordered = rapid.Bool().Draw(t, "ordered")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		m.disk.powerCut(r.IntN, ordered)
	}
	m.reopen(t)
	between := len(candidates) == 1
	candidates = append(candidates, m.older...)
	m.older = nil
	if !power {
		m.older = candidates
	}
	if between && !power && m.exact {
		want := m.truth
		if want.snapshot != nil && !want.snapshot.Complete {
			want = truth{}
		}
		if diff := m.equals(want); diff != "" {
			t.Fatalf("after a kill: %s; %s", diff, m.spool.found)
		}
	}
	if between && ordered && first <= m.flushed.end() && m.flushed.begun == m.truth.begun && m.flushed.links != nil {
		c := m.spool.Contents()
		if c.EndID == "" || c.End < min(m.flushed.end(), m.truth.end()) || !m.freed && m.flushed.snapshot != nil && !c.Snapshot {
			t.Fatalf("after a power cut: %+v; on disk was the stream up to %d and %+v; %s", c, m.flushed.end(), m.flushed.snapshot, m.spool.found)
		}
	}
	m.settle(t, "after a crash", candidates...)
	if m.truth.links == nil {
		m.truth = truth{}
	}
	m.flushed, m.exact = truth{}, m.exact && !power
}

func (m *machine) begin(t *rapid.T, after truth, op func() error) {
	m.begun++
	after.begun = m.begun
	m.lost, m.passed, m.applied, m.freed = true, 0, -1, false
	m.do(t, op, after)
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"begin snapshot": func(t *rapid.T) {
			n := &snapshot{ID: m.id(), At: rapid.Int64Range(0, 100).Draw(t, "at"), Size: -1}
			m.begin(t, truth{snapshot: n}, func() error { return m.spool.BeginSnapshot(n.ID, n.At, n.Size) })
		},
		"begin stream": func(t *rapid.T) {
			l := link{m.id(), rapid.Int64Range(0, 100).Draw(t, "at")}
			m.begin(t, truth{links: []link{l}}, func() error { return m.spool.BeginStream(l.ID, l.From) })
		},
		"append": m.append, "append more": m.append, "append again": m.append,
		"end snapshot": m.endSnapshot, "end the snapshot": m.endSnapshot,
		"continue": func(t *rapid.T) {
			if m.truth.links == nil {
				t.Skip()
			}
			after := m.truth.clone()
			after.links = append(after.links, link{m.id(), m.truth.end()})
			m.do(t, func() error { return m.spool.Continue(after.links[len(after.links)-1].ID) }, after)
		},
		"cut back": func(t *rapid.T) {
			if m.truth.links == nil {
				t.Skip()
			}
			c := m.spool.Contents()
			to := rapid.Int64Range(c.First, c.End).Draw(t, "to")
			if to < m.truth.end() {
				m.exact = false
			}
			after := m.truth.cut(to)
			if m.flushed.begun == m.truth.begun && m.flushed.links != nil && m.flushed.end() > to {
				m.flushed = m.flushed.cut(to)
			}
			m.do(t, func() error { return m.spool.CutBack(to) }, after)
			if m.reader != nil && !m.inRDB && m.reader.pos > to && m.truth.end() == to {
				m.lost = true
			}
		},
		"drop": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
				t.Skip()
			}
			m.begin(t, truth{}, m.spool.Drop)
		},
		"pass":  m.pass,
		"tend":  m.tend,
		"kill":  func(t *rapid.T) { m.crash(t, false, m.truth) },
		"power": func(t *rapid.T) { m.crash(t, true, m.truth) },
		"close": func(t *rapid.T) {
			close(m.spool.done)
			if err := m.spool.Close(); err != nil {
				t.Fatal(err)
			}
			m.exact = m.exact || m.spool.Generation != ""
			m.crash(t, rapid.Bool().Draw(t, "and a power cut"), m.truth)
		},
		"read":  m.follow,
		"check": func(t *rapid.T) {},
		"": func(t *rapid.T) {
			if n := m.truth.snapshot; n != nil && n.Complete && m.applied >= n.Size && !m.spool.Contents().Snapshot {
				m.freed = true // EndSnapshot did it
			}
			if diff := m.equals(m.truth); diff != "" {
				t.Fatal(diff)
			}
			if used := m.spool.rdb.bytes() + m.spool.stream.bytes(); m.spool.Usage().Used != used {
				t.Fatalf("used %d, and there are %d", m.spool.Usage().Used, used)
			}
		},
	}
}

func (m *machine) append(t *rapid.T) {
	b := m.bytes(t)
	after := m.truth.clone()
	switch {
	case m.truth.links != nil:
		after.stream = append(after.stream, b...)
	case m.truth.snapshot != nil:
		after.rdb = append(after.rdb, b...)
	default:
		if err := m.spool.Append(context.Background(), b, at); !errors.Is(err, ErrDropped) {
			t.Fatalf("append to nothing: %v", err)
		}
		return
	}
	if m.spool.trouble != nil { // in what EndSnapshot frees: it is told once
		if err := m.spool.Append(context.Background(), b, at); !errors.Is(err, errFault) {
			t.Fatalf("append after a fault in the background: %v", err)
		}
	}
	m.do(t, func() error { return m.spool.Append(context.Background(), b, at.Add(time.Duration(m.n)*time.Second)) }, after)
}

func (m *machine) endSnapshot(t *rapid.T) {
	if m.truth.snapshot == nil || m.truth.links != nil {
		t.Skip()
	}
	after := m.truth.clone()
	after.snapshot.Complete, after.snapshot.Size = true, int64(len(after.rdb))
	after.links = []link{{after.snapshot.ID, after.snapshot.At}}
	m.do(t, m.spool.EndSnapshot, after)
}

func (m *machine) pass(t *rapid.T) {
	c := m.spool.Contents()
	switch {
	case c.Snapshot:
		to := rapid.Int64Range(0, c.RDBEnd).Draw(t, "read")
		m.applied = max(m.applied, to)
		m.spool.PassSnapshot(to)
		if c = m.spool.Contents(); c.Snapshot && c.RDBFirst > m.applied {
			t.Fatalf("freed up to %d when %d was passed", c.RDBFirst, m.applied)
		} else if !c.Snapshot {
			if m.applied < int64(len(m.truth.rdb)) || m.truth.links == nil {
				t.Fatal("freed an RDB that was not passed")
			}
			m.freed = true
		}
	case c.EndID != "":
		to := rapid.Int64Range(c.First, c.End).Draw(t, "offset")
		m.passed = max(m.passed, to)
		m.spool.PassStream(to)
	}
}

func (m *machine) tend(t *rapid.T) {
	m.do(t, m.spool.tend, m.truth)
	if m.spool.unsaved || m.spool.Contents().EndID == "" {
		return
	}
	if c := m.spool.Contents(); c.EndID == "" || m.spool.stream.trusted() != c.End || c.Snapshot && m.spool.rdb.trusted() != c.RDBEnd {
		return // a fault or a crash
	}
	m.flushed, m.exact = m.truth.clone(), true
}

// follow goes on with a reader.
func (m *machine) follow(t *rapid.T) {
	c := m.spool.Contents()
	if m.reader == nil {
		if c.EndID == "" && !c.Snapshot {
			return
		}
		m.inRDB, m.lost = c.Snapshot, false
		var err error
		if m.inRDB {
			m.reader, err = m.spool.ReadSnapshot(rapid.Int64Range(c.RDBFirst, c.RDBEnd).Draw(t, "from"))
		} else {
			m.reader, err = m.spool.ReadStream(rapid.Int64Range(c.First, c.End).Draw(t, "from"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pos := m.reader.pos
	want := m.truth.rdb
	if !m.inRDB && m.truth.links != nil {
		want = m.truth.stream
		pos -= m.truth.links[0].From
	}
	gone := m.lost || m.inRDB && (!c.Snapshot || pos < c.RDBFirst) || !m.inRDB && m.reader.pos < c.First
	if !gone && pos == int64(len(want)) {
		return // it would wait
	}
	b := make([]byte, rapid.IntRange(1, 30).Draw(t, "read"))
	n, err := m.reader.Read(b)
	switch {
	case err == io.EOF && m.inRDB && !m.lost && m.truth.links != nil:
	case gone && (errors.Is(err, ErrDropped) || errors.Is(err, errPower)):
	case gone || err != nil:
		t.Fatalf("read at %d: %d, %v; gone %v", pos, n, err, gone)
	case !bytes.Equal(b[:n], want[pos:pos+int64(n)]):
		t.Fatalf("read at %d: %x for %x", pos, b[:n], want[pos:pos+int64(n)])
	default:
		return
	}
	if err := m.reader.Close(); err != nil {
		t.Fatal(err)
	}
	m.reader = nil
}

// TestModel drives all operations, with faults, kills and power cuts in them and between them, beside a model: what a spool holds is true.
func TestModel(t *testing.T) {
	for range 10 { // each a hundred, or what -rapid.checks says
		rapid.Check(t, func(t *rapid.T) {
			m := &machine{disk: newFakeDisk(), exact: true}
			m.reopen(t)
			t.Repeat(m.actions())
		})
	}
}
