package checkpoint

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Divergence counts the replies of the target that cannot come from the source's data, by the command's name in upper case, and as LostReply the keys that were
// found different where such replies were lost. nil counts none.
type Divergence map[string]int64

// LostReply is a Divergence beside the commands'.
const LostReply = "lost-reply"

// String is the counts as the checkpoint has them, "DEL=1 PEXPIREAT=3": by name, so that equal ones are equal texts. Empty when there are none.
func (d Divergence) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(d)) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%d", name, d[name])
	}
	return b.String()
}

// Total is the sum of the counts.
func (d Divergence) Total() (sum int64) {
	for _, n := range d {
		sum += n
	}
	return sum
}

// AtLeast is the larger count of each command, of d and other. Neither is changed.
func (d Divergence) AtLeast(other Divergence) Divergence {
	if len(other) == 0 {
		return d
	}
	larger := maps.Clone(other)
	for name, n := range d {
		larger[name] = max(n, larger[name])
	}
	return larger
}

// NoteDivergence counts, and tells the new count.
func (r *Record) NoteDivergence(kind string, n int64) int64 {
	if r.Divergence == nil {
		r.Divergence = Divergence{}
	}
	r.Divergence[kind] += n
	return r.Divergence[kind]
}

// parseDivergence reads what String wrote.
func parseDivergence(text string) (Divergence, error) {
	var d Divergence
	for _, word := range strings.Fields(text) {
		name, count, _ := strings.Cut(word, "=")
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil || n < 0 || name == "" {
			return nil, fmt.Errorf("the checkpoint's field %s has %q, not a name and a count", FieldDivergence, word)
		}
		if d == nil {
			d = Divergence{}
		}
		d[name] = n
	}
	return d, nil
}
