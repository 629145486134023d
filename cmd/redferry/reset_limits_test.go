package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// A run that is killed while it has the source's buffer limit lifted leaves it lifted: reset puts it back, or says what is left and keeps the note of it.
func TestResetPutsLimitsBack(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	const setting = "client-output-buffer-limit"
	source := redistest.Start(t, b, redistest.Config(setting+" replica 64mb 32mb 60", "rdb-key-save-delay 20000"))
	target := redistest.Start(t, b)
	for i := range 500 { // the RDB takes ten seconds
		source.Do(t, "SET", "key"+string(rune('a'+i%26))+strings.Repeat("x", i), "v")
	}
	limit := func() string { return source.DoStrings(t, "CONFIG", "GET", setting)[1] }
	p := newProgram(t)
	run := p.start(t, with(ends(source, target), "--raise-source-limits")...)
	for end := time.Now().Add(patient); !strings.Contains(limit(), "slave 0 0 0"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the limit is never lifted")
		}
	}
	run.Kill()
	run.wait(t)

	note := filepath.Join(p.home, "redferry", "default", "source-limits")
	left := []string{"the source " + source.Addr() + " has no " + setting + " for replicas since ", "CONFIG SET " + setting, "67108864 33554432 60"}
	p.run(t, "reset", "--target", target.URL()).expect(t, exitUsage, append(left, "--source URL")...)
	p.run(t, "reset", "--local-only").expect(t, exitUsage, append(left, "--source URL")...)
	p.run(t, "reset", "--target", target.URL(), "--source", "redis://127.0.0.1:1").expect(t, exitFailed, append(left, "once the source is there")...)
	if _, err := os.Stat(note); err != nil || !strings.Contains(limit(), "slave 0 0 0") {
		t.Fatalf("the note: %v; the limit: %s", err, limit())
	}
	p.run(t, "reset", "--target", target.URL(), "--source", source.URL()).expect(t, exitDone, "source "+source.Addr()+": its "+setting, "67108864 33554432 60 again")
	if got := limit(); !strings.Contains(got, "slave 67108864 33554432 60") {
		t.Errorf("the limit is %s", got)
	}
	if _, err := os.Stat(note); err == nil {
		t.Error("the note is still there")
	}
}
