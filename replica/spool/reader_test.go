package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadersEnd(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(t *testing.T, s *Spool, r *Reader)
		want error
	}{
		"interrupted":    {func(_ *testing.T, _ *Spool, r *Reader) { r.Interrupt() }, ErrInterrupted},
		"dropped":        {func(t *testing.T, s *Spool, _ *Reader) { must(t, s.Drop()) }, ErrDropped},
		"begun anew":     {func(t *testing.T, s *Spool, _ *Reader) { must(t, s.BeginStream(idB, 0)) }, ErrDropped},
		"cut back":       {func(t *testing.T, s *Spool, _ *Reader) { must(t, s.CutBack(99)) }, ErrDropped},
		"closed":         {func(t *testing.T, s *Spool, _ *Reader) { must(t, s.Close()) }, ErrClosed},
		"cut, continued": {func(t *testing.T, s *Spool, _ *Reader) { must(t, s.CutBack(90)); appended(t, s, text(0, 50)) }, ErrDropped},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := open(Config{Max: 1000, Segment: 40}, newFakeDisk().process(), "boot")
				must(t, err)
				s.start()
				must(t, s.BeginStream(idA, 0))
				appended(t, s, text(0, 100))
				r, err := s.ReadStream(100)
				must(t, err)
				before, err := s.ReadStream(80)
				must(t, err)
				done := make(chan error)
				go func() {
					_, err := r.Read(make([]byte, 10))
					done <- err
				}()
				synctest.Wait()
				test.end(t, s, r)
				if err := <-done; !errors.Is(err, test.want) {
					t.Fatalf("got %v, want %v", err, test.want)
				}
				if name == "cut back" {
					if got := readSome(t, before, 19); !bytes.Equal(got, text(80, 19)) {
						t.Fatal("what is not cut off differs")
					}
				}
				must(t, errors.Join(r.Close(), before.Close(), s.Close()))
			})
		})
	}
}

func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := onFake(t, Config{Max: 1000, Segment: 40}, newFakeDisk())
		if _, err := s.Whole(t.Context()); !errors.Is(err, ErrDropped) {
			t.Fatal(err)
		}
		must(t, s.BeginSnapshot(idA, 10, -1))
		waits := func(what func(ctx context.Context) error) <-chan error {
			done := make(chan error, 1)
			go func() { done <- what(t.Context()) }()
			if !waiting(done) {
				t.Fatal("does not wait")
			}
			return done
		}
		whole := func(ctx context.Context) error {
			size, err := s.Whole(ctx)
			if err == nil && size != 30 {
				err = fmt.Errorf("%d bytes", size)
			}
			return err
		}
		done := waits(whole)
		appended(t, s, text(0, 30))
		must(t, s.EndSnapshot())
		must(t, <-done)
		done = waits(func(ctx context.Context) error { return s.Await(ctx, 10, idA) })
		appended(t, s, text(0, 1))
		must(t, <-done)
		done = waits(func(ctx context.Context) error { return s.Await(ctx, 11, idA) })
		must(t, s.Continue(idB))
		must(t, <-done)
		must(t, s.Await(t.Context(), 99, idA))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Await(ctx, 11, idB); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		must(t, s.BeginSnapshot(idA, 10, -1))
		done = waits(whole)
		must(t, s.Drop())
		if err := <-done; !errors.Is(err, ErrDropped) {
			t.Fatal(err)
		}
	})
}

