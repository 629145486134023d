package redistest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
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
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
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
		AwaitExpiredFields(t, s)
		if !within(patience, func() bool { return replica.Offset(t) == s.Offset(t) }) {
			t.Fatal("the replica does not catch up")
		}
		replica.Do(t, "REPLICAOF", "NO", "ONE")
		AssertEqual(t, s, replica, replicated(b))
	})
}

// replicated is how equal a replica is to its source: before 7.0 that sends spans of time, which count from when they arrive there.
func replicated(b Build) (o CompareOptions) {
	if !b.Has70() {
		o.TTLTolerance = 10 * time.Second
	}
	return o
}

// Keys and fields that expire all the time: the replica's and its source's are the same afterwards.
func TestLoadTTL(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		s := Start(t, b)
		replica := Start(t, b, ReplicaOf(s), Config("replica-read-only no"))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		result, err := Load(ctx, s, LoadOptions{Seed: 8, Writers: 2, Keys: 100, Rate: 10_000, Commands: 30_000, SwapDB: true, TTL: true})
		if err != nil {
			t.Fatal(err)
		}
		if result.Refused > result.Acknowledged/20 {
			t.Errorf("%+v: too many were refused", result)
		}
		stats := s.Info(t, "commandstats")
		cmds := "set setex expire pexpire pexpireat persist rename move unlink restore"
		if b.Has70() {
			cmds += " getex copy"
		}
		if b.HasFieldTTL() {
			cmds += " hsetex hgetex hexpire hpexpire hpexpireat hpersist"
		}
		for _, cmd := range strings.Fields(cmds) {
			if stats["cmdstat_"+cmd] == "" {
				t.Errorf("no %s among the commands", cmd)
			}
		}
		for _, stat := range []string{"expired_keys", "expired_subkeys", "expired_fields"} {
			var n string
			if !within(patience, func() bool {
				var known bool
				n, known = s.Info(t, "stats")[stat]
				return !known || len(n) >= 2
			}) {
				t.Errorf("%s: %s, want many", stat, n)
			}
		}
		AwaitExpiredFields(t, s)
		if !within(patience, func() bool { return replica.Offset(t) == s.Offset(t) }) {
			t.Fatal("the replica does not catch up")
		}
		replica.Do(t, "REPLICAOF", "NO", "ONE")
		AssertEqual(t, s, replica, replicated(b))
	})
}

// The same seed makes the same commands, moments aside.
func TestLoadTTLIsRepeatable(t *testing.T) {
	for _, b := range Servers(t) {
		var steps [2][]string
		for run := range steps {
			w := &writer{s: &Server{Build: b}, o: LoadOptions{Keys: 20, Databases: 4, TTL: true}, rng: rand.New(rand.NewPCG(3, 0))}
			for range 3000 {
				steps[run] = append(steps[run], fmt.Sprint(w.next()))
			}
		}
		moment := regexp.MustCompile(`\b\d{13}\b`)
		for i := range steps[0] {
			if one, two := moment.ReplaceAllString(steps[0][i], "moment"), moment.ReplaceAllString(steps[1][i], "moment"); one != two {
				t.Fatalf("%s: step %d is %s, and then %s", b.Name, i, one, two)
			}
		}
	}
}

func TestLoadRate(t *testing.T) {
	s := Start(t, Latest(t))
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	result, err := Load(ctx, s, LoadOptions{Rate: 2000, Writers: 2, Commands: 2000})
	if took := time.Since(began); err != nil || result.Acknowledged < 2000 || result.Acknowledged > 3000 || took < time.Second/2 || took > 30*time.Second { // a slow machine is late
		t.Errorf("%+v in %v, %v; want about 2000 in a second", result, took, err)
	}
}

// The load goes on when the server is killed under it and comes back.
func TestLoadLivesThroughRestarts(t *testing.T) {
	s := Start(t, Latest(t), Config("appendonly yes", "appendfsync always"))
	stop := StartLoad(t, s, LoadOptions{Rate: 5000})
	for range 3 {
		before := commands(t, s)
		if !within(patience, func() bool { return commands(t, s) > before+100 }) {
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
