package verify_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier"
	"redferry/applier/verify"
	"redferry/internal/leaks"
	"redferry/internal/redistest"
	"redferry/replica"
	"redferry/replica/spool"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func endpoint(t testing.TB, url string) replica.Endpoint {
	t.Helper()
	e, err := replica.ParseEndpoint(url, replica.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// check compares two servers. Where no migration runs it does not wait long.
func check(t testing.TB, src, dst *redistest.Server, c verify.Config) verify.Report {
	t.Helper()
	c.Source, c.Target = endpoint(t, src.URL()), endpoint(t, dst.URL())
	if c.Pause == 0 {
		c.Pause = 50 * time.Millisecond
	}
	report, err := verify.Run(context.Background(), c)
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	return report
}

// wantEqual fails the test where the report has a difference, or does not know.
func wantEqual(t testing.TB, r verify.Report) {
	t.Helper()
	for _, d := range append(r.First, r.FirstMoving...) {
		t.Errorf("unexpected: %v", d)
	}
	if !r.Equal() || r.Moving > 0 {
		t.Errorf("%d differences, %d moving", r.Total(), r.Moving)
	}
}

// migrate runs a migration until the test ends, or until stop, which waits for the end. With settle it ends by itself when it has caught up, and migrate waits for that.
func migrate(t testing.TB, src, dst *redistest.Server, settle bool) (stop func()) {
	t.Helper()
	home, err := applier.OpenHome(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Open(spool.Config{})
	if err != nil {
		t.Fatal(err)
	}
	status := &replica.Status{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	a := applier.New(applier.Config{
		Name: "test", Target: endpoint(t, dst.URL()), Home: home, OnFullResync: applier.Refuse, OnNotEmpty: applier.Refuse, Status: status, Log: zerolog.Nop(),
	})
	go func() {
		defer close(done)
		err = replica.Run(ctx, replica.RunConfig{Source: endpoint(t, src.URL()), Spool: sp, StopAt: replica.StopAt{CaughtUp: settle}, Status: status, Log: zerolog.Nop()}, a)
		a.Close()
		_ = sp.Close()
		home.Close()
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-done:
			if err != nil || !settle {
				t.Fatalf("the migration ended: %v", err)
			}
			return stop
		default:
		}
		if state, why, _ := status.Now(); !settle && state == replica.InSync {
			return stop
		} else if time.Now().After(end) {
			t.Fatalf("the migration is %s: %s", state, why)
		}
	}
}

// fillPlain writes n keys: hashes, and every tenth a string with a TTL.
func fillPlain(t testing.TB, s *redistest.Server, n int) {
	t.Helper()
	const some = 20_000 // in one script
	for from := 0; from < n; from += some {
		s.Do(t, "EVAL", `
			for i = ARGV[1], ARGV[2] do
				if i % 10 == 0 then
					redis.call('SET', 'string:' .. i, 'value ' .. i, 'EX', 100000)
				else
					redis.call('HSET', 'hash:' .. i, 'name', 'n' .. i, 'n', i)
				end
			end`, "0", fmt.Sprint(from), fmt.Sprint(min(n, from+some)-1))
	}
}

// twins starts two servers with the same data: what fill writes, copied by native replication.
func twins(t testing.TB, b redistest.Build, fill func(s *redistest.Server), opts ...redistest.Option) (src, dst *redistest.Server) {
	t.Helper()
	src = redistest.Start(t, b, opts...)
	fill(src)
	dst = redistest.Start(t, b, append(opts, redistest.ReplicaOf(src))...)
	for end := time.Now().Add(2 * time.Minute); dst.Info(t, "replication")["master_link_status"] != "up"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the replica does not come up")
		}
	}
	dst.Do(t, "REPLICAOF", "NO", "ONE")
	return src, dst
}
