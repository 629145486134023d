package admin

import (
	"bufio"
	"bytes"
	"context"
	"errors"
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
