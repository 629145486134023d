package rdbstream

import (
	"strings"
	"testing"
)

func TestAppendString(t *testing.T) {
	long := strings.Repeat("x", 20000)
	for _, tc := range []struct {
		name, raw, want string
		bad             bool
	}{
		{name: "empty", raw: "\x00", want: ""},
		{name: "6 bits", raw: "\x03abc", want: "abc"},
		{name: "14 bits", raw: "\x40\x03abc", want: "abc"},
		{name: "32 bits", raw: "\x80\x00\x00\x4e\x20" + long, want: long},
		{name: "64 bits", raw: "\x81\x00\x00\x00\x00\x00\x00\x4e\x20" + long, want: long},
		{name: "int8", raw: "\xc0\x80", want: "-128"},
		{name: "int16", raw: "\xc1\x39\x30", want: "12345"},
		{name: "int32", raw: "\xc2\x00\x00\x00\x80", want: "-2147483648"},
		{name: "LZF", raw: "\xc3\x05\x0a\x00a\xe0\x00\x00", want: "aaaaaaaaaa"},
		{name: "nothing", raw: "", bad: true},
		{name: "too short", raw: "\x03ab", bad: true},
		{name: "too long", raw: "\x03abcd", bad: true},
		{name: "length cut off", raw: "\x80\x00", bad: true},
		{name: "no length", raw: "\x82", bad: true},
		{name: "int16 cut off", raw: "\xc1\x39", bad: true},
		{name: "unknown encoding", raw: "\xc4\x39", bad: true},
		{name: "LZF cut off", raw: "\xc3\x05\x0a\x00a", bad: true},
		{name: "LZF without lengths", raw: "\xc3", bad: true},
		{name: "LZF without its length", raw: "\xc3\x05", bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := AppendString([]byte("before"), []byte(tc.raw))
			if tc.bad {
				if err == nil {
					t.Errorf("got %q, want an error", got)
				}
				return
			}
			if want := "before" + tc.want; string(got) != want || err != nil {
				t.Errorf("got %.40q, %v, want %.40q", got, err, want)
			}
		})
	}
}

func TestModule(t *testing.T) {
	id := uint64(0)
	for _, c := range "ReJSON-RL" { // module.c, moduleTypeEncodeId
		id = id<<6 | uint64(strings.IndexRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", c))
	}
	all, err := readBytes(newRDB("REDIS0009").key(TypeModule2, "k").num(id<<10|3, 5).str("data").num(0).key(TypeString, "s").str("v").end())
	if err != nil {
		t.Fatal(err)
	}
	if name, version, ok := all[0].Module(); name != "ReJSON-RL" || version != 3 || !ok {
		t.Errorf("got %q, %d, %v", name, version, ok)
	}
	if name, _, ok := all[1].Module(); ok {
		t.Errorf("a string is of module %q", name)
	}
}