func TestTimes(t *testing.T) {
	c := Config{Dir: t.TempDir(), Segment: 100}
	s := opened(t, c)
	must(t, s.BeginStream(idA, 1000))
	ms := func(n int) time.Time { return at.Add(time.Duration(n) * time.Millisecond) }
	for i := range 50 { // ten bytes each 40 ms
		must(t, s.Append(t.Context(), text(0, 10), ms(i*40)))
	}
	must(t, s.CutBack(1400))
	must(t, s.Append(t.Context(), text(0, 10), ms(5000)))
	check := func() {
		t.Helper()
		for _, b := range []struct {
			offset int64
			after  int // the time it was received, at most so long ago
		}{{1001, 0}, {1010, 0}, {1031, 120}, {1090, 360 - 40}, {1101, 400}, {1400, 39 * 40}, {1401, 5000}} {
			earliest, latest, ok := s.TimeAt(b.offset)
			if came := ms(b.after); !ok || came.Before(earliest) || came.After(latest) || latest.Sub(earliest) > 100*time.Millisecond {
				t.Errorf("byte %d came at %v, and not between %v and %v", b.offset, came, earliest, latest)
			}
		}
		if got, _, ok := s.TimeAt(1000); ok {
			t.Errorf("nothing came at %v", got)
		}
	}
	check()
	must(t, s.Close())
	overwrite(t, c.path(segmentName(kindTime, 1400)), []byte("torn"), headerSize+markSize)
	s = opened(t, c)
	check()
}

// A process that is killed in the midst of Append leaves no byte that seems to have come before it did.
func TestTimesAfterAKill(t *testing.T) {
	for dies := 1; dies < 4; dies++ {
		d := newFakeDisk()
		c := Config{Segment: 1000, Max: 10000}
		s, err := open(c, d.process(), "boot")
		must(t, err)
		must(t, s.BeginStream(idA, 1000))
		must(t, s.Append(t.Context(), text(0, 10), at))
		came := at.Add(10 * time.Second)
		d.dieAt = d.ops + dies
		killed := s.Append(t.Context(), text(10, 10), came)
		d.dieAt = 0
		s, err = open(c, d.process(), "boot")
		must(t, err)
		if _, latest, ok := s.TimeAt(s.Contents().End); !ok || s.Contents().End == 1020 && latest.Before(came) {
			t.Errorf("operation %d (%v): the last byte came at %v, and not before %v", dies, killed, came, latest)
		}
	}
}

// Of a write that a full disk took in part, the part has the time at which it came, in this process and in the next one.
func TestTimesAfterAWriteInPart(t *testing.T) {
	d := newFakeDisk()
	c := Config{Segment: 1000, Max: 10000}
	s, err := open(c, d.process(), "boot")
	must(t, err)
	must(t, s.BeginStream(idA, 1000))
	must(t, s.Append(t.Context(), text(0, 10), at))
	came := at.Add(10 * time.Second)
	d.failAt = d.ops + 2 // the bytes, behind their mark
	if err := s.Append(t.Context(), text(10, 10), came); !errors.Is(err, errFault) || s.Contents().End != 1015 {
		t.Fatalf("%v, and the end is %d; want half of the bytes", err, s.Contents().End)
	}
	check := func(when string) {
		t.Helper()
		if earliest, latest, ok := s.TimeAt(1015); !ok || came.Before(earliest) || came.After(latest) {
			t.Errorf("%s the last byte came between %v and %v; want %v", when, earliest, latest, came)
		}
	}
	check("after the fault")
	must(t, s.Append(t.Context(), text(15, 5), came.Add(5*time.Second)))
	check("after the rest")
	s, err = open(c, d.process(), "boot")
	must(t, err)
	check("in the next process")
}

