package replica

import (
	"strings"
	"testing"
)

// What waits behind a link's end closes each link that is to bring it when it is more than the hard limit, and only then.
func TestTooMuchForALink(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	for name, c := range map[string]struct {
		limit           bufferLimit
		received, there int64
		want            string // the way out; empty for none
	}{
		"a value over the limit":         {bufferLimit{"slave", mb, 0, 0}, 100, 100 + 5*mb, `CONFIG SET client-output-buffer-limit "slave 12mb 0 0"`},
		"the soft limit stays":           {bufferLimit{"slave", 2 * mb, mb, 60}, 100, 100 + 5*mb, `"slave 12mb 1048576 60"`},
		"a tenth less than the limit":    {bufferLimit{"slave", 10 * mb, 0, 0}, 0, 95 * mb / 10, "--raise-source-limits"},
		"less than that":                 {bufferLimit{"slave", 10 * mb, 0, 0}, 0, 8 * mb, ""},
		"no limit":                       {bufferLimit{"slave", 0, 0, 0}, 0, 1 << 40, ""},
		"a soft limit needs its time":    {bufferLimit{"slave", 0, mb, 60}, 0, 1 << 40, ""},
		"nothing waits":                  {bufferLimit{"slave", mb, 0, 0}, 100, 100, ""},
		"the source is behind, restored": {bufferLimit{"slave", mb, 0, 0}, 5 * mb, 100, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := c.limit.tooMuch(c.there - c.received)
			if (got == nil) != (c.want == "") || got != nil && !strings.Contains(got.hint, c.want) {
				t.Errorf("got %+v, want %q", got, c.want)
			}
		})
	}
}

// Links count in a row, and one that brings something begins anew.
func TestStuckLinksInARow(t *testing.T) {
	t.Parallel()
	var s stuck
	for range 2 {
		s.note(false)
	}
	if s.links != 2 {
		t.Errorf("%d links, want 2", s.links)
	}
	s.limited = true
	if s.note(true); s != (stuck{}) {
		t.Errorf("after one that has brought something: %+v", s)
	}
}
