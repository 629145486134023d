package applier

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
)

// Which write is named when the target hung up on it, and by which limit.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	none := clientLimits{-1, -1, -1}
	counted := func(name string) *hungUpError {
		return &hungUpError{tries: 3, lasted: hungUpFor, before: map[string]string{name: "4"}, after: map[string]string{name: "5"}}
	}
	const mb = 1 << 20
	for name, c := range map[string]struct {
		limits clientLimits
		size   int64 // of two arguments
		end    *hungUpError
		want   string // part of the reason; empty for none
	}{
		"over the query buffer, once":      {clientLimits{mb, 0, 512 * mb}, 2*mb + 2, &hungUpError{tries: 1}, "closed the connection on it: it has 2.0 MiB (2097154 bytes) in 2 arguments, and the target's client-query-buffer-limit is 1.0 MiB (1048576)"},
		"together over it, twice":          {clientLimits{mb, 0, 512 * mb}, 2 * mb, &hungUpError{tries: 2}, ""},
		"together over it, three times":    {clientLimits{mb, 0, 512 * mb}, 2 * mb, &hungUpError{tries: 3, lasted: hungUpFor}, "3 times in a row: it has 2.0 MiB (2097152 bytes) in 2 arguments, and the target's client-query-buffer-limit is 1.0 MiB (1048576)"},
		"as large as the query buffer":     {clientLimits{mb, 0, 512 * mb}, mb, &hungUpError{tries: 1}, ""},
		"nearly as large, three times":     {clientLimits{mb, 0, 512 * mb}, mb, &hungUpError{tries: 3, lasted: hungUpFor}, "3 times in a row: it has 1.0 MiB (1048576 bytes) in 2 arguments; none of its limits"},
		"over the clients' memory, once":   {clientLimits{1024 * mb, 3 * mb, 512 * mb}, 5 * mb, &hungUpError{tries: 1}, "maxmemory-clients is 3.0 MiB"},
		"small, over the clients' memory":  {clientLimits{1024 * mb, 1000, 512 * mb}, 2000, &hungUpError{tries: 1}, "maxmemory-clients is 1000 B"},
		"over the longest argument, once":  {clientLimits{1024 * mb, 0, mb}, 4 * mb, &hungUpError{tries: 1}, "proto-max-bulk-len is 1.0 MiB"},
		"unknown limits, once":             {none, 100 * mb, &hungUpError{tries: 1}, ""},
		"unknown limits, three times":      {none, 100 * mb, &hungUpError{tries: 3, lasted: hungUpFor}, "none of its limits that are known says why"},
		"unknown limits, but not for long": {none, 100 * mb, &hungUpError{tries: 30, lasted: hungUpFor - 1}, ""},
		"unknown limits, counted":          {none, 100 * mb, counted("client_query_buffer_limit_disconnections"), "over its client-query-buffer-limit"},
		"unknown limits, evicted":          {none, 100 * mb, counted("evicted_clients"), "over its maxmemory-clients"},
		"small, a thousand times":          {none, 1000, &hungUpError{tries: 1000, lasted: hungUpFor}, ""},
		"no limits, a thousand times":      {clientLimits{0, 0, 0}, 1000, &hungUpError{tries: 1000, lasted: hungUpFor}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := heavy{what: "it"}
			h.add(int(c.size / 2))
			h.add(int(c.size - c.size/2))
			got := c.limits.tooLarge(h, c.end)
			switch {
			case c.want == "" && got != nil:
				t.Errorf("it is named: %v", got)
			case c.want != "" && got == nil:
				t.Errorf("it is not named")
			case got != nil && (!strings.Contains(got.Error(), c.want) || got.mend == "" || mend(fmt.Errorf("so: %w", got), "") != got.mend):
				t.Errorf("got %q, and %q helps; want %q", got, got.mend, c.want)
			}
		})
	}
}

