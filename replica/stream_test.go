package replica

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

const testID = "0123456789abcdef0123456789abcdef01234567"

// resp encodes one command.
func resp(args ...string) string { return string(appendCommand(nil, args...)) }

// unitText is a unit in a form that outlives the stream's memory and reads well in a diff: "db2 SET k v".
type unitText struct {
	Cmds       []string
	Start, End int64
	DB         int
	GetAck     bool
}

func textOf(u *Unit) unitText {
	t := unitText{Start: u.Start, End: u.End.Offset, DB: u.End.DB, GetAck: u.GetAck}
	for _, c := range u.Cmds {
		t.Cmds = append(t.Cmds, fmt.Sprintf("db%d %s", c.DB, bytes.Join(c.Args, []byte(" "))))
	}
	return t
}

// units reads a stream to its end.
func units(s *Stream) ([]unitText, error) {
	var got []unitText
	var u Unit
	for {
		if err := s.Next(&u); err != nil {
			return got, err
		}
		got = append(got, textOf(&u))
	}
}

// feeds are ways for the same bytes to arrive in.
func feeds() map[string]func(text string) *bufio.Reader {
	whole := func(size int, wrap func(io.Reader) io.Reader) func(string) *bufio.Reader {
		return func(text string) *bufio.Reader { return bufio.NewReaderSize(wrap(strings.NewReader(text)), size) }
	}
	same := func(r io.Reader) io.Reader { return r }
	return map[string]func(string) *bufio.Reader{
		"all at once":                      whole(1<<20, same),
		"a byte at a time":                 whole(1<<20, iotest.OneByteReader),
		"a buffer smaller than a command":  whole(16, same),
		"bytewise into the smallest":       whole(16, iotest.OneByteReader),
		"with io.EOF beside the last data": whole(1<<20, iotest.DataErrReader),
	}
}

