package verify

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Kind is in what two servers differ.
type Kind string

// The kinds of a [Difference].
const (
	Missing  Kind = "missing"  // the target lacks a key of the source
	Extra    Kind = "extra"    // the target has a key that the source lacks
	Type     Kind = "type"     // a key's value is of another type
	Value    Kind = "value"    // … another value
	TTL      Kind = "ttl"      // it, or a field of it, expires at another time
	Keys     Kind = "count"    // a database has another number of keys
	Function Kind = "function" // a function library is missing, extra or other

	// Incomparable is not a difference: nobody can tell whether it is one.
	Incomparable Kind = "incomparable"
)

// Difference is one thing in which the target differs from the source.
type Difference struct {
	DB     int    // -1 for functions, which belong to none
	Key    string // its bytes; a function library's name; empty where it is about a database
	Kind   Kind
	What   string // which part of the value; empty where it is about the whole key
	Source string // what the source has, shortened and quoted
	Target string // likewise
}

func (d Difference) String() string {
	text := string(d.Kind)
	switch {
	case d.DB < 0:
		text += " " + shorten(d.Key)
	case d.Kind == Keys:
		text += fmt.Sprintf(" of database %d", d.DB)
	default:
		text += fmt.Sprintf(" db %d key %s", d.DB, shorten(d.Key))
	}
	if d.What != "" {
		text += ", " + d.What
	}
	return text + ": source " + d.Source + ", target " + d.Target
}

// MarshalJSON gives keys that are not UTF-8 in base64, too: their JSON text stands for more than one key.
func (d Difference) MarshalJSON() ([]byte, error) {
	out := struct {
		DB     int    `json:"db"`
		Key    string `json:"key"`
		Base64 []byte `json:"key_base64,omitempty"`
		Kind   Kind   `json:"kind"`
		What   string `json:"what,omitempty"`
		Source string `json:"source"`
		Target string `json:"target"`
	}{DB: d.DB, Key: d.Key, Kind: d.Kind, What: d.What, Source: d.Source, Target: d.Target}
	if !utf8.ValidString(d.Key) {
		out.Base64 = []byte(d.Key)
	}
	return json.Marshal(out)
}

// Report is what a comparison has found.
type Report struct {
	Mode           Mode
	Source, Target string // the ends, without user and password

	Looked      int64          // keys of either side that were looked at, an equal pair counting twice where both were scanned
	Differences map[Kind]int64 // how many of each kind
	First       []Difference   // the first of them
	Ended       bool           // there were so many that the rest was not looked at

	// Moving are keys that differed whenever they were looked at, but were written to each time meanwhile, so that nobody can tell. The first of them are in FirstMoving.
	Moving      int64
	FirstMoving []Difference

	// Incomparable are keys of which nobody can tell whether they are equal: a module's value in
	// other bytes, or a consumer that sources do not replicate. The first of them are in
	// FirstIncomparable.
	Incomparable      int64
	FirstIncomparable []Difference

	Expired int64  // keys that one side alone has, and whose time is over: no difference
	Shifted int64  // expiries in the target that are shifted, as they are while a migration runs
	Note    string // what else the operator should know of the target; empty for nothing

	Elapsed time.Duration
}

// Total is how many differences there are.
func (r *Report) Total() (n int64) {
	for _, k := range r.Differences {
		n += k
	}
	return n
}

// Equal tells that no difference was found.
func (r *Report) Equal() bool { return r.Total() == 0 }

// shownBytes is how much of a key or a value a report shows.
const shownBytes = 80

// shorten quotes what a server has, or its beginning.
func shorten(text string) string {
	if len(text) <= shownBytes {
		return strconv.Quote(text)
	}
	return fmt.Sprintf("%q… (%d bytes)", text[:shownBytes], len(text))
}
