package applier_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// importers are the builds that have an import mode.
func importers(t *testing.T) (builds []redistest.Build) {
	t.Helper()
	for _, b := range redistest.Servers(t) {
		if b.AtLeast("valkey", 8, 1) {
			builds = append(builds, b)
		}
	}
	if len(builds) == 0 {
		t.Skip("no server has an import mode")
	}
	return builds
}

func importMode(t *testing.T, s *redistest.Server) string {
	t.Helper()
	return s.DoStrings(t, "CONFIG", "GET", "import-mode")[1]
}

// shortLived is a source with a key that lives a second and is renewed all the time, another one that is only counted up, and enough beside them to keep a throttled target
// busy for some seconds. The returned function ends the renewing, and gives both keys a minute.
func shortLived(t *testing.T, b redistest.Build) (src *redistest.Server, settled func()) {
	t.Helper()
	src = redistest.Start(t, b, redistest.Config("rdbcompression no"))
	for i := range 30 {
		src.Do(t, "SET", "ballast:"+string(rune('a'+i)), strings.Repeat("x", 50_000))
	}
	renew := func(ms string) {
		src.Do(t, "PEXPIRE", "renewed", ms)
		src.Do(t, "INCR", "counted")
		src.Do(t, "PEXPIRE", "counted", ms)
	}
	src.Do(t, "SET", "renewed", "value", "PX", "1000")
	src.Do(t, "SET", "counted", "100", "PX", "1000")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				renew("1000")
			}
		}
	}()
	end := func() { stop(); <-done }
	t.Cleanup(end)
	return src, func() { end(); renew("60000") }
}

// loadSlowly has a migration load the snapshot of shortLived's source, through a slow line to the target, and catch up.
func loadSlowly(t *testing.T, m *migration, proxy *redistest.Proxy, settled func()) {
	t.Helper()
	proxy.Throttle(redistest.FromClient, 250_000)
	r := m.start(t)
	r.once(t, replica.CatchingUp, "")
	proxy.Throttle(redistest.FromClient, 0)
	settled()
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}

// T59, in import mode: a key whose TTL runs out while the snapshot is loaded is there when its renewal comes. Without it, it is lost, and a counter lives for ever.
func TestImportMode(t *testing.T) {
	t.Parallel()
	for _, b := range importers(t) {
		for _, was := range []string{"no", "yes"} {
			t.Run(b.Name+", was "+was, func(t *testing.T) {
				t.Parallel()
				src, settled := shortLived(t, b)
				dst := redistest.Start(t, b, redistest.Config("import-mode "+was))
				proxy := redistest.NewProxy(t, dst.Addr())
				m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
				m.apply.Expiry = applier.Import
				loadSlowly(t, m, proxy, settled)
				if rec := mustRecord(t, dst); importMode(t, dst) != "yes" || rec.Expiry != "import" || rec.ImportWas != was {
					t.Errorf("before the end: mode %s, %+v", importMode(t, dst), rec)
				}
				redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
				m.finish(t)
				if rec := mustRecord(t, dst); importMode(t, dst) != was || rec.Expiry != "as-is" || rec.ImportWas != "" {
					t.Errorf("after the end: mode %s, %+v", importMode(t, dst), rec)
				}
			})
		}
		t.Run(b.Name+", without it", func(t *testing.T) {
			t.Parallel()
			src, settled := shortLived(t, b)
			dst := redistest.Start(t, b)
			proxy := redistest.NewProxy(t, dst.Addr())
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.apply.Expiry = applier.AsIs
			loadSlowly(t, m, proxy, settled)
			if n := dst.DoInt(t, "EXISTS", "renewed"); n != 0 {
				t.Error("the key was not lost: this test cannot fail")
			}
		})
	}
}

