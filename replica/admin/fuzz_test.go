package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// Whatever arrives, and in whatever pieces: a request is within its bounds, or an error; the pieces make no difference.
func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("*2\r\n$4\r\nINFO\r\n$3\r\nall\r\nPING\r\n\r\n*0\r\nset log-level \"debug\"\n"), 3)
	f.Add([]byte("*1\r\n$9223372036854775807\r\n"), 1)
	f.Add([]byte("*18446744073709551617\r\n$1\r\n"), 7)
	f.Add([]byte(strings.Repeat("*1\r\n$1\r\nx\r\n", 100)), 5)
	here, there := net.Pipe() // a client that is silent
	defer here.Close()
	defer there.Close()
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		whole, end := requests(t, bytes.NewReader(text))
		pieces, other := requests(t, &inPieces{text, max(1, piece)})
		if strings.Join(whole, "\n") != strings.Join(pieces, "\n") || end.Error() != other.Error() {
			t.Errorf("whole %q, %v; in pieces %q, %v", whole, end, pieces, other)
		}
		s := &Server{commands: map[string]Command{}}
		for _, c := range append(s.basics(), Controls{Events: "/does/not/exist", Shutdown: func() {}}.Commands()[2:]...) {
			if c.Name != "PAUSE" && c.Name != "RESUME" { // which want a gate
				s.commands[c.Name] = c
			}
		}
		c := &conn{Server: s, nc: here, in: bufio.NewReaderSize(here, maxLine), trusted: true}
		for _, r := range whole {
			if words := strings.Split(r, "\x00"); words[0] != "" {
				reply := appendReply(nil, c.resp3, c.answer(context.Background(), words))
				if len(reply) < 3 || !bytes.HasSuffix(reply, []byte("\r\n")) {
					t.Errorf("%q is answered with %q", words, reply)
				}
			}
		}
	})
}

// requests are the requests of a text, and the error at their end.
func requests(t *testing.T, r io.Reader) (list []string, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		words, err := readRequest(in)
		var protocol errProtocol
		switch {
		case errors.As(err, &protocol), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return list, err
		case err != nil:
			t.Fatalf("got %v", err)
		}
		size := 0
		for _, w := range words {
			size += len(w)
		}
		if len(words) > maxWords || size > maxRequest {
			t.Fatalf("a request of %d words and %d bytes", len(words), size)
		}
		list = append(list, strings.Join(words, "\x00"))
	}
}

// inPieces is a reader that gives a few bytes at a time.
type inPieces struct {
	rest []byte
	n    int
}

func (r *inPieces) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest[:min(r.n, len(r.rest))])
	r.rest = r.rest[n:]
	return n, nil
}

// Whatever comes from a socket, and in whatever pieces: one reply within its bounds, or an error; the pieces make no difference.
func FuzzReadReply(f *testing.F) {
	f.Add([]byte("$5\r\nhello\r\n"), 2)
	f.Add([]byte("*3\r\n$1\r\na\r\n:12\r\n-ERR x\r\n"), 3)
	f.Add([]byte("-ERR no\r\n"), 1)
	f.Add([]byte("$9223372036854775807\r\n"), 7)
	f.Add([]byte("*16777215\r\n"), 7)
	f.Add([]byte("*1\r\n*1\r\n+x\r\n"), 7)
	f.Add([]byte("$-1\r\n"), 7)
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		whole, err := readReply(bufio.NewReaderSize(bytes.NewReader(text), maxLine))
		pieces, other := readReply(bufio.NewReaderSize(&inPieces{text, max(1, piece)}, maxLine))
		if whole != pieces || (err == nil) != (other == nil) || err != nil && err.Error() != other.Error() {
			t.Errorf("whole %q, %v; in pieces %q, %v", whole, err, pieces, other)
		}
		if err != nil && (whole != "" || err.Error() == "" && !bytes.HasPrefix(text, []byte("-\r\n"))) || len(whole) > maxReply {
			t.Errorf("%q, %v", whole, err)
		}
		for _, reply := range []any{string(text), int64(piece), []any{string(text), int64(piece), string(text)}} { // what a run encodes is read as it was
			got, err := readReply(bufio.NewReaderSize(bytes.NewReader(appendReply(nil, false, reply)), maxLine))
			want := fmt.Sprint(reply)
			if list, ok := reply.([]any); ok {
				want = fmt.Sprintf("%s\n%d\n%s", list...)
			}
			if err != nil || got != want {
				t.Errorf("%q becomes %q, %v", want, got, err)
			}
		}
	})
}

// A refusal may be longer than the line of a request: it is read whole.
func TestReadLongRefusal(t *testing.T) {
	for _, size := range []int{10, maxLine, 20 * maxLine} {
		text := "ERR " + strings.Repeat("x", size)
		got, err := readReply(bufio.NewReaderSize(bytes.NewReader(appendReply(nil, false, errors.New(text))), maxLine))
		var refusal serverError
		if !errors.As(err, &refusal) || err.Error() != text || got != "" {
			t.Errorf("a refusal of %d bytes becomes %.40q, %.80v", size, got, err)
		}
	}
	long := append(bytes.Repeat([]byte("-"), maxReply+1), "\r\n"...)
	if _, err := readReply(bufio.NewReaderSize(bytes.NewReader(long), maxLine)); err == nil || err.Error() != "a reply is too long" {
		t.Errorf("a refusal beyond the bounds becomes %.80v", err)
	}
}

// What a run says of itself is read as it was written, and each field of it is one line of INFO.
func FuzzReport(f *testing.F) {
	text, err := json.Marshal(Report{Server: Identity{Name: "m", PID: 3}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"state":"in_sync","why":"a\nb:c","left_seconds":-1,"lag":{"bytes":-1,"seconds":1e300},"rate":{"bytes":1e308}}`))
	f.Add([]byte(`{"server":null,"snapshot":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r, again Report
		if json.Unmarshal(text, &r) != nil {
			return
		}
		for line := range strings.Lines(info(&r, "")) {
			if line = strings.TrimSuffix(line, "\r\n"); line != "" && !strings.HasPrefix(line, "# ") && !strings.Contains(line, ":") || strings.ContainsAny(line, "\r\n") {
				t.Errorf("%q has the line %q", text, line)
			}
		}
		once, err := json.Marshal(r)
		if err != nil {
			t.Skip() // a year that JSON has no form for
		}
		if err := json.Unmarshal(once, &again); err != nil {
			t.Fatalf("%q becomes %q: %v", text, once, err)
		}
		twice, err := json.Marshal(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%q becomes %q, and then %q: %v", text, once, twice, err)
		}
	})
}
