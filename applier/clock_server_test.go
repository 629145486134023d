package applier_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/replica"
)

// clockAhead has a server behind a proxy say that it is so much later.
func clockAhead(p *redistest.CommandProxy, d time.Duration) {
	p.Handle(func(_ int, args [][]byte) redistest.Answer {
		if !strings.EqualFold(string(args[0]), "TIME") {
			return redistest.Forward()
		}
		now := time.Now().Add(d)
		s, us := strconv.FormatInt(now.Unix(), 10), strconv.Itoa(now.Nanosecond()/1000)
		return redistest.Reply(fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$%d\r\n%s", len(s), s, len(us), us))
	})
}

// Clocks that are apart are warned of.
func TestClocksApart(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	for name, tt := range map[string]struct {
		ahead time.Duration
		want  string
	}{
		"together": {300 * time.Millisecond, ""},
		// Measured on a busy machine it is some ms more or less: two more digits follow, and "." with others.
		"the target is ahead": {time.Minute + 30*time.Second, `the target's clock is 1m[0-9.]+s ahead of the source's: once the target expires keys by itself, they die there 1m[0-9.]+s early`},
		"the source is ahead": {-15 * time.Second, `the source's clock is 1[0-9.]+s ahead of the target's: once the target expires keys by itself, they die there 1[0-9.]+s late`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			src.Do(t, "SET", "a", "1")
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			clockAhead(proxy, tt.ahead)
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			r := m.start(t)
			r.until(t, replica.InSync, "")
			const warning = "clock is "
			if tt.want == "" {
				if r.said(warning) != 0 {
					t.Errorf("the log says: %s", r.log.String())
				}
				return
			}
			if r.said(warning) != 1 || !regexp.MustCompile(tt.want).MatchString(r.log.String()) {
				t.Errorf("the log says: %s", r.log.String())
			}
		})
	}
}

// What waits in the source while it sends the RDB has TTLs that count from then on, before 7.0: that is said, after a full resync alone.
func TestRelativeTTLsThatWaited(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			src.Do(t, "SET", "a", "1")
			m := newMigration(t, src.URL(), dst.URL())
			want := 1
			if b.Has70() {
				want = 0
			}
			for _, what := range []string{"full resync", "partial resync"} {
				r := m.start(t)
				r.until(t, replica.InSync, "")
				if got := r.said("is too long by up to so many seconds"); got != want {
					t.Errorf("%s: said %d times, want %d", what, got, want)
				}
				if err := r.end(); err != nil {
					t.Fatal(err)
				}
				want = 0
			}
		})
	}
}
