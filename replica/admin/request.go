package admin

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// The bounds of a request. An operator's have a few words.
const (
	maxWords   = 64
	maxLine    = 4 << 10 // of an inline request, and of a length
	maxRequest = 16 << 10
)

// errProtocol is what a client is told before its connection is closed.
type errProtocol string

func (e errProtocol) Error() string { return "Protocol error: " + string(e) }

// readRequest reads a request's words, RESP or inline. An empty one has none. r must have a buffer of maxLine at least.
//
// redcon's own reader takes whatever length it is told, and ends the process for some: it is made for clients that one trusts.
func readRequest(r *bufio.Reader) ([]string, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	if len(line) == 0 || line[0] != '*' {
		var words []string
		for _, w := range bytes.Fields(line) {
			words = append(words, string(w))
		}
		if len(words) > maxWords {
			return nil, errProtocol("too many words")
		}
		return words, nil
	}
	n, err := length(line[1:], maxWords)
	if err != nil {
		return nil, err
	}
	words, all := make([]string, 0, n), 0
	for range n {
		if line, err = readLine(r); err != nil {
			return nil, inside(err)
		}
		if len(line) == 0 || line[0] != '$' {
			return nil, errProtocol(fmt.Sprintf("expected '$', got %.20q", line))
		}
		size, err := length(line[1:], maxRequest-all)
		if err != nil {
			return nil, err
		}
		all += size
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, inside(err)
		}
		if word[size] != '\r' || word[size+1] != '\n' {
			return nil, errProtocol("expected \\r\\n behind a word")
		}
		words = append(words, string(word[:size]))
	}
	return words, nil
}

// inside makes of an end in the midst of a request what it is.
func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLine reads up to a newline, and gives what stands before it. It is good until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errProtocol("too big a line")
	case err != nil && len(line) > 0:
		return nil, inside(err)
	case err != nil:
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// length reads a number of at most limit, as a server does: digits and nothing else.
func length(text []byte, limit int) (int, error) {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, errProtocol(fmt.Sprintf("%.20q is no length", text))
		}
		if n = 10*n + int(c-'0'); n > limit {
			return 0, errProtocol("too large a request")
		}
	}
	if len(text) == 0 {
		return 0, errProtocol("a length is missing")
	}
	return n, nil
}
