package applier

import (
	"fmt"
	"strings"
	"testing"
)

// The nearest come first, whatever there is room for.
func TestNear(t *testing.T) {
	var none *near
	if none.add(0, "k", 1); none.cutoff() != 0 || none.nearest() != nil {
		t.Error("no list keeps something")
	}
	n := newNear()
	n.add(0, "later", 900)
	n.add(1, "other", 100)
	n.add(0, "first", 500)
	n.add(0, "first", 50) // renewed, or so
	if got, want := fmt.Sprint(n.nearest()), "[{0 [first later]} {1 [other]}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	n = newNear()
	long := strings.Repeat("k", 1000)
	for i := range 100_000 { // a hundred MB
		n.add(0, fmt.Sprint(long, i), int64(i*7919%100_000))
	}
	runs := n.nearest()
	kept := 0
	for _, run := range runs {
		kept += len(run.keys)
	}
	if n.bytes > nearBytes || kept < nearBytes/2200 || int64(kept) > n.cut || runs[0].keys[0] != long+"0" {
		t.Errorf("%d keys of %d bytes up to %d", kept, n.bytes, n.cut)
	}
}
