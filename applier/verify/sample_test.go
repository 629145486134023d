package verify_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
)

// expiredOnly leaves a server, paused where it can be, with keys that are all expired and that nobody deletes.
func expiredOnly(t *testing.T, s *redistest.Server, n int) {
	t.Helper()
	s.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
	for i := range n {
		s.Do(t, "SET", fmt.Sprintf("gone:%d", i), "v", "PX", "50")
	}
	if s.Build.Name != "redis-6.0" { // which has no pause for writes alone
		s.Do(t, "CLIENT", "PAUSE", "60000", "WRITE")
	}
	last := fmt.Sprintf("gone:%d", n-1)
	for s.Build.Has70() && s.DoInt(t, "EXISTS", last) == 1 {
		time.Sleep(5 * time.Millisecond)
	}
	if !s.Build.Has70() { // where EXISTS would delete it
		time.Sleep(100 * time.Millisecond)
	}
}

// A source that is paused for writes does not delete what is expired, and one that has nothing else must answer all the same. RANDOMKEY never comes back there, on
// Redis 7.0, and the server with it.
func TestSampleOfExpiredKeys(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			expiredOnly(t, src, 50)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			report, err := verify.Run(ctx, verify.Config{
				Source: endpoint(t, src.URL()), Target: endpoint(t, dst.URL()), Mode: verify.Sample, Pause: 50 * time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			wantEqual(t, report)
			if stats := src.Info(t, "commandstats"); stats["cmdstat_randomkey"] != "" || stats["cmdstat_scan"] == "" {
				t.Errorf("RANDOMKEY %q, SCAN %q", stats["cmdstat_randomkey"], stats["cmdstat_scan"])
			}
		})
	}
}

// A sample has as many keys as it is to have, from the whole of a database, and all keys of a small one. Most of a sparse database's hash table is empty.
func TestSampleSize(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		for _, tt := range []struct {
			name        string
			keys, left  int // keys that there were, and of these every which one is left
			sample      int
			least, most int64 // looked at on both sides
		}{
			{"small", 300, 1, 1000, 600, 600},
			{"large", 20_000, 1, 400, 600, 1000},
			{"sparse", 20_000, 1000, 1000, 40, 40},
			{"sparse and large", 20_000, 20, 100, 100, 300},
		} {
			t.Run(b.Name+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b), redistest.Start(t, b)
				for _, s := range []*redistest.Server{src, dst} {
					s.Do(t, "EVAL", `
						for i = 0, ARGV[1] - 1 do redis.call('SET', 'k:' .. i, i) end
						for i = 0, ARGV[1] - 1 do if i % ARGV[2] ~= 0 then redis.call('DEL', 'k:' .. i) end end`, "0", fmt.Sprint(tt.keys), fmt.Sprint(tt.left))
				}
				report := check(t, src, dst, verify.Config{Mode: verify.Sample, Sample: tt.sample})
				wantEqual(t, report)
				if report.Looked < tt.least || report.Looked > tt.most {
					t.Errorf("looked at %d keys, want %d to %d", report.Looked, tt.least, tt.most)
				}
				dst.Do(t, "EVAL", `for i = 0, ARGV[1] - 1 do if redis.call('EXISTS', 'k:' .. i) == 1 then redis.call('APPEND', 'k:' .. i, 'x') end end`, "0", fmt.Sprint(tt.keys))
				if report := check(t, src, dst, verify.Config{Mode: verify.Sample, Sample: tt.sample}); report.Total() < tt.least/2 || !strings.HasPrefix(report.First[0].Key, "k:") {
					t.Errorf("%d differences", report.Total())
				}
			})
		}
	}
}
