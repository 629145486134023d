package main

import (
	"bytes"
	"io"
	"strings"
	"sync/atomic"
)

// page is where a program says something: its lines are indented, so that they stand apart from what is told of them. Of lines that differ only in their numbers, as
// those of a progress do, it shows the first.
type page struct {
	w      io.Writer
	closed atomic.Bool // what comes is not shown
	rest   []byte      // of a line that is not complete
	last   string
}

// Write takes lines, also in pieces.
func (p *page) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		end := bytes.IndexByte(p.rest, '\n') + 1
		if end == 0 {
			return len(b), nil
		}
		line := string(p.rest[:end])
		p.rest = p.rest[end:]
		same := numberless(line) == p.last
		p.last = numberless(line)
		if same && strings.Contains(line, "%") || p.closed.Load() {
			continue
		}
		if line != "\n" {
			line = "     " + line
		}
		if _, err := io.WriteString(p.w, line); err != nil {
			return 0, err
		}
	}
}

// close has what comes not be shown any more.
func (p *page) close() { p.closed.Store(true) }

func numberless(line string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, line)
}

// remarks are the lines of a check without those of what is ok.
func remarks(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "ok ") {
			b.WriteString(line)
		}
	}
	return b.String()
}
