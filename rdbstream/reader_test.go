package rdbstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sink is a value that is easy to tell from what is around it.
const sink = "the string that follows"

// typeCase is a value of a type, as bytes.
type typeCase struct {
	magic string
	typ   byte
	value []byte
	dump  int // the version that a payload of it needs
}

// rdb has the value as that of the key "first" in database 3, and a second key behind it, at offset behind.
func (tc typeCase) rdb() (p []byte, behind int64) {
	b := newRDB(tc.magic).raw(opSelectDB, 3).key(tc.typ, "first").raw(tc.value...)
	behind = int64(len(*b))
	return b.key(TypeString, "second").str("2").end(), behind
}

func (tc typeCase) valkey() bool { return strings.HasPrefix(tc.magic, "VALKEY") }

func (tc typeCase) name() string {
	return fmt.Sprintf("%s/%s/%d", tc.magic, TypeName(tc.valkey(), tc.typ), len(tc.value))
}

// streamValue is a stream of the version with all that it can have.
func streamValue(version int) []byte {
	id := string(make([]byte, 16))
	b := new(rdb).num(2).str(id, "listpack", id, "listpack").num(10, 1700000000000, 3)
	if version >= 2 {
		b.num(1, 2, 3, 4, 10)
	}
	b.num(2)
	for range 2 {
		b.str("group").num(5, 1)
		if version >= 2 {
			b.num(1<<64 - 1) // entries read: unknown
		}
		b.num(2).zeros(16).le(77).num(3).zeros(16).le(78).num(300).num(2)
		for range 2 {
			b.str("consumer").le(1)
			if version >= 3 {
				b.le(2)
			}
			b.num(1).zeros(16)
		}
		if version >= 5 {
			b.num(1).zeros(16)
		}
	}
	if version >= 4 {
		b.num(1000, 50, 2).str("producer").num(2).str("a").num(1, 2).str("b").num(1, 3).str("idle").num(0).num(2, 1)
	}
	return *b
}

func typeCases() []typeCase {
	v := func() *rdb { return new(rdb) }
	lzf := string([]byte{0xc3, 5, 10, 0, 'a', 0xe0, 0, 0}) // ten times a
	return []typeCase{
		{"REDIS0006", TypeString, *v().str("value"), 6},
		{"REDIS0006", TypeString, *v().raw(0xc0, 0xff), 6},
		{"REDIS0006", TypeString, *v().raw(0xc1, 1, 2), 6},
		{"REDIS0006", TypeString, *v().raw(0xc2, 1, 2, 3, 4), 6},
		{"REDIS0006", TypeString, []byte(lzf), 6},
		{"REDIS0008", TypeString, append([]byte{0x81, 0, 0, 0, 0, 0, 0, 0, 3}, "abc"...), 6},
		{"REDIS0008", TypeString, append([]byte{0x80, 0, 0, 0, 3}, "abc"...), 6},
		{"REDIS0008", TypeString, append([]byte{0x40, 3}, "abc"...), 6},
		{"REDIS0001", TypeList, *v().num(2).str("a", "b"), 6},
		{"REDIS0001", TypeList, *v().num(0), 6},
		{"REDIS0001", TypeSet, *v().num(2).str("a").raw([]byte(lzf)...), 6},
		{"REDIS0001", TypeZSet, *v().num(4).str("a").raw(3, '1', '.', '5').str("b").raw(253).str("c").raw(254).str("d").raw(255), 6},
		{"REDIS0001", TypeHash, *v().num(2).str("f", "v", "g", "w"), 6},
		{"REDIS0008", TypeZSet2, *v().num(2).str("a").zeros(8).str("b").zeros(8), 8},
		{"REDIS0009", TypeModule2, *v().num(1<<60, 1, 5, 2, 500, 3).zeros(4).num(4).zeros(8).num(5).str("s").num(0), 8},
		{"REDIS0002", TypeHashZipmap, *v().str(sink), 6},
		{"REDIS0002", TypeListZiplist, *v().str(sink), 6},
		{"REDIS0002", TypeSetIntset, *v().str(sink), 6},
		{"REDIS0002", TypeZSetZiplist, *v().str(sink), 6},
		{"REDIS0004", TypeHashZiplist, *v().str(sink), 6},
		{"REDIS0007", TypeListQuicklist, *v().num(2).str(sink, sink), 7},
		{"REDIS0009", TypeStreamListpacks, streamValue(1), 9},
		{"REDIS0010", TypeHashListpack, *v().str(sink), 10},
		{"REDIS0010", TypeZSetListpack, *v().str(sink), 10},
		{"REDIS0010", TypeListQuicklist2, *v().num(2, 1).str(sink).num(2).str(sink), 10},
		{"REDIS0010", TypeStreamListpacks2, streamValue(2), 10},
		{"REDIS0011", TypeSetListpack, *v().str(sink), 11},
		{"REDIS0011", TypeStreamListpacks3, streamValue(3), 11},
		{"REDIS0012", TypeHashMetadataPreGA, *v().num(2, 0).str("f", "v").num(1700000000000).str("g", "w"), 12},
		{"REDIS0012", TypeHashListpackExPreGA, *v().str(sink), 12},
		{"REDIS0012", TypeHashMetadata, *v().le(1700000000000).num(2, 0).str("f", "v").num(1).str("g", "w"), 12},
		{"REDIS0012", TypeHashListpackEx, *v().le(1700000000000).str(sink), 12},
		{"REDIS0013", TypeStreamListpacks4, streamValue(4), 13},
		{"REDIS0014", TypeStreamListpacks5, streamValue(5), 14},
		{"REDIS0014", TypeArray, *v().num(4, 0).num(0, arraySDS).str("a").num(7, arrayInt).zeros(8).
			num(8, arrayFloat).zeros(8).num(9, arraySmallStr).str("s"), 14},
		{"REDIS0014", TypeArray, *v().num(1, 1, 55).num(0, arraySDS).str("a"), 14},
		{"REDIS0015", TypeHashTmplLP, *v().num(2).str("f", "g", "listpack"), 15},
		{"REDIS0015", TypeHashTmplArray, *v().num(2).str("f", "v", "g", "w"), 15},
		{"VALKEY080", TypeValkeyHash2, *v().num(2).str("f", "v").le(-1).str("g", "w").le(1700000000000), 80},
		{"VALKEY080", TypeStreamListpacks3, streamValue(3), 11},
	}
}

