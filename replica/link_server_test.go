package replica

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
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

var record = flag.Bool("record", false, "write the streams of real servers to testdata")

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
	c := LinkConfig{Endpoint: endpoint(t, s.URL(), TLSFiles{}), ReadTimeout: 20 * time.Second}
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
func fullSync(t *testing.T, l *Link) (at Position, tr Transfer, keys int) {
	t.Helper()
	reply, err := l.Sync(t.Context(), Position{})
	if err != nil || !reply.Full {
		t.Fatalf("Sync = %+v, %v, want a full resync", reply, err)
	}
	if tr, err = l.Transfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	rdb := rdbstream.NewReader(tr.Reader)
	var e rdbstream.Entry
	for {
		if err := rdb.Next(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if e.Kind == rdbstream.KindKey {
			keys++
		}
	}
	if err := l.EndTransfer(); err != nil {
		t.Fatal(err)
	}
	return reply.At, tr, keys
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

// continues asks for a partial resync and fails the test if it is none.
func continues(t *testing.T, l *Link, from Position) Position {
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
				at, tr, keys := fullSync(t, l)
				if known := tr.Size >= 0; known != (diskless == "no") || keys != 100 {
					t.Errorf("an RDB of %d bytes with %d keys, want 100 keys", tr.Size, keys)
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
					at = continues(t, l, stream.Position())
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

// WAIT makes the source ask, and returns when it has heard of an offset that is large enough (T36).
func TestWait(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b)
		l := dialServer(t, s)
		at, _, _ := fullSync(t, l)
		stream := acked(t, l, at)
		client, err := s.Client(0)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var waits sync.WaitGroup
		defer waits.Wait()
		heard := make(chan int64, 1)
		waits.Go(func() {
			ctx := context.Background()
			n, _ := client.DoMulti(ctx, client.B().Set().Key("k").Value("v").Build(), client.B().Wait().Numreplicas(1).Timeout(10000).Build())[1].AsInt64()
			heard <- n
		})
		var u Unit
		for !u.GetAck {
			if err := stream.Next(&u); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Ack(u.End.Offset - 1 - 37); err != nil { // a byte less than the write's end
			t.Fatal(err)
		}
		select {
		case n := <-heard:
			t.Errorf("WAIT has returned %d before the write was acknowledged", n)
		case <-time.After(100 * time.Millisecond):
		}
		if err := l.Ack(u.End.Offset); err != nil {
			t.Fatal(err)
		}
		if n := <-heard; n != 1 {
			t.Errorf("WAIT returned %d, want 1", n)
		}
	})
}

func TestAuthWithRealServers(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.Password("secret"), redistest.Config(
			"user ferry on >ferrypass +psync +replconf +ping",
			"user nosync on >pass ~* +@all -psync",
			"user noping on >pass +psync +replconf",
			"user noconf on >pass +psync +ping",
		))
		tests := []struct {
			user, password string
			text           string // of the Stop; "" when it works
		}{
			{"", "secret", ""},
			{"default", "secret", ""},
			{"ferry", "ferrypass", ""},
			{"noping", "pass", ""},
			{"", "", "NOAUTH"},
			{"", "wrong", "WRONGPASS"},
			{"ferry", "wrong", "WRONGPASS"},
			{"nobody", "pass", "WRONGPASS"},
			{"nosync", "pass", "NOPERM"},
			{"noconf", "pass", "NOPERM"},
		}
		for _, test := range tests {
			t.Run(test.user+":"+test.password, func(t *testing.T) {
				e := endpoint(t, s.URL(), TLSFiles{})
				e.Username, e.Password = test.user, test.password
				l, err := Dial(t.Context(), LinkConfig{Endpoint: e})
				if err == nil {
					defer func() { _ = l.Close() }()
					_, err = l.Sync(t.Context(), Position{})
				}
				if test.text == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil {
					t.Fatal("it works")
				}
				if got := classify(t, err); got != (outcome{Stop: true}) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%v is %+v, want a Stop that has %s", err, got, test.text)
				}
			})
		}
	})
}

// A server whose PSYNC was renamed does not offer it under the new name either: it takes that for SYNC.
func TestRenamedPSYNC(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.Config("rename-command PSYNC XSYNC"))
		for _, name := range []string{"PSYNC", "XSYNC"} {
			_, err := dialServer(t, s, func(c *LinkConfig) { c.PSYNCCommand = name }).Sync(t.Context(), Position{})
			if err == nil || classify(t, err) != (outcome{Stop: true}) {
				t.Errorf("%s: %v, want a Stop", name, err)
			}
		}
	})
}

