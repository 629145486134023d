package applier

import (
	"bytes"
	"strings"
	"testing"

	"redferry/replica"
)

func TestTranslate(t *testing.T) {
	rename := RenameMap{"FLUSHALL-9F": "FLUSHALL", "NUKE": "FLUSHDB", "ADD1": "INCR", "TURN": "SWAPDB"}
	table := map[string]replica.KeySpec{"graph.do": {First: 1, Last: 1, Step: 1, Movable: true}}
	for _, name := range []string{"set", "sadd", "hset", "incr", "restore-asking"} {
		table[name] = replica.KeySpec{First: 1, Last: 1, Step: 1}
	}
	tests := []struct {
		name, command string
		db            int
		want          string // "" when it is dropped
		effect        effect
		needs         [2]int
		err           string // contained
	}{
		{name: "an ordinary write is forwarded as it came", command: "SeT k v PXAT 5", want: "SeT k v PXAT 5"},
		{name: "a command that nobody knows", command: "mod.do a b", want: "mod.do a b"},
		{name: "a renamed command", command: "add1 k", want: "INCR k"},
		{name: "the usual name still works", command: "incr k", want: "incr k"},

		{name: "FLUSHALL in the background", command: "FLUSHALL", db: 3, want: "FLUSHALL ASYNC", effect: flushes},
		{name: "FLUSHALL SYNC", command: "flushall SYNC", want: "flushall ASYNC", effect: flushes},
		{name: "FLUSHALL ASYNC", command: "FLUSHALL async", want: "FLUSHALL ASYNC", effect: flushes},
		{name: "a renamed FLUSHALL", command: "flushall-9f", want: "FLUSHALL ASYNC", effect: flushes},
		{name: "FLUSHDB of our database", command: "FlushDB", want: "FlushDB ASYNC", effect: flushes},
		{name: "FLUSHDB of another database", command: "FLUSHDB SYNC", db: 4, want: "FLUSHDB ASYNC"},
		{name: "a renamed FLUSHDB", command: "NUKE", want: "FLUSHDB ASYNC", effect: flushes},

		{name: "SWAPDB of our database", command: "SWAPDB 0 3", db: 5, want: "SWAPDB 0 3", effect: swaps, needs: [2]int{0, 3}},
		{name: "SWAPDB into our database", command: "swapdb 7 0", want: "swapdb 7 0", effect: swaps, needs: [2]int{7, 0}},
		{name: "SWAPDB of others", command: "SWAPDB 1 2", want: "SWAPDB 1 2", needs: [2]int{1, 2}},
		{name: "SWAPDB of one with itself", command: "SWAPDB 0 0", want: "SWAPDB 0 0"},
		{name: "a renamed SWAPDB", command: "turn 0 1", want: "SWAPDB 0 1", effect: swaps, needs: [2]int{0, 1}},
		{name: "SWAPDB with one database", command: "SWAPDB 1", err: "SWAPDB with 1 arguments"},
		{name: "SWAPDB with three", command: "SWAPDB 1 2 3", err: "SWAPDB with 3 arguments"},
		{name: "SWAPDB of no number", command: "SWAPDB 1 x", err: `SWAPDB "1" "x"`},

		{name: "SCRIPT LOAD", command: "SCRIPT LOAD text", want: "SCRIPT LOAD text"},
		{name: "script flush", command: "script flush SYNC", want: "script flush"},
		{name: "SCRIPT of another kind", command: "SCRIPT KILL"},
		{name: "CLUSTER", command: "CLUSTER SETSLOT 5 NODE id"},
		{name: "cluster in lower case", command: "cluster syncslots"},
		{name: "PFCOUNT", command: "PFCOUNT a", want: "PFCOUNT a"},
		{name: "PUBLISH", command: "PUBLISH channel m", want: "PUBLISH channel m"},
		{name: "SPUBLISH", command: "spublish channel m", want: "spublish channel m"},
		{name: "PUBLISH on one of our keys' names", command: "PUBLISH redferry:x m", want: "PUBLISH redferry:x m"},
		{name: "FUNCTION", command: "FUNCTION LOAD text", want: "FUNCTION LOAD text"},
		{name: "RESTORE-ASKING", command: "restore-asking k 0 payload ABSTTL", want: "RESTORE k 0 payload ABSTTL"},
		{name: "RESTORE", command: "restore k 0 payload", want: "restore k 0 payload"},

		{name: "our name as a value", command: "SET k redferry:x", want: "SET k redferry:x"},
		{name: "our name as a member", command: "SADD k redferry:x", want: "SADD k redferry:x"},
		{name: "nearly our name as a key", command: "SET redferry v", want: "SET redferry v"},
		{name: "SET of a key of ours", command: "SET redferry:x v"},
		{name: "HSET of a checkpoint", command: "HSET redferry:default offset 5"},
		{name: "DEL of ours alone", command: "DEL redferry:a redferry:b"},
		{name: "DEL of ours and others", command: "DEL a redferry:b c", want: "DEL a c"},
		{name: "UNLINK of ours and others", command: "unlink redferry:a b redferry:c", want: "unlink b"},
		{name: "MSET of ours alone", command: "MSET redferry:a 1"},
		{name: "MSET of ours and others", command: "MSET a 1 redferry:b 2 c redferry:3", want: "MSET a 1 c redferry:3"},
		{name: "MSETNX of ours and others", command: "msetnx redferry:a 1 b 2", want: "msetnx b 2"},
		{name: "MSET of half a pair", command: "MSET a 1 redferry:b", want: "MSET a 1"},
		{name: "MSETEX of ours alone", command: "MSETEX 1 redferry:a 1"},
		{name: "MSETEX of ours and others", command: "MSETEX 2 redferry:a 1 b 2", err: "MSETEX mixes keys"},
		{name: "RENAME of ours", command: "RENAME redferry:a redferry:b"},
		{name: "RENAME to ours", command: "RENAME a redferry:b", err: "RENAME mixes keys"},
		{name: "SUNIONSTORE from ours", command: "sunionstore d redferry:a", err: "sunionstore mixes keys"},
		{name: "SORT into ours", command: "SORT a STORE redferry:b", err: "SORT mixes keys"},
		{name: "SORT by our name", command: "SORT a BY redferry:* STORE b", want: "SORT a BY redferry:* STORE b"},
		{name: "EVAL with ours", command: "EVAL script 1 redferry:a", want: ""},
		{name: "EVAL with our name as an argument", command: "EVAL script 1 a redferry:b", want: "EVAL script 1 a redferry:b"},
		{name: "FCALL with ours and others", command: "FCALL f 2 a redferry:b", err: "FCALL mixes keys"},
		{name: "XGROUP of ours", command: "XGROUP CREATE redferry:s g 0"},
		{name: "RESTORE-ASKING of ours", command: "RESTORE-ASKING redferry:k 0 payload"},
		{name: "a module's command that may have one of ours", command: "graph.do redferry:a", err: "whether it is a key is not known"},
		{name: "an unknown command that may have one of ours", command: "cf.add redferry:a b", err: "whether it is a key is not known"},
		{name: "a renamed command with ours", command: "ADD1 redferry:a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := New(Config{Rename: rename, Expiry: AsIs})
			a.keys = table
			sent := words(test.command)
			got, drop, err := a.translate(&replica.Unit{}, replica.Command{Args: sent, DB: test.db})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error: got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if text := string(bytes.Join(sent, []byte(" "))); text != test.command {
				t.Errorf("the stream's own memory is now %q", text)
			}
			if drop != (test.want == "") {
				t.Fatalf("dropped: got %v (%q)", drop, got.args)
			}
			if text := string(bytes.Join(got.args, []byte(" "))); !drop && text != test.want {
				t.Errorf("got %q, want %q", text, test.want)
			}
			if got.effect != test.effect || got.needs != test.needs {
				t.Errorf("effect %d, needs %v; want %d, %v", got.effect, got.needs, test.effect, test.needs)
			}
		})
	}
}

