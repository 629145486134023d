package checkpoint

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/leaks"
	"redferry/replica"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func full() Record {
	return Record{
		Name: "orders", Epoch: 1763760000123, Phase: PhaseStream, Origin: OriginMerge, ReplID: strings.Repeat("ab", 20),
		Offset: 1 << 40, Checked: 1<<40 - 7, DB: 15, SnapshotRead: 9, SnapshotScan: "1 REDIS0011 offset=9", SnapshotSize: -1, Rejected: 2, Diverged: 1,
		Unchecked: "5-9", Divergence: Divergence{"DEL": 1, "PEXPIREAT": 3}, Expiry: "import", ImportWas: "no", RealFrom: 1763760000789, Expired: 77, Time: 1763760000456, Source: "10.0.0.1:6379",
	}
}

func asMap(fields []string) map[string]string {
	m := make(map[string]string, len(fields)/2)
	for i := 0; i < len(fields); i += 2 {
		m[fields[i]] = fields[i+1]
	}
	return m
}

func TestRecordSurvivesItsFields(t *testing.T) {
	want := full()
	got, ok, err := Parse(asMap(want.Fields()))
	if err != nil || !ok {
		t.Fatalf("Parse: ok %v, %v", ok, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record changed (-want +got):\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	set := func(field, value string) map[string]string {
		r := full()
		m := asMap(r.Fields())
		m[field] = value
		return m
	}
	tests := map[string]struct {
		fields  map[string]string
		ok      bool
		wantErr string
	}{
		"nothing":                    {map[string]string{}, false, ""},
		"only a guard's":             {map[string]string{"fenced": "3"}, false, ""},
		"a newer format":             {set(FieldFormat, "3"), false, "format"},
		"offset not numeric":         {set(FieldOffset, "12x"), false, "field offset"},
		"epoch missing":              {set(FieldEpoch, ""), false, "field epoch"},
		"no divergence":              {set(FieldDivergence, ""), true, ""},
		"divergence without a count": {set(FieldDivergence, "DEL=1 SREM"), false, "field divergence"},
		"divergence without a name":  {set(FieldDivergence, "=1"), false, "field divergence"},
		"divergence below 0":         {set(FieldDivergence, "DEL=-1"), false, "field divergence"},
		"unknown phase":              {set(FieldPhase, "half"), false, "phase"},
		"whole":                      {set(FieldDB, "3"), true, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, ok, err := Parse(tt.fields)
			if ok != tt.ok {
				t.Errorf("ok: got %v, want %v", ok, tt.ok)
			}
			if got := err == nil; got != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error: got %v, want one with %q", err, tt.wantErr)
			}
		})
	}
}

// The format before this one did not know of expiries, which were written as they are.
func TestParseFormat1(t *testing.T) {
	r := full()
	fields := asMap(r.Fields())
	fields[FieldFormat] = "1"
	delete(fields, FieldExpiry)
	delete(fields, FieldImport)
	delete(fields, FieldReal)
	delete(fields, FieldExpired)
	got, ok, err := Parse(fields)
	if err != nil || !ok || got.Expiry != AsIs || got.ImportWas != "" || got.Offset != r.Offset {
		t.Errorf("got %+v, ok %v, %v", got, ok, err)
	}
}

func TestNoteLostReplies(t *testing.T) {
	r := Record{Offset: 10, Checked: 10}
	if r.NoteLostReplies() || r.Unchecked != "" {
		t.Errorf("nothing lost, yet noted: %q", r.Unchecked)
	}
	r = Record{Offset: 50, Checked: 40, Unchecked: "1-2"}
	if !r.NoteLostReplies() || r.Unchecked != "1-2,40-50" || r.Checked != 50 {
		t.Errorf("got %q, checked %d", r.Unchecked, r.Checked)
	}
	r.Offset = 60 // right behind the last one
	if !r.NoteLostReplies() || r.Unchecked != "1-2,40-60" {
		t.Errorf("got %q, want ranges that touch to be one", r.Unchecked)
	}
	for range 1000 {
		r.Checked, r.Offset = r.Offset+5, r.Offset+10
		r.NoteLostReplies()
	}
	if n := strings.Count(r.Unchecked, "-"); n != 64 || !strings.HasPrefix(r.Unchecked, "1-") || !strings.HasSuffix(r.Unchecked, "-"+itoa(r.Offset)) {
		t.Errorf("got %d ranges, %q", n, r.Unchecked)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"default": true, "a": true, "eu-west_1.orders": true, strings.Repeat("x", 64): true,
		"": false, "-x": false, "a:owner": false, "a/b": false, "..": false, "a{b}": false, strings.Repeat("x", 65): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: got %v, want ok %v", name, err, ok)
		}
	}
}

