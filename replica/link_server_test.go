package replica

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
	"redferry/rdbstream"
)

// eachBuild runs a test against every server build of this machine.
func eachBuild(t *testing.T, test func(t *testing.T, b redistest.Build)) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) { test(t, b) })
	}
}

func endpoint(t *testing.T, url string, files TLSFiles) Endpoint {
	t.Helper()
	e, err := ParseEndpoint(url, files)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// dialServer connects to a real source.
func dialServer(t *testing.T, s *redistest.Server, change ...func(*LinkConfig)) *Link {
	t.Helper()
	c := LinkConfig{Endpoint: endpoint(t, s.URL(), TLSFiles{}), ReadTimeout: time.Minute}
	for _, f := range change {
		f(&c)
	}
	l, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// fullSync takes a full resync, up to the first byte of the stream, and returns the number of its keys.
func fullSync(t *testing.T, l *Link) (at Position, size int64, keys int) {
	t.Helper()
	at, size = takeSnapshot(t, l, func(e *rdbstream.Entry) {
		if e.Kind == rdbstream.KindKey {
			keys++
		}
	})
	return at, size, keys
}

// fullSyncAux takes a full resync and returns an AUX field of its RDB.
func fullSyncAux(t *testing.T, l *Link, name string) (at Position, value string) {
	t.Helper()
	at, _ = takeSnapshot(t, l, func(e *rdbstream.Entry) {
		if e.Kind == rdbstream.KindAux && string(e.Name) == name {
			value = string(e.Data)
		}
	})
	return at, value
}

// rdbOf yields the RDB of a link.
type rdbOf struct{ l *Link }

func (r rdbOf) Read(p []byte) (int, error) { return r.l.ReadRDB(p) }

func takeSnapshot(t *testing.T, l *Link, see func(*rdbstream.Entry)) (Position, int64) {
	t.Helper()
	reply, err := l.Sync(t.Context(), Position{})
	if err != nil || !reply.Full {
		t.Fatalf("Sync = %+v, %v, want a full resync", reply, err)
	}
	size, err := l.Transfer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReaderSize(rdbOf{l}, 1<<20)
	rdb := rdbstream.NewReader(br)
	var e rdbstream.Entry
	for {
		if err := rdb.Next(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		see(&e)
	}
	if n, err := br.Peek(1); err != io.EOF {
		t.Fatalf("behind the RDB's end comes %q, %v", n, err)
	}
	return reply.At, size
}

// acked acknowledges where the stream begins until the link ends. Once would not do: the source forgets an ACK that it gets before it has
// noticed that its child is done, up to 100 ms after the RDB's last byte.
func acked(t *testing.T, l *Link, at Position) *Stream {
	t.Helper()
	var acks sync.WaitGroup
	acks.Go(func() {
		for l.Ack(at.Offset) == nil {
			time.Sleep(20 * time.Millisecond)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		acks.Wait()
	})
	return NewStream(l.Reader(), at)
}

// resumes asks for a partial resync and fails the test if it is none.
func resumes(t *testing.T, l *Link, from Position) Position {
	t.Helper()
	reply, err := l.Sync(t.Context(), from)
	if err != nil || reply.Full {
		t.Fatalf("Sync(%v) = %+v, %v, want +CONTINUE", from, reply, err)
	}
	return reply.At
}

// until reads units up to an offset, and gives the commands in them.
func until(t *testing.T, s *Stream, offset int64) (cmds []string) {
	t.Helper()
	var u Unit
	for s.Position().Offset < offset {
		if err := s.Next(&u); err != nil {
			t.Fatalf("at %v, on the way to %d: %v", s.Position(), offset, err)
		}
		cmds = append(cmds, textOf(&u).Cmds...)
	}
	if got := s.Position().Offset; got != offset {
		t.Fatalf("the stream has a unit's end at %d, and none at the source's offset %d", got, offset)
	}
	return cmds
}

func backlog(t *testing.T, s *redistest.Server) Backlog {
	t.Helper()
	b, err := ParseBacklog(ParseInfo(s.DoString(t, "INFO", "replication")))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSyncWithRealServers(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		for _, diskless := range []string{"yes", "no"} {
			t.Run("diskless "+diskless, func(t *testing.T) {
				s := redistest.Start(t, b, redistest.Config("repl-diskless-sync "+diskless, "repl-ping-replica-period 3600"))
				for i := range 100 {
					s.Do(t, "SET", fmt.Sprint("key", i), strings.Repeat("v", i*10))
				}
				l := dialServer(t, s)
				at, size, keys := fullSync(t, l)
				if known := size >= 0; known != (diskless == "no") || keys != 100 {
					t.Errorf("an RDB of %d bytes with %d keys, want 100 keys", size, keys)
				}
				stream := acked(t, l, at)
				s.Do(t, "SET", "k", "a\r\nb")
				s.DB(3).Do(t, "SET", "k", "3")
				s.DB(3).Do(t, "EVAL", "redis.call('INCR', 'x') redis.call('INCR', 'y')", "0")
				want := []string{"db0 SET k a\r\nb", "db3 SET k 3", "db3 INCR x", "db3 INCR y"}
				if diff := cmp.Diff(want, until(t, stream, backlog(t, s).MasterOffset)); diff != "" {
					t.Errorf("the stream (-want +got):\n%s", diff)
				}

				// Without a SELECT, what comes after a partial resync is for database 3 (T21); at the backlog's end there is nothing (T25).
				_ = l.Close()
				for range 2 {
					if ok, why := backlog(t, s).Has(stream.Position()); !ok {
						t.Errorf("the backlog says no: %s", why)
					}
					l = dialServer(t, s)
					at = resumes(t, l, stream.Position())
					if at != stream.Position() {
						t.Errorf("it goes on from %v, want %v", at, stream.Position())
					}
					stream = NewStream(l.Reader(), at)
					s.DB(3).Do(t, "DEL", "x")
					s.DB(3).Do(t, "SET", "x", "1")
					if diff := cmp.Diff([]string{"db3 DEL x", "db3 SET x 1"}, until(t, stream, backlog(t, s).MasterOffset)); diff != "" {
						t.Errorf("the stream goes on (-want +got):\n%s", diff)
					}
					s.Do(t, "CLIENT", "KILL", "TYPE", "replica")
					var u Unit
					if err := stream.Next(&u); err == nil || AsStop(err) != nil {
						t.Errorf("the killed link's end is %v, want an error worth another try", err)
					}
				}
			})
		}
	})
}

func TestUnixSocket(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.Unix())
		l := dialServer(t, s, func(c *LinkConfig) { c.Endpoint = endpoint(t, "unix://"+s.Socket(), TLSFiles{}) })
		at, _, _ := fullSync(t, l)
		stream := acked(t, l, at)
		s.Do(t, "SET", "k", "v")
		if got := until(t, stream, backlog(t, s).MasterOffset); len(got) != 1 {
			t.Errorf("the stream has %q, want one command", got)
		}
	})
}

