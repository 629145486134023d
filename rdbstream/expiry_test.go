package rdbstream

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// far is a moment from which on shifted leaves an expiry as it is.
const far = 1 << 44

func shifted(ms int64) int64 {
	if ms >= far {
		return ms
	}
	return ms + 1<<45
}

func identity(ms int64) int64 { return ms }

// hashField is a field as the value says it; At is -1 without an expiry, as HPEXPIRETIME has it.
type hashField struct {
	Name, Value string
	At          int64
}

// mapped is what f makes of fields that a value of this type says.
func mapped(fields []hashField, valkey bool, typ byte, f func(int64) int64) []hashField {
	fields = slices.Clone(fields)
	for i := range fields {
		if at := &fields[i].At; *at != -1 {
			*at = f(*at)
		}
	}
	if !valkey && typ == TypeHashListpackEx {
		slices.SortStableFunc(fields, func(a, b hashField) int {
			if (a.At == -1) != (b.At == -1) {
				return cmp.Compare(b.At, a.At)
			}
			return cmp.Compare(a.At, b.At)
		})
	}
	return fields
}

var errDecode = errors.New("no hash")

// decodeHash reads a value with what reads an RDB, not with what maps it; a listpack backwards, so that the lengths behind its elements are read.
func decodeHash(valkey bool, typ byte, value []byte) (earliest int64, fields []hashField, err error) {
	w := &window{br: bufio.NewReader(bytes.NewReader(value))}
	w.begin()
	str := func() string {
		s, e := w.string()
		if e == nil {
			var scratch []byte
			var p []byte
			p, e = text(w.captured(), s, &scratch)
			err = cmp.Or(err, e)
			return string(p)
		}
		err = cmp.Or(err, e)
		return ""
	}
	number := func(read func() (uint64, error)) int64 {
		n, e := read()
		err = cmp.Or(err, e)
		return int64(n)
	}
	fixed := func() (uint64, error) { return w.uint64(8) }
	if !valkey {
		earliest = number(fixed)
	}
	if !valkey && typ == TypeHashListpackEx {
		lp := str()
		if err == nil {
			fields, err = backwards(lp)
		}
	} else {
		for n := number(w.count); n > 0 && err == nil; n-- {
			var field hashField
			if valkey {
				field = hashField{str(), str(), number(fixed)}
			} else {
				at := number(w.number)
				if at != 0 {
					at += earliest - 1
				}
				field = hashField{str(), str(), orNone(at)}
			}
			fields = append(fields, field)
		}
	}
	if err == nil && w.offset() != int64(len(value)) {
		err = errDecode
	}
	return earliest, fields, err
}

// orNone is an expiry as Redis stores it.
func orNone(at int64) int64 {
	if at == 0 {
		return -1
	}
	return at
}

// backwards reads a listpack's fields from its end.
func backwards(lp string) (fields []hashField, err error) {
	if len(lp) < 7 || binary.LittleEndian.Uint32([]byte(lp)) != uint32(len(lp)) || lp[len(lp)-1] != 0xff {
		return nil, errDecode
	}
	count := int(binary.LittleEndian.Uint16([]byte(lp[4:])))
	p := lp[6 : len(lp)-1]
	var elements []string
	for p != "" {
		size, shift := 0, 0
		for {
			if p == "" || shift > 28 {
				return nil, errDecode
			}
			b := p[len(p)-1]
			p = p[:len(p)-1]
			size |= int(b&127) << shift
			if shift += 7; b&128 == 0 {
				break
			}
		}
		if size == 0 || size > len(p) {
			return nil, errDecode
		}
		element, ok := decodeElement(p[len(p)-size:])
		if !ok {
			return nil, errDecode
		}
		elements = append(elements, element)
		p = p[:len(p)-size]
	}
	if len(elements)%3 != 0 || count != min(len(elements), 65535) {
		return nil, errDecode
	}
	slices.Reverse(elements)
	for e := range slices.Chunk(elements, 3) {
		at, err := strconv.ParseInt(e[2], 10, 64)
		if err != nil {
			return nil, errDecode
		}
		fields = append(fields, hashField{e[0], e[1], orNone(at)})
	}
	return fields, nil
}

