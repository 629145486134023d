package applier

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/tidwall/redcon"

	"redferry/replica"
)

// Home is a migration's directory on this machine: its lock, a note that the migration exists, and the writes that its target refused. It
// is never the truth about how far the migration is; that is in the target.
type Home struct {
	dir   string
	lock  *flock.Flock
	owner string
	place string

	mu       sync.Mutex
	rejected *os.File
}

// OpenHome makes the directory <root>/<name> where it is missing, and locks it for this process. The error is a Stop of kind Fenced when
// another process has it.
func OpenHome(root, name string) (*Home, error) {
	dir, err := filepath.Abs(filepath.Join(root, name))
	if err != nil {
		return nil, fmt.Errorf("find the state directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !ok {
		text, _ := os.ReadFile(path) // for the message only
		_, holder, _ := strings.Cut(string(text), "\n")
		return nil, &replica.Stop{
			Kind:   replica.Fenced,
			Reason: fmt.Sprintf("migration %q runs already on this machine: %s holds %s", name, strings.TrimSpace(holder), path),
			Hint:   "stop that process first",
		}
	}
	h := &Home{dir: dir, lock: lock}
	if err := h.identify(path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return h, nil
}

// PeekHome is the directory <root>/<name> for reading alone: it is neither made nor locked, and may not exist. It need not be closed.
func PeekHome(root, name string) (*Home, error) {
	dir, err := filepath.Abs(filepath.Join(root, name))
	if err != nil {
		return nil, fmt.Errorf("find the state directory: %w", err)
	}
	return &Home{dir: dir}, nil
}

// identify says who this process is: for people, and, as the place, for another process that wants to know whether this one can still live.
// Whoever holds the lock of a place knows that the one who held it before is dead.
func (h *Home) identify(lockPath string) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find out this machine's name: %w", err)
	}
	token, err := h.token(lockPath)
	if err != nil {
		return err
	}
	info, err := os.Stat(lockPath)
	if err != nil {
		return fmt.Errorf("look at the lock: %w", err)
	}
	machine, _ := os.ReadFile("/etc/machine-id") // not there on every system
	h.place = fmt.Sprintf("%s/%s%s#%s", host, strings.TrimSpace(string(machine)), lockPath, token)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		h.place += fmt.Sprintf("#%d", st.Ino) // a copy has the same token; the device's number may change at each mount
	}
	h.owner = fmt.Sprintf("pid %d on %s, since %s", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	// The token stays where it is: a process that is killed right here must not take the place from the next one.
	if err := writeAt(lockPath, tokenSize+1, h.owner+"\n"); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	return nil
}

// tokenSize is the length of a lock file's first line, without its end.
const tokenSize = 26

// token is the first line of the lock file, which is made at random when there is none. It tells this lock from the one of another container that has the
// same path, host name and inode.
func (h *Home) token(lockPath string) (string, error) {
	text, err := os.ReadFile(lockPath)
	if err != nil {
		return "", fmt.Errorf("read the lock: %w", err)
	}
	if token, _, ok := strings.Cut(string(text), "\n"); ok && len(token) == tokenSize && !strings.Contains(token, " ") {
		return token, nil
	}
	token := rand.Text()
	if err := writeAt(lockPath, 0, token+"\n"); err != nil {
		return "", fmt.Errorf("write the lock: %w", err)
	}
	return token, nil
}

// writeAt ends a file with text from a place on, durably.
func writeAt(path string, at int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), at)
	return errors.Join(err, f.Truncate(at+int64(len(text))), f.Sync(), f.Close())
}

// Close gives the lock back.
func (h *Home) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	if h.rejected != nil {
		err = h.rejected.Close()
	}
	return errors.Join(err, h.lock.Close())
}

// Dir is the directory.
func (h *Home) Dir() string { return h.dir }

// Owner says which process this is, for people.
func (h *Home) Owner() string { return h.owner }

// Place says which lock file this process holds.
func (h *Home) Place() string { return h.place }

func (h *Home) notePath() string { return filepath.Join(h.dir, "migration") }

// Known is what was noted when the migration began, or empty when nothing was.
func (h *Home) Known() string {
	text, err := os.ReadFile(h.notePath())
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return "a note that cannot be read: " + err.Error() // there is one, which is all that counts
	}
	return strings.TrimSpace(string(text))
}

// Leads tells whether the migration that was noted goes into this target; true where nothing was noted.
func (h *Home) Leads(target string) bool {
	known := h.Known()
	return known == "" || strings.Contains(known, " to "+target+", begun ")
}

// Know notes, once, that the migration's checkpoint is in the target.
func (h *Home) Know(source, target string) error {
	if h.Known() != "" {
		return nil
	}
	text := fmt.Sprintf("%s to %s, begun %s\n", source, target, time.Now().UTC().Format(time.RFC3339))
	if err := os.WriteFile(h.notePath(), []byte(text), 0o600); err != nil {
		return &replica.Stop{
			Kind: replica.Failed, Reason: "cannot note the migration in the state directory", Err: err,
			Hint: "make room, or give another --dir",
		}
	}
	return nil
}

// Forget removes the note, and keeps the refused writes.
func (h *Home) Forget() error {
	if err := os.Remove(h.notePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the migration: %w", err)
	}
	return nil
}

// RejectedPath is the file of the writes that the target refused.
func (h *Home) RejectedPath() string { return filepath.Join(h.dir, "rejected.resp") }

// Reject appends a refused command to the file of refused writes and has it on the disk when it returns. The file is RESP, as redis-cli
// --pipe takes it: SELECT of the database, an ECHO of the reason, the command.
func (h *Home) Reject(db int, args [][]byte, why string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rejected == nil {
		f, err := os.OpenFile(h.RejectedPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("open the file of refused writes: %w", err)
		}
		h.rejected = f
	}
	b := appendCommand(nil, []byte("SELECT"), fmt.Append(nil, db))
	b = appendCommand(b, []byte("ECHO"), []byte("redferry: refused at "+why))
	b = appendCommand(b, args...)
	if _, err := h.rejected.Write(b); err != nil {
		return fmt.Errorf("write %s: %w", h.RejectedPath(), err)
	}
	if err := h.rejected.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", h.RejectedPath(), err)
	}
	return nil
}

func appendCommand(b []byte, args ...[]byte) []byte {
	b = redcon.AppendArray(b, len(args))
	for _, arg := range args {
		b = redcon.AppendBulk(b, arg)
	}
	return b
}