// TestTogether has all sides at work at once, for the race detector: a writer, two readers, one who passes, one who looks.
func TestTogether(t *testing.T) {
	for name, dir := range map[string]string{"folder": t.TempDir(), "memory": ""} {
		t.Run(name, func(t *testing.T) {
			const total = 2 << 20
			s := opened(t, Config{Dir: dir, Max: 256 << 10, Segment: 16 << 10})
			must(t, s.BeginStream(idA, 0))
			truth := text(0, total)
			var all sync.WaitGroup
			defer all.Wait()
			r, err := s.ReadStream(0)
			must(t, err)
			all.Go(func() {
				defer r.Close()
				got := make([]byte, total)
				for n := 0; n < total; {
					m, err := r.Read(got[n:min(n+5000, total)])
					if err != nil {
						t.Error(err)
						return
					}
					if n += m; n%7 == 0 {
						s.wake()
					}
					s.PassStream(int64(n))
				}
				if !bytes.Equal(got, truth) {
					t.Error("the bytes differ")
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			all.Go(func() {
				for ctx.Err() == nil {
					c := s.Contents()
					s.TimeAt(c.End)
					s.Usage()
					other, err := s.ReadStream(c.First)
					if err != nil {
						continue
					}
					if _, err := io.CopyN(io.Discard, other, 1000); err != nil && !errors.Is(err, ErrDropped) && c.End-c.First > 1000 {
						t.Error(err)
					}
					_ = other.Close()
				}
			})
			for n := int64(0); n < total; n += 4096 {
				if err := s.Append(ctx, truth[n:n+4096], at.Add(time.Duration(n)*time.Millisecond)); err != nil {
					t.Error(err)
					break
				}
			}
		})
	}
}

// TestDropsTogether drops and begins while others append and read.
func TestDropsTogether(t *testing.T) {
	s := opened(t, Config{Dir: t.TempDir(), Max: 1 << 20, Segment: 1000})
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	all.Go(func() {
		for ctx.Err() == nil {
			if err := s.Drop(); err != nil {
				t.Error(err)
			}
			s.wake()
			time.Sleep(time.Millisecond)
		}
	})
	all.Go(func() {
		b := make([]byte, 333)
		for ctx.Err() == nil {
			r, err := s.ReadStream(0)
			if err != nil {
				continue
			}
			for n := int64(0); err == nil && ctx.Err() == nil && n < 20_000; {
				var m int
				if m, err = r.Read(b); !bytes.Equal(b[:m], text(n, int64(m))) {
					t.Error("the bytes differ")
				}
				n += int64(m)
			}
			if err != nil && !errors.Is(err, ErrDropped) {
				t.Error(err)
			}
			_ = r.Close()
		}
	})
	for ctx.Err() == nil {
		must(t, s.BeginStream(idA, 0))
		var err error
		for n := int64(0); err == nil && ctx.Err() == nil; n += 500 {
			err = s.Append(ctx, text(n, 500), at)
		}
		if err != nil && !errors.Is(err, ErrDropped) {
			t.Error(err)
		}
	}
	must(t, s.Drop())
	all.Wait()
}

func TestNoAllocations(t *testing.T) {
	for name, dir := range map[string]string{"folder": t.TempDir(), "memory": ""} {
		t.Run(name, func(t *testing.T) {
			s := opened(t, Config{Dir: dir, Max: 1 << 30, Segment: 64 << 20})
			must(t, s.BeginStream(idA, 0))
			r, err := s.ReadStream(0)
			must(t, err)
			defer r.Close()
			b := make([]byte, 1000)
			appended(t, s, b)
			readSome(t, r, 1000)
			got := testing.AllocsPerRun(500, func() {
				if err := s.Append(context.Background(), b, at); err != nil {
					t.Fatal(err)
				}
				if n, err := r.Read(b); n != len(b) || err != nil {
					t.Fatal(n, err)
				}
			})
			if got != 0 {
				t.Fatalf("%v allocations", got)
			}
		})
	}
}

func BenchmarkAppendAndRead(b *testing.B) {
	for _, size := range []int{512, 64 << 10, 1 << 20} {
		for name, dir := range map[string]string{"folder": b.TempDir(), "memory": ""} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				s, err := Open(Config{Dir: dir})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				if err := s.BeginStream(idA, 0); err != nil {
					b.Fatal(err)
				}
				r, err := s.ReadStream(0)
				if err != nil {
					b.Fatal(err)
				}
				defer r.Close()
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var all sync.WaitGroup
				total := int64(b.N) * int64(size)
				all.Go(func() {
					buf := make([]byte, 1<<20)
					for n := int64(0); n < total; {
						m, err := r.Read(buf)
						if err != nil {
							b.Error(err)
							return
						}
						n += int64(m)
						s.PassStream(n)
					}
				})
				p := make([]byte, size)
				for range b.N { // Loop would not tell the reader how many
					if err := s.Append(context.Background(), p, at); err != nil {
						b.Fatal(err)
					}
				}
				all.Wait()
			})
		}
	}
}
