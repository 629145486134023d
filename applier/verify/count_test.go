package verify_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
)

// A server counts keys whose time is over until it deletes them, which a paused source does not, and a settled target does by itself. That is no difference; a key that ought to be there is.
func TestCountWithKeysThatAreOver(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			for _, s := range []*redistest.Server{src, dst} {
				s.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0") // as a paused source
				s.Do(t, "SET", "lasting", "v")
				s.Do(t, "SET", "volatile", "v", "EX", "1000")
			}
			over := func(s *redistest.Server, n int) {
				t.Helper()
				for i := range n {
					s.Do(t, "SET", fmt.Sprint("over:", i), "v", "PX", "1")
				}
				time.Sleep(5 * time.Millisecond)
				if size := s.DoInt(t, "DBSIZE"); size < int64(n) {
					t.Fatalf("the server counts %d keys, want those that are over, too", size)
				}
			}
			count := func() verify.Report { return check(t, src, dst, verify.Config{Mode: verify.Count}) }
			over(src, 50)
			wantEqual(t, count())
			over(dst, 30)
			wantEqual(t, count())
			over(src, 3)
			dst.Do(t, "DEL", "volatile")
			wantDifferences(t, count(), "count of database 0: source 2 keys, target 1 key")
			dst.Do(t, "SET", "volatile", "v", "EX", "1000")
			dst.Do(t, "SET", "another", "v")
			over(src, 1)
			wantDifferences(t, count(), "count of database 0: source ")
		})
	}
}

// Of a large database a sample tells how many keys are over: a fiftieth of the others that is not there is seen all the same.
func TestCountOfManyKeysThatAreOver(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			src.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0") // as a paused source
			set := func(s *redistest.Server, prefix string, n int, ms string) {
				t.Helper()
				s.Do(t, "EVAL", "for i = 1, ARGV[2] do redis.call('SET', ARGV[1] .. i, 'v', 'PX', ARGV[3]) end", "0", prefix, strconv.Itoa(n), ms)
			}
			over := func(n int) { set(src, "over:", n, "1") }
			over(20_000)
			for _, s := range []*redistest.Server{src, dst} {
				set(s, "volatile:", 130_000, "3600000")
			}
			count := func() verify.Report { return check(t, src, dst, verify.Config{Mode: verify.Count}) }
			r := count()
			wantEqual(t, r)
			if !strings.Contains(r.Note, "and the target 130000 keys: as far as a sample of 100000 tells") {
				t.Errorf("note: got %q", r.Note)
			}
			over(20_000) // those of before were deleted as they were met
			dst.Do(t, "EVAL", "for i = 1, ARGV[1] do redis.call('DEL', 'volatile:' .. i) end", "0", "2600")
			wantDifferences(t, count(), "count of database 0: source 150000 keys, target 127400 keys")
		})
	}
}

// A cutover counts while nobody can write to the source: that must not take the longer the more keys there are, nor more connections than it needs.
func TestCountGoesOverNoKeys(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	fillPlain(t, src, 1000)
	migrate(t, src, dst, true)
	for _, s := range []*redistest.Server{src, dst} {
		s.Do(t, "CONFIG", "RESETSTAT")
	}
	wantEqual(t, check(t, src, dst, verify.Config{Name: "test", Mode: verify.Count}))
	for _, s := range []*redistest.Server{src, dst} {
		if stats := s.DoString(t, "INFO", "commandstats"); strings.Contains(stats, "cmdstat_scan") || !strings.Contains(stats, "cmdstat_info") {
			t.Errorf("the keys of %s were gone over:\n%s", s.Addr(), stats)
		}
		n, err := strconv.Atoi(s.Info(t, "stats")["total_connections_received"])
		if err != nil || n > 8 { // rueidis opens two for each of ours, and the checkpoint is read, too
			t.Errorf("%s was connected to %d times (%v)", s.Addr(), n, err)
		}
	}
}
