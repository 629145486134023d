package verify_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
	"redferry/replica"
)

// While a migration runs and the source is written to all the time, nothing is taken for a difference that is none, and a difference is found.
func TestUnderWrites(t *testing.T) {
	t.Parallel()
	for _, b := range []redistest.Build{redistest.Servers(t)[0], redistest.Latest(t)} {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 2000, Seed: 7, Databases: 4})
			migrate(t, src, dst, false)
			stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 6, Writers: 2, Rate: 2000, TTL: true, SwapDB: true, Flush: true})
			c := verify.Config{Name: "test", Rounds: 30, First: 10, Patience: time.Minute}
			unharmed := func(times int) {
				for began := time.Now(); times > 0 && time.Since(began) < 20*time.Second; times-- { // a busy machine is done sooner
					report := check(t, src, dst, c)
					report.Moving = 0 // a key may be written to too often
					wantDifferences(t, report)
				}
			}
			unharmed(4)
			stop()
			src.Do(t, "FLUSHALL")
			redistest.Fill(t, src, redistest.FillOptions{Keys: 500, Seed: 8, Databases: 4})
			stop = redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 7, Writers: 4, Keys: 10, Rate: 5000, TTL: true})
			unharmed(6)
			stop()
			redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 9, Keys: 10, Rate: 200, TTL: true}) // between whose commands a busy machine gets to look, too
			dst.DB(2).Do(t, "SET", "planted", "x")
			dst.Do(t, "SET", "", "the empty key, and more")
			report := check(t, src, dst, c)
			report.Moving = 0
			wantDifferences(t, report, `value db 0 key "": source "the empty key", target "the empty key, and more"`, `extra db 2 key "planted"`)
		})
	}
}

// A difference is found even in a key that is written to all the time: it is looked at between two writes.
func TestDifferenceInABusyKey(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	src.Do(t, "HSET", "busy", "n", "0", "cold", "x")
	migrate(t, src, dst, false)
	dst.Do(t, "HSET", "busy", "cold", "y")
	defer write(t, src, 500*time.Millisecond, func(i int) []string { return []string{"HINCRBY", "busy", "n", "1"} })()
	wantDifferences(t, check(t, src, dst, verify.Config{Name: "test", Rounds: 100, Patience: time.Minute}), `value db 0 key "busy", field "cold": source "x", target "y"`)
}

// Without a migration a key that is written to faster than anybody can look is not judged, and the report says so; others are.
func TestWithoutMigration(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	for _, s := range []*redistest.Server{src, dst} {
		fillPlain(t, s, 1000)
	}
	dst.Do(t, "DEL", "hash:9")
	stop := write(t, src, time.Millisecond, func(i int) []string { return []string{"SET", "busy", fmt.Sprint(i)} })
	defer stop()
	report := check(t, src, dst, verify.Config{Rounds: 5, Pause: time.Second, TTLTolerance: 20 * time.Second}) // in each pause it is written to
	if report.Moving != 1 || len(report.FirstMoving) != 1 || report.FirstMoving[0].Key != "busy" {
		t.Errorf("%d moving: %v", report.Moving, report.FirstMoving)
	}
	report.Moving = 0
	wantDifferences(t, report, `missing db 0 key "hash:9"`)
	stop()
	wantDifferences(t, check(t, src, dst, verify.Config{TTLTolerance: 20 * time.Second}), `missing db 0 key "hash:9"`, `missing db 0 key "busy"`)
}

// write sends a command every so often, until its end is called.
func write(t *testing.T, s *redistest.Server, every time.Duration, command func(i int) []string) (end func()) {
	t.Helper()
	s.Do(t, command(0)...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; ctx.Err() == nil; i++ {
			if err := s.TryDo(command(i)...); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
	}()
	return func() { cancel(); <-done }
}

// A target that does not get past the source's offset makes verify give up, and not call differences what is under way.
func TestStuckMigration(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	src.Do(t, "SET", "k", "v")
	stop := migrate(t, src, dst, false)
	stop()
	// The owner is said to live, but does nothing.
	dst.Do(t, "HSET", "redferry:test:owner", "epoch", "99999999999999", "owner", "nobody", "lease", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()))
	dst.Do(t, "HSET", "redferry:test", "offset", "1")
	src.Do(t, "SET", "k", "other")
	_, err := verify.Run(context.Background(), verify.Config{Source: endpoint(t, src.URL()), Target: endpoint(t, dst.URL()), Name: "test", Patience: 200 * time.Millisecond})
	wantStop(t, err, replica.Failed, "redferry status")
	dst.Do(t, "DEL", "redferry:test:owner")
	report := check(t, src, dst, verify.Config{Name: "test"})
	wantDifferences(t, report, `value db 0 key "k": source "other", target "v"`)
	if !strings.Contains(report.Note, "nobody runs migration") {
		t.Errorf("the note says %q", report.Note)
	}
	dst.Do(t, "HSET", "redferry:test", "phase", "snapshot")
	_, err = verify.Run(context.Background(), verify.Config{Source: endpoint(t, src.URL()), Target: endpoint(t, dst.URL()), Name: "test"})
	wantStop(t, err, replica.Decide, "snapshot")
}

func wantStop(t *testing.T, err error, kind replica.Kind, text string) {
	t.Helper()
	stop := replica.AsStop(err)
	if stop == nil {
		t.Fatalf("got %v, want a Stop", err)
	}
	if stop.Kind != kind || !strings.Contains(stop.Error()+" "+stop.Hint, text) {
		t.Errorf("got kind %d, %q (hint %q); want kind %d with %q", stop.Kind, stop.Error(), stop.Hint, kind, text)
	}
}
