package applier

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"
	"pgregory.net/rapid"

	"redferry/rdbstream"
	"redferry/replica"
)

// plain is a batch as one would write it without a thought for memory.
type plain struct {
	cmds  []plainCommand
	units []plainUnit
}

type plainCommand struct {
	args []string
	command
}

type plainUnit struct {
	from, to int
	start    int64
	end      replica.Position
}

// generator makes batches and their plain twins, of random commands in random units.
type generator struct {
	offset int64
}

func (g *generator) unit(t *rapid.T, b *batch, p *plain) {
	from := len(p.cmds)
	for range rapid.IntRange(0, 4).Draw(t, "commands") {
		args := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 60), 0, 6).Draw(t, "args")
		c := command{db: rapid.IntRange(0, 15).Draw(t, "db"), effect: effect(rapid.IntRange(0, 2).Draw(t, "effect")), needs: [2]int{1, 2}}
		lend := rapid.Bool().Draw(t, "lend")
		if lend {
			args = append(args, bytes.Repeat([]byte{'l'}, rapid.IntRange(lendFrom, 2*lendFrom).Draw(t, "lent")), []byte("behind it"))
		}
		b.add(args, c, lend)
		var texts []string
		for _, arg := range args {
			texts = append(texts, string(arg))
			if !lend || len(arg) < lendFrom {
				clear(arg) // what a batch keeps is its own, but for what it is lent
			}
		}
		p.cmds = append(p.cmds, plainCommand{texts, c})
	}
	start := g.offset
	g.offset += rapid.Int64Range(1, 1<<40).Draw(t, "length")
	u := replica.Unit{Start: start, End: replica.Position{ReplID: "id", Offset: g.offset, DB: 3}}
	b.close(&u)
	p.units = append(p.units, plainUnit{from, len(p.cmds), start, u.End})
}

// check compares a batch with its twin, in everything that one can ask it.
func (p *plain) check(t *rapid.T, b *batch) {
	if len(b.cmds) != len(p.cmds) || len(b.units) != len(p.units) {
		t.Fatalf("%d commands in %d units, want %d in %d", len(b.cmds), len(b.units), len(p.cmds), len(p.units))
	}
	memory := 0
	for i, c := range p.cmds {
		var args []string
		b.arguments(i, func(arg []byte) { args = append(args, string(arg)) })
		if diff := cmp.Diff(c.args, args); diff != "" {
			t.Fatalf("command %d (-want +got):\n%s", i, diff)
		}
		if got := b.cmds[i]; got.db != c.db || got.effect != c.effect || got.needs != c.needs || got.skip {
			t.Fatalf("command %d is %+v, want %+v", i, got, c.command)
		}
		memory += len(strings.Join(c.args, ""))
	}
	if b.size() < memory {
		t.Fatalf("size %d for %d bytes of arguments", b.size(), memory)
	}
	for i, u := range p.units {
		if from, to := b.commands(i); from != u.from || to != u.to {
			t.Fatalf("unit %d has commands %d to %d, want %d to %d", i, from, to, u.from, u.to)
		}
		weight := 0
		for _, c := range p.cmds[u.from:u.to] {
			weight += len(strings.Join(c.args, ""))
		}
		if got := b.weight(i); got != weight {
			t.Fatalf("unit %d weighs %d, want %d", i, got, weight)
		}
		if b.units[i].start != u.start || b.units[i].end != u.end {
			t.Fatalf("unit %d is %+v, want %+v", i, b.units[i], u)
		}
		for c := u.from; c < u.to; c++ {
			if got := b.unitOf(c); got != i {
				t.Fatalf("command %d is in unit %d, want %d", c, got, i)
			}
		}
	}
	p.checkAfter(t, b)
}

// checkAfter asks where the work goes on behind each offset.
func (p *plain) checkAfter(t *rapid.T, b *batch) {
	offsets := []int64{p.units[0].start, p.units[0].start - 1, p.units[0].end.Offset + 1<<50}
	for _, u := range p.units {
		offsets = append(offsets, u.end.Offset, u.end.Offset-1, u.end.Offset+1)
	}
	for _, offset := range offsets {
		want, wantOK := 0, offset == p.units[0].start
		if !wantOK && offset > p.units[len(p.units)-1].end.Offset {
			want, wantOK = len(p.units), true // in the batch behind it
		}
		for i, u := range p.units {
			if !wantOK && u.end.Offset == offset {
				want, wantOK = i+1, true
			}
		}
		if got, ok := b.after(offset); got != want || ok != wantOK {
			t.Fatalf("after(%d) = %d, %v, want %d, %v", offset, got, ok, want, wantOK)
		}
	}
}

// A batch is what was put into it, the first time and each time it is used again.
func TestBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b batch
		g := generator{offset: rapid.Int64Range(0, 1<<50).Draw(t, "offset")}
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			var p plain
			for range rapid.IntRange(1, 8).Draw(t, "units") {
				g.unit(t, &b, &p)
			}
			p.check(t, &b)
			b.reset()
			if b.size() != 0 {
				t.Fatalf("an empty batch has size %d", b.size())
			}
		}
	})
}

