package rdbstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stateCases are RDBs in which reading can begin at each entry's end.
func stateCases(t testing.TB) map[string][]byte {
	t.Helper()
	all := goldens(t)
	for _, magic := range []string{"REDIS0012", "REDIS0015", "VALKEY080"} {
		all[magic] = everything(magic)
	}
	all["no CRC in this version"] = append(*newRDB("REDIS0004").raw(opSelectDB, 3).key(TypeString, "k").str("v").key(TypeString, "l").str("w"), opEOF)
	all["templates"] = newRDB("REDIS0015").raw(opHashTemplate).num(9, 2).str("f", "g").raw(opSelectDB, 0).
		key(TypeHashTmplArrayRef, "two").num(9).str("v", "w").
		raw(opHashTemplate).num(300, 1).str("f").raw(opHashTemplate).num(9, 3).str("f", "g", "h").
		key(TypeHashTmplArrayRef, "one").num(300).str("v").
		key(TypeHashTmplArrayRef, "three").num(9).str("v", "w", "x").end()
	return all
}

// statesOf reads an RDB and gives, beside its entries, the state before the first and behind each of them, as texts.
func statesOf(t *testing.T, p []byte, size int) ([]Entry, []string) {
	t.Helper()
	r := NewReader(bufio.NewReaderSize(bytes.NewReader(p), size))
	var all []Entry
	states := []string{r.State().String()}
	var e Entry
	for {
		err := r.Next(&e)
		if errors.Is(err, io.EOF) {
			return all, states
		}
		if err != nil {
			t.Fatal(err)
		}
		s := r.State()
		if s.Offset != e.End || s.DB != e.DB || s.CRC != CRC64(0, p[:e.End]) {
			t.Fatalf("state %+v behind an entry that ends at %d in db %d", s, e.End, e.DB)
		}
		all, states = append(all, clone(&e)), append(states, s.String())
	}
}

// readFrom reads on behind a state, which goes by its text, as after a restart.
func readFrom(t *testing.T, state string, rest []byte, size int) ([]Entry, *Reader, error) {
	t.Helper()
	s, err := ParseState(state)
	if err != nil && state != "" {
		t.Fatal(err)
	}
	r := NewReaderAt(bufio.NewReaderSize(bytes.NewReader(rest), size), s)
	got, err := readAll(r)
	return got, r, err
}

func TestStateAtEachEntry(t *testing.T) {
	for name, p := range stateCases(t) {
		t.Run(name, func(t *testing.T) {
			want, err := readBytes(p)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{16, 300, 1 << 20} {
				all, states := statesOf(t, p, size)
				if !reflect.DeepEqual(want, all) {
					t.Fatalf("asking for states changes what is read: %s", cmp.Diff(want, all))
				}
				at := int64(0)
				for i, state := range states {
					if i > 0 {
						at = all[i-1].End
					}
					got, r, err := readFrom(t, state, p[at:], size)
					if err != nil {
						t.Fatalf("from byte %d of %d: %v", at, len(p), err)
					}
					if rest := all[i:]; len(rest)+len(got) > 0 && !reflect.DeepEqual(rest, got) {
						t.Fatalf("from byte %d: %s", at, cmp.Diff(rest, got))
					}
					if r.Offset() != int64(len(p)) {
						t.Fatalf("from byte %d: it ends at %d of %d", at, r.Offset(), len(p))
					}
				}
			}
		})
	}
}

// hasCRC tells whether an RDB's bytes are guarded by a CRC.
func hasCRC(name string, p []byte) bool {
	return !strings.Contains(strings.ToLower(name), "no-crc") && !strings.Contains(name, "no CRC") && !bytes.Equal(p[len(p)-8:], make([]byte, 8))
}

// Damage on either side of the place where reading went on is found: behind it, in the CRC itself, and before it, which the state's CRC tells.
func TestStateAndDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	for name, p := range stateCases(t) {
		if !hasCRC(name, p) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			all, states := statesOf(t, p, 64<<10)
			at := int64(0)
			for i, state := range states {
				if i > 0 {
					at = all[i-1].End
				}
				var crc *CRCError
				bad := bytes.Clone(p[at:])
				bad[len(bad)-1] ^= 0x10
				if _, _, err := readFrom(t, state, bad, 64<<10); !errors.As(err, &crc) {
					t.Errorf("from byte %d with a damaged CRC: got %v", at, err)
				}
				for range 5 {
					bad := bytes.Clone(p[at:])
					bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
					got, _, err := readFrom(t, state, bad, 64<<10)
					if err == nil && !reflect.DeepEqual(all[i:], got) { // a CRC that became 0 says that there is none
						t.Errorf("from byte %d with a flipped bit: a clean end with other entries", at)
					}
				}
				if i == 0 {
					continue
				}
				s, err := ParseState(state)
				if err != nil {
					t.Fatal(err)
				}
				s.CRC ^= 1 << rng.IntN(64)
				if _, _, err := readFrom(t, s.String(), p[at:], 64<<10); !errors.As(err, &crc) {
					t.Errorf("behind %d damaged bytes: got %v", at, err)
				}
			}
		})
	}
}

