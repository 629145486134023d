package replica

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"redferry/internal/redistest"
)

// A source is left with the settings that it had, but for those that somebody has changed by hand since; and one that takes writes again by such a change is not taken for one that refuses them.
func TestRefuseAndReopen(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, b)
			source, err := ParseEndpoint(server.URL(), TLSFiles{})
			if err != nil {
				t.Fatal(err)
			}
			set := func(settings string) {
				if server.Build.Name != "redis-6.0" && settings != "" { // what is done by hand ends the pause, too
					server.Do(t, "CLIENT", "UNPAUSE")
				}
				for pair := range strings.SplitSeq(settings, ", ") {
					if name, value, ok := strings.Cut(pair, " "); ok {
						server.Do(t, "CONFIG", "SET", "min-replicas-"+name, value)
					}
				}
			}
			refuses := func() bool {
				err := server.TryDo("SET", "x", "y")
				return err != nil && strings.Contains(err.Error(), "NOREPLICAS")
			}
			for _, test := range []struct {
				name, before, byHand string
				refuses              bool   // after the change by hand
				after                string // to-write and max-lag, once it is undone
			}{
				{"nothing", "to-write 0, max-lag 10", "", true, "0 10"},
				{"nothing, and lags do not count", "to-write 0, max-lag 0", "", true, "0 0"},
				{"the number", "to-write 1, max-lag 10", "to-write 0", false, "0 10"},
				{"the number, and lags do not count", "to-write 1, max-lag 0", "to-write 0", false, "0 0"},
				{"the lag", "to-write 0, max-lag 10", "max-lag 5", true, "0 5"},
				{"the lag, where lags do not count", "to-write 0, max-lag 0", "max-lag 5", true, "0 5"},
				{"lags do not count any more", "to-write 0, max-lag 7", "max-lag 0", false, "0 0"},
				{"both", "to-write 1, max-lag 0", "to-write 0, max-lag 3", false, "0 3"},
			} {
				for _, again := range []bool{false, true} { // a later process finds that, and has it refuse once more
					set(test.before)
					path := filepath.Join(t.TempDir(), "cutover")
					w, err := dialWrites(t.Context(), source, notes{path: path})
					if err != nil {
						t.Fatal(err)
					}
					defer w.close()
					if err := w.refuse(t.Context(), t.Context(), false); err != nil || !refuses() {
						t.Fatalf("%s: it takes writes: %v", test.name, err)
					}
					set(test.byHand)
					got, err := w.refuses(t.Context())
					if err != nil || got != test.refuses || got != refuses() {
						t.Errorf("%s: refuses %v, %v; want %v", test.name, got, err, test.refuses)
					}
					if again {
						if err := w.refuse(t.Context(), t.Context(), false); err != nil || !refuses() {
							t.Errorf("%s: it takes writes: %v", test.name, err)
						}
					}
					if done, err := UndoCutover(t.Context(), source, path, nil); err != nil || !done {
						t.Errorf("%s: undo: %v, %v", test.name, done, err)
					}
					after := server.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1] + " " + server.DoStrings(t, "CONFIG", "GET", "min-replicas-max-lag")[1]
					if after != test.after {
						t.Errorf("%s: the settings are %s, want %s (again %v)", test.name, after, test.after, again)
					}
				}
			}
		})
	}
}

// startWrites starts a source and dials its writes; the note of a cutover is to be in path.
func startWrites(t *testing.T) (source Endpoint, w *sourceWrites, path string) {
	t.Helper()
	source, err := ParseEndpoint(redistest.Start(t, redistest.Latest(t)).URL(), TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "cutover")
	if w, err = dialWrites(t.Context(), source, notes{path: path}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return source, w, path
}

// What an earlier cutover has changed stays known when a later one leaves its source alone.
func TestLeaveKeepsAnEarlierNote(t *testing.T) {
	t.Parallel()
	_, w, path := startWrites(t)
	earlier := &cutoverNote{Addr: "elsewhere:6379", RunID: "other", Refuses: true, MinReplicas: "2", MaxLag: "7", Done: true}
	if err := earlier.write(path); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the first's
		if err := w.leave(); err != nil {
			t.Fatal(err)
		}
	}
	note, err := readCutoverNote(path)
	if err != nil || note == nil || note.Refuses || !note.of(w) {
		t.Errorf("the note: %+v, %v", note, err)
	}
	if kept, err := readCutoverNote(path + ".elsewhere_6379"); err != nil || kept == nil || *kept != *earlier {
		t.Errorf("the earlier note: %+v, %v", kept, err)
	}
}

// A source that refuses writes since an earlier cutover is not taken for one that can be left open.
func TestNoCutoverToASourceLeftOpenThatRefuses(t *testing.T) {
	t.Parallel()
	source, w, path := startWrites(t)
	if err := errors.Join(w.refuse(t.Context(), t.Context(), false), markDone(path)); err != nil {
		t.Fatal(err)
	}
	for _, stopped := range []bool{false, true} {
		err := w.admit(t.Context(), &Cutover{After: SourceOpen, WritesStopped: stopped})
		if stop := AsStop(err); stop == nil || stop.Kind != Decide || !strings.Contains(stop.Hint, "--undo") {
			t.Errorf("it refuses: %v", err)
		}
		if err := w.admit(t.Context(), &Cutover{After: SourceRefuses, WritesStopped: stopped}); err != nil {
			t.Errorf("it is to refuse: %v", err)
		}
	}
	if done, err := UndoCutover(t.Context(), source, path, nil); err != nil || !done {
		t.Fatalf("undo: %v, %v", done, err)
	}
	if err := w.admit(t.Context(), &Cutover{After: SourceOpen}); err != nil {
		t.Errorf("it is open: %v", err)
	}
}

// Finishing a cutover late pauses no server that refuses nothing: it was opened by hand, or it is another one.
func TestReleaseOfASourceThatWasOpened(t *testing.T) {
	t.Parallel()
	_, w, path := startWrites(t)
	if err := w.refuse(t.Context(), t.Context(), false); err != nil {
		t.Fatal(err)
	}
	set := func(w *sourceWrites) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return w.src.client.Do(ctx, w.src.client.B().Set().Key("x").Value("y").Build()).Error()
	}
	steps := []rueidis.Completed{w.setOne(minReplicas, "0"), w.src.client.B().ClientUnpause().Build()}
	if err := w.atOnce(t.Context(), steps); err != nil { // as an operator does it
		t.Fatal(err)
	}
	w.release(t.Context())
	if err := set(w); err != nil {
		t.Errorf("the source that was opened: %v", err)
	}
	_, other, _ := startWrites(t)
	other.notes.path = path
	other.release(t.Context())
	if err := set(other); err != nil {
		t.Errorf("another server: %v", err)
	}
}