// A transaction ends with the first unit that fills it, and takes at least one.
func TestCut(t *testing.T) {
	one := func(commands, bytes int) [2]int { return [2]int{commands, bytes} }
	tests := []struct {
		name  string
		units [][2]int // commands, and bytes of each
		from  int
		want  int
	}{
		{"all fit", [][2]int{one(1, 10), one(2, 10), one(0, 0)}, 0, 3},
		{"the commands of one unit", [][2]int{one(transactionCommands, 1), one(1, 1)}, 0, 1},
		{"more than a transaction should have in one unit", [][2]int{one(3*transactionCommands, 1), one(1, 1)}, 0, 1},
		{"filled together", [][2]int{one(1, 1), one(transactionCommands-1, 1), one(1, 1)}, 0, 2},
		{"one command short", [][2]int{one(1, 1), one(transactionCommands-2, 1), one(1, 1), one(1, 1)}, 0, 3},
		{"bytes", [][2]int{one(1, transactionBytes-1), one(1, 1), one(1, 1)}, 0, 2},
		{"a giant", [][2]int{one(1, 1), one(1, 5*transactionBytes), one(1, 1)}, 0, 2},
		{"from behind a giant", [][2]int{one(1, 5*transactionBytes), one(1, 1), one(1, 1)}, 1, 3},
		{"units without commands", [][2]int{one(0, 0), one(0, 0)}, 1, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b batch
			for _, u := range test.units {
				for range u[0] {
					b.add([][]byte{bytes.Repeat([]byte("x"), u[1])}, command{}, false)
				}
				b.close(&replica.Unit{})
			}
			if got := b.cut(test.from); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestBatchGivesGiantMemoryBack(t *testing.T) {
	tests := map[string]struct {
		args [][]byte
		keep bool
	}{
		"a large unit":      {[][]byte{make([]byte, keepAtMost/2)}, true},
		"a giant value":     {[][]byte{make([]byte, keepAtMost+1)}, false},
		"a million of them": {slices.Repeat([][]byte{{}}, 1<<20+1), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var b batch
			b.add(test.args, command{}, false)
			b.close(&replica.Unit{})
			b.reset()
			if kept := cap(b.bytes)+cap(b.ends) > 0; kept != test.keep || b.size() != 0 {
				t.Errorf("kept %d and %d, want any: %v", cap(b.bytes), cap(b.ends), test.keep)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	long := strings.Repeat("x", 41)
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"a command", []string{"SET", "k", "a b"}, `"SET" "k" "a b"`},
		{"bytes that are no text", []string{"SET", "\x00\r\n\xff"}, `"SET" "\x00\r\n\xff"`},
		{"a long argument", []string{"SET", "k", long}, `"SET" "k" "` + long[:40] + `"…`},
		{"an argument of just that length", []string{long[:40]}, `"` + long[:40] + `"`},
		{"many arguments", slices.Repeat([]string{long}, 1000), strings.TrimSpace(strings.Repeat(` "`+long[:40]+`"…`, 3))},
		{"nothing", nil, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b batch
			b.add(words("DEL other"), command{}, false)
			var args [][]byte
			for _, arg := range test.args {
				args = append(args, []byte(arg))
			}
			b.add(args, command{}, false)
			if got := b.describe(1); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// In the steady state a unit costs no allocation on its way into the queue, nor a key on its way into a batch of the snapshot.
func TestFillingAllocatesNothing(t *testing.T) {
	t.Run("units", func(t *testing.T) {
		a := New(Config{Rename: RenameMap{"A": "B"}})
		u := replica.Unit{
			Cmds: []replica.Command{{Args: words("SET key:1 value PXAT 99999999999999"), DB: 3}, {Args: words("HSET hash f redferry"), DB: 3}},
			End:  replica.Position{ReplID: strings.Repeat("a", 40), Offset: 100},
		}
		for _, rename := range []RenameMap{nil, {"FLUSH-IT": "FLUSHALL"}} {
			a.Rename = rename
			fill := func() {
				for range 100 {
					if err := a.Apply(t.Context(), &u); err != nil {
						t.Fatal(err)
					}
				}
				b := a.queue.take(t.Context(), nil)
				if b == nil || len(b.units) != 100 || len(b.cmds) != 200 {
					t.Fatalf("the queue gave %+v", b)
				}
				a.queue.give(b)
			}
			fill()
			fill() // both batches have their memory now
			if got := testing.AllocsPerRun(60, fill); got > 0 {
				t.Errorf("with %d renamed commands: %v allocations for 100 units, want none", len(rename), got)
			}
		}
	})
	t.Run("keys", func(t *testing.T) {
		a := New(Config{Pipelines: NewPipelines(1)})
		a.target = target{maxBulk: defaultMaxBulk, databases: map[int]bool{3: true}}
		l := newLoader(a, rdbstream.NewReader(bufio.NewReader(strings.NewReader(""))), progress{})
		close(l.ended)
		l.keep(t.Context(), func() {}) // for its batches
		e := rdbstream.Entry{
			Kind: rdbstream.KindKey, DB: 3, Key: []byte("key:1"), Type: rdbstream.TypeString, Value: []byte("\x05value"),
			HasExpire: true, ExpireAt: 99999999999999, Idle: -1, Freq: -1,
		}
		fill := func() {
			for range 2 * loadKeys {
				if err := l.add(t.Context(), &e); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				b := <-l.full
				b.reset()
				l.empty <- b
			}
		}
		for range 4 {
			fill() // all batches have their memory then
		}
		if got := testing.AllocsPerRun(60, fill); got > 0 {
			t.Errorf("%v allocations for %d keys, want none", got, 2*loadKeys)
		}
	})
}

func TestKeyBatch(t *testing.T) {
	a := New(Config{Expiry: AsIs})
	a.target = target{maxBulk: defaultMaxBulk}
	l := newLoader(a, rdbstream.NewReader(bufio.NewReader(strings.NewReader(""))), progress{})
	entries := []rdbstream.Entry{
		{Key: []byte("plain"), Value: []byte("\x01a"), Idle: -1, Freq: -1},
		{Key: []byte("redferry:default"), Value: []byte("\x01a"), Idle: -1, Freq: -1},
		{Key: []byte(""), Value: []byte("\x00"), Idle: 5, Freq: -1, HasExpire: true, ExpireAt: 77},
		{Key: []byte("\xff\x00"), Value: []byte("\x01b"), Idle: -1, Freq: 9, HasExpire: true, ExpireAt: -3},
	}
	for i := range entries {
		if err := l.add(context.Background(), &entries[i]); err != nil {
			t.Fatal(err)
		}
		clear(entries[i].Key) // what a batch keeps is its own
	}
	payload := func(value string) string {
		p, err := rdbstream.AppendDump(nil, &rdbstream.Entry{Value: []byte(value)})
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	a1, empty, b1 := payload("\x01a"), payload("\x00"), payload("\x01b")
	tests := []struct {
		name   string
		target target
		want   [][]string
	}{
		{"neither", target{}, [][]string{
			{"RESTORE", "plain", "0", a1, "REPLACE", "ABSTTL"},
			{"RESTORE", "", "77", empty, "REPLACE", "ABSTTL"},
			{"RESTORE", "\xff\x00", "1", b1, "REPLACE", "ABSTTL"},
		}},
		{"a target with LRU", target{lru: true}, [][]string{
			{"RESTORE", "plain", "0", a1, "REPLACE", "ABSTTL"},
			{"RESTORE", "", "77", empty, "REPLACE", "ABSTTL", "IDLETIME", "5"},
			{"RESTORE", "\xff\x00", "1", b1, "REPLACE", "ABSTTL"},
		}},
		{"a target with LFU", target{lfu: true}, [][]string{
			{"RESTORE", "plain", "0", a1, "REPLACE", "ABSTTL"},
			{"RESTORE", "", "77", empty, "REPLACE", "ABSTTL"},
			{"RESTORE", "\xff\x00", "1", b1, "REPLACE", "ABSTTL", "FREQ", "9"},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got [][]string
			for i := range l.cur.keys {
				sent := l.cur.build(rueidis.Builder{}, i, &test.target)
				got = append(got, slices.Clone(sent.Commands()))
				var kept []string
				for _, arg := range l.cur.command(i, &test.target) {
					kept = append(kept, string(arg))
				}
				if diff := cmp.Diff(got[i], kept); diff != "" {
					t.Errorf("as kept when refused (-sent +kept):\n%s", diff)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got, want := l.cur.describe(2), fmt.Sprintf(`RESTORE of key "\xff\x00" in db 0 (RDB type 0, %d bytes)`, len(b1)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What counts as in the target is what has nothing missing before it, in whatever order the pipelines come back.
func TestSettle(t *testing.T) {
	a := New(Config{Status: &replica.Status{}})
	at := func(offset int64) progress { return progress{scan: rdbstream.State{Offset: offset}, db: int(offset)} }
	l := newLoader(a, nil, at(5))
	for _, step := range []struct {
		seq  int64
		end  progress
		want int64
	}{
		{1, at(20), 5},
		{2, at(30), 5},
		{0, at(10), 30},
		{5, progress{}, 30}, // the last one
		{4, at(50), 30},
		{3, at(40), 50},
	} {
		l.landed(&keyBatch{seq: step.seq, end: step.end, keys: make([]loadKey, 3)})
		if l.done.scan.Offset != step.want || l.done.db != int(step.want) {
			t.Errorf("with batch %d: all is in up to %+v, want %d", step.seq, l.done, step.want)
		}
	}
	if got := a.Status.SnapshotKeys.Load(); got != 18 {
		t.Errorf("keys: got %d, want 18", got)
	}
}
