package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"redferry/internal/redistest"
)

// smallDisk makes a file system of 64 MB that is mounted nowhere: its files are found through this process's descriptor of it, and the kernel frees it
// with that, however the process ends.
func smallDisk(t redistest.TB) (dir string, err error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "size", "64m"); err != nil {
		return "", err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", err
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = unix.Close(mount) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), mount), nil
}

// fillDisk leaves no room at all.
func (w *world) fillDisk() {
	if w.disk == "" {
		return
	}
	w.cramped = time.Now().Add(time.Hour)
	f, err := os.Create(filepath.Join(w.disk, "balloon"))
	if err != nil {
		w.t.Fatalf("fill the disk: %v", err)
	}
	defer f.Close()
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		if _, err := f.Write(piece); err != nil { // what fits of it is there
			piece = piece[:len(piece)/2]
		}
	}
}

// freeDisk takes it back.
func (w *world) freeDisk() {
	if w.disk == "" {
		return
	}
	if err := os.Remove(filepath.Join(w.disk, "balloon")); err != nil {
		w.t.Fatalf("free the disk: %v", err)
	}
	w.cramped = time.Now().Add(15 * time.Second) // one that found no room may take as long to end
}
