package verify

import (
	"cmp"
	"strconv"
	"strings"
	"testing"

	"redferry/internal/redistest"
)

// A value is read as a server gives it, or refused: a reply of another kind is never taken for an empty value, which would be equal to another one.
func FuzzValues(f *testing.F) {
	f.Add("( a 1 b 2 )", "( a ~ )")
	f.Add("text", "( :1 b c )")
	f.Add("( )", "~")
	f.Add("( a 1 b )", "!WRONGTYPE")
	f.Add(":1", "!NOPERM")
	f.Fuzz(func(t *testing.T, text, fields string) {
		m := redistest.ReplyOf(text)
		list, noList := m.ToArray()
		for _, kind := range []string{"string", "list", "set", "zset", "hash"} {
			v, err := parseValue(m, m.Error(), kind)
			switch {
			case m.Error() != nil:
				if (err == nil) != about(m.Error()) || (err == nil) != v.gone {
					t.Errorf("%s as %s: %+v, %v", text, kind, v, err)
				}
			case kind == "string":
				if (err == nil) != m.IsString() || v.gone {
					t.Errorf("%s as %s: %+v, %v", text, kind, v, err)
				}
			case noList != nil:
				if err == nil {
					t.Errorf("%s as %s: %+v", text, kind, v)
				}
			case (kind == "zset" || kind == "hash") && len(list)%2 != 0:
				if err == nil {
					t.Errorf("%s as %s: %+v", text, kind, v)
				}
			case err != nil || v.gone != (len(list) == 0) || len(v.elements) > len(list) || kind == "list" && len(v.list) != len(list):
				t.Errorf("%s as %s: %+v, %v", text, kind, v, err)
			}
		}
		if got, err := elementsOf(m, m.Error()); err == nil && len(got) != len(list) {
			t.Errorf("%s: %q", text, got)
		}
		looked := redistest.ReplyOf(fields)
		if list, err := looked.ToArray(); err == nil {
			v := value{elements: map[string]string{}}
			if err := v.fields([]string{"one", "two"}, list); (err == nil) != (len(list) == 2) || len(v.elements) > 2 {
				t.Errorf("%s: %v, %v", fields, v.elements, err)
			}
		}
		if once := score(text); score(once) != once {
			t.Errorf("the score %q is %q, and then %q", text, once, score(once))
		}
	})
}

// What a stream and a server's functions say is read or refused, and the ID after another is a greater one.
func FuzzStreamReplies(f *testing.F) {
	f.Add("( length :2 groups :1 last-generated-id 1-1 )", "( ( 1-1 ( a b ) ) ( 2-0 ~ ) )", "( ( 1-1 c :5 :1 ) )", "( ( library_name l library_code x ) )", "1-1")
	f.Add("( ( name g ) ( name :1 ) )", "( ( 1-1 ) )", "( ( 1-1 c ) )", "( ( library_name :1 ) )", "18446744073709551615-18446744073709551615")
	f.Add("( )", "( ( 1-1 :1 ) )", "( ~ )", "( ( ) ~ )", "5-18446744073709551615")
	f.Add("!ERR no such key", "!WRONGTYPE", "!NOGROUP", "!NOPERM", "x-y")
	f.Fuzz(func(t *testing.T, info, entries, pending, functions, id string) {
		m := redistest.ReplyOf(info)
		maps, err := parseMaps(m, m.Error())
		if list, no := m.ToArray(); err == nil && (no != nil && !about(no) || len(maps) > max(1, len(list))) {
			t.Errorf("%s: %v", info, maps)
		}
		m = redistest.ReplyOf(entries)
		all, err := entryTexts(m, m.Error())
		if list, no := m.ToArray(); err == nil && (no != nil && !about(no) || len(all) != len(list)) {
			t.Errorf("%s: %v", entries, all)
		}
		m = redistest.ReplyOf(pending)
		waiting, err := pendingEntries(m, m.Error())
		if list, no := m.ToArray(); err == nil && (no != nil && !about(no) || len(waiting) != len(list)) || err != nil && waiting != nil {
			t.Errorf("%s: %v, %v", pending, waiting, err)
		}
		m = redistest.ReplyOf(functions)
		found, err := libraries(m, m.Error())
		if list, no := m.ToArray(); err == nil && (no != nil || len(found) > len(list) || found[""] != "") {
			t.Errorf("%s: %v", functions, found)
		}
		if next := after(id); next != "" && compareIDs(t, next, id) <= 0 {
			t.Errorf("%q is after %q", next, id)
		}
	})
}

// compareIDs compares two IDs of a stream.
func compareIDs(t *testing.T, a, b string) int {
	t.Helper()
	part := func(id string) (ms, seq uint64) {
		first, second, _ := strings.Cut(id, "-")
		var err error
		if ms, err = strconv.ParseUint(first, 10, 64); err != nil {
			t.Fatal(err)
		}
		if seq, err = strconv.ParseUint(second, 10, 64); err != nil {
			t.Fatal(err)
		}
		return ms, seq
	}
	x, i := part(a)
	y, j := part(b)
	return cmp.Or(cmp.Compare(x, y), cmp.Compare(i, j))
}