// Only when a value's end was found exactly is the second key read.
func TestTypes(t *testing.T) {
	for _, tc := range typeCases() {
		t.Run(tc.name(), func(t *testing.T) {
			p, behind := tc.rdb()
			got, err := readBytes(p)
			if err != nil {
				t.Fatal(err)
			}
			first := Entry{Kind: KindKey, Valkey: tc.valkey(), DB: 3, Key: []byte("first"), Type: tc.typ, Value: tc.value, Idle: -1, Freq: -1}
			second := first
			second.Key, second.Type, second.Value = []byte("second"), TypeString, []byte("\x012")
			first.Offset, first.End, second.Offset, second.End = 11, behind, behind, behind+10
			if diff := cmp.Diff([]Entry{first, second}, got); diff != "" {
				t.Error(diff)
			}
			if v, err := DumpVersion(tc.valkey(), tc.typ); v != tc.dump || err != nil {
				t.Errorf("DumpVersion: got %d, %v, want %d", v, err, tc.dump)
			}
		})
	}
}

// everything is an RDB with each opcode that a magic has.
func everything(magic string) []byte {
	b := newRDB(magic)
	b.raw(opAux).str("redis-ver", "8.6.0").raw(opAux).str("redis-bits").raw(0xc0, 64)
	b.raw(opModuleAux).num(0x1234567890abcdef, 2, 1, 5).str("aux").num(0)
	b.raw(opFunction2).str("#!lua name=lib\nreturn 1")
	if magic == "VALKEY080" {
		b.raw(opSlotImport).str("job").num(2, 0, 100, 200, 16383)
	}
	b.raw(opSelectDB, 0, opResizeDB).num(300, 2).raw(opSlotInfo).num(16000, 10, 2)
	b.raw(opExpireTimeMs).le(1700000000000).raw(opIdle).num(1000)
	if magic == "REDIS0015" {
		b.raw(opKeyMeta).num(2).raw(1, 2, 3, 4).num(1, 5, 0).raw(5, 6, 7, 8).num(0)
	}
	b.key(TypeString, "a").str("1")
	b.raw(opAux).str("slot-info", "1,2,3")
	b.raw(opExpireTime, 1, 0, 0, 0, opFreq, 255, opAux).str("mvcc-tstamp", "5").key(TypeString, "b").str("2")
	b.raw(TypeString, 0xc1, 0x39, 0x30).raw(0xc3, 5, 10, 0, 'a', 0xe0, 0, 0) // key 12345, value aaaaaaaaaa
	b.raw(opSelectDB).num(77).raw(opExpireTimeMs).le(0).key(TypeString, "").str("")
	b.raw(opExpireTimeMs).le(-5).raw(TypeString, 0xc3, 5, 10, 0, 'b', 0xe0, 0, 0).str("lzf")
	return b.end()
}