// Every connection that writes is an import source, the snapshot's and the stream's; the setting is in the checkpoint before it is changed.
func TestImportModeOfEachConnection(t *testing.T) {
	t.Parallel()
	for _, b := range importers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 500})
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			imports := make([]bool, 1000) // each of them is its own goroutine's
			var early atomic.Int32
			proxy.Handle(func(n int, args [][]byte) redistest.Answer {
				switch name := strings.ToUpper(string(args[0])); {
				case name == "CLIENT" && strings.EqualFold(string(args[1]), "IMPORT-SOURCE"):
					imports[n] = true
				case name == "RESTORE" || name == "SET" || name == "PEXPIREAT":
					if !imports[n] && !checkpoint.Reserved(args[1]) {
						early.Add(1)
					}
				}
				return redistest.Forward()
			})
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.apply.Expiry = applier.Import
			r := m.start(t)
			r.until(t, replica.InSync, "")
			src.Do(t, "SET", "k", "v", "PX", "60000")
			eventually(t, "the key is there", func() bool { return dst.DoInt(t, "EXISTS", "k") == 1 })
			if !strings.Contains(dst.DoString(t, "CLIENT", "LIST"), "flags=I") {
				t.Error("no connection has the flag")
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			if n := early.Load(); n > 0 {
				t.Errorf("%d writes came from connections that were no import source", n)
			}
			if rec := mustRecord(t, dst); rec.ImportWas != "no" || r.said("lost its import mode") != 0 {
				t.Errorf("was: %q, in the log: %s", rec.ImportWas, r.log.String())
			}
		})
	}
}

// The target is restarted, and comes back without the mode: it gets it again before anything is written, also by a process that was not there.
func TestImportModeIsLost(t *testing.T) {
	t.Parallel()
	const lost = "lost its import mode"
	for _, b := range importers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src := redistest.Start(t, b, redistest.Config("repl-backlog-size 16mb"))
			dst := redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
			redistest.Fill(t, src, redistest.FillOptions{Keys: 300})
			m := newMigration(t, src.URL(), dst.URL())
			m.apply.Expiry = applier.Import
			r := m.start(t)
			r.until(t, replica.InSync, "")
			arrives := func(key string) {
				t.Helper()
				src.Do(t, "SET", key, "v", "PX", "3600000")
				eventually(t, key+" is there", func() bool { return dst.DoInt(t, "EXISTS", key) == 1 })
			}
			arrives("before")
			dst.Kill()
			dst.Restart(t)
			arrives("after the restart")
			if importMode(t, dst) != "yes" || r.said(lost) == 0 {
				t.Errorf("after the restart: mode %s, the log says so %d times", importMode(t, dst), r.said(lost))
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			// Another process, at a target that has kept the mode, and then at one that has not.
			r = m.start(t)
			arrives("in the next run")
			if importMode(t, dst) != "yes" || r.said(lost) != 0 {
				t.Errorf("in the next run: mode %s, the log says %d times that it was lost", importMode(t, dst), r.said(lost))
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			dst.Kill()
			dst.Restart(t)
			r = m.start(t)
			arrives("in the last run")
			if importMode(t, dst) != "yes" || r.said(lost) == 0 {
				t.Errorf("in the last run: mode %s, the log says so %d times", importMode(t, dst), r.said(lost))
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			if rec := mustRecord(t, dst); rec.ImportWas != "no" {
				t.Errorf("the setting before: got %q", rec.ImportWas)
			}
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

// Whatever becomes of the transaction that switches the mode on, and of the process, the setting before is known.
func TestImportModeIsPutBackAfterAKill(t *testing.T) {
	t.Parallel()
	b := importers(t)[0]
	for name, answer := range map[string]redistest.Answer{"before EXEC": redistest.CutBeforeCommand(), "behind EXEC": redistest.LoseReply()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			src.Do(t, "SET", "a", "1", "PX", "3600000")
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			reached := make(chan struct{})
			var gone atomic.Bool
			var importing atomic.Int32 // the connection whose open transaction switches the mode on
			proxy.Handle(func(n int, args [][]byte) redistest.Answer {
				switch name := strings.ToUpper(string(args[0])); {
				case gone.Load(): // nothing reaches the target any more, as after a kill
					return redistest.CutBeforeCommand()
				case name == "EXEC" && importing.CompareAndSwap(int32(n), 0):
					gone.Store(true)
					close(reached)
					return answer
				case name == "CONFIG" && strings.EqualFold(string(args[1]), "SET"):
					importing.Store(int32(n))
				}
				return redistest.Forward()
			})
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.apply.Expiry = applier.Import
			r := m.start(t)
			<-reached
			_ = r.end()
			m.target = dst.URL()
			m.apply.Takeover = true
			m.finish(t)
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
			if got := importMode(t, dst); got != "no" {
				t.Errorf("the mode is %s", got)
			}
		})
	}
}

// A migration that is removed before its end puts the mode back, unless its owner lives.
func TestRemovePutsImportModeBack(t *testing.T) {
	t.Parallel()
	dst := redistest.Start(t, importers(t)[0])
	e := endpointOf(t, dst)
	traces(t, dst, time.Minute)
	dst.Do(t, "HSET", checkpoint.Key("test"), checkpoint.FieldImport, "no")
	dst.Do(t, "CONFIG", "SET", "import-mode", "yes")
	if _, _, err := reset(e, "", false); err == nil || importMode(t, dst) != "yes" {
		t.Errorf("its owner lives: mode %s, %v", importMode(t, dst), err)
	}
	if _, _, err := reset(e, "there", false); err != nil || importMode(t, dst) != "no" {
		t.Errorf("mode %s, %v", importMode(t, dst), err)
	}
}

func TestImportModeIsRefused(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		src, dst := redistest.Start(t, b), redistest.Start(t, b)
		m := newMigration(t, src.URL(), dst.URL())
		m.apply.Expiry = applier.Import
		if !b.AtLeast("valkey", 8, 1) {
			wantStop(t, m.start(t).wait(t), replica.Config, "--expiry=shift serves every target")
			continue
		}
		dst.Do(t, "ACL", "SETUSER", "ferry", "on", ">secret", "~*", "&*", "+@all", "-config")
		m.target = "redis://ferry:secret@" + dst.Addr()
		wantStop(t, m.start(t).wait(t), replica.Config, "+config|set")
		dst.Do(t, "ACL", "SETUSER", "ferry", "+config|get")
		wantStop(t, m.start(t).wait(t), replica.Config, "docs/operations.md")
		if got := importMode(t, dst); got != "no" {
			t.Errorf("%s: the mode was changed: %s", b.Name, got)
		}
	}
}

// An old Valkey is known by its version.
func TestImportModeIsRefusedByAnOldValkey(t *testing.T) {
	t.Parallel()
	b := importers(t)[0]
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		switch strings.ToUpper(string(args[0])) {
		case "INFO":
			const info = "valkey_version:8.0.4\r\nredis_version:7.2.4\r\nrole:master\r\n"
			return redistest.Reply(fmt.Sprintf("$%d\r\n%s", len(info), info))
		case "CONFIG":
			return redistest.Reply("*0")
		}
		return redistest.Forward()
	})
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.apply.Expiry = applier.Import
	wantStop(t, m.start(t).wait(t), replica.Config, "and "+proxy.Addr()+" is 8.0.4")
}

