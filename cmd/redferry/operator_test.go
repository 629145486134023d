package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	p.run(t, "status", "--target", target.URL()).expect(t, exitDecide, `has no checkpoint of migration "default"`)
	p.run(t, "inspect", "--target", target.URL()).expect(t, exitDecide, `has nothing of migration "default"`)

	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	p.run(t, "status", "--target", target.URL()).expect(t, exitDone,
		"stream: the target has what the source had at this offset, and follows it", source.Addr(), "alive: its lease runs", "rejected      0", "divergence    0", "unchecked     none")
	if r := p.run(t, "inspect", "--target", target.URL()); strings.Contains(r.stdout, "unknown to this version") {
		t.Errorf("it does not know its own record: %s", r.stdout)
	}
	run.Signal(os.Interrupt)
	run.wait(t).expect(t, exitDone)

	r := p.run(t, "status", "--json", "--target", target.URL())
	r.expect(t, exitDone)
	var s statusJSON
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		t.Fatalf("%v: %s", err, r.stdout)
	}
	if s.Phase != "stream" || s.Owner.Alive || s.Owner.Epoch == 0 || s.Offset < 0 || s.Offset > source.Offset(t) || s.AgeSeconds < 0 || s.AgeSeconds > 60 ||
		s.Source != source.Addr() || s.ReplID != source.Info(t, "replication")["master_replid"] {
		t.Errorf("got %+v", s)
	}
	p.run(t, "status", "--target", target.URL()).expect(t, exitDone, "nobody follows it now", "none alive; the last was pid")
	p.run(t, "inspect", "--target", target.URL()).expect(t, exitDone, "redferry:default:owner", "offset ", "its machine and lock file", "ago")
	p.run(t, "inspect", "--json", "--target", target.URL()).expect(t, exitDone, `"redferry:default":{`, `"phase":"stream"`)

	target.Do(t, "HSET", checkpoint.Key("default"), "rejected", "2", "diverged", "1", "unchecked", "5-9,11-13", "divergence", "DEL=1 PEXPIREAT=3")
	p.run(t, "status", "--target", target.URL()).expect(t, exitDone, "2 writes that the target refused", "1 transactions", "5-9, 11-13: ", "DEL=1 PEXPIREAT=3: ")
	p.run(t, "status", "--json", "--target", target.URL()).expect(t, exitDone, `"divergence":{"DEL":1,"PEXPIREAT":3}`)
	p.run(t, "inspect", "--target", target.URL()).expect(t, exitDone, `"DEL=1 PEXPIREAT=3"`, "found nothing to change")
	note := filepath.Join(p.home, "redferry", "default", "cutover") // of a run that was killed behind a cutover's point of no return
	if err := os.WriteFile(note, []byte(`{"addr":"h:1","run_id":"x","refuses":true,"min_replicas_to_write":"0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(t, "status").expect(t, exitDecide, "a cutover of this migration has not come to its end", "redferry run finishes the cutover; or redferry cutover --undo --source URL --target URL opens the source")
	p.run(t, "status", "--target", target.URL()).expect(t, exitDone, "warning: a cutover of this migration has not come to its end", "phase         stream")
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	p.run(t, "status").expect(t, exitDecide, "does not run on this machine")
	target.Do(t, "HSET", checkpoint.Key("default"), "phase", "snapshot", "snapshot_size", "200", "snapshot_read", "50")
	p.run(t, "status", "--target", target.URL()).expect(t, exitDone, "snapshot: loaded in part, and nobody is at it", "50 B of 200 B (25%)")
	target.Do(t, "HSET", checkpoint.Key("default"), "format", "99", "later", "field")
	p.run(t, "status", "--target", target.URL()).expect(t, exitDecide, `format "99"`)
	p.run(t, "inspect", "--target", target.URL()).expect(t, exitDone, "cannot use it", "unknown to this version")
}

func TestReset(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	there := func() int { return len(target.DoStrings(t, "KEYS", checkpoint.Prefix+"*")) }
	p, other := newProgram(t), newProgram(t)
	reset := []string{"reset", "--target", target.URL()}
	p.run(t, reset...).expect(t, exitDone, `had nothing of migration "default"`, "was not known")

	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	p.run(t, reset...).expect(t, exitOwned, "runs already on this machine")
	other.run(t, reset...).expect(t, exitOwned, "which is alive", "--takeover")
	if there() < 2 {
		t.Fatal("a refused reset has removed something")
	}
	run.Signal(os.Interrupt)
	run.wait(t).expect(t, exitDone)

	data := target.DoInt(t, "DBSIZE") - int64(there())
	p.run(t, reset...).expect(t, exitDone, "removed redferry:default and redferry:default:* (phase stream", "all other keys stay", "here: forgot the migration")
	if got := target.DoInt(t, "DBSIZE"); there() != 0 || got != data {
		t.Errorf("%d of its keys are left, and %d keys in all, want %d", there(), got, data)
	}
	p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitDecide, "is not empty")
	p.run(t, with(ends(source, target), "--stop-at", "caught-up", "--on-target-not-empty=flush")...).expect(t, exitDone)
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{})

	// Only one of both sides is there.
	target.Do(t, "FLUSHALL")
	p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitDecide, "is gone from the target")
	if target.Build.Has70() {
		target.Do(t, "FUNCTION", "FLUSH")
	}
	p.run(t, reset...).expect(t, exitDone, "had nothing", "here: forgot the migration")
	p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitDone)
	other.run(t, reset...).expect(t, exitDone, "removed redferry:default", "was not known")
	if _, err := os.Stat(filepath.Join(other.home, "redferry")); err == nil {
		t.Error("reset has made a directory for a migration that it does not know")
	}
	target.Kill()
	p.run(t, "reset", "--local-only").expect(t, exitDone, "here: forgot the migration")
}

// A reset that takes over makes the owner end before the keys are gone, rather than find them gone and begin anew.
func TestResetTakesOver(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	for name, by := range map[string]*program{"on its machine": p, "from another one": newProgram(t)} {
		t.Run(name, func(t *testing.T) {
			run := p.start(t, with(ends(source, target), "--on-full-resync=flush", "--on-target-not-empty=flush")...)
			run.until(t, "in_sync")
			by.run(t, "reset", "--takeover", "--target", target.URL()).expect(t, exitDone, "took the migration from pid", "removed redferry:default")
			run.wait(t).expect(t, exitOwned, "another process has taken over")
			if keys := target.DoStrings(t, "KEYS", checkpoint.Prefix+"*"); len(keys) != 0 {
				t.Errorf("there again: %q", keys)
			}
		})
	}
}

func TestInspectRDB(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	s := redistest.Start(t, b)
	s.Do(t, "SET", "plain", "x", "EX", "1000")
	s.Do(t, "SET", "\xff\xfe", "binary")
	s.DB(3).Do(t, "RPUSH", "list", "a", "b")
	s.DB(3).Do(t, "SET", "big", strings.Repeat("0123456789abcdef", 4)+strings.Repeat("x1y2z3", 900))
	if b.Has70() {
		s.Do(t, "FUNCTION", "LOAD", "#!lua name=mylib\nredis.register_function('f', function() return 1 end)")
	}
	s.Do(t, "SAVE")
	file, p := filepath.Join(s.Dir, "dump.rdb"), newProgram(t)

	p.run(t, "inspect", file).expect(t, exitDone, "REDIS0", "whole, and the CRC agrees", "redis-ver", `"big"`)
	var report rdbReport
	r := p.run(t, "inspect", "--json", "--top", "1", file)
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v: %s", err, r.stdout)
	}
	if len(report.Databases) != 2 || report.Databases[0] != (database{0, 2, 1, report.Databases[0].Bytes}) || report.Databases[1].Keys != 2 || !report.Complete {
		t.Errorf("got %+v", report)
	}
	if len(report.Biggest) != 1 || report.Biggest[0].Key != "big" || report.Biggest[0].DB != 3 {
		t.Errorf("biggest: got %+v", report.Biggest)
	}
	if b.Has70() && (len(report.Functions) != 1 || report.Functions[0] != "#!lua name=mylib") {
		t.Errorf("functions: got %q", report.Functions)
	}

	r = p.run(t, "inspect", "--keys", file)
	r.expect(t, exitDone, "3\tlist\t", `"plain"`, `"\xff\xfe"`)
	if got := strings.Count(r.stdout, "\n"); got != 4 {
		t.Errorf("got %d lines, want one for each of 4 keys:\n%s", got, r.stdout)
	}
	for _, line := range logLines(t, p.run(t, "inspect", "--keys", "--json", file).stdout) {
		if line["type"] == "" || line["bytes"] == nil || (line["key"] == "plain") != (line["expire_at"] != nil) || (line["key"] == "\ufffd\ufffd") != (line["key_base64"] == "//4=") {
			t.Errorf("got %v", line)
		}
	}

	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.rdb")
	for name, tt := range map[string]struct {
		bytes []byte
		want  string
	}{
		"cut off":   {whole[:len(whole)-20], "unexpected EOF"},
		"wrong CRC": {append(append([]byte{}, whole[:len(whole)-1]...), whole[len(whole)-1]^1), "CRC64 does not agree"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(bad, tt.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			p.run(t, "inspect", bad).expect(t, exitFailed, "damaged or cut off", tt.want, "not whole", "redis-ver")
			p.run(t, "inspect", "--json", bad).expect(t, exitFailed, `"complete":false`)
		})
	}
}
