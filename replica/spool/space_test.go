package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// onFake opens a spool on a fake disk, with its goroutine.
func onFake(t *testing.T, c Config, d *fakeDisk) *Spool {
	t.Helper()
	s, err := open(c, d.process(), "boot")
	must(t, err)
	s.start()
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// appending appends in a goroutine, and tells its error.
func appending(ctx context.Context, s *Spool, b []byte) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Append(ctx, b, at) }()
	return done
}

func waiting(done <-chan error) bool {
	synctest.Wait()
	return len(done) == 0
}

// What went wrong behind an operation the next Append tells, unless all that it was about has been dropped since.
func TestDropForgetsTrouble(t *testing.T) {
	for dropped, want := range map[bool]error{false: errFault, true: ErrDropped} {
		met := false
		for n := 1; n < 40 && !met; n++ { // operations of the disk: the fault is to come when the spool frees what was passed
			d := newFakeDisk()
			s, err := open(Config{Max: 1000, Segment: 16}, d.process(), "boot")
			must(t, err)
			must(t, s.BeginSnapshot(idA, 0, -1))
			s.PassSnapshot(0)
			d.failAt = d.ops + n
			if s.EndSnapshot() == nil && d.ops >= d.failAt {
				met = true
				if dropped {
					must(t, s.Drop())
				}
				if err := s.Append(t.Context(), []byte("x"), at); !errors.Is(err, want) {
					t.Errorf("dropped %v: got %v, want %v", dropped, err, want)
				}
			}
		}
		if !met {
			t.Error("the spool has freed nothing")
		}
	}
}

func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := onFake(t, Config{Max: 100, Segment: 25}, newFakeDisk())
		must(t, s.BeginStream(idA, 0))
		appended(t, s, text(0, 100))
		ctx, cancel := context.WithCancelCause(t.Context())
		done := appending(ctx, s, text(100, 10))
		if !waiting(done) || !s.Usage().Full {
			t.Fatalf("not full: %+v", s.Usage())
		}
		s.PassStream(24) // not a whole segment
		if !waiting(done) {
			t.Fatal("went on without room")
		}
		s.PassStream(25)
		synctest.Wait()
		must(t, <-done)
		if u := s.Usage(); u != (Usage{Used: 85, Max: 100, Free: -1}) {
			t.Fatalf("%+v", u)
		}
		cause := errors.New("enough")
		done = appending(ctx, s, text(110, 20))
		if !waiting(done) {
			t.Fatal("went on without room")
		}
		cancel(cause)
		if err := <-done; !errors.Is(err, cause) {
			t.Fatal(err)
		}
		if end := s.Contents().End; end != 125 { // what fitted is there
			t.Fatal(end)
		}
		done = appending(t.Context(), s, text(125, 20))
		if !waiting(done) {
			t.Fatal("went on without room")
		}
		must(t, s.Drop())
		if err := <-done; !errors.Is(err, ErrDropped) {
			t.Fatal(err)
		}
	})
}

// TestStarving: a reader that has read all and waits for more gets it although the spool is full; one that has not does not.
func TestStarving(t *testing.T) {
	for _, name := range []string{"stream", "snapshot"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := onFake(t, Config{Max: 100, Segment: 25}, newFakeDisk())
				read := s.ReadStream
				if name == "stream" {
					must(t, s.BeginStream(idA, 0))
				} else {
					must(t, s.BeginSnapshot(idA, 0, -1))
					read = s.ReadSnapshot
				}
				appended(t, s, text(0, 100))
				r, err := read(0)
				must(t, err)
				defer r.Close()
				readSome(t, r, 99)
				done := appending(t.Context(), s, text(100, 300))
				if !waiting(done) {
					t.Fatal("went on although the reader has something to read")
				}
				if got := readSome(t, r, 301); !bytes.Equal(got, text(99, 301)) {
					t.Fatal("the bytes differ")
				}
				must(t, <-done)
			})
		})
	}
}

func TestLowSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDisk()
		d.space = reserve + 150
		s := onFake(t, Config{Max: 1000, Segment: 25, Keep: time.Hour}, d)
		must(t, s.BeginStream(idA, 0))
		appended(t, s, text(0, 100))
		d.mu.Lock()
		d.space = reserve // another fills the disk
		d.mu.Unlock()
		time.Sleep(1100 * time.Millisecond)
		done := appending(t.Context(), s, text(100, 10))
		if !waiting(done) {
			t.Fatal("went on without space")
		}
		d.mu.Lock()
		d.space = reserve + 10
		d.mu.Unlock()
		time.Sleep(time.Second)
		if waiting(done) {
			t.Fatal("waits although there is space")
		}
		must(t, <-done)
	})
}

// TestMaxFollowsTheDisk: a spool that was opened on a full disk takes its share of what becomes free, in segments of a useful size, and gives it back.
func TestMaxFollowsTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDisk()
		setSpace := func(n int64) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.space = n
		}
		setSpace(40 << 10)
		s := onFake(t, Config{}, d)
		if u := s.Usage(); u.Max != leastMax {
			t.Fatalf("on a full disk: %+v", u)
		}
		must(t, s.BeginStream(idA, 0))
		done := appending(t.Context(), s, text(0, 1<<20))
		if !waiting(done) {
			t.Fatal("went on without room")
		}
		setSpace(200 << 20)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		must(t, <-done)
		s.mu.Lock()
		segment := s.segment
		s.mu.Unlock()
		if u := s.Usage(); u.Max < 150<<20 || segment < 1<<20 {
			t.Fatalf("once there is space: %+v, segments of %d", u, segment)
		}
		setSpace(100 << 20)
		time.Sleep(2 * time.Second)
		if u := s.Usage(); u.Max < 80<<20 || u.Max > 90<<20 {
			t.Fatalf("once others have taken some: %+v", u)
		}

		fixed := onFake(t, Config{Max: 1 << 30}, d)
		time.Sleep(2 * time.Second)
		if u := fixed.Usage(); u.Max != 1<<30 {
			t.Fatalf("a maximum that was given: %+v", u)
		}
	})
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := onFake(t, Config{Max: 1000, Segment: 25, Keep: 10 * time.Minute}, newFakeDisk())
		must(t, s.BeginStream(idA, 0))
		appended(t, s, text(0, 60))
		first := func() int64 { synctest.Wait(); return s.Contents().First }
		s.PassStream(55)
		time.Sleep(9 * time.Minute)
		s.PassStream(30) // the target has failed over to where the second segment is needed
		time.Sleep(2 * time.Minute)
		if got := first(); got != 25 {
			t.Fatalf("the stream begins at %d", got)
		}
		s.PassStream(60)
		time.Sleep(9 * time.Minute)
		if got := first(); got != 25 {
			t.Fatalf("the stream begins at %d", got)
		}
		time.Sleep(2 * time.Minute)
		if got := first(); got != 50 { // the newest stays
			t.Fatalf("the stream begins at %d", got)
		}
		if _, err := s.ReadStream(49); !errors.Is(err, ErrDropped) {
			t.Fatal(err)
		}
	})
}

func TestSnapshotIsFreed(t *testing.T) {
	s := opened(t, Config{Dir: t.TempDir(), Segment: 100})
	must(t, s.BeginSnapshot(idA, 0, 250))
	appended(t, s, text(0, 250))
	r, err := s.ReadSnapshot(150)
	must(t, err)
	defer r.Close()
	s.PassSnapshot(199)
	if c := s.Contents(); c.RDBFirst != 100 {
		t.Fatalf("%+v", c)
	}
	readSome(t, r, 10)
	s.PassSnapshot(250)
	if c := s.Contents(); c.RDBFirst != 200 || !c.Snapshot {
		t.Fatalf("%+v", c)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, ErrDropped) {
		t.Fatalf("reads what is freed: %v", err)
	}
	must(t, s.EndSnapshot())
	if c := s.Contents(); c.Snapshot {
		t.Fatalf("%+v", c)
	}
	if size, err := s.Whole(t.Context()); size != 250 || err != nil {
		t.Fatal(size, err)
	}
	left, err := filepath.Glob(filepath.Join(s.disk.(folder).dir, "rdb-*"))
	if err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	s := opened(t, Config{Max: 8000})
	must(t, s.BeginStream(idA, 0))
	r, err := s.ReadStream(0)
	must(t, err)
	defer r.Close()
	for n := int64(0); n < 1_000_000; n += 1500 {
		appended(t, s, text(n, 1500))
		if !bytes.Equal(readSome(t, r, 1500), text(n, 1500)) {
			t.Fatal("the bytes differ")
		}
	}
	m := s.disk.(*memory)
	if have := len(m.files) + len(m.spare); have > 10 {
		t.Fatalf("%d buffers", have)
	}
	if _, err := s.ReadStream(0); !errors.Is(err, ErrDropped) {
		t.Fatal(err)
	}
}

