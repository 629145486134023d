package preflight_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/applier/preflight"
	"redferry/internal/redistest"
	"redferry/replica"
)

// endpoint is a server as a user with a password sees it; without a user, as the default one.
func endpoint(t *testing.T, s *redistest.Server, user string) replica.Endpoint {
	t.Helper()
	url := s.URL()
	if user != "" {
		url = fmt.Sprintf("redis://%s:secret@%s", user, s.Addr())
	}
	files := replica.TLSFiles{}
	if c := s.Certificates(); c != nil {
		files = replica.TLSFiles{CA: c.CA, Cert: c.ClientCert, Key: c.ClientKey}
	}
	e, err := replica.ParseEndpoint(url, files)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// between is the check of a migration from one server to another.
func between(t *testing.T, src, dst *redistest.Server) preflight.Config {
	t.Helper()
	return preflight.Config{
		Name: "default", Source: endpoint(t, src, ""), Target: endpoint(t, dst, ""), Dir: filepath.Join(t.TempDir(), "not", "yet"),
		OnFullResync: applier.Refuse, OnNotEmpty: applier.Refuse, Publish: true, Spool: true, RateSample: 300 * time.Millisecond,
	}
}

// look runs the check.
func look(t *testing.T, c preflight.Config) map[string]preflight.Finding {
	t.Helper()
	began := time.Now()
	report, err := preflight.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	found := map[string]preflight.Finding{}
	for _, f := range report.Findings {
		if _, ok := found[f.ID]; ok || f.Title == "" || f.Found == "" {
			t.Errorf("a finding that is there twice, or says nothing: %+v", f)
		}
		if f.Level != preflight.OK && f.Fix == "" || f.Level == preflight.OK && f.Fix != "" {
			t.Errorf("a way out is for what is not ok, and only for that: %+v", f)
		}
		found[f.ID] = f
	}
	return found
}

// expect wants these findings, each as "level words", and all others ok.
func expect(t *testing.T, found map[string]preflight.Finding, want map[string]string) {
	t.Helper()
	for id, f := range found {
		level, words, _ := strings.Cut(want[id], " ")
		switch level {
		case "":
			level = string(preflight.OK)
		case "any": // both ends are one machine's, or one server: what is measured depends on what else goes on
			continue
		}
		if string(f.Level) != level || !strings.Contains(f.Found+" "+f.Fix, words) {
			t.Errorf("%s: got %s: %s (%s), want %s %q", id, f.Level, f.Found, f.Fix, level, words)
		}
	}
	for id := range want {
		if _, ok := found[id]; !ok {
			t.Errorf("there is no finding %s", id)
		}
	}
}

// Between two servers of the same build nothing is to be found, whatever they hold, and nothing is left behind by the look.
func TestNothingWrong(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 500})
			before, writes := src.DoString(t, "DEBUG", "DIGEST"), src.Offset(t)
			c := between(t, src, dst)
			found := look(t, c)
			expect(t, found, nil)
			if len(found) != len(preflight.IDs()) {
				t.Errorf("%d findings of %d checks", len(found), len(preflight.IDs()))
			}
			if got := src.DoString(t, "DEBUG", "DIGEST"); got != before || src.Offset(t) != writes {
				t.Error("the source was changed")
			}
			if n := dst.DoInt(t, "DBSIZE"); n != 0 {
				t.Errorf("the target has %d keys", n)
			}
			if n := src.Info(t, "stats")["sync_full"]; n != "0" {
				t.Errorf("the source was asked for %s snapshots", n)
			}
			if _, err := os.Stat(filepath.Dir(c.Dir)); err == nil {
				t.Error("the state directory was made")
			}
		})
	}
}

