package rdbstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"redferry/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// randomBytes are the same n bytes in every run; LZF cannot compress them.
func randomBytes(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	return p
}

// clone is a copy of an entry that stays valid.
func clone(e *Entry) Entry {
	c := *e
	c.Key, c.Value, c.Meta = bytes.Clone(e.Key), bytes.Clone(e.Value), bytes.Clone(e.Meta)
	c.Name, c.Data = bytes.Clone(e.Name), bytes.Clone(e.Data)
	return c
}

// readAll reads an RDB to its end; the error is nil when that end is clean.
func readAll(r *Reader) ([]Entry, error) {
	var all []Entry
	var e Entry
	for {
		if err := r.Next(&e); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return all, err
		}
		all = append(all, clone(&e))
	}
}

func readBytes(p []byte) ([]Entry, error) {
	return readAll(NewReader(bufio.NewReaderSize(bytes.NewReader(p), 64<<10)))
}

// goldens are the RDBs in testdata, each written by the server that its name begins with.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.rdb")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	all := make(map[string][]byte)
	for _, path := range paths {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(path)] = p
	}
	return all
}

// rdb builds an RDB by hand, for what no server at hand writes.
type rdb []byte

func newRDB(magic string) *rdb {
	b := rdb(magic)
	return &b
}

func (b *rdb) raw(p ...byte) *rdb {
	*b = append(*b, p...)
	return b
}

// num appends lengths, each in its shortest form.
func (b *rdb) num(ns ...uint64) *rdb {
	for _, n := range ns {
		switch {
		case n < 1<<6:
			b.raw(byte(n))
		case n < 1<<14:
			b.raw(0x40|byte(n>>8), byte(n))
		case n < 1<<32:
			*b = binary.BigEndian.AppendUint32(append(*b, 0x80), uint32(n))
		default:
			*b = binary.BigEndian.AppendUint64(append(*b, 0x81), n)
		}
	}
	return b
}

func (b *rdb) str(ss ...string) *rdb {
	for _, s := range ss {
		b.num(uint64(len(s))).raw([]byte(s)...)
	}
	return b
}

// le appends a number of 8 bytes.
func (b *rdb) le(n int64) *rdb {
	*b = binary.LittleEndian.AppendUint64(*b, uint64(n))
	return b
}

func (b *rdb) zeros(n int) *rdb { return b.raw(make([]byte, n)...) }

// key begins a key of the type; its value is to follow.
func (b *rdb) key(typ byte, key string) *rdb { return b.raw(typ).str(key) }

// end appends EOF and CRC.
func (b *rdb) end() []byte {
	b.raw(opEOF)
	return binary.LittleEndian.AppendUint64(*b, CRC64(0, *b))
}