func TestTLS(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.TLS())
		certs := s.Certificates()
		other := redistest.NewCertificates(t, t.TempDir())
		good := TLSFiles{CA: certs.CA, Cert: certs.ClientCert, Key: certs.ClientKey}
		tests := []struct {
			name  string
			files TLSFiles
			text  string // of the Stop; "" when it works
		}{
			{"mutual", good, ""},
			{"unverified", TLSFiles{Cert: good.Cert, Key: good.Key, Insecure: true}, ""},
			{"authority unknown", TLSFiles{Cert: good.Cert, Key: good.Key}, "certificate that we do not trust"},
			{"another authority", TLSFiles{CA: other.CA, Cert: good.Cert, Key: good.Key}, "certificate that we do not trust"},
			{"another name", TLSFiles{CA: good.CA, Cert: good.Cert, Key: good.Key, ServerName: "example.org"}, "for another name"},
			{"no client certificate", TLSFiles{CA: good.CA}, "does not accept our certificate"},
			{"a foreign client certificate", TLSFiles{CA: good.CA, Cert: other.ClientCert, Key: other.ClientKey}, "does not accept our certificate"},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				l, err := Dial(t.Context(), LinkConfig{Endpoint: endpoint(t, s.URL(), test.files)})
				if err == nil {
					defer func() { _ = l.Close() }()
				}
				if test.text == "" {
					if err != nil {
						t.Fatal(err)
					}
					at, _, _ := fullSync(t, l)
					stream := acked(t, l, at)
					s.Do(t, "SET", "k", "v")
					if got := until(t, stream, backlog(t, s).MasterOffset); len(got) != 1 {
						t.Errorf("the stream has %q, want one command", got)
					}
					return
				}
				if err == nil {
					t.Fatal("it works")
				}
				if got := classify(t, err); got != (outcome{Stop: true}) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%v is %+v, want a Stop that has %q", err, got, test.text)
				}
			})
		}
		t.Run("without TLS", func(t *testing.T) {
			_, err := Dial(t.Context(), LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: s.Addr()}})
			if err == nil || AsStop(err) != nil || !strings.Contains(err.Error(), "rediss://") {
				t.Errorf("error %v, want one worth another try that names rediss://", err)
			}
		})
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
	s := redistest.Start(t, redistest.Latest(t))
	l := dialServer(t, s, func(c *LinkConfig) { c.ReadTimeout = 2500 * time.Millisecond }) // it pings each second
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
	continues(t, dialServer(t, s), stream.Position())
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

