package applier_test

import (
	"strings"
	"testing"

	"redferry/replica"
)

// A target that fails over, in one process's time, to a server that has not seen the last full resync: its larger offset is of another history, and nothing
// of the stream counts as being in it.
func TestTargetGoesBackToAnotherHistory(t *testing.T) {
	t.Parallel()
	src, dst, m := pair(t)
	src.Do(t, "SET", "counter", "0")
	r := m.start(t)
	r.until(t, replica.InSync, "")
	dst.Do(t, "HSET", "redferry:test", "replid", strings.Repeat("ab", 20), "offset", "1000000000", "checked", "1000000000")
	for range 10 {
		src.Do(t, "INCR", "counter")
	}
	wantStop(t, r.wait(t), replica.Decide, "abababab")
}
