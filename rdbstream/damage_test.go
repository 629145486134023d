package rdbstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/bits"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// small are RDBs of which every byte can be damaged.
func small(t *testing.T) map[string][]byte {
	t.Helper()
	all := goldens(t)
	for name, p := range all {
		if len(p) > 600 {
			delete(all, name)
		}
	}
	for _, magic := range []string{"REDIS0012", "REDIS0015", "VALKEY080"} {
		all[magic] = everything(magic)
	}
	for _, tc := range typeCases() {
		if tc.magic < "REDIS0005" { // they have no CRC
			tc.magic = "REDIS0006"
		}
		all[tc.name()], _ = tc.rdb()
	}
	return all
}

func TestCutAnywhere(t *testing.T) {
	for name, p := range small(t) {
		whole, err := readBytes(p)
		if err != nil {
			t.Fatal(err)
		}
		for n := range p {
			for _, size := range []int{16, 4096} {
				got, err := readAll(NewReader(bufio.NewReaderSize(bytes.NewReader(p[:n]), size)))
				if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
					t.Fatalf("%s cut to %d of %d bytes: got %v, want unexpected EOF", name, n, len(p), err)
				}
				var e *Error
				if !errors.As(err, &e) || e.Offset != int64(n) {
					t.Fatalf("%s cut to %d bytes: error does not say so: %v", name, n, err)
				}
				for i := range got {
					if !reflect.DeepEqual(whole[i], got[i]) {
						t.Fatalf("%s cut to %d bytes: %s", name, n, cmp.Diff(whole[i], got[i]))
					}
				}
			}
		}
	}
}

// A flipped bit is noticed at the latest by the CRC. Only where there is none, or the version became one without, can it be missed;
// but even then the entries must be those that the bytes say.
func TestFlippedBit(t *testing.T) {
	for name, p := range small(t) {
		if strings.Contains(name, "no-crc") {
			continue
		}
		whole, err := readBytes(p)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(p) * 8 {
			q := bytes.Clone(p)
			q[bit/8] ^= 1 << (bit % 8)
			got, err := readAll(NewReader(bufio.NewReaderSize(bytes.NewReader(q), 512)))
			if err == nil && !cmp.Equal(whole, got) {
				t.Fatalf("%s with bit %d of byte %d flipped: clean end with other entries", name, bit%8, bit/8)
			}
			var e *Error
			if err != nil && !errors.As(err, &e) {
				t.Fatalf("%s with bit %d flipped: %v is no *Error", name, bit, err)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	damaged := slices.Clone(everything("REDIS0012"))
	damaged[len(damaged)-1] ^= 0xff
	for _, tc := range []struct {
		name string
		rdb  []byte
		want string
	}{
		{"nothing", nil, "RDB byte 0: unexpected EOF"},
		{"other magic", []byte("-ERR what is this"), `RDB byte 9: not an RDB: it begins with "-ERR what"`},
		{"no number", []byte("REDIS00x1"), `not an RDB: it begins with "REDIS00x1"`},
		{"signed number", []byte("REDIS+011"), `not an RDB: it begins with "REDIS+011"`},
		{"version 0", []byte("REDIS0000"), "RDB version REDIS0000 is not supported (newest: REDIS0015 and VALKEY080)"},
		{"newer Redis", newRDB("REDIS0016").end(), "RDB version REDIS0016 is not supported"},
		{"newer Valkey", newRDB("VALKEY081").end(), "RDB version VALKEY081 is not supported"},
		{"Valkey's magic with Redis' version", newRDB("VALKEY011").end(), "RDB version VALKEY011 is not supported"},
		{"CRC", damaged, "CRC64 does not agree: "},
		{"function of a release candidate", newRDB("REDIS0010").raw(opFunctionPreGA).str("f").end(), "opcode 246 (FUNCTION_PRE_GA) is not supported here"},
		{"module of a release candidate", newRDB("REDIS0008").key(TypeModulePreGA, "k").end(), "type 6 (MODULE_PRE_GA) is not supported here"},
		{"unknown type", newRDB("REDIS0015").key(34, "k").end(), "unknown type 34"},
		{"gap in the types", newRDB("REDIS0015").key(8, "k").end(), "unknown type 8"},
		{"GCRA", newRDB("REDIS0014").key(29, "k").num(1).end(), "type 29 (HASH_TMPL_LP) is not supported here"},
		{"Redis' type in Valkey", newRDB("VALKEY080").key(24, "k").end(), "unknown type 24"},
		{"Valkey's type in Redis", newRDB("REDIS0011").key(22, "k").end(), "type 22 (HASH_METADATA_PRE_GA) is not supported here"},
		{"Valkey's update", newRDB("VALKEY080").raw(opHashTemplate).end(), "opcode 242 (UPDATE) is not supported here"},
		{"key metadata too early", newRDB("REDIS0012").raw(opKeyMeta).num(0).key(TypeString, "k").str("v").end(), "opcode 243 (KEY_META) is not supported here"},
		{"AUX too early", newRDB("REDIS0004").raw(opAux).str("a", "b").end(), "opcode 250 (AUX) is not supported here"},
		{"attributes at the end", newRDB("REDIS0011").raw(opFreq, 5).end(), "a key's attributes are followed by no key"},
		{"attributes before a database", newRDB("REDIS0011").raw(opFreq, 5, opSelectDB, 0).end(), "a key's attributes are followed by no key"},
		{"invalid length", newRDB("REDIS0011").key(TypeString, "k").raw(0x82).end(), "a length begins with byte 130"},
		{"invalid string encoding", newRDB("REDIS0011").key(TypeString, "k").raw(0xc4).end(), "unknown string encoding 4"},
		{"encoding instead of a count", newRDB("REDIS0011").key(TypeSet, "k").raw(0xc0, 1).end(), "a string's encoding stands where a number should"},
		{"absurd string", newRDB("REDIS0011").key(TypeString, "k").num(1 << 63).end(), "length of 9223372036854775808 bytes or elements"},
		{"absurd count", newRDB("REDIS0011").key(TypeHash, "k").num(1<<64 - 1).end(), "length of 18446744073709551615 bytes or elements"},
		{"absurd idle time", newRDB("REDIS0011").raw(opIdle).num(1 << 63).end(), "idle time of 9223372036854775808 seconds"},
		{"absurd database", newRDB("REDIS0011").raw(opSelectDB).num(1 << 40).end(), "database 1099511627776"},
		{"key of bad LZF", newRDB("REDIS0011").raw(TypeString, 0xc3, 1, 5, 0).str("v").end(), "corrupt: LZF data"},
		{"module's opcode", newRDB("REDIS0011").key(TypeModule2, "k").num(1, 6).end(), "unknown module opcode 6"},
		{"array's tag", newRDB("REDIS0014").key(TypeArray, "k").num(1, 0, 0, 4).end(), "unknown tag of an array's element"},
		{"no such template", newRDB("REDIS0015").key(TypeHashTmplArrayRef, "k").num(1).end(), "a hash refers to a template that was not there"},
		{
			"place and key", newRDB("REDIS0011").raw(opSelectDB, 3).key(TypeModule2, "the key").num(1, 6).end(),
			`RDB byte 22 (REDIS0011, db 3, type 7 MODULE_2, key "the key"): unknown module opcode 6`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewReader(bufio.NewReader(bytes.NewReader(tc.rdb)))
			_, err := readAll(r)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if again := r.Next(new(Entry)); again != err {
				t.Errorf("then %v", again)
			}
		})
	}
}

// The reader's own errors are told from the end of its bytes.
func TestReadError(t *testing.T) {
	p := everything("REDIS0012")
	broken := errors.New("connection reset")
	for n := range p {
		_, err := readAll(NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(p[:n]), iotest.ErrReader(broken)))))
		if !errors.Is(err, broken) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("after %d bytes: got %v, want %v", n, err, broken)
		}
	}
}