// A source takes its time before the RDB and says so with newlines (T5).
func TestSlowBGSAVE(t *testing.T) {
	tests := []struct{ name, delay, diskless, save, want string }{
		{"before it begins", "2", "yes", "0", "waiting for the source to start its BGSAVE"},
		{"until it ends", "0", "no", "30000", "waiting for the source's BGSAVE"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := redistest.Start(t, redistest.ServerNamed(t, "redis-7.0"), redistest.Config("repl-diskless-sync "+test.diskless))
			for i := range 100 {
				s.Do(t, "SET", fmt.Sprint("key", i), "v")
			}
			if test.delay != "0" { // with more than one replica expected, or none yet, it waits for others
				s.Do(t, "CONFIG", "SET", "repl-diskless-sync-delay", test.delay)
			}
			s.Do(t, "CONFIG", "SET", "rdb-key-save-delay", test.save)
			var waits []string
			l := dialServer(t, s, func(c *LinkConfig) { c.OnWait = func(why string) { waits = append(waits, why) } })
			if _, _, keys := fullSync(t, l); keys != 100 {
				t.Errorf("%d keys, want 100", keys)
			}
			if len(waits) == 0 || waits[len(waits)-1] != test.want {
				t.Errorf("told to wait: %q, want %q", waits, test.want)
			}
		})
	}
}

// A frozen source is given up after the read timeout; thawed, it goes on from where we were (T20).
func TestFrozenSource(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Latest(t))
	l := dialServer(t, s, func(c *LinkConfig) { c.ReadTimeout = 8 * time.Second }) // it pings each second
	at, _, _ := fullSync(t, l)
	stream := acked(t, l, at)
	s.Do(t, "SET", "k", "v")
	until(t, stream, backlog(t, s).MasterOffset)
	s.Freeze()
	defer s.Thaw()
	_, err := units(stream)
	if !errors.Is(err, os.ErrDeadlineExceeded) || AsStop(err) != nil {
		t.Errorf("a frozen source: %v, want a timeout", err)
	}
	_ = l.Close()
	s.Thaw()
	resumes(t, dialServer(t, s), stream.Position())
}

// A replica without its primary sends us away for now.
func TestSourceWithoutItsPrimary(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.Config("replicaof 127.0.0.1 1"))
		_, err := dialServer(t, s).Sync(t.Context(), Position{ReplID: testID})
		var re *ReplyError
		if !errors.As(err, &re) || code("-"+re.Reply) != "NOMASTERLINK" {
			t.Errorf("Sync: %v, want NOMASTERLINK as a ReplyError", err)
		}
	})
}
