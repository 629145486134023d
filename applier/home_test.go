package applier

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/redcon"

	"redferry/internal/redistest"
	"redferry/replica"
)

func openHome(t testing.TB, root, name string) *Home {
	t.Helper()
	h, err := OpenHome(root, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// wantStopOf fails the test unless err is a Stop of this kind that says all this.
func wantStopOf(t *testing.T, err error, kind replica.Kind, texts ...string) {
	t.Helper()
	stop := replica.AsStop(err)
	if stop == nil || stop.Kind != kind {
		t.Fatalf("got %v, want a Stop of kind %d", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(stop.Error()+" "+stop.Hint, text) {
			t.Errorf("got %q (hint %q), want %q in it", stop.Error(), stop.Hint, text)
		}
	}
}

// A home is one process's: the second one hears who has it.
func TestHomeLock(t *testing.T) {
	root := t.TempDir()
	first := openHome(t, root, "m")
	_, err := OpenHome(root, "m")
	wantStopOf(t, err, replica.Fenced, `"m"`, fmt.Sprintf("pid %d on ", os.Getpid()), filepath.Join(root, "m", "lock"), "stop that process")

	openHome(t, root, "other") // another migration is nobody else's business
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	openHome(t, root, "m")
}

// The kernel gives the lock of a killed process back.
func TestHomeLockOfTheDead(t *testing.T) {
	if root := os.Getenv("REDFERRY_TEST_HOME"); root != "" { // the child: takes the home, and lives until it is killed
		h := openHome(t, root, "m")
		fmt.Println("locked")
		<-t.Context().Done()
		t.Log(h.Owner())
	}
	root := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestHomeLockOfTheDead$", "-test.timeout=5m")
	child.Env = append(os.Environ(), "REDFERRY_TEST_HOME="+root)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := redistest.StartProcess(t, child)
	said := make([]byte, len("locked\n"))
	if n, err := io.ReadFull(out, said); string(said) != "locked\n" {
		t.Fatalf("the child said %q, %v", said[:n], err)
	}
	_, err = OpenHome(root, "m")
	wantStopOf(t, err, replica.Fenced, fmt.Sprintf("pid %d on ", p.Pid()))
	p.Kill()
	openHome(t, root, "m")
}

// The place is the same for every process that takes the same lock, and another one for whatever is not that lock: whoever has a place may
// replace its former owner at once.
func TestHomePlace(t *testing.T) {
	root := t.TempDir()
	first := openHome(t, root, "m")
	place, owner := first.Place(), first.Owner()
	if !strings.HasPrefix(owner, fmt.Sprintf("pid %d on ", os.Getpid())) {
		t.Errorf("the owner is %q", owner)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got := openHome(t, root, "m").Place(); got != place {
		t.Errorf("opened again, it is %q, want %q", got, place)
	}

	elsewhere := t.TempDir()
	if err := os.CopyFS(filepath.Join(elsewhere, "m"), os.DirFS(filepath.Join(root, "m"))); err != nil {
		t.Fatal(err)
	}
	if got := openHome(t, elsewhere, "m").Place(); got == place {
		t.Errorf("a copy of the directory is the same place, %q", got)
	}

	// A copy that was moved to the same path, as a restored backup is, has a lock file of its own.
	moved := t.TempDir()
	if err := os.Rename(filepath.Join(root, "m"), filepath.Join(moved, "m")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(root, "m"), os.DirFS(filepath.Join(moved, "m"))); err != nil {
		t.Fatal(err)
	}
	if got := openHome(t, root, "m").Place(); got == place {
		t.Errorf("a copy at the same path is the same place, %q", got)
	}
}

// Two containers may have the same host name and path, and by chance the same inode: each lock file is a place of its own.
func TestHomePlaceIsTheLockFilesOwn(t *testing.T) {
	root := t.TempDir()
	first := openHome(t, root, "m")
	place := first.Place()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(root, "m", "lock"), 0); err != nil { // as another container's is before its first process
		t.Fatal(err)
	}
	other := openHome(t, root, "m")
	if other.Place() == place {
		t.Errorf("a lock file of somebody else is the same place, %q", place)
	}
	place = other.Place()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if got := openHome(t, root, "m").Place(); got != place {
		t.Errorf("opened again, it is %q, want %q", got, place)
	}
}

func TestHomeIsPrivate(t *testing.T) {
	root := t.TempDir()
	h := openHome(t, root, "m")
	if err := h.Know("a", "b"); err != nil {
		t.Fatal(err)
	}
	if err := h.Reject(0, words("SET k secret"), "why"); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(h.Dir())
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v; want 3", len(files), err)
	}
	for _, path := range []string{".", "lock", "migration", "rejected.resp"} {
		info, err := os.Stat(filepath.Join(h.Dir(), path))
		if err != nil {
			t.Fatal(err)
		}
		if others := info.Mode().Perm() & 0o077; others != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
	}
}

func TestHomeNote(t *testing.T) {
	root := t.TempDir()
	h := openHome(t, root, "m")
	if got := h.Known(); got != "" {
		t.Errorf("a new home knows %q", got)
	}
	if err := h.Forget(); err != nil {
		t.Errorf("forget what was never known: %v", err)
	}
	if err := h.Know("src:1", "dst:2"); err != nil {
		t.Fatal(err)
	}
	noted := h.Known()
	if !strings.HasPrefix(noted, "src:1 to dst:2, begun ") || strings.Contains(noted, "\n") {
		t.Errorf("the note says %q", noted)
	}
	if err := h.Know("src:3", "dst:4"); err != nil || h.Known() != noted {
		t.Errorf("noted twice, it says %q, %v; want the first one", h.Known(), err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h = openHome(t, root, "m")
	if h.Known() != noted {
		t.Errorf("the next process knows %q, want %q", h.Known(), noted)
	}
	if err := h.Forget(); err != nil || h.Known() != "" {
		t.Errorf("forgotten, it says %q, %v", h.Known(), err)
	}

	// A note that cannot be read is a note: it must not pass for a first start.
	if err := os.Mkdir(filepath.Join(h.Dir(), "migration"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := h.Known(); !strings.Contains(got, "cannot be read") {
		t.Errorf("of a note that cannot be read it says %q", got)
	}
}

// The file of refused writes is RESP, whatever is in the arguments, and a later process appends to it.
func TestHomeReject(t *testing.T) {
	root := t.TempDir()
	writes := []struct {
		db   int
		args [][]byte
		why  string
	}{
		{0, words("SET k v"), "offset 5: ERR no"},
		{15, [][]byte{[]byte("SET"), {}, []byte("\r\n*1\r\n$-1\x00\xff")}, "offset 6: WRONGTYPE line\r\nand \"quotes\""},
		{0, [][]byte{[]byte("RESTORE"), bytes.Repeat([]byte("x"), 1<<20)}, "snapshot byte 7"},
	}
	var want []string
	for i, w := range writes {
		h := openHome(t, root, "m")
		if err := h.Reject(w.db, w.args, w.why); err != nil {
			t.Fatal(err)
		}
		path := h.RejectedPath()
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("[SELECT %d]", w.db), "[ECHO redferry: refused at "+w.why+"]", fmt.Sprintf("%s", w.args))
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(text) > 0 {
			complete, args, kind, rest, err := redcon.ReadNextCommand(text, nil)
			if err != nil || !complete || kind != redcon.Redis {
				t.Fatalf("write %d: complete %v, kind %v, %v, at %.40q", i, complete, kind, err, text)
			}
			got = append(got, fmt.Sprintf("%s", args))
			text = rest
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("write %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestOpenHomeWhereItCannotBe(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHome(file, "m"); err == nil || replica.AsStop(err) != nil || !strings.Contains(err.Error(), "make the state directory") {
		t.Errorf("below a file: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "m", "lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHome(root, "m"); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("a directory for a lock: %v", err)
	}
}