func decodeElement(p string) (string, bool) {
	// sign extends the little-endian number of these bytes.
	number := func(p string) (string, bool) {
		n := uint64(0)
		for i := range len(p) {
			n |= uint64(p[i]) << (8 * i)
		}
		unused := 64 - 8*len(p)
		return strconv.FormatInt(int64(n<<unused)>>unused, 10), true
	}
	sizes := map[byte]int{0xf1: 2, 0xf2: 3, 0xf3: 4, 0xf4: 8}
	switch b := p[0]; {
	case b < 0x80:
		return strconv.Itoa(int(b)), len(p) == 1
	case b>>6 == 2:
		return p[1:], len(p)-1 == int(b&63)
	case b>>5 == 6 && len(p) == 2:
		n := int(b&31)<<8 | int(p[1])
		if n >= 4096 {
			n -= 8192
		}
		return strconv.Itoa(n), true
	case b>>4 == 14 && len(p) >= 2:
		return p[2:], len(p)-2 == int(b&15)<<8|int(p[1])
	case b == 0xf0 && len(p) >= 5:
		return p[5:], uint64(len(p)-5) == uint64(binary.LittleEndian.Uint32([]byte(p[1:])))
	case sizes[b] != 0 && len(p) == 1+sizes[b]:
		return number(p[1:])
	}
	return "", false
}

// payload is body, the type and the value, with a footer.
func payload(body string, version int) []byte { return seal([]byte(body), 0, version) }

func (b *rdb) element(ss ...string) *rdb {
	for _, s := range ss {
		*b = append(*b, s...)
		switch n := len(s); {
		case n < 128:
			b.raw(byte(n))
		default:
			b.raw(byte(n>>7), byte(n&127|128))
		}
	}
	return b
}

// listpack puts a header before elements, and an end behind them.
func listpack(n int, elements *rdb) string {
	lp := binary.LittleEndian.AppendUint32(nil, uint32(7+len(*elements)))
	lp = binary.LittleEndian.AppendUint16(lp, uint16(n))
	return string(append(append(lp, *elements...), 0xff))
}

// le64 are the bytes of a number.
func le64(n int64) string { return string(*newRDB("").le(n)) }

// moment is a listpack's element for a time.
func moment(ms int64) string { return "\xf4" + le64(ms) }

// hashCases are values with field expiries, each with what is said in it.
func hashCases() []struct {
	name   string
	valkey bool
	typ    byte
	value  *rdb
	want   []hashField
} {
	const now = 1_700_000_000_123
	long := strings.Repeat("v", 300)
	return []struct {
		name   string
		valkey bool
		typ    byte
		value  *rdb
		want   []hashField
	}{
		{
			"metadata", false, TypeHashMetadata, newRDB("").le(now).num(3, 1).str("f", "v").num(0).str("g", "w").num(5000).str("h", "").raw(),
			[]hashField{{"f", "v", now}, {"g", "w", -1}, {"h", "", now + 4999}},
		},
		{"metadata whose header is earlier than any", false, TypeHashMetadata, newRDB("").le(now-77).num(1, 78).str("f", "v"), []hashField{{"f", "v", now}}},
		{
			"metadata with one far away", false, TypeHashMetadata, newRDB("").le(now).num(3, 1).str("f", "v").num(0).str("g", "w").num(far).str("h", long),
			[]hashField{{"f", "v", now}, {"g", "w", -1}, {"h", long, now + far - 1}},
		},
		{"metadata with none left", false, TypeHashMetadata, newRDB("").le(maxFieldExpiry).num(1, 0).str("f", "v"), []hashField{{"f", "v", -1}}},
		{
			"metadata of encoded strings", false, TypeHashMetadata,
			newRDB("").le(now).num(2, 1).raw(0xc0, 5, 0xc3, 5, 10, 0, 'a', 0xe0, 0, 0).num(far).raw(0xc1, 1, 1, 0xc2, 1, 0, 0, 1),
			[]hashField{{"5", "aaaaaaaaaa", now}, {"257", "16777217", now + far - 1}},
		},
		{"metadata of nothing", false, TypeHashMetadata, newRDB("").le(now).num(0), nil},
		{
			"listpack", false, TypeHashListpackEx,
			newRDB("").le(now).str(listpack(9, newRDB("").element("\x81f", "\x81v", moment(now), "\x81g", "\x05", moment(now+1), "\x81h", "\x80", "\x00"))),
			[]hashField{{"f", "v", now}, {"g", "5", now + 1}, {"h", "", -1}},
		},
		{
			"listpack with one far away", false, TypeHashListpackEx,
			newRDB("").le(now).str(listpack(12, newRDB("").element("\x81f", "\x81v", moment(now), "\x81i", "\x81x", moment(now),
				"\x81g", "\xe1\x2c"+long, moment(far), "\x81h", "\x82ww", "\x00"))),
			[]hashField{{"f", "v", now}, {"i", "x", now}, {"g", long, far}, {"h", "ww", -1}},
		},
		{
			"listpack of early moments", false, TypeHashListpackEx, newRDB("").le(100).str(listpack(15, newRDB("").element(
				"\x81a", "\x81v", "\x64", "\x81b", "\x81v", "\xcf\xff", "\x81c", "\x81v", "\xf1\x00\x10",
				"\x81d", "\x81v", "\xf2\x00\x00\x10", "\x81e", "\x81v", "\xf3\x00\x00\x00\x10"))),
			[]hashField{{"a", "v", 100}, {"b", "v", 4095}, {"c", "v", 4096}, {"d", "v", 1 << 20}, {"e", "v", 1 << 28}},
		},
		{"listpack of nothing", false, TypeHashListpackEx, newRDB("").le(now).str(listpack(0, newRDB(""))), nil},
		{
			"Valkey's", true, TypeValkeyHash2, newRDB("").num(4).str("f", "v").le(now).str("g", "w").le(-1).raw(0xc0, 5).str("x").le(1<<62).str("h", long).le(0),
			[]hashField{{"f", "v", now}, {"g", "w", -1}, {"5", "x", 1 << 62}, {"h", long, 0}},
		},
		{"Valkey's of nothing", true, TypeValkeyHash2, newRDB("").num(0), nil},
	}
}

