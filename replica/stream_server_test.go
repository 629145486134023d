package replica

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
)

var record = flag.Bool("record", false, "write the streams of real servers to testdata")

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
			n, _ := client.DoMulti(ctx, client.B().Set().Key("k").Value("v").Build(), client.B().Wait().Numreplicas(1).Timeout(50000).Build())[1].AsInt64()
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

// A source that is a replica itself passes its primary's bytes on and selects no database of its own: only the RDB tells which one the
// stream is in (protocol 0, fact 3; T22).
func TestChainedSource(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		quiet := redistest.Config("repl-ping-replica-period 3600")
		primary := redistest.Start(t, b, quiet)
		s := redistest.Start(t, b, redistest.ReplicaOf(primary), quiet)
		caughtUp := func() {
			t.Helper()
			deadline := time.Now().Add(time.Minute)
			for backlog(t, s).MasterOffset != backlog(t, primary).MasterOffset || ParseInfo(s.DoString(t, "INFO", "replication"))["master_link_status"] != "up" {
				if time.Now().After(deadline) {
					t.Fatal("the replica does not catch up")
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
		caughtUp()
		primary.DB(7).Do(t, "SET", "k", "v")
		caughtUp()
		l := dialServer(t, s)
		at, streamDB := fullSyncAux(t, l, "repl-stream-db")
		if streamDB != "7" {
			t.Errorf("repl-stream-db is %q, want 7", streamDB)
		}
		at.DB = 7
		stream := acked(t, l, at)
		primary.DB(7).Do(t, "SET", "k", "w")
		caughtUp()
		if diff := cmp.Diff([]string{"db7 SET k w"}, until(t, stream, backlog(t, s).MasterOffset)); diff != "" {
			t.Errorf("the stream (-want +got):\n%s", diff)
		}
	})
}

// What clients may send at most arrives whole (T35).
func TestLargeCommandsFromRealServers(t *testing.T) {
	if testing.Short() {
		t.Skip("needs half a gigabyte of memory for a moment")
	}
	const million = 1_000_000
	s := redistest.Start(t, redistest.Latest(t))
	l := dialServer(t, s)
	at, _, _ := fullSync(t, l)
	stream := acked(t, l, at)
	args := []string{"SADD", "s"}
	for i := range million {
		args = append(args, strconv.Itoa(i))
	}
	s.Do(t, args...)
	s.Do(t, "SET", "big", strings.Repeat("0123456789abcdef", 4<<20))
	var u Unit
	var got []string
	for len(got) < 2 {
		if err := stream.Next(&u); err != nil {
			t.Fatal(err)
		}
		for _, c := range u.Cmds {
			last := c.Args[len(c.Args)-1]
			got = append(got, fmt.Sprintf("%s of %d arguments, the last of %d bytes, ends in %s", c.Args[0], len(c.Args), len(last), last[len(last)-6:]))
		}
	}
	want := []string{
		"SADD of 1000002 arguments, the last of 6 bytes, ends in 999999",
		"SET of 3 arguments, the last of 67108864 bytes, ends in abcdef",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
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