func TestStreamUnits(t *testing.T) {
	tests := []struct {
		name, in string
		want     []unitText
	}{
		{"one command", resp("SET", "k", "v"), []unitText{{Cmds: []string{"db3 SET k v"}, Start: 100, End: 127, DB: 3}}},
		{
			"SELECT moves the position and the commands behind it", resp("SELECT", "7") + resp("DEL", "k"),
			[]unitText{{Start: 100, End: 123, DB: 7}, {Cmds: []string{"db7 DEL k"}, Start: 123, End: 143, DB: 7}},
		},
		{
			"PING and GETACK move the offset", resp("PING") + resp("REPLCONF", "GETACK", "*"),
			[]unitText{{Start: 100, End: 114, DB: 3}, {Start: 114, End: 151, DB: 3, GetAck: true}},
		},
		{"REPLCONF of another kind", resp("replconf", "x"), []unitText{{Start: 100, End: 125, DB: 3}}},
		{
			"a transaction is one unit, SELECT inside it outlives it (T24)",
			resp("MULTI") + resp("SET", "a", "1") + resp("SELECT", "5") + resp("SET", "b", "2") + resp("EXEC") + resp("SET", "c", "3"),
			[]unitText{
				{Cmds: []string{"db3 SET a 1", "db5 SET b 2"}, Start: 100, End: 206, DB: 5},
				{Cmds: []string{"db5 SET c 3"}, Start: 206, End: 233, DB: 5},
			},
		},
		{
			"PING and GETACK inside a transaction", resp("MULTI") + resp("PING") + resp("REPLCONF", "GETACK", "*") + resp("EXEC"),
			[]unitText{{Start: 100, End: 180, DB: 3, GetAck: true}},
		},
		{
			"names in any case (T34)", resp("mUlTi") + resp("sEt", "k", "v") + resp("select", "1") + resp("exec") + resp("ping"),
			[]unitText{{Cmds: []string{"db3 sEt k v"}, Start: 100, End: 179, DB: 1}, {Start: 179, End: 193, DB: 1}},
		},
		{
			"bare newlines are counted (protocol 1.4)", "\n" + resp("PING") + "\n\n",
			[]unitText{{Start: 100, End: 101, DB: 3}, {Start: 101, End: 115, DB: 3}, {Start: 115, End: 116, DB: 3}, {Start: 116, End: 117, DB: 3}},
		},
		{
			"empty and binary arguments (T35)", resp("SET", "", "\r\n\x00*$\n"),
			[]unitText{{Cmds: []string{"db3 SET  \r\n\x00*$\n"}, Start: 100, End: 131, DB: 3}},
		},
		{
			"names that only begin like one of the stream's own", resp("PINGS") + resp("MULTIX") + resp("SELECTED", "1"),
			[]unitText{
				{Cmds: []string{"db3 PINGS"}, Start: 100, End: 115, DB: 3},
				{Cmds: []string{"db3 MULTIX"}, Start: 115, End: 131, DB: 3},
				{Cmds: []string{"db3 SELECTED 1"}, Start: 131, End: 156, DB: 3},
			},
		},
		{"nothing", "", nil},
	}
	for _, test := range tests {
		for feed, reader := range feeds() {
			t.Run(test.name+"/"+feed, func(t *testing.T) {
				s := NewStream(reader(test.in), Position{ReplID: testID, Offset: 100, DB: 3})
				got, err := units(s)
				if err != io.EOF {
					t.Errorf("the end is %v, want io.EOF", err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("units (-want +got):\n%s", diff)
				}
				if want := int64(100 + len(test.in)); s.Position().Offset != want {
					t.Errorf("Position().Offset = %d, want %d", s.Position().Offset, want)
				}
			})
		}
	}
}

func TestStreamProtocolErrors(t *testing.T) {
	ok := resp("SET", "k", "v") // 27 bytes
	tests := []struct {
		name, in string
		want     ProtocolError
	}{
		{"an inline command (T40)", "SET k v\r\n", ProtocolError{101, []byte("SET k v\r\n"), "expected a command, which begins with '*'"}},
		{"garbage behind a command", ok + "\x00\x01", ProtocolError{128, []byte("\x00\x01"), "expected a command, which begins with '*'"}},
		{"a carriage return between commands", "\r\n", ProtocolError{101, []byte("\r\n"), "expected a command, which begins with '*'"}},
		{"an error of the source", "-ERR x\r\n", ProtocolError{101, []byte("-ERR x\r\n"), "expected a command, which begins with '*'"}},
		{"no arguments", "*0\r\n", ProtocolError{101, []byte("*0\r\n"), "a command without a name"}},
		{"a negative count", "*-1\r\n", ProtocolError{101, []byte("*-1\r\n"), "number of arguments: not a number"}},
		{"a count beyond INT_MAX", "*2147483648\r\n", ProtocolError{101, []byte("*2147483648\r\n"), "number of arguments: too large"}},
		{"a count that overflows", "*18446744073709551617\r\n", ProtocolError{101, []byte("*18446744073709551617\r\n"), "number of arguments: too large"}},
		{"a leading zero", "*03\r\n", ProtocolError{101, []byte("*03\r\n"), "number of arguments: a leading zero"}},
		{"an empty count", "*\r\n", ProtocolError{101, []byte("*\r\n"), "number of arguments: not a number"}},
		{"a count without its line feed", "*1\r$", ProtocolError{101, []byte("*1\r$"), "number of arguments: expected \\r\\n"}},
		{"an argument that is none", "*1\r\n+OK\r\n", ProtocolError{101, []byte("*1\r\n+OK\r\n"), "expected an argument, which begins with '$'"}},
		{"a negative length", "*1\r\n$-1\r\n", ProtocolError{101, []byte("*1\r\n$-1\r\n"), "length of an argument: not a number"}},
		{
			"the length that redcon panics on", "*1\r\n$9223372036854775807\r\n",
			ProtocolError{101, []byte("*1\r\n$9223372036854775807\r\n"), "length of an argument: too large"},
		},
		{"a length without its line feed", "*1\r\n$1\rx", ProtocolError{101, []byte("*1\r\n$1\rx"), "length of an argument: expected \\r\\n"}},
		{"an argument longer than announced", "*1\r\n$1\r\nxy\r\n", ProtocolError{101, []byte("*1\r\n$1\r\nxy\r\n"), "expected \\r\\n behind an argument"}},
		{"an argument without its end", "*1\r\n$1\r\nx\rx", ProtocolError{101, []byte("*1\r\n$1\r\nx\rx"), "expected \\r\\n behind an argument"}},
		{"nested MULTI", ok + resp("MULTI") + resp("multi"), ProtocolError{143, []byte(resp("multi")), "MULTI inside MULTI"}},
		{"EXEC without MULTI", ok + resp("EXEC"), ProtocolError{128, []byte(resp("EXEC")), "EXEC without MULTI"}},
		{"DISCARD", resp("MULTI") + resp("DISCARD"), ProtocolError{116, []byte(resp("DISCARD")), "DISCARD in a replication stream"}},
		{"SELECT of nothing", resp("SELECT"), ProtocolError{101, []byte(resp("SELECT")), "SELECT without a database"}},
		{"SELECT of a name", resp("SELECT", "x"), ProtocolError{101, []byte(resp("SELECT", "x")), "SELECT of something that is no database"}},
		{"SELECT below zero", resp("SELECT", "-1"), ProtocolError{101, []byte(resp("SELECT", "-1")), "SELECT of something that is no database"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := NewStream(bufio.NewReaderSize(strings.NewReader(test.in), 1<<20), Position{ReplID: testID, Offset: 100})
			_, err := units(s)
			var got *ProtocolError
			if !errors.As(err, &got) {
				t.Fatalf("error %v, want a ProtocolError", err)
			}
			if diff := cmp.Diff(&test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var u Unit
			if again := s.Next(&u); again != err || len(u.Cmds) > 0 {
				t.Errorf("then Next gives %v and %d commands, want the same error and none", again, len(u.Cmds))
			}
		})
	}
}

// The place of an error is right, too, when its command came in pieces, and the bytes around it are the same but for what had not come yet.
func TestStreamErrorPlaceInPieces(t *testing.T) {
	in := resp("SET", "k", "v") + resp("SET", strings.Repeat("x", 50), "y")[:70] + "!rest"
	for feed, reader := range feeds() {
		t.Run(feed, func(t *testing.T) {
			_, err := units(NewStream(reader(in), Position{ReplID: testID, Offset: 100}))
			var got *ProtocolError
			if !errors.As(err, &got) {
				t.Fatalf("error %v, want a ProtocolError", err)
			}
			bad := strings.IndexByte(in, '!')
			at := int(got.Offset) - 101
			if at > bad || at+len(got.Near) <= bad || in[at:at+len(got.Near)] != string(got.Near) {
				t.Errorf("offset %d and %q do not show byte %d of %q", got.Offset, got.Near, bad, in)
			}
		})
	}
}

// A stream that is cut at any byte ends with the position behind its last whole unit, says whether it was cut inside one, and resumed from
// there yields what the uncut one does (T23).
func TestStreamCutAnywhere(t *testing.T) {
	in := resp("SELECT", "2") + resp("SET", "a", "\r\n*1\r\n") + "\n" + resp("MULTI") + resp("INCR", "n") + resp("SELECT", "4") + resp("SET", "b", "") +
		resp("EXEC") + resp("PING") + resp("REPLCONF", "GETACK", "*") + resp("RPUSH", "l", strings.Repeat("v", 40))
	from := Position{ReplID: testID, Offset: 1000, DB: 1}
	read := func(text string, from Position) ([]unitText, Position, error) {
		s := NewStream(bufio.NewReaderSize(strings.NewReader(text), 32), from)
		got, err := units(s)
		return got, s.Position(), err
	}
	want, _, err := read(in, from)
	if err != io.EOF {
		t.Fatal(err)
	}
	for cut := range len(in) + 1 {
		got, at, err := read(in[:cut], from)
		wantErr := io.EOF
		if at.Offset != from.Offset+int64(cut) {
			wantErr = io.ErrUnexpectedEOF
		}
		if err != wantErr {
			t.Errorf("cut at byte %d: error %v, want %v", cut, err, wantErr)
		}
		rest, _, err := read(in[at.Offset-from.Offset:], at)
		if err != io.EOF {
			t.Errorf("resumed after a cut at byte %d: %v", cut, err)
		}
		if diff := cmp.Diff(want, append(got, rest...)); diff != "" {
			t.Errorf("cut at byte %d (-want +got):\n%s", cut, diff)
		}
	}
}

func TestStreamReadError(t *testing.T) {
	broken := errors.New("broken")
	s := NewStream(bufio.NewReader(io.MultiReader(strings.NewReader(resp("PING")), iotest.ErrReader(broken))), Position{ReplID: testID})
	got, err := units(s)
	if !errors.Is(err, broken) || len(got) != 1 {
		t.Errorf("%d units and %v, want 1 and the reader's error", len(got), err)
	}
}

// A clean end may be only the end so far: of a file that grows.
func TestStreamGoesOnAfterEOF(t *testing.T) {
	var grows bytes.Buffer
	s := NewStream(bufio.NewReader(&grows), Position{ReplID: testID})
	for i := range 3 {
		grows.WriteString(resp("PING"))
		got, err := units(s)
		if err != io.EOF || len(got) != 1 {
			t.Fatalf("round %d: %d units and %v, want 1 and io.EOF", i, len(got), err)
		}
	}
}