// What is mapped says the same as before but for the expiries, by way of the snapshot and of the stream.
func TestMapDump(t *testing.T) {
	for _, tc := range hashCases() {
		for name, f := range map[string]func(int64) int64{"identity": identity, "shifted": shifted} {
			t.Run(tc.name+"/"+name, func(t *testing.T) {
				e := &Entry{Valkey: tc.valkey, Type: tc.typ, Value: *tc.value}
				plain, err := AppendDump(nil, e)
				if err != nil {
					t.Fatal(err)
				}
				got, err := AppendDumpMapped([]byte("before"), e, f)
				if err != nil {
					t.Fatal(err)
				}
				same, ok, err := MapDump([]byte("before"), plain, f)
				if !ok || err != nil || !bytes.Equal(same, got) {
					t.Errorf("the stream's: %q, %v, %v\nthe snapshot's: %q", same, ok, err, got)
				}
				checkPayload(t, got[6:], tc.valkey, tc.typ, mapped(tc.want, tc.valkey, tc.typ, f))
			})
		}
	}
}

// checkPayload holds a payload to what it is to say.
func checkPayload(t *testing.T, p []byte, valkey bool, typ byte, want []hashField) {
	t.Helper()
	body, footer := p[:len(p)-dumpFooter], p[len(p)-dumpFooter:]
	version, err := DumpVersion(valkey, typ)
	if err != nil || int(binary.LittleEndian.Uint16(footer)) != version || binary.LittleEndian.Uint64(footer[2:]) != CRC64(0, p[:len(p)-8]) || body[0] != typ {
		t.Errorf("type %d, footer %x: %v", body[0], footer, err)
	}
	earliest, got, err := decodeHash(valkey, typ, body[1:])
	if err != nil {
		t.Fatalf("cannot read %q: %v", body, err)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(got) > 0 && got[0].At != -1 && typ == TypeHashListpackEx && got[0].At != earliest {
		t.Errorf("%d is the earliest, said is %d", got[0].At, earliest)
	}
}

// A payload without field expiries is not touched, whoever wrote it.
func TestMapDumpLeaves(t *testing.T) {
	for _, tc := range []struct {
		name    string
		payload []byte
	}{
		{"nothing", nil},
		{"less than a footer", []byte("\x18123456789")},
		{"string", payload("\x00\x01v", 11)},
		{"plain hash", payload("\x04\x01\x01f\x01v", 80)},
		{"Redis' type from Valkey", payload("\x18"+string(*newRDB("").le(1).num(0)), 80)},
		{"Valkey's type from Redis", payload("\x16\x00", 79)},
		{"metadata before a string", payload("\xf3\x00\x00\x01v", 13)},
		{"metadata where there is none yet", payload("\xf3\x00\x18", 12)},
		{"metadata where there is none", payload("\xf3\x00\x16", 80)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if out, ok, err := MapDump([]byte("before"), tc.payload, shifted); ok || err != nil || string(out) != "before" {
				t.Errorf("got %q, %v, %v", out, ok, err)
			}
		})
	}
	hash := payload("\x18"+string(*newRDB("").le(1).num(0)), 12)
	if out, ok, err := MapDump(nil, hash, nil); ok || err != nil || out != nil {
		t.Errorf("without a function: %q, %v, %v", out, ok, err)
	}
}

