package applier_test

import (
	"strings"
	"testing"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// A source that does not permit INFO, and is the target: it is seen before anything is emptied.
func TestBlindSourceThatIsTheTarget(t *testing.T) {
	t.Parallel()
	dst := redistest.Start(t, redistest.Latest(t))
	dst.Do(t, "SET", "mine", "1")
	dst.Do(t, "ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info")
	m := newMigration(t, strings.Replace(dst.URL(), "redis://", "redis://blind:pw@", 1), dst.URL())
	m.apply.OnNotEmpty = applier.Flush
	wantStop(t, m.start(t).wait(t), replica.Decide, "same")
	if got := dst.DoString(t, "GET", "mine"); got != "1" {
		t.Errorf("the target's key: got %q", got)
	}
}

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