// Tries are counted as long as one process answers, and closes the connection.
func TestHangUpsInARow(t *testing.T) {
	t.Parallel()
	one, other := &conn{history: "one"}, &conn{history: "other"}
	end := func(why error) error { return fmt.Errorf("%w: %w", errBroken, why) }
	for _, why := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		var h hangUps
		h.count(end(why), one)
		h.count(end(io.EOF), one)
		if !h.among(one, 2) || h.among(one, 3) || h.among(other, 1) {
			t.Errorf("%v: %+v after two", why, h)
		}
		for _, c := range []struct {
			err error
			on  *conn
			n   int
		}{
			{end(syscall.ETIMEDOUT), one, 0}, {errStale, one, 0}, {io.EOF, one, 0}, {end(io.EOF), nil, 0}, {end(why), other, 1}, {end(why), one, 3}, {nil, one, 0},
		} {
			h := h
			if h.count(c.err, c.on); h.n != c.n {
				t.Errorf("%v after two %v: %d in a row, want %d", c.err, why, h.n, c.n)
			}
		}
	}
}

// A batch that the connection breaks on is sent whole once more, then one unit alone, and then twice as many each time.
func TestResends(t *testing.T) {
	t.Parallel()
	c := &conn{history: "one"}
	broken := fmt.Errorf("%w: %w", errBroken, io.EOF)
	var r resends
	step := func(err error, committed, from, want int) {
		t.Helper()
		sent := r.to(from, 1000) - from
		r.note(err, c, sent, committed)
		if got := r.to(from+committed, 1000) - from - committed; got != want {
			t.Errorf("%d units at a time; want %d", got, want)
		}
	}
	step(broken, 0, 0, 1000)
	step(broken, 0, 0, 1)
	step(nil, 1, 0, 2)
	step(nil, 2, 1, 4)
	step(broken, 0, 3, 4)
	step(broken, 0, 3, 1)
	step(broken, 0, 3, 1)
	step(broken, 0, 3, 1)
	if !r.hangs.among(c, 2) {
		t.Errorf("%d in a row alone, want 2", r.hangs.n)
	}
	if r.to(4, 1000); r.hangs.among(c, 1) {
		t.Error("a unit whose reply alone was lost counts against the next one")
	}
	r.note(broken, c, 1, 0)
	step(errAgain, 0, 4, 1)
	if r.hangs.n != 0 {
		t.Error("what was left out counts")
	}
}

// Whatever a target says of its limits, they are sizes or unknown, and what is judged by them names a way out.
func FuzzClientLimits(f *testing.F) {
	f.Add("1048576", "5%", "536870912", int64(1<<30), 3<<20, 3)
	f.Add("1gb", "-1", "", int64(-1), 100, 1)
	f.Add("9223372036854775807", "101%", "0x10", int64(1<<62), 1<<30, 2)
	f.Fuzz(func(t *testing.T, queryBuffer, clients, bulk string, maxmemory int64, size, tries int) {
		l := readClientLimits(map[string]string{"client-query-buffer-limit": queryBuffer, "maxmemory-clients": clients, "proto-max-bulk-len": bulk}, maxmemory)
		if l.queryBuffer < -1 || l.memory < -1 || l.bulk < -1 || strings.HasSuffix(clients, "%") && l.memory > max(0, maxmemory) {
			t.Fatalf("%+v", l)
		}
		h := heavy{what: "it"}
		h.add(max(0, size))
		err := l.tooLarge(h, &hungUpError{tries: tries, lasted: hungUpFor})
		if err == nil {
			return
		}
		over := func(limit int64) bool { return limit > 0 && h.bytes > limit }
		if !over(l.queryBuffer) && !over(l.memory) && !over(l.bulk) && (tries < hungUpOften || h.bytes < largeWrite) {
			t.Errorf("%+v, %d bytes, %d tries: named", l, h.bytes, tries)
		}
		if err.mend == "" || strings.Contains(err.why+err.mend, "%!") || errors.Is(err, io.EOF) {
			t.Errorf("%q, %q", err.why, err.mend)
		}
		if room := roomFor(h.bytes); room <= h.bytes {
			t.Errorf("room for %d bytes is %d", h.bytes, room)
		}
	})
}