// A wrong CRC must not be made right; one of 0 is none.
func TestMapDumpCRC(t *testing.T) {
	p := payload("\x18"+string(*newRDB("").le(1).num(1, 1).str("f", "v")), 12)
	want, _, _ := MapDump(nil, p, shifted)
	clear(p[len(p)-8:])
	if out, ok, err := MapDump(nil, p, shifted); !ok || err != nil || !bytes.Equal(out, want) {
		t.Errorf("without a CRC: got %q, %v, %v, want %q", out, ok, err, want)
	}
	p[len(p)-1] = 1
	var crc *CRCError
	if out, ok, err := MapDump([]byte("before"), p, shifted); ok || !errors.As(err, &crc) || string(out) != "before" {
		t.Errorf("with a wrong CRC: got %q, %v, %v", out, ok, err)
	}
}

// Metadata of modules comes before the type, and stays there.
func TestMapDumpMetadata(t *testing.T) {
	meta := string(*newRDB("").raw(opKeyMeta).num(2).raw(1, 2, 3, 4).num(moduleUInt, 7, moduleString).str("abc").num(moduleEOF).zeros(4).
		num(moduleDouble).le(1).num(moduleEOF))
	value := newRDB("").le(1000).num(1, 1).str("f", "v")
	out, ok, err := MapDump(nil, payload(meta+"\x18"+string(*value), 14), shifted)
	want := payload(meta+"\x18"+string(*newRDB("").le(1000+1<<45).num(1, 1).str("f", "v")), 14)
	if !ok || err != nil || !bytes.Equal(out, want) {
		t.Errorf("got  %q, %v, %v\nwant %q", out, ok, err, want)
	}
	e := &Entry{Type: TypeHashMetadata, Value: *value, Meta: []byte(meta)}
	binary.LittleEndian.PutUint16(want[len(want)-dumpFooter:], metaDump)
	want = seal(want[:len(want)-dumpFooter], 0, metaDump)
	if got, err := AppendDumpMapped(nil, e, shifted); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got  %q, %v\nwant %q", got, err, want)
	}
	for n := 1; n <= len(meta); n++ {
		var corrupt *CorruptError
		if out, ok, err := MapDump(nil, payload(meta[:n], 13), shifted); ok || !errors.As(err, &corrupt) || out != nil {
			t.Errorf("metadata cut to %d bytes: %q, %v, %v", n, out, ok, err)
		}
	}
	var unknown *UnknownError
	if out, ok, err := MapDump(nil, payload("\xf3\x01abcd\x09", 13), shifted); ok || !errors.As(err, &unknown) || out != nil {
		t.Errorf("unknown metadata: %q, %v, %v", out, ok, err)
	}
}

