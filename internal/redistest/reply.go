package redistest

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// ReplyOf makes a server's reply out of words, for tests and fuzz targets of what reads replies. Any text is one reply:
//
//	( … )   an array of what stands between; one that is not closed ends with the text
//	~       nil
//	:12     an integer
//	!text   an error
//	"a b"   a string, quoted as in Go; any other word is one without quotes
//
// What follows the first reply is left out, and a text without words is nil.
func ReplyOf(text string) (m rueidis.RedisMessage) {
	words := strings.Fields(text)
	encoded, _ := encodeReply(make([]byte, 7), words) // its first bytes are a cache's
	_ = m.CacheUnmarshalView(encoded)                 // what encodeReply makes is whole
	return m
}

// encodeReply appends the first reply of some words as rueidis stores it in a cache, and gives the words behind it.
func encodeReply(b []byte, words []string) (encoded []byte, rest []string) {
	add := func(kind byte, size int64, data string) []byte {
		return append(binary.BigEndian.AppendUint64(append(b, kind), uint64(size)), data...)
	}
	if len(words) == 0 {
		return add('_', 0, ""), nil
	}
	word, rest := words[0], words[1:]
	switch {
	case word == "(":
		b = add('*', 0, "")
		size, n := len(b)-8, uint64(0)
		for len(rest) > 0 && rest[0] != ")" {
			b, rest = encodeReply(b, rest)
			n++
		}
		binary.BigEndian.PutUint64(b[size:], n)
		return b, rest[min(1, len(rest)):]
	case word == "~":
		return add('_', 0, ""), rest
	case word[0] == '!':
		return add('-', int64(len(word)-1), word[1:]), rest
	}
	if n, err := strconv.ParseInt(strings.TrimPrefix(word, ":"), 10, 64); err == nil && word[0] == ':' {
		return add(':', n, ""), rest
	}
	if text, err := strconv.Unquote(word); err == nil {
		word = text
	}
	return add('$', int64(len(word)), word), rest
}
