package applier

import (
	"bytes"
	"strings"
	"testing"

	"redferry/replica"
)

func TestForms(t *testing.T) {
	for _, test := range []struct{ name, command, want string }{
		{"XADD", "XADD s 1-1 LIMIT 5", ""},
		{"XADD with any ID", "XADD s * MAXLEN 5", ""},
		{"XADD with a trim that a client may say", "XADD s NOMKSTREAM MAXLEN = 5 1-1 f v", ""},
		{"XADD with LIMIT", "xadd s maxlen = 5 limit 10 1-1 LIMIT v", "xadd s maxlen = 5 1-1 LIMIT v"},
		{"XADD with LIMIT first", "XADD s LIMIT 10 NOMKSTREAM MINID = 5-0 1-1 f v", "XADD s MINID = 5-0 NOMKSTREAM 1-1 f v"},
		{"XADD with LIMIT and ~, which no source sends", "XADD s MAXLEN ~ 5 LIMIT 10 * f v", ""},
		{"XADD trimmed twice", "XADD s MAXLEN 5 MAXLEN = 3 1-1 f v", "XADD s MAXLEN = 3 1-1 f v"},
		{"XADD that keeps references", "XADD s DELREF MAXLEN = 5 LIMIT 7 1-1 f v", "XADD s MAXLEN = 5 DELREF 1-1 f v"},
		{"XADD with IDMP", "XADD s IDMP p i 1-1 f v", "XADD s 1-1 f v; XIDMPRECORD s p i 1-1"},
		{"XADD with IDMP and LIMIT", "XADD s NOMKSTREAM IDMP p i MAXLEN = 5 LIMIT 7 1-1 f v", "XADD s MAXLEN = 5 NOMKSTREAM 1-1 f v; XIDMPRECORD s p i 1-1"},
		{"XADD with IDMPAUTO", "XADD s IDMPAUTO p 1-1 f v", "XADD s 1-1 f v"},
		{"XADD without an ID", "XADD s MAXLEN 5 LIMIT 7 NOMKSTREAM", ""},
		{"XADD that ends in an option", "XADD s LIMIT 7 MAXLEN", ""},
		{"XTRIM", "XTRIM s MAXLEN = 5", ""},
		{"XTRIM with LIMIT", "XTRIM s MINID = 5 limit 10", "XTRIM s MINID = 5"},
		{"XTRIM with LIMIT first and references", "XTRIM s LIMIT 10 MAXLEN 5 ACKED", "XTRIM s MAXLEN 5 ACKED"},
		{"XTRIM with what nobody knows", "XTRIM s MAXLEN 5 LIMIT 10 NEW", ""},

		{"what sentinels say", "PUBLISH __sentinel__:hello 127.0.0.1,26379,runid,0,mymaster,127.0.0.1,6379,0", "-"},
		{"what sentinels say to a shard", "spublish __sentinel__:hello x", "-"},
		{"a channel of a like name", "PUBLISH __sentinel__:hello2 x", ""},
		{"a channel of another case", "PUBLISH __SENTINEL__:hello x", ""},
		{"PUBLISH of nothing", "PUBLISH", ""},

		{"EVAL", "EVAL script 2 k l m", "EVAL script 2 k l m; EVAL SHIFT 2 k l 0 0 0 0 17592186044416 0"},
		{"EVAL without keys", "EVAL script 0 m", ""},
		{"EVAL of less keys than it says", "EVAL script 2 k", ""},
		{"EVALSHA", "evalsha 1234 1 k", "evalsha 1234 1 k; EVAL SHIFT 1 k 0 0 0 0 17592186044416 0"},
		{"EVALSHA of a known script", "evalsha 40BD001563085fc35165329ea1ff5c5ecbdbbeef 1 k m", "EVAL 123 1 k m; EVAL SHIFT 1 k 0 0 0 0 17592186044416 0"},
		{"FUNCTION RESTORE of no payload", "FUNCTION RESTORE x APPEND", ""},
		{"a renamed command", "trimmed s MAXLEN = 5 LIMIT 10", "XTRIM s MAXLEN = 5"},
	} {
		a := New(Config{Rename: RenameMap{"TRIMMED": "XTRIM"}})
		a.target.idmp = true
		a.scripts.add([]byte("123"))
		got, drop, err := a.translate(&replica.Unit{}, replica.Command{Args: words(test.command)})
		text := string(bytes.Join(got.args, []byte(" ")))
		if got.then != nil {
			text += "; " + strings.Replace(string(bytes.Join(got.then, []byte(" "))), formScript, "SHIFT", 1)
		}
		if drop {
			text = "-"
		}
		want := test.want
		if want == "" {
			want = test.command
		}
		if err != nil || text != want {
			t.Errorf("%s: %s: got %s, %v; want %s", test.name, test.command, text, err, want)
		}
		if a.target.idmp = false; strings.Contains(test.command, "IDMP") {
			if got, _, _ := a.translate(&replica.Unit{}, replica.Command{Args: words(test.command)}); got.then != nil {
				t.Errorf("%s: an older target gets %q, too", test.name, got.then)
			}
		}
	}
}