// What a length promises is believed only as it arrives.
func TestPromisedLength(t *testing.T) {
	for name, b := range map[string]*rdb{
		"string": newRDB("REDIS0011").key(TypeString, "k").num(1 << 46),
		"key":    newRDB("REDIS0011").raw(TypeString).num(1 << 46),
		"LZF":    newRDB("REDIS0011").key(TypeString, "k").raw(0xc3).num(1<<46, 1<<46),
		"list":   newRDB("REDIS0011").key(TypeList, "k").num(1<<46, 1<<46),
		"IDs":    newRDB("REDIS0011").key(TypeStreamListpacks, "k").num(0, 0, 0, 0, 1).str("g").num(0, 0, 0, 1).str("c").le(0).num(1 << 46),
	} {
		t.Run(name, func(t *testing.T) {
			p := append(*b, make([]byte, 100<<10)...)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := readBytes(p)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %v, want unexpected EOF", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
				t.Errorf("allocated %d bytes for 100 kB", got)
			}
		})
	}
}

// A giant value's buffer is not kept once the entries are small again.
func TestShrinks(t *testing.T) {
	b := newRDB("REDIS0011").key(TypeString, "giant").str(string(randomBytes(20 << 20)))
	for range 3 {
		b.key(TypeString, "small").str("v")
	}
	r := NewReader(bufio.NewReaderSize(bytes.NewReader(b.end()), 64<<10))
	var e Entry
	for _, want := range []string{"giant", "small", "small", "small"} {
		if err := r.Next(&e); err != nil || string(e.Key) != want {
			t.Fatalf("got %q, %v, want %q", e.Key, err, want)
		}
		if got := cap(r.w.spill); want == "giant" && bits.Len(uint(got)) > bits.Len(uint(len(e.Value)))+1 {
			t.Errorf("%d bytes are held for %d", got, len(e.Value))
		}
	}
	if got := cap(r.w.spill); got > keepSpill {
		t.Errorf("%d bytes are still held", got)
	}
}
