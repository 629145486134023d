package replica

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// refUnits is the plainest reading of a stream that could be written: all of it in memory, recursion and no buffers. It returns the units,
// and whether the rest is nothing, the beginning of a unit, or no stream.
func refUnits(in []byte, from Position) (got []unitText, end error) {
	at, db := 0, from.DB
	for at < len(in) {
		u := unitText{Start: from.Offset + int64(at)}
		tx := false
		for {
			args, n, err := refCommand(in[at:])
			if err != nil {
				return got, err
			}
			at += n
			name := ""
			if len(args) > 0 {
				name = strings.ToUpper(string(args[0]))
			}
			switch {
			case len(args) == 0, name == "PING":
			case name == "REPLCONF":
				u.GetAck = u.GetAck || len(args) > 1 && strings.EqualFold(string(args[1]), "getack")
			case name == "SELECT":
				if len(args) != 2 {
					return got, errRef
				}
				n, err := strconv.Atoi(string(args[1]))
				if err != nil || n < 0 {
					return got, errRef
				}
				db = n
			case name == "MULTI" && !tx:
				tx = true
			case name == "EXEC" && tx:
				tx = false
			case name == "MULTI", name == "EXEC", name == "DISCARD":
				return got, errRef
			default:
				u.Cmds = append(u.Cmds, fmt.Sprintf("db%d %s", db, bytes.Join(args, []byte(" "))))
			}
			if !tx {
				break
			}
			if at == len(in) {
				return got, io.ErrUnexpectedEOF
			}
		}
		u.End, u.DB = from.Offset+int64(at), db
		got = append(got, u)
	}
	return got, io.EOF
}

var errRef = errors.New("not a stream")

// refCommand reads one command from the front of in; none at all for a newline.
func refCommand(in []byte) (args [][]byte, n int, err error) {
	if in[0] == '\n' {
		return nil, 1, nil
	}
	count, n, err := refNumber(in, '*', maxArgs)
	if err == nil && count == 0 {
		err = errRef
	}
	for ; err == nil && count > 0; count-- {
		size, k, e := refNumber(in[n:], '$', maxBulk)
		if e != nil {
			return nil, 0, e
		}
		n += k
		if end := int64(n) + size; end+2 > int64(len(in)) {
			if tail := in[min(end, int64(len(in))):]; !strings.HasPrefix("\r\n", string(tail)) {
				return nil, 0, errRef
			}
			return nil, 0, io.ErrUnexpectedEOF
		}
		args = append(args, in[n:n+int(size)])
		n += int(size) + 2
		if string(in[n-2:n]) != "\r\n" {
			err = errRef
		}
	}
	return args, n, err
}

// refNumber reads a line of a kind byte and a number. What could still become one is io.ErrUnexpectedEOF.
func refNumber(in []byte, kind byte, limit int64) (v int64, n int, err error) {
	line, _, whole := bytes.Cut(in, []byte("\r\n"))
	if len(line) == 0 && !whole {
		return 0, 0, io.ErrUnexpectedEOF
	}
	open := line
	if !whole {
		open = bytes.TrimSuffix(line, []byte("\r"))
	}
	if len(open) == 0 || open[0] != kind {
		return 0, 0, errRef
	}
	digits := string(open[1:])
	for i, c := range digits {
		if c < '0' || c > '9' || i == 1 && digits[0] == '0' {
			return 0, 0, errRef
		}
	}
	if v, err = strconv.ParseInt("0"+digits, 10, 64); err != nil || v > limit {
		return 0, 0, errRef
	}
	switch {
	case whole && digits == "", !whole && digits == "" && len(open) < len(line):
		return 0, 0, errRef
	case !whole:
		return 0, 0, io.ErrUnexpectedEOF
	}
	return v, len(line) + 2, nil
}

// pieces yields its bytes in reads of random length.
type pieces struct {
	in  []byte
	rnd *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 1+p.rnd.IntN(40))], p.in)
	p.in = p.in[n:]
	return n, nil
}

// FuzzStream holds the stream against the reference, whatever pieces the bytes come in.
func FuzzStream(f *testing.F) {
	for _, in := range []string{
		resp("SELECT", "2") + resp("SET", "k", "v"),
		resp("MULTI") + resp("INCR", "n") + resp("SELECT", "3") + resp("EXEC") + "\n" + resp("PING"),
		resp("REPLCONF", "GETACK", "*"),
		"*1\r\n$9223372036854775807\r\n", "*99999999999999999999\r\n", "*3\r\n$3\r\nSET\r\n$-1\r\n", "*1\r\n$0\r\n\r\n", "PING\r\n", "*1\r", "*01\r\n$1\r\nx\r\n",
	} {
		f.Add([]byte(in), uint64(1))
	}
	for _, in := range realStreams(f) {
		f.Add(in, uint64(2))
	}
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		from := Position{ReplID: testID, Offset: 7, DB: 1}
		want, wantEnd := refUnits(in, from)
		rnd := rand.New(rand.NewPCG(seed, 0))
		for name, br := range map[string]*bufio.Reader{
			"whole":         bufio.NewReaderSize(bytes.NewReader(in), 1<<16),
			"in pieces":     bufio.NewReaderSize(&pieces{in, rnd}, 1<<16),
			"small buffer":  bufio.NewReaderSize(&pieces{in, rnd}, 16+rnd.IntN(64)),
			"byte for byte": bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(in)), 64),
		} {
			s := NewStream(br, from)
			got, end := units(s)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s (-reference +stream):\n%s", name, diff)
			}
			var pe *ProtocolError
			switch {
			case errors.Is(wantEnd, errRef) && !errors.As(end, &pe):
				t.Fatalf("%s: the end is %v, the reference says it is no stream", name, end)
			case !errors.Is(wantEnd, errRef) && end != wantEnd:
				t.Fatalf("%s: the end is %v, the reference says %v", name, end, wantEnd)
			case pe != nil:
				at := pe.Offset - from.Offset - 1
				if at < 0 || at+int64(len(pe.Near)) > int64(len(in)) || !bytes.Equal(in[at:at+int64(len(pe.Near))], pe.Near) {
					t.Fatalf("%s: %v does not show what is there", name, pe)
				}
			}
			if last := len(want); last > 0 && s.Position().Offset != want[last-1].End {
				t.Fatalf("%s: the position is %v, want it at %d", name, s.Position(), want[last-1].End)
			}
		}
	})
}

// realStreams are recordings of real servers: see TestRecordStreams.
func realStreams(t testing.TB) [][]byte {
	files, err := filepath.Glob("testdata/stream-*.hex")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded streams in testdata: %v", err)
	}
	var all [][]byte
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		in, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, in)
	}
	return all
}