// onSmallDisk opens a spool on a file system of 20 MiB, which is mounted at dir.
func onSmallDisk(t *testing.T) (s *Spool, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root: cannot mount a small file system")
	}
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=20m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	s, err := Open(Config{Dir: filepath.Join(dir, "spool"), Max: 1 << 30, Segment: 1 << 20})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, dir
}

// TestNoSpaceLeft fills a small file system, and goes on once there is space.
func TestNoSpaceLeft(t *testing.T) {
	s, _ := onSmallDisk(t)
	must(t, s.BeginStream(idA, 0))
	r, err := s.ReadStream(0)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	const chunk = 300_000
	b := text(0, chunk)
	for { // up to the reserve
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := s.Append(ctx, b, at)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && s.Usage().Free <= reserve+chunk { // else the machine was busy
			break
		} else if !errors.Is(err, context.DeadlineExceeded) {
			must(t, err)
		}
	}
	if u := s.Usage(); u.Used > 4<<20 || u.Free > reserve+chunk {
		t.Fatalf("%+v", u)
	}
	stop := make(chan struct{})
	go func() { // starves all the time
		defer close(stop)
		_, _ = io.Copy(io.Discard, r)
	}()
	defer func() { r.Interrupt(); <-stop }()
	for err = nil; err == nil; {
		err = s.Append(t.Context(), b, at)
	}
	var path *fs.PathError
	if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &path) {
		t.Fatalf("the disk is full: %v", err)
	}
	end := s.Contents().End
	s.PassStream(end)
	must(t, s.Append(t.Context(), b, at))
	if got := s.Contents().End; got != end+chunk {
		t.Fatalf("%d bytes more", got-end)
	}
	if got := streamBytes(t, s, end, end+chunk); !bytes.Equal(got, b) {
		t.Fatal("the bytes differ")
	}
}

// TestDiskFullWithAllPassed: what others have filled is said, and not waited out, when there is nothing to read that could make room, even where no reader waits in the midst of something.
func TestDiskFullWithAllPassed(t *testing.T) {
	s, dir := onSmallDisk(t)
	s.mu.Lock()
	s.patience = 50 * time.Millisecond
	s.mu.Unlock()
	must(t, s.BeginStream(idA, 0))
	b := text(0, 300_000)
	must(t, s.Append(t.Context(), b, at))
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	must(t, err)
	t.Cleanup(func() { must(t, ballast.Close()) }) // before the disk is unmounted
	if _, err := ballast.Write(make([]byte, 20<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	s.look()
	t.Cleanup(func() { must(t, ballast.Truncate(0)) }) // for the state, when the spool is closed

	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := s.Append(ctx, b, at); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a target that is still to take something is not waited for: %v", err)
	}
	s.PassStream(s.Contents().End)
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Append(ctx, b, at); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is full: %v", err)
	}
}

// TestPassedAfterClose: the files of a closed spool are the next one's.
func TestPassedAfterClose(t *testing.T) {
	c := filled(t)
	s := opened(t, c)
	must(t, s.Close())
	s.PassSnapshot(3000)
	s.PassStream(3500)
	if got := opened(t, c).Contents(); got.First != 500 || !got.Snapshot {
		t.Fatalf("%+v", got)
	}
}

// A disk that takes no writes is found out before a source has forked for it.
func TestReadyOnAFailingDisk(t *testing.T) {
	d := newFakeDisk()
	s, err := open(Config{Max: 1 << 20}, d.process(), "boot")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err != nil {
		t.Fatalf("on a good disk: %v", err)
	}
	d.failAt = d.ops + 2 // the first removes what an earlier one left
	if err := s.Ready(); err == nil {
		t.Error("on a disk that fails: no error")
	}
}