// everythingSaid are the entries of everything, but for their offsets.
func everythingSaid(magic string) []Entry {
	base := Entry{Idle: -1, Freq: -1}
	with := func(f func(e *Entry)) Entry {
		e := base
		f(&e)
		return e
	}
	meta := []byte{opKeyMeta, 2, 1, 2, 3, 4, 1, 5, 0, 5, 6, 7, 8, 0}
	want := []Entry{
		with(func(e *Entry) { e.Kind, e.Name, e.Data = KindAux, []byte("redis-ver"), []byte("8.6.0") }),
		with(func(e *Entry) { e.Kind, e.Name, e.Data = KindAux, []byte("redis-bits"), []byte("64") }),
		with(func(e *Entry) {
			e.Kind, e.Name = KindModuleAux, []byte("EjRWeJCrz")
			e.Data = *new(rdb).num(0x1234567890abcdef, 2, 1, 5).str("aux").num(0)
		}),
		with(func(e *Entry) { e.Kind, e.Data = KindFunction, []byte("#!lua name=lib\nreturn 1") }),
	}
	if magic == "VALKEY080" {
		want = append(want, with(func(e *Entry) {
			e.Kind, e.Name, e.Data = KindSlotImport, []byte("job"), *new(rdb).str("job").num(2, 0, 100, 200, 16383)
		}))
	}
	want = append(want,
		with(func(e *Entry) { e.Kind, e.Keys, e.Expires = KindResize, 300, 2 }),
		with(func(e *Entry) {
			e.Kind, e.Key, e.Value, e.Idle = KindKey, []byte("a"), []byte("\x011"), 1000
			e.ExpireAt, e.HasExpire = 1700000000000, true
			if magic == "REDIS0015" {
				e.Meta = meta
			}
		}),
		with(func(e *Entry) { e.Kind, e.Name, e.Data = KindAux, []byte("slot-info"), []byte("1,2,3") }),
		with(func(e *Entry) {
			e.Kind, e.Key, e.Value, e.Freq = KindKey, []byte("b"), []byte("\x012"), 255
			e.ExpireAt, e.HasExpire = 1000, true
		}),
		with(func(e *Entry) {
			e.Kind, e.Key, e.Value = KindKey, []byte("12345"), []byte{0xc3, 5, 10, 0, 'a', 0xe0, 0, 0}
		}),
		with(func(e *Entry) {
			e.Kind, e.DB, e.Value, e.HasExpire = KindKey, 77, []byte{0}, true
		}),
		with(func(e *Entry) {
			e.Kind, e.DB, e.Key, e.Value = KindKey, 77, []byte("bbbbbbbbbb"), []byte("\x03lzf")
			e.ExpireAt, e.HasExpire = -5, true
		}),
	)
	for i := range want {
		want[i].Valkey = magic == "VALKEY080"
	}
	return want
}

func TestEverything(t *testing.T) {
	for _, magic := range []string{"REDIS0012", "REDIS0015", "VALKEY080"} {
		t.Run(magic, func(t *testing.T) {
			want := everythingSaid(magic)
			got, err := readBytes(everything(magic))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Entry{}, "Offset", "End")); diff != "" {
				t.Error(diff)
			}
			last := int64(0)
			for _, e := range got {
				if e.Offset < last || e.End <= e.Offset {
					t.Errorf("%s %q: from %d to %d, behind %d", e.Kind, e.Key, e.Offset, e.End, last)
				}
				last = e.End
			}
		})
	}
}