// The users of docs/operations.md may do all that a run needs, and all that a check asks.
func TestUsersOfTheManual(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	user := func(s *redistest.Server, name, also string) {
		t.Helper()
		_, rest, ok := strings.Cut(string(text), "    ACL SETUSER "+name+" ")
		line, _, _ := strings.Cut(rest, "\n")
		if !ok {
			t.Fatalf("the manual has no user %s", name)
		}
		s.Do(t, append([]string{"ACL", "SETUSER", name}, strings.Fields(line+" "+also)...)...)
	}
	forCheck := func(name string) string {
		t.Helper()
		_, rest, ok := strings.Cut(string(text), "    ACL SETUSER "+name+" +acl|dryrun")
		if !ok {
			t.Fatalf("the manual has no rights of %s for check", name)
		}
		line, _, _ := strings.Cut(rest, "\n")
		return "+acl|dryrun" + line
	}
	for _, b := range redistest.Servers(t) {
		if !b.Has70() || b.Name == "redis-7.0" { // which knows no client|setinfo
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 200})
			c := between(t, src, dst)
			c.Source, c.Target = endpoint(t, src, "ferry-source"), endpoint(t, dst, "ferry-target")
			user(src, "ferry-source", forCheck("ferry-source"))
			user(dst, "ferry-target", forCheck("ferry-target"))
			expect(t, look(t, c), nil)
			src.Do(t, "FLUSHALL")
			src.Do(t, "SET", "", "no pattern but allkeys matches the empty key")
			expect(t, look(t, c), nil)

			src.Do(t, "ACL", "SETUSER", "ferry-source", "reset", "on", ">secret", "+psync", "+replconf")
			dst.Do(t, "ACL", "SETUSER", "ferry-target", "reset", "on", ">secret", "~mine:*", "~redferry:*", "+@all", "-restore")
			found := look(t, c)
			for _, id := range []string{"source-reached", "psync", "source-rights", "repl-timeout", "min-replicas", "backlog", "replica-buffer", "fork", "clocks", "large-values"} {
				if f := found[id]; f.Level != preflight.Warn || !strings.Contains(f.Found, "cannot be told") && id != "source-reached" {
					t.Errorf("%s of a source that permits nothing: %+v", id, f)
				}
			}
			if f := found["target-rights"]; f.Level != preflight.Block || !strings.Contains(f.Fix, "ACL SETUSER ferry-target +restore ~* &*") || !strings.Contains(f.Found, "publish") {
				t.Errorf("the rights of the target: %+v", f)
			}
			src.Do(t, "ACL", "SETUSER", "ferry-source", "-psync", "+acl|dryrun")
			if f := look(t, c)["source-rights"]; f.Level != preflight.Block || !strings.Contains(f.Fix, "+psync") {
				t.Errorf("a source without PSYNC: %+v", f)
			}
		})
	}
}

// Before 7.0 the user's rules are read.
func TestRulesBefore70(t *testing.T) {
	t.Parallel()
	b := redistest.ServerNamed(t, "redis-6.0")
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	c := between(t, src, dst)
	c.Target = endpoint(t, dst, "ferry")
	dst.Do(t, "ACL", "SETUSER", "ferry", "on", ">secret", "~*", "+@all", "-@dangerous", "+info", "+acl", "+config", "+client")
	f := look(t, c)["target-rights"]
	if f.Level != preflight.Block || !strings.Contains(f.Found, "restore") || !strings.Contains(f.Found, "flushall") || strings.Contains(f.Found, "hset") || strings.Contains(f.Found, "spublish") {
		t.Errorf("got %+v", f)
	}
	dst.Do(t, "ACL", "SETUSER", "ferry", "+@all")
	expect(t, look(t, c), nil)
	dst.Do(t, "ACL", "SETUSER", "ferry", "-@all", "+@write", "+@read", "+@transaction", "+@connection", "+@scripting", "+@pubsub", "+select", "+info", "+time", "+config|get", "+acl", "+module")
	expect(t, look(t, c), nil) // what 6.0 does not know needs no right
	dst.Do(t, "ACL", "SETUSER", "ferry", "resetkeys", "~redferry:*")
	if f := look(t, c)["target-rights"]; f.Level != preflight.Block || !strings.Contains(f.Fix, "~*") {
		t.Errorf("without all keys: %+v", f)
	}
	dst.Do(t, "ACL", "SETUSER", "ferry", "allkeys", "-acl")
	if f := look(t, c)["target-rights"]; f.Level != preflight.Warn || !strings.Contains(f.Found, "cannot be told") {
		t.Errorf("without ACL: %+v", f)
	}
}