func TestMapDumpErrors(t *testing.T) {
	ex := func(lp string) string { return "\x19" + le64(1) + string(*newRDB("").str(lp)) }
	for _, tc := range []struct {
		name, body, want string
		version          int
	}{
		{"no header", "\x18\x01\x00", "a hash does not end", 12},
		{"no header before a listpack", "\x19\x01\x00", "a hash does not end", 12},
		{"no fields", "\x18" + le64(1), "a string is not as long", 12},
		{"an encoding for a number of fields", "\x18" + le64(1) + "\xc0\x01", "where a number should", 12},
		{"fewer fields", "\x18" + le64(1) + "\x02\x01\x01f\x01v", "a string is not as long", 12},
		{"more fields", "\x18" + le64(1) + "\x00\x01\x01f\x01v", "a hash does not end", 12},
		{"absurdly many", "\x18" + le64(1) + "\x81\xff\xff\xff\xff\xff\xff\xff\xff", "a string is not as long", 12},
		{"value cut", "\x18" + le64(1) + "\x01\x01\x01f\x02v", "a string is not as long", 12},
		{"unknown string", "\x18" + le64(1) + "\x01\x01\x01f\xc4v", "unknown string encoding 4", 12},
		{"LZF cut", "\x18" + le64(1) + "\x01\x01\x01f\xc3\x05", "a string is not as long", 12},
		{"absurd earliest", "\x18" + le64(-5) + "\x00", "no moment", 12},
		{"absurd expiry", "\x18" + le64(1) + "\x01\x81\xff\xff\xff\xff\xff\xff\xff\xff\x01f\x01v", "no moment", 12},
		{"sum beyond all", "\x18" + le64(1<<47) + string(*newRDB("").num(1, 1<<47+2).str("f", "v")), "no moment", 12},
		{"expiry of 0", "\x18" + le64(0) + "\x01\x01\x01f\x01v", "no moment", 12},
		{"Valkey's without its expiry", "\x16\x01\x01f\x01v1234567", "a hash does not end", 80},
		{"Valkey's of a negative expiry", "\x16\x01\x01f\x01v" + le64(-2), "no moment", 80},
		{"Valkey's with more", "\x16\x00\x00", "a hash does not end", 80},
		{"Valkey's with fewer", "\x16\x01\x01f", "a string is not as long", 80},
		{"listpack that is a number", "\x19" + le64(1) + "\xc0\x01", "listpack contradicts", 12},
		{"LZF that is none", "\x19" + le64(1) + "\xc3\x01\x05\x00", "LZF data", 12},
		{"string with more behind it", ex(listpack(0, newRDB(""))) + "x", "a string is not as long", 12},
		{"short listpack", ex("\x06\x00\x00\x00\x00\x00"), "listpack contradicts", 12},
		{"wrong size", ex("\x08\x00\x00\x00\x00\x00\xff"), "listpack contradicts", 12},
		{"no end", ex("\x07\x00\x00\x00\x00\x00\x00"), "listpack contradicts", 12},
		{"wrong number", ex(listpack(1, newRDB(""))), "listpack contradicts", 12},
		{"two of three", ex(listpack(2, newRDB("").element("\x81f", "\x81v"))), "listpack contradicts", 12},
		{"end in between", ex(listpack(3, newRDB("").element("\x81f", "\x81v", "\xff"))), "listpack contradicts", 12},
		{"expiry that is a string", ex(listpack(3, newRDB("").element("\x81f", "\x81v", "\x811"))), "no moment", 12},
		{"negative expiry", ex(listpack(3, newRDB("").element("\x81f", "\x81v", moment(-1)))), "no moment", 12},
		{"huge expiry", ex(listpack(3, newRDB("").element("\x81f", "\x81v", moment(math.MaxInt64)))), "no moment", 12},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, ok, err := MapDump([]byte("before"), payload(tc.body, tc.version), shifted)
			if ok || string(out) != "before" || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, %v, %v, want %s", out, ok, err, tc.want)
			}
			e := &Entry{Valkey: tc.version == 80, Type: tc.body[0], Value: []byte(tc.body[1:])}
			if out, again := AppendDumpMapped([]byte("before"), e, shifted); string(out) != "before" || again == nil || again.Error() != err.Error() {
				t.Errorf("of an entry: %q, %v", out, again)
			}
		})
	}
}

