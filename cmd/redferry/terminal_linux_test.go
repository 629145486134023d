package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redferry/internal/redistest"
)

// openTerminal makes a pseudo terminal of this width and returns its two ends.
func openTerminal(t *testing.T, width uint16) (control, terminal *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	fd := int(control.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR, 0)
	}
	if err != nil {
		t.Fatalf("open a pseudo terminal: %v", err)
	}
	t.Cleanup(func() { _, _ = control.Close(), terminal.Close() })
	return control, terminal
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

// On a terminal a run shows its progress in one line, takes it away at the end, and sums up. However narrow it is, and if that changes.
func TestTerminal(t *testing.T) {
	t.Parallel()
	for name, width := range map[string]uint16{"wide": 120, "narrow": 20, "of one column": 1, "of none": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, target := pair(t)
			control, terminal := openTerminal(t, width)
			cmd := newProgram(t).command("run", "--source", source.URL(), "--target", target.URL())
			cmd.Stderr, cmd.Stdin = terminal, terminal
			p := redistest.StartProcess(t, cmd)
			var out locked
			read := make(chan struct{})
			go func() {
				defer close(read)
				buf := make([]byte, 4096)
				for {
					n, err := control.Read(buf)
					_, _ = out.Write(buf[:n])
					if err != nil {
						return
					}
				}
			}()
			text := func() string { return escapes.ReplaceAllString(strings.ReplaceAll(out.String(), "\r", ""), "") }
			for end := time.Now().Add(patient); !strings.Contains(text(), "in_sync: ") && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			if width >= 20 {
				wait(t, "it shows the progress", func() bool { return strings.Contains(text(), "in_sync  offset") })
			}
			time.Sleep(500 * time.Millisecond) // some frames
			if err := unix.IoctlSetWinsize(int(control.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 5, Col: 33}); err != nil {
				t.Errorf("resize: %v", err)
			}
			time.Sleep(500 * time.Millisecond)
			p.Signal(os.Interrupt)
			code, err := p.ExitCode(patient)
			if err != nil || code != exitDone {
				t.Errorf("exit code %d, %v", code, err)
			}
			_ = terminal.Close() // the last one: the read ends
			<-read
			got := text()
			lines := strings.Split(strings.TrimSpace(got), "\n")
			if last := lines[len(lines)-1]; !strings.Contains(last, " gives it the source's TTLs. In ") {
				t.Errorf("the last line is not the summary: %q", last)
			}
		})
	}
}