// Each check finds what is set up wrongly, and no other does.
func TestWrongSource(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	tests := map[string]struct {
		config []string
		then   func(t *testing.T, src *redistest.Server, c *preflight.Config)
		want   map[string]string
	}{
		"PSYNC hidden": {
			[]string{`rename-command PSYNC ""`},
			nil,
			map[string]string{"psync": "block has no command PSYNC"},
		},
		"PSYNC renamed": {
			[]string{"rename-command PSYNC GETITALL"},
			func(_ *testing.T, _ *redistest.Server, c *preflight.Config) { c.PSYNCCommand = "GETITALL" },
			map[string]string{"psync": "warn GETITALL"},
		},
		"CONFIG hidden": {
			[]string{`rename-command CONFIG ""`},
			nil,
			map[string]string{"sync-method": "warn cannot be told", "replica-buffer": "warn cannot be told", "backlog-ttl": "warn cannot be told", "repl-timeout": "warn cannot be told", "min-replicas": "warn cannot be told"},
		},
		"INFO hidden": {
			[]string{`rename-command INFO ""`},
			nil,
			map[string]string{"source-reached": "block INFO"},
		},
		"timeouts and replicas": {
			[]string{"repl-timeout 5", "repl-backlog-ttl 30", "min-replicas-to-write 1"},
			nil,
			map[string]string{"repl-timeout": "warn repl-timeout 60", "backlog-ttl": "warn repl-backlog-ttl 3600", "min-replicas": "warn min-replicas-to-write 2"},
		},
		"an RDB that fails": {
			nil, func(t *testing.T, src *redistest.Server, _ *preflight.Config) {
				if err := os.MkdirAll(filepath.Join(src.Dir, "dump.rdb", "x"), 0o700); err != nil {
					t.Fatal(err)
				}
				src.Do(t, "SET", "a", "1")
				_ = src.TryDo("SAVE")
				_ = src.TryDo("BGSAVE")
				wait(t, func() bool { return src.Info(t, "persistence")["rdb_last_bgsave_status"] == "err" })
			},
			map[string]string{"sync-method": "warn BGSAVE"},
		},
		"a large value": {
			nil, func(t *testing.T, src *redistest.Server, _ *preflight.Config) {
				src.Do(t, "SETRANGE", "big", "70000000", "x")
			},
			map[string]string{"large-values": `warn "big"`},
		},
		"a wrong password": {
			nil, func(t *testing.T, src *redistest.Server, c *preflight.Config) { c.Source = endpoint(t, src, "nobody") },
			map[string]string{"source-reached": "block refuses this user"},
		},
		"not there": {
			nil, func(_ *testing.T, src *redistest.Server, _ *preflight.Config) { src.Kill() },
			map[string]string{"source-reached": "block --source"},
		},
		"a replica without its primary": {
			[]string{"replicaof 127.0.0.1 1"},
			nil,
			map[string]string{"source-role": "warn has lost it"},
		},
		"import mode of a Redis": {
			nil, func(t *testing.T, src *redistest.Server, c *preflight.Config) { c.Expiry = applier.Import },
			map[string]string{"expiry": "block Valkey 8.1"},
		},
		"a file in the place of --dir": {
			nil, func(_ *testing.T, _ *redistest.Server, c *preflight.Config) { c.Dir = "server_test.go" },
			map[string]string{"spool": "block --dir", "target-data": "block"},
		},
		"little room": {
			nil, func(t *testing.T, src *redistest.Server, c *preflight.Config) {
				for i := range 30 {
					src.Do(t, "SETRANGE", fmt.Sprint("big", i), "1000000", "x")
				}
				c.SpoolMax = 16 << 20
			},
			map[string]string{"spool": "warn --spool-max"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b, redistest.Config(tt.config...)), redistest.Start(t, b)
			c := between(t, src, dst)
			if tt.then != nil {
				tt.then(t, src, &c)
			}
			expect(t, look(t, c), tt.want)
		})
	}
}

func TestWrongTarget(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	tests := map[string]struct {
		config []string
		then   func(t *testing.T, dst *redistest.Server, c *preflight.Config)
		want   map[string]string
	}{
		"keys": {
			nil, func(t *testing.T, dst *redistest.Server, _ *preflight.Config) { dst.DB(3).Do(t, "SET", "a", "1") },
			map[string]string{"target-data": "block --on-target-not-empty"},
		},
		"keys that may go": {
			nil, func(t *testing.T, dst *redistest.Server, c *preflight.Config) {
				dst.DB(3).Do(t, "SET", "a", "1")
				c.OnNotEmpty = applier.Flush
			}, nil,
		},
		"few databases": {
			[]string{"databases 4"}, nil, map[string]string{"databases": "block uses database 5"},
		},
		"little memory": {
			[]string{"maxmemory 8mb", "maxmemory-policy allkeys-lru"}, nil, map[string]string{"target-memory": "block CONFIG SET maxmemory", "eviction": "warn noeviction"},
		},
		"somebody at it": {
			nil, func(t *testing.T, dst *redistest.Server, _ *preflight.Config) {
				dst.Do(t, "HSET", checkpoint.OwnerKey("default"), "epoch", "1", "owner", "pid 1 on elsewhere", "lease", fmt.Sprint(time.Now().Add(time.Minute).UnixMilli()))
			}, map[string]string{"owner": "block pid 1 on elsewhere"},
		},
		"not there": {
			nil, func(_ *testing.T, dst *redistest.Server, _ *preflight.Config) { dst.Kill() }, map[string]string{"target-reached": "block --target"},
		},
		"a hung one": {
			nil, func(t *testing.T, dst *redistest.Server, _ *preflight.Config) { dst.Freeze(); t.Cleanup(dst.Thaw) }, map[string]string{"target-reached": "block --target"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.Config(tt.config...))
			src.DB(5).Do(t, "SETRANGE", "a", "10000000", "x")
			c := between(t, src, dst)
			if tt.then != nil {
				tt.then(t, dst, &c)
			}
			expect(t, look(t, c), tt.want)
		})
	}
}

