package spool

import (
	"io"
	"io/fs"
	"sync"
)

// memory is a disk without one: files are buffers of one size, used again once they are removed and closed.
type memory struct {
	size int64 // of a buffer

	mu    sync.Mutex
	files map[string]*buffer
	spare [][]byte // removed buffers' memory, a few at most
}

// buffer is a file in memory.
type buffer struct {
	home *memory
	b    []byte
	refs int // how often it is open, under home.mu
	gone bool
}

func newMemory() *memory { return &memory{files: map[string]*buffer{}} }

func (m *memory) list() ([]entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []entry
	for name := range m.files {
		all = append(all, entry{name, m.size})
	}
	return all, nil
}

func (m *memory) create(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	f := &buffer{home: m, refs: 1}
	if n := len(m.spare); n > 0 {
		f.b, m.spare = m.spare[n-1], m.spare[:n-1]
	} else {
		f.b = make([]byte, m.size)
	}
	m.files[name] = f
	return f, nil
}

func (m *memory) open(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f.refs++
	return f, nil
}

func (m *memory) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.files[name]; f != nil {
		delete(m.files, name)
		f.gone = true
		f.recycle()
	}
	return nil
}

// Names are never lost here, and nobody renames: without a state there is nothing to put into place.
func (m *memory) rename(_, _ string) error { return nil }
func (m *memory) sync() error              { return nil }
func (m *memory) free() int64              { return -1 }

// recycle keeps the memory of a file that nobody can reach any more.
func (f *buffer) recycle() {
	if f.gone && f.refs == 0 && len(f.home.spare) < 4 {
		f.home.spare = append(f.home.spare, f.b)
	}
}

func (f *buffer) ReadAt(p []byte, at int64) (int, error) {
	n := copy(p, f.b[min(at, int64(len(f.b))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *buffer) WriteAt(p []byte, at int64) (int, error) {
	n := copy(f.b[min(at, int64(len(f.b))):], p)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

func (f *buffer) Truncate(int64) error { return nil } // what is beyond a segment's size is never read
func (f *buffer) Sync() error          { return nil }

func (f *buffer) Close() error {
	f.home.mu.Lock()
	defer f.home.mu.Unlock()
	f.refs--
	f.recycle()
	return nil
}
