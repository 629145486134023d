package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strconv"
)

const (
	stateName = "state"
	stateTemp = "state.new" // becomes the state by a rename
	stateMax  = 1 << 20     // bytes: no state is as long
)

// state is what the file of this name says: what the spool holds and up to where it may be trusted after a power cut. A line with the format and
// a checksum is in front of it.
type state struct {
	Place string `json:"place"`
	Boot  string `json:"boot,omitempty"` // in the same one, files are whole up to their size; never if ""
	description
	First         int64 `json:"first"`   // of the stream: segments before it were freed
	TrustedRDB    int64 `json:"rdb"`     // the RDB's bytes before it are on disk
	TrustedStream int64 `json:"trusted"` // the stream's up to this offset are
}

func (st state) encode() ([]byte, error) {
	body, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %d state %08x\n%s", magic, format, crc32.ChecksumIEEE(body), body), nil
}

// decodeState reads a state. The error is a newerError where a newer redferry wrote it.
func decodeState(b []byte) (state, error) {
	end := slices.Index(b, '\n')
	if end < 0 {
		return state{}, errors.New("its state is garbled")
	}
	words, err := decodeMagic(b[:end])
	var newer *newerError
	if errors.As(err, &newer) {
		return state{}, err
	}
	body := b[end+1:]
	if err != nil || len(words) != 2 || words[0] != "state" {
		return state{}, errors.New("its state is garbled")
	}
	if sum, err := strconv.ParseUint(words[1], 16, 32); err != nil || uint32(sum) != crc32.ChecksumIEEE(body) {
		return state{}, errors.New("its state is garbled")
	}
	var st state
	if err := json.Unmarshal(body, &st); err != nil {
		return state{}, fmt.Errorf("its state is garbled: %w", err)
	}
	return st, st.check()
}

// check is for what no spool writes.
func (st state) check() error {
	n := st.Snapshot
	sorted := slices.IsSortedFunc(st.Links, func(a, b link) int { return int(max(-1, min(1, a.From-b.From))) })
	switch {
	case !sorted, n == nil && st.Links == nil, n != nil && n.Complete != (st.Links != nil), n != nil && n.Complete && n.Size < 0:
		return errors.New("its state contradicts itself")
	}
	return nil
}

// save writes the state that goes with a description, as edit leaves it, and puts it into place. When it returns, the state is on disk, or the
// one before is. Where nobody knows which, because that failed, everything is dropped. The caller holds structure.
func (s *Spool) save(d description, edit func(*state)) error {
	if s.volatile {
		return nil
	}
	s.mu.Lock()
	st := s.state(d)
	s.unsaved = false
	s.mu.Unlock()
	if edit != nil {
		edit(&st)
	}
	if err := st.write(s.disk); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unsaved = true
		return err
	}
	if err := errors.Join(s.disk.rename(stateTemp, stateName), s.disk.sync()); err != nil {
		return errors.Join(err, s.clear())
	}
	return nil
}

// state is the state with a description. The caller holds mu.
func (s *Spool) state(d description) state {
	st := state{Place: s.place, Boot: s.boot, description: d, TrustedRDB: s.rdb.trusted()}
	if d.Snapshot != nil && d.Snapshot.Complete && len(s.rdb.segments) == 0 {
		st.Snapshot = nil // freed
	}
	if len(s.stream.segments) > 0 {
		st.First, st.TrustedStream = s.stream.first(), s.stream.trusted()
	} else if d.Links != nil { // just begun
		st.First, st.TrustedStream = d.Links[0].From, d.Links[0].From
	}
	return st
}

// trusted is up to where all is on disk.
func (p *part) trusted() int64 {
	var end int64
	for _, g := range p.segments {
		end = g.first + max(g.synced, 0)
		if g.synced < g.size {
			break
		}
	}
	return end
}

// write writes the state beside the one that is in place.
func (st state) write(d disk) error {
	b, err := st.encode()
	if err != nil {
		return err
	}
	if err := d.remove(stateTemp); err != nil {
		return err
	}
	f, err := d.create(stateTemp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readState reads the state file; nil when there is none.
func readState(d disk) ([]byte, error) {
	f, err := d.open(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, stateMax)
	n, err := f.ReadAt(b, 0)
	if n > 0 || errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], errors.Join(err, f.Close())
}
