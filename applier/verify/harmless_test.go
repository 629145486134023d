package verify_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
	"redferry/replica"
)

// The rights that docs/operations.md lists for verify are enough, and have no command that writes. Neither side is written to.
func TestReadsOnly(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := twins(t, b, func(s *redistest.Server) { redistest.Fill(t, s, redistest.FillOptions{Keys: 300, Seed: 3}) })
			rights := []string{"ACL", "SETUSER", "auditor", "on", ">secret", "~*", "-@all", "+@read", "-@dangerous", "+@connection", "+@transaction", "+select", "+info", "+memory", "+time"}
			if b.Has70() {
				rights = append(rights, "+function|list")
			}
			before := map[*redistest.Server]string{}
			for _, s := range []*redistest.Server{src, dst} {
				s.Do(t, rights...)
				s.Do(t, "SET", "string", "other "+s.Addr()) // so that it is looked at again, in a window
				before[s] = s.DoString(t, "DEBUG", "DIGEST")
				s.Do(t, "CONFIG", "RESETSTAT")
			}
			c := verify.Config{Source: endpoint(t, strings.Replace(src.URL(), "://", "://auditor:secret@", 1)), Target: endpoint(t, strings.Replace(dst.URL(), "://", "://auditor:secret@", 1)), Pause: 200 * time.Millisecond}
			stop := write(t, src, time.Millisecond, func(i int) []string { return []string{"SET", "busy", fmt.Sprint(i)} }) // so that keys are watched
			for _, c.Mode = range []verify.Mode{verify.Count, verify.Sample, verify.Full} {
				report, err := verify.Run(context.Background(), c)
				if err != nil {
					t.Fatal(err)
				}
				if c.Mode == verify.Full && !slices.ContainsFunc(report.First, func(d verify.Difference) bool { return d.Key == "string" }) {
					t.Errorf("%v", report.First)
				}
			}
			stop()
			if _, ok := src.Info(t, "commandstats")["cmdstat_watch"]; !ok {
				t.Error("nothing was watched")
			}
			listed, err := os.ReadFile("../../docs/internals/source-commands.md")
			if err != nil {
				t.Fatal(err)
			}
			for name := range src.Info(t, "commandstats") {
				command, sub, _ := strings.Cut(strings.ToUpper(strings.TrimPrefix(name, "cmdstat_")), "|")
				if slices.Contains([]string{"SET", "CONFIG", "CLIENT"}, command) { // this test's own, too
					continue
				}
				if !strings.Contains(string(listed), "`"+strings.TrimSpace(command+" "+sub)) {
					t.Errorf("%s is sent, and is not listed", name)
				}
			}
			src.Do(t, "DEL", "busy")
			for s, digest := range before {
				if now := s.DoString(t, "DEBUG", "DIGEST"); now != digest {
					t.Errorf("%s was written to", s.Build.Name)
				}
			}
		})
	}
}

// A large value is never asked for whole.
func TestLargeValuesInPieces(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := twins(t, b, func(s *redistest.Server) {
		fillString(t, s, "string", 3000)
		fillList(t, s, "list", 10_000)
		fillSet(t, s, "set", 10_000)
		fillZset(t, s, "zset", 10_000)
		fillHash(t, s, "hash", 10_000)
		fillStream(t, s, "stream", 30_000)
		for i := range 20 { // few elements, of which one is large: its size does not drown in a mean
			s.Do(t, "HSET", "skew", fmt.Sprint(i), strings.Repeat("x", 100))
		}
		s.Do(t, "HSET", "skew", "large", strings.Repeat("x", 200_000))
	})
	dst.Do(t, "DEL", "set") // one side alone has it
	for _, s := range []*redistest.Server{src, dst} {
		s.Do(t, "CONFIG", "RESETSTAT")
	}
	wantDifferences(t, check(t, src, dst, verify.Config{}), `missing db 0 key "set"`)
	for _, s := range []*redistest.Server{src, dst} {
		stats := s.Info(t, "commandstats")
		for _, whole := range []string{"dump", "get", "smembers", "zrange", "hgetall"} {
			if calls, ok := stats["cmdstat_"+whole]; ok && (whole != "hgetall" || s == src) { // the target is asked for a checkpoint
				t.Errorf("%s was called: %s", whole, calls)
			}
		}
		for _, pieces := range []string{"getrange", "lrange", "hscan", "zscan", "xrange"} {
			if _, ok := stats["cmdstat_"+pieces]; !ok && s == src {
				t.Errorf("%s was not called (%v)", pieces, slices.Sorted(maps.Keys(stats)))
			}
		}
	}
}