// The backlog's answer is the source's own, at both of its ends and at the end of the history before a failover.
func TestBacklogHasWhatTheSourceHas(t *testing.T) {
	quiet := redistest.Config("repl-ping-replica-period 3600", "repl-backlog-size 16kb", "repl-diskless-sync yes")
	// ask compares the two answers, and returns them.
	ask := func(t *testing.T, s *redistest.Server, p Position) bool {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for ParseInfo(s.DoString(t, "INFO", "replication"))["connected_slaves"] != "0" && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond) // the last link's end may trim the backlog
		}
		ok, why := backlog(t, s).Has(p)
		if ok == (why != "") {
			t.Errorf("Has(%v) = %v, %q: want a reason exactly for a no", p, ok, why)
		}
		l := dialServer(t, s)
		defer func() { _ = l.Close() }()
		reply, err := l.Sync(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if ok == reply.Full {
			t.Errorf("Has(%v) = %v, %q, but the source answers %+v; %+v", p, ok, why, reply, backlog(t, s))
		}
		return ok
	}
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		primary := redistest.Start(t, b, quiet)
		if ok, why := backlog(t, primary).Has(Position{ReplID: backlog(t, primary).ReplID}); ok {
			t.Errorf("a source that never had a replica has a backlog: %q", why)
		}
		l := dialServer(t, primary) // there is a backlog from now on
		fullSync(t, l)
		_ = l.Close()
		value := strings.Repeat("v", 1000)
		for range 60 {
			primary.Do(t, "SET", "k", value)
		}
		t.Run("ends of the backlog", func(t *testing.T) {
			has := backlog(t, primary)
			if has.FirstByte < 1000 {
				t.Fatalf("the backlog has not lost its beginning: %+v", has)
			}
			end := has.FirstByte + has.HistLen - 1
			for _, test := range []struct {
				name   string
				offset int64
				want   bool
			}{
				{"long gone", 0, false},
				{"a byte gone", has.FirstByte - 2, false},
				{"all of it", has.FirstByte - 1, true},
				{"all but a byte", has.FirstByte, true},
				{"the last byte", end - 1, true},
				{"nothing missed", end, true},
				{"a byte ahead", end + 1, false},
			} {
				if got := ask(t, primary, Position{ReplID: has.ReplID, Offset: test.offset}); got != test.want {
					t.Errorf("%s: %v, want %v", test.name, got, test.want)
				}
			}
			if ask(t, primary, Position{ReplID: testID, Offset: end}) {
				t.Error("another history is continued")
			}
			if !ask(t, primary, Position{ReplID: strings.ToUpper(has.ReplID), Offset: end}) {
				t.Error("an ID in capital letters is not continued")
			}
		})
		t.Run("history before a failover", func(t *testing.T) {
			replica := redistest.Start(t, b, redistest.ReplicaOf(primary), quiet)
			deadline := time.Now().Add(20 * time.Second)
			for ParseInfo(replica.DoString(t, "INFO", "replication"))["master_link_status"] != "up" {
				if time.Now().After(deadline) {
					t.Fatal("the replica does not come up")
				}
				time.Sleep(10 * time.Millisecond)
			}
			primary.Do(t, "SET", "k", value)
			for backlog(t, replica).MasterOffset != backlog(t, primary).MasterOffset {
				if time.Now().After(deadline) {
					t.Fatal("the replica does not catch up")
				}
				time.Sleep(10 * time.Millisecond)
			}
			replica.Do(t, "REPLICAOF", "NO", "ONE")
			replica.Do(t, "SET", "k", value)
			has := backlog(t, replica)
			if has.ReplID2 != backlog(t, primary).ReplID {
				t.Fatalf("the promoted replica has %+v", has)
			}
			for _, test := range []struct {
				name string
				p    Position
				want bool
			}{
				{"a byte before the promotion", Position{ReplID: has.ReplID2, Offset: has.SecondOffset - 2}, true},
				{"at the promotion", Position{ReplID: has.ReplID2, Offset: has.SecondOffset - 1}, true},
				{"a byte that was lost", Position{ReplID: has.ReplID2, Offset: has.SecondOffset}, false},
				{"the new history from before it began", Position{ReplID: has.ReplID, Offset: has.SecondOffset - 2}, true},
				{"the new history's end", Position{ReplID: has.ReplID, Offset: has.MasterOffset}, true},
			} {
				if got := ask(t, replica, test.p); got != test.want {
					t.Errorf("%s: %v, want %v", test.name, got, test.want)
				}
			}
			old := Position{ReplID: has.ReplID2, Offset: has.SecondOffset - 1, DB: 3}
			if got, want := continues(t, dialServer(t, replica), old), (Position{has.ReplID, old.Offset, 3}); got != want {
				t.Errorf("after the failover it goes on from %v, want %v", got, want)
			}
		})
	})
}

// The recorded streams are what the servers of this machine send, to the unit. With -record they are written anew.
func TestRecordedStreams(t *testing.T) {
	if !*record {
		for _, in := range realStreams(t) {
			got, err := units(NewStream(bufio.NewReader(bytes.NewReader(in)), Position{ReplID: testID}))
			want, wantErr := refUnits(in, Position{ReplID: testID})
			if diff := cmp.Diff(want, got); err != wantErr || err != io.EOF || len(got) < 10 || diff != "" {
				t.Errorf("%d units, %v (-reference +stream):\n%s", len(got), err, diff)
			}
		}
		return
	}
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b)
		l := dialServer(t, s)
		at, _, _ := fullSync(t, l)
		_ = acked(t, l, at) // the stream is read below, through a recorder
		for n := range 2 {
			db := s.DB(n * 3)
			db.Do(t, "SET", "k", "v\r\n", "EX", "100")
			db.Do(t, "SPOP", "none")
			db.Do(t, "SADD", "s", "a", "b", "")
			db.Do(t, "SPOP", "s")
			db.Do(t, "XADD", "x", "*", "f", "v")
			db.Do(t, "EVAL", "redis.call('set', KEYS[1], '1') redis.call('SELECT', 5) redis.call('IncrBy', KEYS[1], 5)", "1", "n")
			_, err := db.Pipeline([]string{"MULTI"}, []string{"RPUSH", "l", "1", "2"}, []string{"SELECT", "7"}, []string{"LPOP", "l"}, []string{"SET", "z", ""}, []string{"EXEC"})
			if err != nil {
				t.Fatal(err)
			}
			db.Do(t, "WAIT", "1", "1")
		}
		var raw bytes.Buffer
		until(t, NewStream(bufio.NewReader(io.TeeReader(l.Reader(), &raw)), at), backlog(t, s).MasterOffset)
		name := "testdata/stream-" + b.Name + ".hex"
		text := hex.EncodeToString(raw.Bytes())
		var lines strings.Builder
		for len(text) > 0 {
			n := min(120, len(text))
			lines.WriteString(text[:n] + "\n")
			text = text[n:]
		}
		if err := os.WriteFile(name, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}
