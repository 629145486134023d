package crash

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"redferry/internal/redistest"
)

// powerCut is the kind of fault that the oracle has to tell from others.
const powerCut = "power cut under redferry"

// The spool's files as this package knows them, which is not from the code under test.
const (
	headerSize = 128 // in front of each segment
	markSize   = 16  // of a time in the files beside: offset, milliseconds
)

// spoolState is what the spool's state says that matters here, and from where to where its stream reaches.
type spoolState struct {
	Boot     string `json:"boot"`
	Snapshot *struct {
		Size     int64 `json:"size"`
		Complete bool  `json:"complete"`
	} `json:"snapshot"`
	Links []struct {
		ID string `json:"id"`
	} `json:"links"`
	RDBOnDisk    int64 `json:"rdb"`
	StreamOnDisk int64 `json:"trusted"`

	first, end int64 // of the stream, by its files
}

// whole tells whether there is, or was, an RDB that has arrived to its end.
func (s *spoolState) whole() bool { return s.Snapshot == nil || s.Snapshot.Complete }

// rdbOnDisk tells whether a power cut leaves of the RDB what there is.
func (s *spoolState) rdbOnDisk() bool { return s.Snapshot == nil || s.RDBOnDisk >= s.Snapshot.Size }

// readSpool reads a migration's spool; false when there is none.
func readSpool(dir string) (s spoolState, ok bool) {
	text, err := os.ReadFile(filepath.Join(dir, "state"))
	_, body, found := bytes.Cut(text, []byte("\n"))
	if err != nil || !found || json.Unmarshal(body, &s) != nil {
		return s, false
	}
	s.first = -1
	for _, g := range segments(dir, "stream-") {
		if s.first < 0 {
			s.first = g.first
		}
		s.end = g.first + g.size
	}
	return s, s.first >= 0
}

// segment is one of the spool's files.
type segment struct {
	path        string
	first, size int64 // bytes behind the header
}

// segments are those of a kind, in order.
func segments(dir, prefix string) []segment {
	paths, _ := filepath.Glob(filepath.Join(dir, prefix+"*")) // sorted
	var all []segment
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil { // freed just now
			continue
		}
		first, _ := strconv.ParseInt(strings.TrimLeft(filepath.Base(p)[len(prefix):], "0"), 10, 64) // of all zeros: 0
		all = append(all, segment{p, first, max(info.Size()-headerSize, 0)})
	}
	return all
}

// cutPower ends redferry and does to its spool what a power cut may: the boot is another one, and of what was not brought to disk there is any part, or
// something else. Before, the target does not hear of the last writes, so that they are needed from the spool.
func (w *world) cutPower(lacks time.Duration, r *rand.Rand) {
	if lacks > 0 {
		w.ways[w.target].Hold(redistest.FromClient, true)
		time.Sleep(lacks)
	}
	w.killFerry()
	w.ways[w.target].Hold(redistest.FromClient, false)
	dir := w.victim.spool()
	s, _ := readSpool(dir)
	if w.ferry != nil || s.Boot == "" { // there again, or without a state yet
		return
	}
	w.victim.anotherBoot()
	damage := func(g segment, onDisk int64) {
		if err := g.damage(r, onDisk); err != nil {
			w.t.Fatalf("cut the power: %v", err)
		}
	}
	for _, g := range segments(dir, "rdb-") {
		damage(g, s.RDBOnDisk-g.first)
	}
	for _, g := range segments(dir, "stream-") {
		damage(g, s.StreamOnDisk-g.first)
	}
	for _, g := range segments(dir, "time-") {
		damage(g, g.marks(s.StreamOnDisk)*markSize)
	}
}

// marks counts the times of a file up to an offset.
func (g segment) marks(upTo int64) (n int64) {
	b, err := os.ReadFile(g.path)
	if err != nil || len(b) < headerSize {
		return 0
	}
	for b = b[headerSize:]; len(b) >= markSize && int64(binary.LittleEndian.Uint64(b)) <= upTo; b = b[markSize:] {
		n++
	}
	return n
}

// damage loses what is behind the first bytes of a segment, which are on disk. None of them: its header need not be there, either.
func (g segment) damage(r *rand.Rand, onDisk int64) error {
	keep := headerSize + onDisk
	if onDisk <= 0 {
		keep = headerSize
		switch r.IntN(4) {
		case 0:
			return os.Remove(g.path)
		case 1:
			keep = 0
		}
	}
	size := headerSize + g.size
	if size <= keep {
		return nil
	}
	lost := size - keep
	switch r.IntN(4) {
	case 0: // cut off
		if keep += r.Int64N(lost); keep < headerSize { // which was one write: all or nothing of it
			keep = 0
		}
		return os.Truncate(g.path, keep)
	case 1: // a hole
		if err := os.Truncate(g.path, keep); err != nil {
			return err
		}
		return os.Truncate(g.path, size)
	case 2: // as it was, which nobody can know
		return nil
	}
	f, err := os.OpenFile(g.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	keep = max(keep, headerSize)
	_, err = f.WriteAt(noise(r, int(size-keep)), keep)
	return err
}
