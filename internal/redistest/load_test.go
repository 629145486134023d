package redistest

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		s := Start(t, b)
		replica := Start(t, b, ReplicaOf(s), Config("replica-read-only no"))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		result, err := Load(ctx, s, LoadOptions{Seed: 7, Writers: 2, Commands: 20_000, SwapDB: true, Flush: true, TTL: true})
		if err != nil {
			t.Fatal(err)
		}
		if result.Acknowledged < 20_000 || result.Unknown > 0 {
			t.Errorf("%+v, want 20000 acknowledged and none unknown", result)
		}
		if result.Refused > result.Acknowledged/20 {
			t.Errorf("%+v: too many were refused", result)
		}
		for _, cmd := range strings.Fields("incr append setrange rpush rpoplpush zincrby hincrby sadd spop xadd rename del move eval multi swapdb flushdb pexpire") {
			if s.Info(t, "commandstats")["cmdstat_"+cmd] == "" {
				t.Errorf("no %s among the commands", cmd)
			}
		}
		if !within(10*time.Second, func() bool { return replica.Offset(t) == s.Offset(t) }) {
			t.Fatal("the replica does not catch up")
		}
		replica.Do(t, "REPLICAOF", "NO", "ONE")
		AssertEqual(t, s, replica, CompareOptions{})
	})
}

func TestLoadRate(t *testing.T) {
	s := Start(t, Latest(t))
	stop := StartLoad(t, s, LoadOptions{Rate: 2000, Writers: 2})
	time.Sleep(time.Second) // the time that the rate is measured over
	if got := stop().Acknowledged; got < 500 || got > 4000 {
		t.Errorf("%d commands in a second, want about 2000", got)
	}
}

// The load goes on when the server is killed under it and comes back.
func TestLoadLivesThroughRestarts(t *testing.T) {
	s := Start(t, Latest(t), Config("appendonly yes", "appendfsync always"))
	stop := StartLoad(t, s, LoadOptions{Rate: 5000})
	for range 3 {
		before := commands(t, s)
		if !within(10*time.Second, func() bool { return commands(t, s) > before+100 }) {
			t.Fatal("the load does not go on")
		}
		s.Restart(t)
	}
	if result := stop(); result.Acknowledged < 300 {
		t.Errorf("%+v, want at least 300 acknowledged", result)
	}
}

func commands(t *testing.T, s *Server) int {
	t.Helper()
	n, err := strconv.Atoi(s.Info(t, "stats")["total_commands_processed"])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