func TestFormsAllocateNothing(t *testing.T) {
	a := New(Config{})
	a.target.idmp = true
	a.scripts.add([]byte("123"))
	u := &replica.Unit{}
	for _, command := range []string{
		"XADD s 1-1 f v", "XADD s MAXLEN = 5 1-1 f v", "XADD s MAXLEN = 5 LIMIT 10 1-1 f v", "XADD s IDMP p i 1-1 f v", "XTRIM s MAXLEN = 5 LIMIT 10",
		"PUBLISH c m", "SPUBLISH c m", "PUBLISH __sentinel__:hello m", "SET k v", "HSET h f v", "SETBIT k 1 1", "PFCOUNT k", "MOVE k 3", "EVALSHA 1234 1 k",
		"SET k v IFEQ w", "EVALSHA 40bd001563085fc35165329ea1ff5c5ecbdbbeef 1 k", // of 123
	} {
		cmd := replica.Command{Args: words(command)}
		if got := testing.AllocsPerRun(100, func() { _, _, _ = a.translate(u, cmd) }); got != 0 {
			t.Errorf("%s: %v allocations, want none", command, got)
		}
	}
}

func BenchmarkTranslate(b *testing.B) {
	a := New(Config{})
	u := &replica.Unit{}
	for _, command := range []string{"SET k v", "INCR k", "XADD s 1-1 f v", "XADD s MAXLEN = 5 1-1 f v", "PUBLISH c m", "PEXPIREAT k 5"} {
		b.Run(command, func(b *testing.B) {
			cmd := replica.Command{Args: words(command)}
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = a.translate(u, cmd)
			}
		})
	}
}

func TestSetsOf(t *testing.T) {
	for command, want := range map[string]string{
		"MSETEX 2 a 1 b 2 NX PXAT 5":   "SET a 1 PXAT 5; SET b 2 PXAT 5",
		"msetex 1 EX 1 ex 5 xx":        "SET EX 1 ex 5",
		"MSETEX 2 a 1 b 2 KEEPTTL":     "SET a 1 KEEPTTL; SET b 2 KEEPTTL",
		"MSETEX 1 a 1":                 "SET a 1",
		"MSETEX 2 a 1":                 "",
		"MSETEX 2 a 1 b 2 NEW":         "",
		"MSETEX 1 a 1 PXAT":            "",
		"MSET a 1 b 2":                 "",
		"MSETEX 9223372036854775807 a": "",
	} {
		a := New(Config{})
		var got []string
		for _, set := range a.setsOf(words(command)) {
			got = append(got, string(bytes.Join(set, []byte(" "))))
		}
		if text := strings.Join(got, "; "); text != want {
			t.Errorf("%s: got %s, want %s", command, text, want)
		}
		if a.target.msetex = true; a.setsOf(words(command)) != nil {
			t.Errorf("%s: taken apart for a target that knows it", command)
		}
	}
}