func TestTranslateDropPublish(t *testing.T) {
	a := New(Config{DropPublish: true})
	for command, want := range map[string]bool{
		"PUBLISH c m": true, "publish c m": true, "SPUBLISH c m": true, "SPublish c m": true, "CLUSTER x": true, "pubsubx c m": false, "SETRANGE k 0 v": false, "PEXPIRE k 1": false,
	} {
		if _, drop, err := a.translate(&replica.Unit{}, replica.Command{Args: words(command)}); drop != want || err != nil {
			t.Errorf("%s: dropped %v, %v; want %v", command, drop, err, want)
		}
	}
}

// Names and arguments may be empty; a name is what no command lacks.
func TestTranslateEmpty(t *testing.T) {
	a := New(Config{})
	for name, args := range map[string][][]byte{"no arguments": {}, "an empty name": {{}}, "an empty name before a key": {{}, []byte("k")}} {
		if _, _, err := a.translate(&replica.Unit{}, replica.Command{Args: args}); err == nil || !strings.Contains(err.Error(), "without a name") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	got, drop, err := a.translate(&replica.Unit{}, replica.Command{Args: [][]byte{[]byte("SET"), {}, {}}})
	if err != nil || drop || len(got.args) != 3 {
		t.Errorf("SET of the empty key: %q, %v, %v", got.args, drop, err)
	}
	if _, drop, err := a.translate(&replica.Unit{}, replica.Command{Args: [][]byte{[]byte("DEL"), {}, []byte("redferry:")}}); err != nil || drop {
		t.Errorf("DEL of the empty key and the bare prefix: dropped %v, %v", drop, err)
	}
}

// Whatever a source sends, nothing that is forwarded names a key of ours, and no other key is lost.
func FuzzTranslate(f *testing.F) {
	for _, command := range streamed {
		f.Add(command)
	}
	for _, command := range []string{"DEL a redferry:b c", "MSET redferry:a 1 b 2", "EVAL s 2 a redferry:b", "SORT k BY redferry: STORE redferry:d", "MSET a", "swapdb 0 x"} {
		f.Add(command)
	}
	a := New(Config{})
	f.Fuzz(func(t *testing.T, command string) {
		args := words(command)
		if len(args) == 0 {
			return
		}
		got, drop, err := a.translate(&replica.Unit{}, replica.Command{Args: args})
		if err != nil || drop {
			return
		}
		sent, _ := keyPositions(args, nil)
		others := 0
		for _, i := range sent {
			if !bytes.HasPrefix(args[i], reservedPrefix) {
				others++
			}
		}
		forwarded, _ := keyPositions(got.args, nil)
		for _, i := range forwarded {
			if bytes.HasPrefix(got.args[i], reservedPrefix) {
				t.Errorf("%q goes on as %q", args, got.args)
			}
		}
		if len(forwarded) != others {
			t.Errorf("%q goes on as %q: %d keys of %d", args, got.args, len(forwarded), others)
		}
	})
}
