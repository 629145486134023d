package admin

import (
	"fmt"
	"strings"

	"github.com/tidwall/redcon"
)

// What a command may answer with, beside string, int, int64, error and []any of these.
type (
	// Simple is a short word, as OK.
	Simple string
	// Map are names with values, in order: a map to clients of RESP3, and a list to others.
	Map []Pair
	// Pair is one of a Map.
	Pair struct {
		Name  string
		Value any
	}
)

// OK is the answer of a command that has nothing to say.
const OK = Simple("OK")

// appendReply encodes an answer.
func appendReply(b []byte, resp3 bool, reply any) []byte {
	switch r := reply.(type) {
	case Simple:
		return redcon.AppendString(b, string(r))
	case string:
		return redcon.AppendBulkString(b, r)
	case int:
		return redcon.AppendInt(b, int64(r))
	case int64:
		return redcon.AppendInt(b, r)
	case error:
		return redcon.AppendError(b, errorText(r))
	case Map:
		if resp3 {
			b = fmt.Appendf(b, "%%%d\r\n", len(r))
		} else {
			b = redcon.AppendArray(b, 2*len(r))
		}
		for _, p := range r {
			b = redcon.AppendBulkString(b, p.Name)
			b = appendReply(b, resp3, p.Value)
		}
		return b
	case []any:
		b = redcon.AppendArray(b, len(r))
		for _, element := range r {
			b = appendReply(b, resp3, element)
		}
		return b
	}
	return redcon.AppendError(b, fmt.Sprintf("ERR a reply of type %T", reply))
}

// errorText is an error as RESP has it: in one line, with a word in capitals at its beginning.
func errorText(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if first, _, _ := strings.Cut(text, " "); len(first) < 2 || strings.ToUpper(first) != first {
		text = "ERR " + text
	}
	return text
}
