package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// disk is the folder as the spool uses it: a folder, or memory, or in tests one that loses its power. Names have no path.
type disk interface {
	list() ([]entry, error)           // its regular files
	create(name string) (file, error) // fs.ErrExist when there is one
	open(name string) (file, error)   // fs.ErrNotExist when there is none
	remove(name string) error         // nil when there is none
	rename(from, to string) error
	sync() error // the names
	free() int64 // bytes; -1: unknown
}

type entry struct {
	name string
	size int64
}

// file is open for reading and writing. It lives on after it was removed, until it is closed.
type file interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// folder is a real one.
type folder struct{ dir string }

func (d folder) list() ([]entry, error) {
	names, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, n := range names {
		if !n.Type().IsRegular() {
			continue
		}
		info, err := n.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, entry{n.Name(), info.Size()})
	}
	return all, nil
}

func (d folder) create(name string) (file, error) {
	return d.openFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (d folder) open(name string) (file, error) {
	return d.openFile(name, os.O_RDWR|unix.O_NOFOLLOW)
}

// openFile keeps a nil *os.File from becoming a file that is not nil.
func (d folder) openFile(name string, flags int) (file, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d folder) remove(name string) error {
	err := os.Remove(filepath.Join(d.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d folder) rename(from, to string) error {
	return os.Rename(filepath.Join(d.dir, from), filepath.Join(d.dir, to))
}

func (d folder) sync() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d folder) free() int64 {
	var st unix.Statfs_t
	if unix.Statfs(d.dir, &st) != nil {
		return -1
	}
	return int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ between systems
}

// identity tells the folder from any copy of it.
func (d folder) identity() (string, error) {
	info, err := os.Stat(d.dir)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s has no inode", d.dir)
	}
	return fmt.Sprint(st.Ino), nil // not the device's number, which may change at each mount
}