// Source and target that belong together are found, in every direction, and clusters are.
func TestWrongPair(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	t.Run("the same server", func(t *testing.T) {
		t.Parallel()
		src := redistest.Start(t, b)
		expect(t, look(t, between(t, src, src)), map[string]string{"pair": "block same server", "backlog": "any"})
	})
	t.Run("replicas", func(t *testing.T) {
		t.Parallel()
		primary := redistest.Start(t, b)
		primary.Do(t, "SET", "a", "1")
		second := redistest.Start(t, b, redistest.ReplicaOf(primary))
		wait(t, func() bool { return second.Info(t, "replication")["master_link_status"] == "up" })
		expect(t, look(t, between(t, primary, second)), map[string]string{"pair": "block share replication ID", "target-role": "block is a replica of", "target-data": "block not empty"})
		expect(t, look(t, between(t, second, primary)), map[string]string{"pair": "block share replication ID", "target-data": "block not empty"})
	})
	t.Run("a replica that has lost the target", func(t *testing.T) {
		t.Parallel()
		dst := redistest.Start(t, b, redistest.Password("x"))
		host, port, _ := strings.Cut(dst.Addr(), ":")
		src := redistest.Start(t, b, redistest.Config("replicaof "+host+" "+port)) // without the password
		expect(t, look(t, between(t, src, dst)), map[string]string{"pair": "block is a replica of the target", "source-role": "warn has lost it", "backlog": "any"})
	})
	t.Run("clusters", func(t *testing.T) {
		t.Parallel()
		nodes := redistest.StartCluster(t, b, 2)
		expect(t, look(t, between(t, nodes[0], nodes[1])), map[string]string{"source-kind": "block 2 shards", "target-kind": "block cluster mode"})
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		src, dst := redistest.Start(t, b, redistest.TLS(), redistest.Password("x")), redistest.Start(t, b, redistest.TLS())
		c := between(t, src, dst)
		expect(t, look(t, c), nil)
		c.Source.TLS = c.Source.TLS.Clone()
		c.Source.TLS.RootCAs = nil
		expect(t, look(t, c), map[string]string{"source-reached": "block --source-tls-ca"})
		c = between(t, src, dst)
		c.Target.TLS = nil
		expect(t, look(t, c), map[string]string{"target-reached": "block --target"})
	})
	t.Run("sentinels", func(t *testing.T) {
		t.Parallel()
		src, dst := redistest.Start(t, b), redistest.Start(t, b)
		sentinels := redistest.StartSentinels(t, src, 1)
		c := between(t, src, dst)
		expect(t, look(t, c), map[string]string{"source-sentinel": "warn redis+sentinel://"})
		expect(t, look(t, between(t, dst, src)), map[string]string{"target-sentinel": "warn redis+sentinel://"})
		src.Do(t, "ACL", "SETUSER", "default", "-pubsub") // their names tell, too
		expect(t, look(t, c), map[string]string{"source-sentinel": "warn redis+sentinel://"})
		src.Do(t, "ACL", "SETUSER", "default", "+pubsub")
		watching := redistest.StartSentinels(t, dst, 1)
		expect(t, look(t, c), map[string]string{"source-sentinel": "warn redis+sentinel://", "target-sentinel": "warn redis+sentinel://", "sentinels": "warn different names"})
		for _, s := range watching {
			s.Kill()
		}
		for end := time.Now().Add(time.Minute); dst.DoInt(t, "PUBLISH", "__sentinel__:hello", "x") > 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			continue
		}
		var err error
		if c.Source, err = replica.ParseEndpoint(redistest.SentinelURL("", sentinels...), replica.TLSFiles{}); err != nil {
			t.Fatal(err)
		}
		expect(t, look(t, c), nil)
	})
	t.Run("clocks", func(t *testing.T) {
		t.Parallel()
		src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.ClockOffset(time.Hour+20*time.Second)) // measured on a busy machine it is some ms more or less
		expect(t, look(t, between(t, src, dst)), map[string]string{"clocks": "warn target's clock is 1h0m"})
	})
}