// FuzzMapDump maps anything that has a right CRC: there is no panic, what is taken says the same as before but for the expiries, and an error
// leaves nothing behind.
func FuzzMapDump(f *testing.F) {
	for _, tc := range hashCases() {
		version, _ := DumpVersion(tc.valkey, tc.typ)
		f.Add(append([]byte{tc.typ}, *tc.value...), uint16(version))
	}
	for _, p := range goldens(f) {
		all, err := readBytes(p)
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range all {
			if e.Kind == KindKey && HasFieldExpiries(e.Valkey, e.Type) {
				version, _ := DumpVersion(e.Valkey, e.Type)
				f.Add(append([]byte{e.Type}, e.Value...), uint16(version))
			}
		}
	}
	f.Add([]byte("\xf3\x01abcd\x00\x18"+le64(1)+"\x00"), uint16(14))
	f.Fuzz(func(t *testing.T, body []byte, version uint16) {
		for _, fn := range []func(int64) int64{identity, shifted} {
			out, ok, err := MapDump([]byte("before"), payload(string(body), int(version)), fn)
			if !ok || err != nil {
				if ok || string(out) != "before" {
					t.Fatalf("got %q, %v, %v", out, ok, err)
				}
				continue
			}
			valkey, meta := version >= 80, 0
			if body[0] == opKeyMeta {
				if meta, err = keyMetaSize(body); err != nil {
					t.Fatal(err)
				}
			}
			typ := body[meta]
			_, fields, err := decodeHash(valkey, typ, body[meta+1:])
			if err != nil {
				continue // strings that do not decode, lengths that only backwards are wrong: they are copied
			}
			_, got, err := decodeHash(valkey, typ, out[len("before")+meta+1:len(out)-dumpFooter])
			if err != nil {
				t.Fatalf("%q became %q: %v", body, out, err)
			}
			if diff := gocmp.Diff(mapped(fields, valkey, typ, fn), got); diff != "" {
				t.Fatalf("%q became %q: %s", body, out, diff)
			}
		}
	})
}

// largeHash is a hash of n fields, every other one with an expiry.
func largeHash(n int, metadata bool, last int64) *Entry {
	e := &Entry{Valkey: !metadata, Type: TypeValkeyHash2}
	value := newRDB("")
	if metadata {
		e.Type = TypeHashMetadata
		value.le(1_700_000_000_000)
	}
	value.num(uint64(n))
	for i := range n {
		at := int64(i%2) * int64(i)
		if i == n-1 {
			at = last
		}
		pair := []string{fmt.Sprintf("field-%d", i), fmt.Sprintf("value-%d", i)}
		if metadata {
			value.num(uint64(at)).str(pair...)
		} else {
			value.str(pair...).le(1_700_000_000_000 + at)
		}
	}
	e.Value = *value
	return e
}

func BenchmarkMapDump(b *testing.B) {
	small := newRDB("")
	for i := range 10 {
		small.element(fmt.Sprintf("\x86field%d", i), fmt.Sprintf("\x86value%d", i), moment(1_700_000_000_000+int64(i)))
	}
	for _, bc := range []struct {
		name string
		e    *Entry
	}{
		{"string", &Entry{Type: TypeString, Value: []byte("\x05value")}},
		{"listpack of 10 fields", &Entry{Type: TypeHashListpackEx, Value: *newRDB("").le(1_700_000_000_000).str(listpack(30, small))}},
		{"10k fields, one header", largeHash(10_000, true, 1)},
		{"10k fields, one far away", largeHash(10_000, true, far)},
		{"10k fields, Valkey's", largeHash(10_000, false, 1)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			p, err := AppendDump(nil, bc.e)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				if dst, _, err = MapDump(dst[:0], p, shifted); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A payload without field expiries costs nothing.
func TestMapDumpAllocations(t *testing.T) {
	p, _ := AppendDump(nil, &Entry{Type: TypeString, Value: randomBytes(1000)})
	if got := testing.AllocsPerRun(100, func() { _, _, _ = MapDump(nil, p, shifted) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// There is room for the footer behind a mapped value: it is not copied again, which may be 512 MB.
func TestMappedOnce(t *testing.T) {
	for n := 1; n < 100; n++ { // slices are rounded up to some sizes
		lp := newRDB("").element("\x81f", "\xe0"+string(rune(n))+strings.Repeat("v", n), moment(1))
		listpackEx := &Entry{Type: TypeHashListpackEx, Value: *newRDB("").le(1).str(listpack(3, lp))}
		for _, e := range []*Entry{largeHash(n, true, 1), largeHash(n, true, far), largeHash(n, false, 1), listpackEx} {
			out, err := appendMapped(nil, e.Valkey, e.Type, e.Value, shifted)
			if err != nil || cap(out)-len(out) < dumpFooter {
				t.Errorf("%s of %d bytes: room for %d, %v", TypeName(e.Valkey, e.Type), len(e.Value), cap(out)-len(out), err)
			}
		}
	}
}