func TestStateCounts(t *testing.T) {
	p := newRDB("REDIS0011").raw(opSelectDB, 0, opResizeDB).num(2, 0).key(TypeString, "a").str("1").key(TypeString, "b").str("2").
		raw(opSelectDB, 1, opResizeDB).num(1, 0).key(TypeString, "c").str("3").end()
	all, states := statesOf(t, p, 64<<10)
	var got [][2]uint64
	for i, state := range states[1:] {
		s, err := ParseState(state)
		if err != nil {
			t.Fatal(err)
		}
		r := NewReaderAt(bufio.NewReader(bytes.NewReader(p[all[i].End:])), s)
		if again := r.State(); again.String() != state {
			t.Errorf("%q became %q", state, again)
		}
		got = append(got, [2]uint64{s.Keys, s.Announced})
	}
	if want := [][2]uint64{{0, 2}, {1, 2}, {2, 2}, {2, 3}, {3, 3}}; !slices.Equal(want, got) {
		t.Errorf("keys and announced: got %v, want %v", got, want)
	}
}

// A state stays as it was while its reader goes on.
func TestStateIsItsOwn(t *testing.T) {
	b := newRDB("REDIS0015")
	for i := range 20 {
		b.raw(opHashTemplate).num(uint64(i), 1).str("f").key(TypeString, "k").str("v")
	}
	r := NewReader(bufio.NewReader(bytes.NewReader(b.end())))
	var e Entry
	var states []State
	var texts []string
	for r.Next(&e) == nil {
		states, texts = append(states, r.State()), append(texts, r.State().String())
	}
	for i := range states {
		if got := states[i].String(); got != texts[i] {
			t.Errorf("%q became %q", texts[i], got)
		}
	}
}

func TestParseState(t *testing.T) {
	const good = "1 REDIS0015 offset=4711 db=3 crc=1f keys=5 announced=7 templates=9:2,300:1"
	s, err := ParseState(good)
	want := State{
		Offset: 4711, Version: Version{Number: 15}, DB: 3, CRC: 0x1f, Keys: 5, Announced: 7,
		Templates: []Template{{9, 2}, {300, 1}},
	}
	if diff := cmp.Diff(want, s); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	if got := (State{}).String(); got != "" {
		t.Errorf("the beginning is %q", got)
	}
	for _, tc := range []struct{ from, to string }{
		{good, ""},
		{"1 ", "2 "},
		{"1 ", " 1 "},
		{"REDIS0015", "REDIS0016"},
		{"REDIS0015", "REDIS15"},
		{"REDIS0015", "VALKEY015"},
		{"offset=4711", "offset=0"},
		{"offset=4711", "offset=8"},
		{"offset=4711", "offset=-4711"},
		{"offset=4711", "offset=+4711"},
		{"offset=4711", "offset=04711"},
		{"offset=4711", "offset=9223372036854775807"},
		{"offset=4711", "offset=99999999999999999999"},
		{"db=3", "db=-1"},
		{"db=3", "db=4294967296"},
		{"db=3", "db=x"},
		{"crc=1f", "crc=1F"},
		{"crc=1f", "crc="},
		{"crc=1f", "crc=11112222333344445"},
		{" keys=5", ""},
		{"9:2", "9:-2"},
		{"9:2", "9"},
		{"9:2", "9:99999999999999999"},
		{"300:1", ""},
		{"300:1", "300:1,"},
		{"300:1", "300:1 "},
		{"300:1", "300:1\n"},
		{" templates=9:2,300:1", " templates="},
	} {
		text := strings.Replace(good, tc.from, tc.to, 1)
		if s, err := ParseState(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, s)
		}
	}
}

// FuzzParseState: what is taken is written the same again, and a reader can begin there whatever it says.
func FuzzParseState(f *testing.F) {
	for _, p := range stateCases(f) {
		r := NewReader(bufio.NewReader(bytes.NewReader(p)))
		var e Entry
		for i := 0; r.Next(&e) == nil && i < 3; i++ {
			f.Add(r.State().String())
		}
	}
	f.Add("1 REDIS0015 offset=4711 db=3 crc=1f keys=5 announced=7 templates=9:2,300:1")
	rest := everything("REDIS0015")[magicLen:]
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseState(text)
		if err != nil {
			return
		}
		if got := s.String(); got != text {
			t.Fatalf("%q became %q", text, got)
		}
		r := NewReaderAt(bufio.NewReader(bytes.NewReader(rest)), s)
		if got := r.State().String(); got != text {
			t.Fatalf("a reader at %q is at %q", text, got)
		}
		if _, err := readAll(r); err == nil && s.CRC != CRC64(0, []byte("REDIS0015")) && s.Version.Number >= firstWithCRC {
			t.Fatalf("behind %q another RDB's rest passes", text)
		}
	})
}