// A migration goes on in the way in which it was begun, unless nothing has to be undone.
func TestExpiryMayNotChange(t *testing.T) {
	t.Parallel()
	b := importers(t)[0]
	tests := map[string]struct {
		was, format string
		now         applier.Expiry
		refused     bool
	}{
		"the same":                   {"shift", "2", applier.Shift, false},
		"shift, and import now":      {"shift", "2", applier.Import, true},
		"import, and shift now":      {"import", "2", applier.Shift, true},
		"ended, and shift now":       {"as-is", "2", applier.Shift, false},
		"mixed, and shift now":       {"mixed", "2", applier.Shift, false},
		"mixed, and import now":      {"mixed", "2", applier.Import, true},
		"ended, and import now":      {"as-is", "2", applier.Import, false},
		"an old one, and shift now":  {"", "1", applier.Shift, false},
		"an old one, and import now": {"", "1", applier.Import, false},
		"something newer":            {"other", "2", applier.Shift, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			src.Do(t, "SET", "a", "1")
			m := newMigration(t, src.URL(), dst.URL())
			m.apply.Expiry = applier.AsIs
			m.finish(t)
			key := checkpoint.Key("test")
			dst.Do(t, "HSET", key, "format", tt.format, "expiry", tt.was)
			if tt.format == "1" {
				dst.Do(t, "HDEL", key, "expiry", "import_was")
			}
			m.apply.Expiry = tt.now
			if tt.refused {
				wantStop(t, m.start(t).wait(t), replica.Decide, "go on with --expiry="+strings.Replace(tt.was, "mixed", "shift", 1))
				return
			}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			eventually(t, "what was settled is shifted again", func() bool { return dst.DoString(t, "HGET", key, "expiry") == string(tt.now) })
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			reply := dst.Do(t, "HGETALL", key)
			fields, err := reply.AsStrMap()
			if err != nil || fields["format"] != "2" || (fields["import_was"] == "no") != (tt.now == applier.Import) || (fields["expired"] != "0") != (tt.was != "shift") {
				t.Errorf("the checkpoint says %v, %v", fields, err)
			}
		})
	}
}
