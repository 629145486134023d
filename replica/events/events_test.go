package events

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func event(n int, why string) Event {
	return Event{Time: time.Unix(int64(1000+n), 0).UTC(), State: fmt.Sprint("state", n), Why: why}
}

func add(t *testing.T, path string, list ...Event) {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, count int) []Event {
	t.Helper()
	got, err := Read(path, count)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	if got := read(t, path, 10); len(got) != 0 {
		t.Errorf("of no file: got %v", got)
	}
	want := []Event{event(1, "a <b> & \"c\"\n"), event(2, "\xff"), event(3, "")}
	add(t, path, want[0])
	add(t, path, want[1:]...)
	want[1].Why = "\ufffd"
	if diff := cmp.Diff(want, read(t, path, 10)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[1:], read(t, path, 2)); diff != "" {
		t.Errorf("the last two (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A kill at any byte costs the line that was being written, and no other.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	add(t, path, event(1, "first"), event(2, "second"))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.Index(string(whole), "\n") + 1
	for cut := first; cut < len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := []Event{event(1, "first")}
		if cut == len(whole)-1 { // all but the newline
			want = append(want, event(2, "second"))
		}
		if diff := cmp.Diff(want, read(t, path, 9)); diff != "" {
			t.Fatalf("cut at %d (-want +got):\n%s", cut, diff)
		}
		add(t, path, event(3, "third"))
		if diff := cmp.Diff(append(want, event(3, "third")), read(t, path, 9)); diff != "" {
			t.Fatalf("cut at %d, and gone on with (-want +got):\n%s", cut, diff)
		}
	}
}

func TestBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.jsonl")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	long := strings.Repeat("\x01", 3*maxLine) // the most that JSON makes of bytes
	const n = 600
	for i := range n {
		if err := l.Append(event(i, long)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Size() > maxFile+maxLine {
			t.Errorf("%s has %d bytes, %v", f.Name(), info.Size(), err)
		}
	}
	if len(files) != 2 {
		t.Errorf("%d files", len(files))
	}
	got := read(t, path, 70)
	if len(got) != 70 || got[69].State != fmt.Sprint("state", n-1) || got[0].State != fmt.Sprint("state", n-70) {
		t.Errorf("got %d events, from %s to %s", len(got), got[0].State, got[len(got)-1].State)
	}
	if !strings.HasSuffix(got[0].Why, "…") {
		t.Errorf("a reason that was cut does not say so: %q", got[0].Why[len(got[0].Why)-10:])
	}
}

func FuzzRead(f *testing.F) {
	f.Add("{\"time\":\"2026-01-02T03:04:05Z\",\"state\":\"in_sync\",\"why\":\"x\"}\n{\"sta")
	f.Add(strings.Repeat("x", 3*maxLine) + "\n{}\n[]\nnull\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "events.jsonl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := read(t, path, 3)
		add(t, path, event(1, "x"))
		after := read(t, path, 3)
		if len(before) > 3 || len(after) == 0 || after[len(after)-1] != event(1, "x") {
			t.Errorf("%v, then %v", before, after)
		}
	})
}
