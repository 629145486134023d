package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

const (
	idA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	idB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	idC = "cccccccccccccccccccccccccccccccccccccccc"
)

// at is some time of the source's.
var at = time.UnixMilli(1_700_000_000_000)

// text is n bytes that differ from place to place.
func text(from, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		x := uint64(from) + uint64(i)
		b[i] = byte(x*0x9e3779b97f4a7c15>>56) ^ byte(x)
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// opened opens a spool for the length of the test.
func opened(t *testing.T, c Config) *Spool {
	t.Helper()
	s, err := Open(c)
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func appended(t *testing.T, s *Spool, b []byte) {
	t.Helper()
	must(t, s.Append(t.Context(), b, at))
}

// readSome reads n bytes that a reader has to have.
func readSome(t *testing.T, r *Reader, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	must(t, err)
	return b
}

func streamBytes(t *testing.T, s *Spool, from, to int64) []byte {
	t.Helper()
	r, err := s.ReadStream(from)
	must(t, err)
	defer r.Close()
	return readSome(t, r, to-from)
}

func TestSnapshotThenStream(t *testing.T) {
	for name, dir := range map[string]string{"folder": t.TempDir(), "memory": ""} {
		t.Run(name, func(t *testing.T) {
			s := opened(t, Config{Dir: dir, Max: 1 << 20, Segment: 1000})
			must(t, s.BeginSnapshot(idA, 500, -1))
			if got, want := s.Contents(), (Contents{Snapshot: true, ID: idA, At: 500, Size: -1}); got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			rdb, stream := text(0, 3456), text(500, 2345)
			r, err := s.ReadSnapshot(0)
			must(t, err)
			defer r.Close()
			appended(t, s, rdb[:1500])
			if got := readSome(t, r, 1500); !bytes.Equal(got, rdb[:1500]) {
				t.Fatal("the RDB differs")
			}
			appended(t, s, rdb[1500:])
			must(t, s.EndSnapshot())
			appended(t, s, stream)
			must(t, s.Continue(idB))
			got, err := io.ReadAll(r)
			must(t, err)
			if !bytes.Equal(got, rdb[1500:]) {
				t.Fatal("the rest of the RDB differs")
			}
			size, err := s.Whole(t.Context())
			if err != nil || size != 3456 {
				t.Fatalf("whole: %d, %v", size, err)
			}
			s.PassSnapshot(3456)
			if got, want := s.Contents(), (Contents{EndID: idB, First: 500, End: 2845}); got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			if n, err := r.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("behind the end: %d, %v", n, err)
			}
			if !bytes.Equal(streamBytes(t, s, 500, 2845), stream) {
				t.Fatal("the stream differs")
			}
		})
	}
}

func TestReopen(t *testing.T) {
	c := Config{Dir: t.TempDir(), Segment: 1000}
	s := opened(t, c)
	must(t, s.BeginSnapshot(idA, 500, 3000))
	appended(t, s, text(0, 3000))
	must(t, s.EndSnapshot())
	appended(t, s, text(500, 1700))
	must(t, s.Continue(idB))
	appended(t, s, text(2200, 100))
	before := s.Contents()
	must(t, s.Close())

	s = opened(t, c)
	t.Log(s.Found())
	if got := s.Contents(); got != before {
		t.Fatalf("got %+v, want %+v", got, before)
	}
	if !bytes.Equal(streamBytes(t, s, 500, 2300), text(500, 1800)) {
		t.Fatal("the stream differs")
	}
	if earliest, latest, ok := s.TimeAt(2300); !ok || at.Before(earliest) || at.After(latest) {
		t.Fatal("the time is not known")
	}
	for _, h := range []struct {
		id     string
		offset int64
		want   bool
	}{
		{idA, 499, false},
		{idA, 500, true},
		{idA, 2200, true},
		{idA, 2201, false},
		{idB, 500, true},
		{idB, 2300, true},
		{idB, 2301, false},
		{idC, 600, false},
	} {
		if got := s.Holds(h.id, h.offset); got != h.want {
			t.Errorf("Holds(%.1s, %d) = %v", h.id, h.offset, got)
		}
	}
	must(t, s.CutBack(2100))
	must(t, s.Continue(idC))
	appended(t, s, text(99, 50))
	if got := streamBytes(t, s, 2100, 2150); !bytes.Equal(got, text(99, 50)) {
		t.Fatal("the stream differs")
	}
	if got := s.IDAt(2099) + s.IDAt(2100); got != idA+idC {
		t.Fatal(got)
	}
}

func TestTailIsFollowed(t *testing.T) {
	s := opened(t, Config{Segment: 100, Max: 1000})
	must(t, s.BeginStream(idA, 0))
	r, err := s.ReadStream(0)
	must(t, err)
	defer r.Close()
	done := make(chan error)
	go func() {
		got := make([]byte, 10_000)
		_, err := io.ReadFull(r, got)
		if err == nil && !bytes.Equal(got, text(0, 10_000)) {
			err = errors.New("the stream differs")
		}
		if err == nil {
			_, err = r.Read(got)
		}
		done <- err
	}()
	for n := int64(0); n < 10_000; n += 50 {
		appended(t, s, text(n, 50))
	}
	must(t, s.Await(context.Background(), 9_999, idA))
	r.Interrupt()
	if err := <-done; !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
}