func TestReserved(t *testing.T) {
	for key, want := range map[string]bool{Key("a"): true, OwnerKey("a"): true, "redferry:": true, "redferry": false, "": false, "xredferry:a": false} {
		if got := Reserved([]byte(key)); got != want {
			t.Errorf("%q: got %v, want %v", key, got, want)
		}
	}
}

func TestDivergence(t *testing.T) {
	var none Divergence
	some, other := Divergence{"SREM": 2, "DEL": 1}, Divergence{"SREM": 1, "PERSIST": 7}
	for _, tt := range []struct {
		d     Divergence
		text  string
		total int64
	}{
		{none, "", 0},
		{some, "DEL=1 SREM=2", 3},
		{some.AtLeast(other), "DEL=1 PERSIST=7 SREM=2", 10},
		{other.AtLeast(some), "DEL=1 PERSIST=7 SREM=2", 10},
		{some.AtLeast(none), "DEL=1 SREM=2", 3},
		{none.AtLeast(some), "DEL=1 SREM=2", 3},
		{none.AtLeast(none), "", 0},
	} {
		if got := tt.d.String(); got != tt.text || tt.d.Total() != tt.total {
			t.Errorf("got %q, %d in all; want %q, %d", got, tt.d.Total(), tt.text, tt.total)
		}
		if got, err := parseDivergence(tt.text); err != nil || got.String() != tt.text {
			t.Errorf("%q: read as %q, %v", tt.text, got, err)
		}
	}
	if len(some) != 2 || len(other) != 2 {
		t.Errorf("AtLeast has changed its operands: %s, %s", some, other)
	}
}

func FuzzParseDivergence(f *testing.F) {
	f.Add("DEL=1 PEXPIREAT=3")
	f.Add("=1 A= A=-1 A=9223372036854775807 A=1")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDivergence(text)
		if err != nil {
			return
		}
		if again, err := parseDivergence(d.String()); err != nil || again.String() != d.String() {
			t.Errorf("%q: got %q, and of that %q, %v", text, d, again, err)
		}
	})
}

func TestNoteCompared(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		unchecked, want string
		parts           []replica.Range
	}{
		{"", "", []replica.Range{{From: 1, To: 9}}},
		{"1-2,5-9", "1-2", []replica.Range{{From: 5, To: 9}}},
		{"1-2,5-9", "", []replica.Range{{From: 5, To: 9}, {From: 1, To: 2}}},
		{"1-9", "5-9", []replica.Range{{From: 1, To: 5}}}, // more was lost right behind it meanwhile
		{"1-9", "1-9", []replica.Range{{From: 5, To: 9}}},
		{"1-9", "1-9", []replica.Range{{From: 20, To: 30}}},
		{"nonsense,1-9", "nonsense", []replica.Range{{From: 1, To: 9}}}, // stays for people to see
	} {
		r := Record{Unchecked: test.unchecked}
		if r.NoteCompared(test.parts); r.Unchecked != test.want {
			t.Errorf("%q without %v: got %q, want %q", test.unchecked, test.parts, r.Unchecked, test.want)
		}
	}
	r := Record{Unchecked: "1-2,nonsense,7-5,40-60"}
	if got, want := r.Ranges(), []replica.Range{{From: 1, To: 2}, {From: 40, To: 60}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A record that somebody else has written is refused, or read so that writing it again changes nothing.
func FuzzParse(f *testing.F) {
	full := Record{Name: "n", Epoch: 3, Phase: PhaseStream, Origin: OriginEmpty, ReplID: "r", Offset: 9, Checked: 7, Unchecked: "1-2,5-7", Expiry: AsIs, Refusal: "{}"}
	f.Add(strings.Join(full.Fields(), "\x00"))
	f.Add("format\x002\x00phase\x00completed")
	f.Fuzz(func(t *testing.T, text string) {
		fields := map[string]string{}
		words := strings.Split(text, "\x00")
		for i := 0; i+1 < len(words); i += 2 {
			fields[words[i]] = words[i+1]
		}
		r, ok, err := Parse(fields)
		if err != nil || !ok {
			return
		}
		r.Ranges()
		again := map[string]string{}
		for written := r.Fields(); len(written) > 0; written = written[2:] {
			again[written[0]] = written[1]
		}
		second, ok, err := Parse(again)
		if err != nil || !ok || !reflect.DeepEqual(r, second) {
			t.Errorf("%+v becomes %+v: %v, %v", r, second, ok, err)
		}
	})
}
