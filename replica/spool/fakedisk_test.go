package spool

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"
)

var (
	errPower = errors.New("the process is dead")
	errFault = &fs.PathError{Op: "write", Path: "fake", Err: errors.New("the disk has a fault")}
)

// fakeDisk is a disk in memory that knows what is durable. It can end the process at any operation, take the power away, or fail once.
type fakeDisk struct {
	mu     sync.Mutex
	names  map[string]*inode
	log    []naming // what was done to the names since they were last synced
	synced map[string]*inode
	life   int // of the process: files that an earlier one opened are dead
	ops    int // done so far
	dieAt  int // the process dies instead of this operation; 0: never
	failAt int // this operation fails; 0: none
	space  int64
}

type inode struct{ data, durable []byte }

// naming is a name that was given to an inode, or taken from all.
type naming struct {
	name string
	*inode
}

func newFakeDisk() *fakeDisk {
	return &fakeDisk{names: map[string]*inode{}, synced: map[string]*inode{}, space: -1}
}

// step counts an operation that changes something.
func (d *fakeDisk) step(life int) error {
	if err := d.alive(life); err != nil {
		return err
	}
	d.ops++
	switch d.ops {
	case d.dieAt:
		d.life++
		return errPower
	case d.failAt:
		return errFault
	}
	return nil
}

func (d *fakeDisk) alive(life int) error {
	if life != d.life {
		return errPower
	}
	return nil
}

// process is the disk as one process sees it. A new one ends the last.
func (d *fakeDisk) process() disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life++
	return fakeProcess{d, d.life}
}

// name gives or takes a name.
func (d *fakeDisk) name(name string, i *inode) {
	if i == nil {
		delete(d.names, name)
	} else {
		d.names[name] = i
	}
	d.log = append(d.log, naming{name, i})
}

// powerCut leaves what is durable, and of the rest what choose says: it returns a number below n. When ordered, the names are as they were at
// one moment since they were synced, as a journal has it; otherwise each is as it was at one.
func (d *fakeDisk) powerCut(choose func(n int) int, ordered bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life++
	names := d.synced
	upTo := choose(len(d.log) + 1)
	for i, n := range d.log {
		if ordered && i >= upTo || !ordered && choose(2) == 0 {
			continue
		}
		if n.inode == nil {
			delete(names, n.name)
		} else {
			names[n.name] = n.inode
		}
	}
	var sorted []string
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	d.names, d.synced, d.log = map[string]*inode{}, map[string]*inode{}, nil
	for _, name := range sorted {
		b := names[name].survives(choose)
		i := &inode{b, slices.Clone(b)}
		d.names[name], d.synced[name] = i, i
	}
}

// survives is what of a file is there after a power cut: what has changed since it was synced may be as it was, as it became, torn, empty or garbage.
func (i *inode) survives(choose func(n int) int) []byte {
	same := 0
	for same < min(len(i.data), len(i.durable)) && i.data[same] == i.durable[same] {
		same++
	}
	if same < headerSize && len(i.data) >= headerSize { // a header is in one sector
		switch choose(3) {
		case 0:
			return slices.Clone(i.durable)
		case 1:
			return make([]byte, choose(len(i.data)))
		}
		same = headerSize
	}
	switch choose(5) {
	case 0:
		if len(i.durable) >= same {
			return slices.Clone(i.durable)
		}
	case 1:
		return slices.Clone(i.data)
	case 2:
		return slices.Clone(i.data[:same+choose(len(i.data)-same+1)])
	case 3:
		return append(slices.Clone(i.data[:same]), make([]byte, len(i.data)-same)...)
	}
	b := slices.Clone(i.data)
	for j := same; j < len(b); j++ {
		b[j] = byte(choose(256))
	}
	return b
}

type fakeProcess struct {
	*fakeDisk
	process int
}

func (d fakeProcess) list() ([]entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive(d.process); err != nil {
		return nil, err
	}
	var all []entry
	for name, i := range d.names {
		all = append(all, entry{name, int64(len(i.data))})
	}
	return all, nil
}

func (d fakeProcess) create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(d.process); err != nil {
		return nil, err
	}
	if d.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	i := &inode{}
	d.name(name, i)
	return &fakeFile{d: d, inode: i}, nil
}

func (d fakeProcess) open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive(d.process); err != nil {
		return nil, err
	}
	if i := d.names[name]; i != nil {
		return &fakeFile{d: d, inode: i}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (d fakeProcess) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return d.alive(d.process)
	}
	if err := d.step(d.process); err != nil {
		return err
	}
	d.name(name, nil)
	return nil
}

func (d fakeProcess) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(d.process); err != nil {
		return err
	}
	d.name(to, d.names[from])
	d.name(from, nil)
	return nil
}

func (d fakeProcess) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(d.process); err != nil {
		return err
	}
	d.synced, d.log = map[string]*inode{}, nil
	for name, i := range d.names {
		d.synced[name] = i
	}
	return nil
}

func (d fakeProcess) free() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.space
}

type fakeFile struct {
	d fakeProcess
	*inode
	closed bool
}

// do does an operation on an open file.
func (f *fakeFile) do(changes bool, what func()) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	err := f.d.alive(f.d.process)
	if changes {
		err = f.d.step(f.d.process)
	}
	if err == nil {
		what()
	}
	return err
}

func (f *fakeFile) ReadAt(p []byte, at int64) (n int, err error) {
	err = f.do(false, func() { n = copy(p, f.data[min(at, int64(len(f.data))):]) })
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *fakeFile) WriteAt(p []byte, at int64) (int, error) {
	write := func(p []byte) {
		if grow := int(at) + len(p) - len(f.data); grow > 0 {
			f.data = append(f.data, make([]byte, grow)...)
		}
		copy(f.data[at:], p)
	}
	alive := f.do(false, func() {}) == nil
	err := f.do(true, func() { write(p) })
	if alive && err != nil && len(p) != headerSize { // a part of it comes through
		p = p[:len(p)/2]
		f.d.mu.Lock()
		defer f.d.mu.Unlock()
		write(p)
		return len(p), err
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *fakeFile) Truncate(size int64) error {
	return f.do(true, func() {
		f.data = slices.Clone(f.data[:min(size, int64(len(f.data)))])
		f.data = append(f.data, make([]byte, size-int64(len(f.data)))...)
	})
}

func (f *fakeFile) Sync() error {
	return f.do(true, func() { f.durable = slices.Clone(f.data) })
}

func (f *fakeFile) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}
