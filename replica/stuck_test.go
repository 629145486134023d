package replica

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
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

// Only what the source closes is thought of as closed for its limit: a disk that is full, or silence, is not.
func TestLinksThatTheSourceCloses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"closed":          {fmt.Errorf("receive the stream: %w", io.EOF), true},
		"closed in TLS":   {io.ErrUnexpectedEOF, true},
		"reset":           {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, true},
		"closed on write": {fmt.Errorf("acknowledge: %w", &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}), true},
		"a full disk":     {spoolError(&fs.PathError{Op: "write", Err: syscall.ENOSPC}), false},
		"silence":         {fmt.Errorf("the source sent nothing: %w", os.ErrDeadlineExceeded), false},
	} {
		if got := ClosedByPeer(c.err); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