// What an older target, or one of the other family, does not take is found among the source's values.
func TestTypesAndVersions(t *testing.T) {
	t.Parallel()
	six, seven, eight := redistest.ServerNamed(t, "redis-6.0"), redistest.ServerNamed(t, "redis-7.0"), redistest.ServerNamed(t, "redis-8.0")
	valkey8, valkey9 := redistest.ServerNamed(t, "valkey-8.1"), redistest.ServerNamed(t, "valkey-9")
	modules := "warn vectorset"
	tests := map[string]struct {
		from, to redistest.Build
		fill     [][]string
		want     map[string]string
	}{
		"newer":             {six, eight, [][]string{{"HSET", "h", "a", "b"}}, nil},
		"sideways":          {seven, valkey8, [][]string{{"HSET", "h", "a", "b"}}, nil},
		"older, strings":    {seven, six, [][]string{{"SET", "s", "a"}}, map[string]string{"versions": "warn older", "types": "warn it knows those of the 1 values"}},
		"older, a list":     {seven, six, [][]string{{"RPUSH", "l", "a"}}, map[string]string{"versions": "warn older", "types": `block LIST_QUICKLIST_2, as key "l"`}},
		"older, a function": {seven, six, [][]string{{"FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 1 end)"}}, map[string]string{"versions": "warn older", "types": "warn", "functions": "block 1 function libraries"}},
		"redis to valkey":   {eight, valkey9, [][]string{{"HSET", "h", "a", "b"}}, map[string]string{"versions": "warn families", "types": "warn", "modules": modules}},
		"field TTLs":        {eight, valkey9, [][]string{{"HSET", "h", "a", "b"}, {"HEXPIRE", "h", "1000", "FIELDS", "1", "a"}}, map[string]string{"versions": "warn families", "types": "block 1 hash", "modules": modules}},
		"valkey to redis":   {valkey9, eight, [][]string{{"HSET", "h", "a", "b"}, {"HEXPIRE", "h", "1000", "FIELDS", "1", "a"}}, map[string]string{"versions": "warn families", "types": "block 1 hash"}},
		"a module's value":  {eight, seven, [][]string{{"VADD", "v", "VALUES", "2", "1", "2", "e"}}, map[string]string{"versions": "warn older", "types": "warn", "modules": `block as key "v"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, tt.from), redistest.Start(t, tt.to)
			for _, command := range tt.fill {
				src.Do(t, command...)
			}
			expect(t, look(t, between(t, src, dst)), tt.want)
		})
	}
}

// Under load the buffer and the backlog are judged by what is written: with a small backlog, a small limit and a big dataset a run would not get through.
func TestUnderLoad(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 16kb", "client-output-buffer-limit replica 64kb 0 0"))
	dst := redistest.Start(t, b)
	replicaOf := redistest.Start(t, b, redistest.ReplicaOf(src)) // so that the source counts what is written
	wait(t, func() bool { return replicaOf.Info(t, "replication")["master_link_status"] == "up" })
	replicaOf.Do(t, "REPLICAOF", "NO", "ONE") // or it would be cut, too
	src.Do(t, "EVAL", "for i=1,60 do redis.call('SETRANGE', 'k'..i, 1000000, 'x') end", "0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		value := strings.Repeat("x", 10_000)
		for ctx.Err() == nil {
			_ = src.TryDo("SET", "written", value)
		}
	}()
	defer func() { cancel(); <-done }()
	c := between(t, src, dst)
	c.RateSample = 3 * time.Second // in which something is written on a busy machine, too
	expect(t, look(t, c), map[string]string{"backlog": "warn CONFIG SET repl-backlog-size", "replica-buffer": "block --raise-source-limits"})
	c.RaiseLimits = true
	expect(t, look(t, c), map[string]string{"backlog": "warn CONFIG SET repl-backlog-size"})
}

// wait waits for a condition.
func wait(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
}
