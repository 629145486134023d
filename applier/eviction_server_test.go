package applier_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"redferry/internal/redistest"
	"redferry/replica"
)

// A target that evicts keys is warned of at the start, where CONFIG is not permitted, too; what it evicts is counted and reported.
func TestTargetEvicts(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, b)
			// Of redferry's own keys none has a TTL, so that they are not the ones.
			dst := redistest.Start(t, b, redistest.Config("maxmemory-policy volatile-lru", "user ferry on >secret ~* +@all -config"))
			used, err := strconv.Atoi(dst.Info(t, "memory")["used_memory"])
			if err != nil {
				t.Fatal(err)
			}
			m := newMigration(t, src.URL(), "redis://ferry:secret@"+dst.Addr())
			const may, does = "the target may evict keys", "the target evicts keys"
			src.Do(t, "SET", "a", "1")
			r := m.start(t)
			r.until(t, replica.InSync, "")
			if r.said(may) != 0 {
				t.Error("warned of a target without maxmemory")
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			dst.Do(t, "CONFIG", "SET", "maxmemory", strconv.Itoa(used+4<<20))
			r = m.start(t)
			r.until(t, replica.InSync, "")
			if r.said(may) != 1 || r.said("volatile-lru") != 1 || r.said(does) != 0 {
				t.Errorf("at the start: %s", r.log.String())
			}
			for i := range 100 {
				src.Do(t, "SET", fmt.Sprint("big:", i), strings.Repeat("x", 100<<10), "PX", "3600000")
			}
			eventually(t, "evictions are reported", func() bool { return r.said(does) == 1 })
			eventually(t, "all are counted", func() bool {
				return strconv.FormatInt(r.status.Evicted.Load(), 10) == dst.Info(t, "stats")["evicted_keys"]
			})
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