// A hash of a template needs the template's number of fields to be found at all, and cannot be dumped.
func TestHashTemplates(t *testing.T) {
	p := newRDB("REDIS0015").raw(opHashTemplate).num(9, 2).str("f", "g").raw(opHashTemplate).num(300, 1).str("f").raw(opSelectDB, 0).
		key(TypeHashTmplArrayRef, "two").num(9).str("v", "w").
		key(TypeHashTmplArrayRef, "one").num(300).str("v").
		key(TypeHashTmplLPRef, "listpack").str(sink).end()
	got, err := readBytes(p)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, e := range got {
		keys = append(keys, string(e.Key))
		dst, err := AppendDump([]byte("kept"), &e)
		if !errors.Is(err, ErrNotDumpable) || string(dst) != "kept" {
			t.Errorf("AppendDump: got %q, %v, want ErrNotDumpable", dst, err)
		}
	}
	if diff := cmp.Diff([]string{"two", "one", "listpack"}, keys); diff != "" {
		t.Error(diff)
	}
}

// The bytes behind an RDB belong to somebody else: they stay in the reader, also when it yields one byte at a time.
func TestLeavesTheRest(t *testing.T) {
	rest := strings.Repeat("*1\r\n$4\r\nPING\r\n", 100)
	for name, p := range map[string][]byte{
		"with CRC":         everything("REDIS0012"),
		"CRC not computed": append(everything("REDIS0012")[:len(everything("REDIS0012"))-8], make([]byte, 8)...),
		"no CRC":           append(*newRDB("REDIS0004").raw(opSelectDB, 0).key(TypeString, "k").str("v"), opEOF),
		"empty":            newRDB("REDIS0011").end(),
		"large value":      newRDB("REDIS0011").key(TypeString, "k").str(string(randomBytes(300 << 10))).end(),
	} {
		for _, size := range []int{16, 4096, 1 << 20} {
			for way, wrap := range map[string]func(io.Reader) io.Reader{
				"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
				"data with EOF": iotest.DataErrReader,
			} {
				t.Run(fmt.Sprintf("%s/%d/%s", name, size, way), func(t *testing.T) {
					br := bufio.NewReaderSize(wrap(strings.NewReader(string(p)+rest)), size)
					r := NewReader(br)
					if _, err := readAll(r); err != nil {
						t.Fatal(err)
					}
					if got, want := r.Offset(), int64(len(p)); got != want {
						t.Errorf("Offset: got %d, want %d", got, want)
					}
					got, err := io.ReadAll(br)
					if string(got) != rest || err != nil {
						t.Errorf("left %q, %v", got, err)
					}
				})
			}
		}
	}
}

// stall fails when it is read from beyond its bytes: a source that waits for us would never send them.
type stall struct{ p *bytes.Reader }

var errStalled = errors.New("read beyond the RDB")

func (s stall) Read(p []byte) (int, error) {
	if s.p.Len() == 0 {
		return 0, errStalled
	}
	return s.p.Read(p)
}

func TestNeverWaitsForMore(t *testing.T) {
	for name, p := range goldens(t) {
		r := NewReader(bufio.NewReaderSize(stall{bytes.NewReader(p)}, 64<<10))
		if _, err := readAll(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// However the bytes come in, the entries are the same.
func TestAnyBuffer(t *testing.T) {
	all := goldens(t)
	for _, magic := range []string{"REDIS0012", "REDIS0015", "VALKEY080"} {
		all[magic] = everything(magic)
	}
	for name, p := range all {
		t.Run(name, func(t *testing.T) {
			want, err := readBytes(p)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{16, 17, 100, 1 << 20} {
				for way, src := range map[string]io.Reader{
					"whole": bytes.NewReader(p), "byte by byte": iotest.OneByteReader(bytes.NewReader(p)), "halves": iotest.HalfReader(bytes.NewReader(p)),
				} {
					got, err := readAll(NewReader(bufio.NewReaderSize(src, size)))
					if err != nil {
						t.Fatalf("buffer of %d, %s: %v", size, way, err)
					}
					if !reflect.DeepEqual(want, got) {
						t.Fatalf("buffer of %d, %s: %s", size, way, cmp.Diff(want, got))
					}
				}
			}
		})
	}
}