// Function libraries are compared, and keys of redferry's own are not.
func TestFunctionsAndOwnKeys(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	library := func(name, result string) string {
		return "#!lua name=" + name + "\nredis.register_function('" + name + "', function() return " + result + " end)"
	}
	for s, result := range map[*redistest.Server]string{src: "1", dst: "2"} {
		s.Do(t, "FUNCTION", "LOAD", library("same", "0"))
		s.Do(t, "FUNCTION", "LOAD", library("other", result))
		s.Do(t, "FUNCTION", "LOAD", library("of_"+result, "0"))
		s.Do(t, "SET", "redferry:x:"+result, "x")
		s.Do(t, "SET", "key", "v")
	}
	dst.Do(t, "SET", "redferry:y", "y")
	wantDifferences(t, check(t, src, dst, verify.Config{}),
		`function "other", from byte `, `function "of_1": source has it, target has not`, `function "of_2": source has not, target has it`)
	wantEqual(t, check(t, src, dst, verify.Config{Mode: verify.Listed, Keys: []string{"key"}}))
	dst.Do(t, "FUNCTION", "FLUSH")
	src.Do(t, "FUNCTION", "FLUSH")
	wantEqual(t, check(t, src, dst, verify.Config{Mode: verify.Count}))
	dst.Do(t, "DEL", "redferry:y") // a count that agrees is not looked into
	src.Do(t, "SET", "more", "v")
	src.DB(1).Do(t, "SET", "more", "v")
	wantDifferences(t, check(t, src, dst, verify.Config{Mode: verify.Count}), `count of database 0: source 2 keys, target 1 key`, `count of database 1: source 1 key, target 0 keys`)
}

// A database that one side does not have is a difference where the other has something in it; of keys that are listed, where it has one of those.
func TestFewerDatabases(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.Config("databases 2"))
	src.DB(5).Do(t, "SET", "a", "1")
	listed := func(key string) verify.Config { return verify.Config{Mode: verify.Listed, Keys: []string{key, "none"}} }
	says := "count of database 5: source 1 key, target has no such database"
	wantDifferences(t, check(t, src, dst, verify.Config{}), says)
	wantDifferences(t, check(t, src, dst, listed("a")), says)
	wantEqual(t, check(t, src, dst, listed("b")))
}

// The limit holds, and progress comes to all keys.
func TestRate(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	for _, s := range []*redistest.Server{src, dst} {
		fillPlain(t, s, 1000)
	}
	var last verify.Progress
	report := check(t, src, dst, verify.Config{Rate: 2000, TTLTolerance: 20 * time.Second, Progress: func(p verify.Progress) { last = p }})
	wantEqual(t, report)
	if report.Elapsed < 800*time.Millisecond {
		t.Errorf("2000 keys of both sides took %v, at 2000 a second", report.Elapsed)
	}
	if last.Total != 2000 || last.Looked < 1500 || last.Looked > 2000 {
		t.Errorf("the last progress was %+v", last)
	}
}

// What keeps verify from comparing has a reason that an operator can do something about.
func TestCannotCompare(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Password("secret")), redistest.Start(t, b)
	fillPlain(t, dst, 10)
	src.Do(t, "ACL", "SETUSER", "blind", "on", ">x", "+info", "+select", "~*")
	src.Do(t, "SET", "k", "v")
	for name, tt := range map[string]struct {
		source, target string
		kind           replica.Kind // 0 for none
		text           string
	}{
		"no password":    {"redis://" + src.Addr(), dst.URL(), replica.Config, "--source"},
		"wrong password": {"redis://:wrong@" + src.Addr(), dst.URL(), replica.Config, "--source"},
		"no rights":      {"redis://blind:x@" + src.Addr(), dst.URL(), replica.Config, "--source"},
		"same server":    {src.URL(), src.URL(), replica.Decide, "same server"},
		"nobody there":   {src.URL(), "redis://127.0.0.1:1", 0, "connect to the target 127.0.0.1:1"},
	} {
		_, err := verify.Run(context.Background(), verify.Config{Source: endpoint(t, tt.source), Target: endpoint(t, tt.target)})
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if tt.kind != 0 {
			wantStop(t, err, tt.kind, tt.text)
		} else if !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := verify.Run(ctx, verify.Config{Source: endpoint(t, src.URL()), Target: endpoint(t, dst.URL())}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}
