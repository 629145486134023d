// Package events keeps what happened to a migration: each change of state with its time and reason, a line of JSON each, in a file that outlives the process.
//
// It starts no goroutine. Invariants: a line is written by one write(2), so that a kill tears the last one at most, which reading passes over; the file and
// the one before it, <path>.1, hold a megabyte each at most.
package events

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Event is a change of state.
type Event struct {
	Time  time.Time `json:"time"`
	State string    `json:"state"`
	Why   string    `json:"why"`
}

const (
	maxFile = 1 << 20  // bytes, after which another file is begun
	maxLine = 16 << 10 // bytes of a line; longer reasons are cut
)

// Log appends events to a file. One goroutine uses it.
type Log struct {
	path string
	file *os.File
	size int64
	torn bool // the last line is not whole: the disk was full, say
}

// Open opens the file, and makes it where it is missing. What a torn last line left is ended.
func Open(path string) (*Log, error) {
	l := &Log{path: path}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the events: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte("\n"))
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open the events: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()+1 // a byte more or less does not matter
	return nil
}

// Append writes an event.
func (l *Log) Append(e Event) error {
	if l.size > maxFile {
		if err := l.turn(); err != nil {
			return err
		}
	}
	e.Time = e.Time.UTC()
	if len(e.Why) > maxLine/8 { // JSON makes six bytes of one at most
		e.Why = e.Why[:maxLine/8] + "…"
	}
	var line bytes.Buffer
	if l.torn {
		line.WriteByte('\n')
	}
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return fmt.Errorf("write an event: %w", err)
	}
	n, err := l.file.Write(line.Bytes())
	l.size += int64(n)
	l.torn = err != nil
	if err != nil {
		return fmt.Errorf("write an event: %w", err)
	}
	return nil
}

// turn begins another file. When that fails the present one is gone on with.
func (l *Log) turn() error {
	if err := os.Rename(l.path, older(l.path)); err != nil {
		return fmt.Errorf("begin another file of events: %w", err)
	}
	old := l.file
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

func older(path string) string { return path + ".1" }

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }

// Read gives the last events of a file, oldest first; at most count of them. Lines that are no event are passed over. Where there is no file, there are no events.
// It may be called while another process appends.
func Read(path string, count int) ([]Event, error) {
	var last []Event
	for _, p := range []string{older(path), path} {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the events: %w", err)
		}
		last, err = tail(f, last, count)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read the events: %w", err)
		}
	}
	return last[max(0, len(last)-count):], nil
}

// tail appends the events of a file; of more than count it keeps the last ones, and some before them.
func tail(f io.Reader, last []Event, count int) ([]Event, error) {
	r := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) { // nothing that we have written
			continue
		}
		if err != nil && err != io.EOF {
			return last, err
		}
		if e, ok := parse(line); ok {
			if last = append(last, e); len(last) >= 2*count+64 {
				last = append(last[:0], last[len(last)-count:]...)
			}
		}
		if err == io.EOF {
			return last, nil
		}
	}
}

func parse(line []byte) (e Event, ok bool) {
	return e, json.Unmarshal(line, &e) == nil && e.State != ""
}
