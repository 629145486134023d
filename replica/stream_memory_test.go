package replica

import (
	"bufio"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// endless repeats text.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (n int, _ error) {
	for n < len(p) {
		k := copy(p[n:], e.text[e.at:])
		n += k
		e.at = (e.at + k) % len(e.text)
	}
	return n, nil
}

func TestStreamAllocatesNothing(t *testing.T) {
	tests := []struct{ name, text string }{
		{"small commands", resp("SET", "key:000000012345", "value") + resp("PING") + resp("SELECT", "11") + resp("HSET", "h", "a", "1", "b", "2")},
		{"transactions", resp("MULTI") + strings.Repeat(resp("SET", "key:000000012345", "value"), 20) + resp("EXEC")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := NewStream(bufio.NewReaderSize(&endless{text: test.text}, 1<<18), Position{ReplID: testID})
			var u Unit
			next := func() {
				if err := s.Next(&u); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 { // until the arenas have their size
				next()
			}
			if got := testing.AllocsPerRun(20000, next); got != 0 {
				t.Errorf("%v allocations per unit, want none", got)
			}
		})
	}
}

// heap is what is in use, garbage aside.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Commands far beyond any buffer pass, and leave no memory behind (T35).
func TestStreamLargeCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a gigabyte of memory for a moment")
	}
	const million = 1 << 20
	value := func(size int64) io.Reader {
		head := fmt.Sprintf("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n", size)
		return io.MultiReader(strings.NewReader(head), io.LimitReader(&endless{text: "0123456789abcdef"}, size), strings.NewReader("\r\n"))
	}
	manyArgs := "*1048578\r\n" + resp("SADD", "s")[4:]
	many := func() io.Reader {
		one := resp("x")[4:]
		return io.MultiReader(strings.NewReader(manyArgs), io.LimitReader(&endless{text: one}, int64(million*len(one))))
	}
	inTx := func(r io.Reader) io.Reader {
		return io.MultiReader(strings.NewReader(resp("MULTI")), r, strings.NewReader(resp("INCR", "n")+resp("EXEC")))
	}
	tests := []struct {
		name string
		in   io.Reader
		args int   // of the first command
		last int64 // length of its last argument
	}{
		{"a value of 600 MB", value(600 << 20), 3, 600 << 20},
		{"a value of 100 MB in a transaction", inTx(value(100 << 20)), 3, 100 << 20},
		{"a million arguments", many(), million + 2, 1},
		{"a million arguments in a transaction", inTx(many()), million + 2, 1},
		{"a transaction of half a million commands", inTx(io.LimitReader(&endless{text: resp("SET", "k", "v")}, 27*million/2)), 3, 1},
		{"exactly the buffer", value(1<<20 - 34), 3, 1<<20 - 34},
		{"a byte more than the buffer", value(1<<20 - 33), 3, 1<<20 - 33},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			br := bufio.NewReaderSize(io.MultiReader(test.in, strings.NewReader(resp("PING"))), 1<<20)
			s := NewStream(br, Position{ReplID: testID})
			before := heap()
			var u Unit
			if err := s.Next(&u); err != nil {
				t.Fatal(err)
			}
			args := u.Cmds[0].Args
			if got := len(args); got != test.args {
				t.Errorf("%d arguments, want %d", got, test.args)
			}
			if got := int64(len(args[len(args)-1])); got != test.last {
				t.Errorf("the last argument has %d bytes, want %d", got, test.last)
			}
			if last := args[len(args)-1]; len(last) > 16 && string(last[len(last)-3:]) != "0123456789abcdef"[(len(last)-3)%16:][:3] {
				t.Errorf("the last argument ends in %q", last[len(last)-3:])
			}
			if err := s.Next(&u); err != nil || len(u.Cmds) > 0 {
				t.Fatalf("the PING behind it: %d commands, %v", len(u.Cmds), err)
			}
			if after := heap(); after-before > 1<<20 {
				t.Errorf("%d bytes are left behind, want less than 1 MiB", after-before)
			}
		})
	}
}

// A length that is only announced costs no memory.
func TestStreamAnnouncedLengthIsNotAllocated(t *testing.T) {
	for name, in := range map[string]string{
		"argument":  "*2\r\n$3\r\nSET\r\n$4294967296\r\nx",
		"arguments": "*2147483647\r\n$3\r\nDEL\r\n$1\r\nx\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			in := in + strings.Repeat("x", 2<<20)
			s := NewStream(bufio.NewReaderSize(strings.NewReader(in), 1<<18), Position{ReplID: testID})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := units(s)
			runtime.ReadMemStats(&after)
			if err == nil || err == io.EOF {
				t.Errorf("error %v, want one", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
				t.Errorf("%d bytes were allocated for 2 MiB", got)
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	for _, bench := range []struct {
		name, text string
		cmds       int
	}{
		{"SET", resp("SET", "key:000000012345", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), 1},
		{"MULTI of 20", resp("MULTI") + strings.Repeat(resp("SET", "key:000000012345", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), 20) + resp("EXEC"), 20},
		{"SET of 100 kB", resp("SET", "key:000000012345", strings.Repeat("x", 100000)), 1},
		{"SET of 10 MB", resp("SET", "key:000000012345", strings.Repeat("x", 10000000)), 1},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := NewStream(bufio.NewReaderSize(&endless{text: strings.Repeat(bench.text, 1+(1<<16)/len(bench.text))}, linkBuffer), Position{ReplID: testID})
			var u Unit
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.text)))
			for b.Loop() {
				if err := s.Next(&u); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*bench.cmds)/b.Elapsed().Seconds(), "cmds/s")
		})
	}
}

// A large unit says that its bytes are its own, and then they stay as they are while the stream is read on.
func TestStreamUnitOwnsItsMemory(t *testing.T) {
	value := func(i, size int) string { return strings.Repeat(string(rune('a'+i)), size) }
	transaction := func(size, n int) (text string) {
		for i := range n {
			text += resp("SET", "k", value(i, size))
		}
		return resp("MULTI") + text + resp("EXEC")
	}
	const buffer = 300 << 10
	tests := []struct {
		name, text string
		own        bool
	}{
		{"a small command", resp("SET", "k", value(0, 100)), false},
		{"one that fits into the buffer", resp("SET", "k", value(1, keepUnit+100)), false},
		{"one that does not", resp("SET", "k", value(2, buffer)), true},
		{"a small transaction", transaction(100, 9), false},
		{"a large transaction", transaction(100<<10, 9), true},
		{"one of small commands", transaction(50, 26) + resp("PING"), false},
		{"one with a large command", resp("MULTI") + resp("SET", "k", value(3, buffer)) + resp("SET", "k", "x") + resp("EXEC"), true},
	}
	all := ""
	for _, test := range tests {
		all += test.text
	}
	s := NewStream(bufio.NewReaderSize(strings.NewReader(all+all), buffer), Position{ReplID: testID})
	var kept [][]byte
	var want []string
	for i := range 2 * len(tests) {
		test := tests[i%len(tests)]
		var u Unit
		for len(u.Cmds) == 0 { // not the PING
			if err := s.Next(&u); err != nil {
				t.Fatal(err)
			}
		}
		if u.Own != test.own {
			t.Errorf("%s: its own is %v", test.name, u.Own)
		}
		for _, c := range u.Cmds {
			if u.Own {
				kept, want = append(kept, c.Args[2]), append(want, string(c.Args[2]))
			}
		}
	}
	for i := range kept {
		if string(kept[i]) != want[i] {
			t.Errorf("argument %d has changed", i)
		}
	}
}
