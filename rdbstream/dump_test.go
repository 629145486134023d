package rdbstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAppendDump(t *testing.T) {
	for _, tc := range []struct {
		name  string
		entry Entry
		body  string
		rdb   uint16
	}{
		{"string", Entry{Type: TypeString, Value: []byte("\x01v")}, "\x00\x01v", 6},
		{"quicklist", Entry{Type: TypeListQuicklist2, Value: []byte("nodes")}, "\x12nodes", 10},
		{"metadata before an old type", Entry{Type: TypeString, Value: []byte("\x01v"), Meta: []byte("\xf3\x00")}, "\xf3\x00\x00\x01v", 13},
		{"metadata before a newer type", Entry{Type: TypeArray, Value: []byte("a"), Meta: []byte("\xf3\x00")}, "\xf3\x00\x1ca", 14},
		{"Valkey's hash", Entry{Valkey: true, Type: TypeValkeyHash2, Value: []byte("h")}, "\x16h", 80},
		{"an old type in Valkey's RDB", Entry{Valkey: true, Type: TypeSetListpack, Value: []byte("s")}, "\x14s", 11},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dst, err := AppendDump([]byte("before"), &tc.entry)
			if err != nil {
				t.Fatal(err)
			}
			got, kept := strings.CutPrefix(string(dst), "before")
			if !kept || len(got) != DumpSize(&tc.entry) {
				t.Fatalf("got %q", dst)
			}
			body, footer := got[:len(got)-10], []byte(got[len(got)-10:])
			if body != tc.body || binary.LittleEndian.Uint16(footer) != tc.rdb {
				t.Errorf("got %q with RDB %d, want %q with RDB %d", body, binary.LittleEndian.Uint16(footer), tc.body, tc.rdb)
			}
			if got, want := binary.LittleEndian.Uint64(footer[2:]), CRC64(0, []byte(got[:len(got)-8])); got != want {
				t.Errorf("CRC: got %x, want %x", got, want)
			}
		})
	}
}

func TestDumpVersionOfNone(t *testing.T) {
	for _, tc := range []struct {
		valkey bool
		typ    byte
	}{{false, TypeModulePreGA}, {false, 8}, {false, 33}, {true, TypeHashMetadata}, {true, 23}, {false, 255}} {
		var unknown *UnknownError
		if v, err := DumpVersion(tc.valkey, tc.typ); !errors.As(err, &unknown) || v != 0 {
			t.Errorf("type %d (Valkey: %v): got %d, %v, want an UnknownError", tc.typ, tc.valkey, v, err)
		}
	}
	for _, typ := range []byte{TypeHashTmplLPRef, TypeHashTmplArrayRef} {
		if v, err := DumpVersion(false, typ); !errors.Is(err, ErrNotDumpable) || v != 0 {
			t.Errorf("type %d: got %d, %v, want ErrNotDumpable", typ, v, err)
		}
	}
}

// What TakeDump gives is what AppendDump does, whatever was read in pieces before, and the reader goes on behind it.
func TestTakeDump(t *testing.T) {
	large := string(randomBytes(3 << 20))
	many := newRDB("REDIS0011").key(TypeString, "small").str("v").key(TypeString, "large").str(large).key(TypeListQuicklist2, "list").num(2000)
	for range 2000 {
		many.num(1).str(large[:1000]) // plain nodes
	}
	many.key(TypeListQuicklist2, "list of pieces").num(2020) // more than two
	for i := range 2000 {
		many.num(1).str(large[i : 10_000-i%7])
		if i%100 == 0 {
			many.num(1).str(large[i : 700_000+i%11])
		}
	}
	rdb := many.key(TypeString, "piece by piece").str(strings.Repeat(large, 7)).key(TypeString, "").str(large[1:]).key(TypeString, "last").str("v").end()
	for _, buffer := range []int{64 << 10, 4 << 20} { // the second holds a value whole
		r := NewReader(bufio.NewReaderSize(bytes.NewReader(rdb), buffer))
		var kept [][]byte
		var taken, want []string
		for {
			var e Entry
			err := r.Next(&e)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			plain, err := AppendDump(nil, &e)
			if err != nil {
				t.Fatal(err)
			}
			payload, ok, err := r.TakeDump(&e)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				kept, want = append(kept, payload), append(want, string(plain))
				taken = append(taken, string(payload))
			}
		}
		for i := range want {
			if taken[i] != want[i] {
				t.Errorf("buffer of %d: value %d of %d bytes is another one", buffer, i, len(want[i]))
			}
			if string(kept[i]) != want[i] {
				t.Errorf("buffer of %d: value %d has changed while the reader went on", buffer, i)
			}
		}
		if buffer == 64<<10 && len(want) != 5 {
			t.Errorf("%d values were taken, want 5", len(want))
		}
	}
}
