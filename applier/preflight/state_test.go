package preflight_test

import (
	"io"
	"net"
	"testing"
	"time"

	"redferry/applier/preflight"
	"redferry/internal/redistest"
)

// A source that has not loaded its dataset yet is told from one that is ready, and is not judged by what it has loaded so far.
func TestSourceThatLoads(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if !b.Has70() { // which answers only each two megabytes that it has loaded
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 4000})
			src.Do(t, "CONFIG", "SET", "loading-process-events-interval-bytes", "1024")
			src.Do(t, "CONFIG", "SET", "key-load-delay", "5000") // microseconds
			reloaded := make(chan error, 1)
			go func() { reloaded <- src.DB(1).TryDo("DEBUG", "RELOAD") }()
			defer func() { // also where the test has failed
				if reloaded != nil {
					src.Kill()
					<-reloaded
				}
			}()
			loading := func() bool { return src.Info(t, "persistence")["loading"] == "1" }
			wait(t, loading)
			found := look(t, between(t, src, dst))
			if !loading() {
				t.Fatal("it was through before all was looked at")
			}
			expect(t, found, map[string]string{"source-kind": "warn the source is loading its dataset"})
			for _, id := range []string{"types", "modules", "functions", "databases", "large-values", "target-memory", "fork", "replica-buffer", "duration"} {
				if f, ok := found[id]; ok {
					t.Errorf("%s is judged by a part of the data: %+v", id, f)
				}
			}
			src.Do(t, "CONFIG", "SET", "key-load-delay", "0")
			if err := <-reloaded; err != nil {
				t.Fatal(err)
			}
			reloaded = nil
			found = look(t, between(t, src, dst))
			expect(t, found, nil)
			if len(found) != len(preflight.IDs()) {
				t.Errorf("%d findings of %d checks", len(found), len(preflight.IDs()))
			}
		})
	}
}

// What the last fork has cost is the source's own figure. That its memory does not do for a fork is shown in a table alone (judge_test.go): for that a server would have to take half of this
// machine's memory, or vm.overcommit_memory be changed for all of it.
func TestSourceWithASlowFork(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	c := between(t, src, dst)
	src.Do(t, "EVAL", "for i=1,100 do redis.call('SETRANGE', 'k'..i, 1000000, 'x') end", "0") // a fork of some milliseconds
	for tries := 0; tries == 0 || forkTook(t, src) < 500*time.Millisecond; tries++ {
		if tries == 30 {
			t.Fatal("no stop of the server falls into its fork")
		}
		stopInFork(t, src)
	}
	expect(t, look(t, c), map[string]string{"fork": "warn its last fork stopped it for "})
}

func forkTook(t *testing.T, s *redistest.Server) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s.Info(t, "stats")["latest_fork_usec"] + "us")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// stopInFork stops the server time and again while it begins a BGSAVE, so that one of the stops falls into its fork, if that takes longer than the server is let go on for.
func stopInFork(t *testing.T, s *redistest.Server) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr()) // a client would not wait
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.Freeze()
	defer s.Thaw()
	if _, err := io.WriteString(conn, "BGSAVE\r\n"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 100))
		answered <- err
	}()
	for i := range 100 {
		s.Thaw()
		for began := time.Now(); time.Since(began) < time.Duration(200+20*i)*time.Microsecond; { // timers are not that exact; a busy machine may need longer to let it go on
		}
		s.Freeze()
		select {
		case err := <-answered:
			if err != nil {
				t.Fatal(err)
			}
			s.Thaw()
			wait(t, func() bool { return s.Info(t, "persistence")["rdb_bgsave_in_progress"] == "0" })
			return
		case <-time.After(600 * time.Millisecond):
		}
	}
	t.Fatal("the server does not come to its fork")
}
