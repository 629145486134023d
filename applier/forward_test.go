package applier_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/redcon"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// T79: messages published on the source are heard on the target, once, unless they are not wanted.
func TestPublish(t *testing.T) {
	t.Parallel()
	for _, drop := range []bool{false, true} {
		t.Run(fmt.Sprintf("dropped %v", drop), func(t *testing.T) {
			t.Parallel()
			f := follow(t, redistest.Latest(t), func(m *migration) { m.apply.DropPublish = drop })
			heard := subscribe(t, f.dst, "SUBSCRIBE", "news")
			heardShard := subscribe(t, f.dst, "SSUBSCRIBE", "news")
			say(t, f.src, "PUBLISH news one", "MULTI", "INCR n", "publish news two", "EXEC", "PUBLISH other three", "SPUBLISH news four", "INCR n")
			f.equal(t)
			say(t, f.dst, "PUBLISH news end", "SPUBLISH news end")
			want, wantShard := "one two end", "four end"
			if drop {
				want, wantShard = "end", "end"
			}
			if got := heard(); got != want {
				t.Errorf("channel: heard %q, want %q", got, want)
			}
			if got := heardShard(); got != wantShard {
				t.Errorf("shard channel: heard %q, want %q", got, wantShard)
			}
		})
	}
}

// subscribe listens to a channel. The function that it returns waits for the message "end" and gives all that was heard.
func subscribe(t *testing.T, s *redistest.Server, command, channel string) (heard func() string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	in := bufio.NewReader(conn)
	line := func() string {
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		text, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("subscribe: %v", err)
		}
		return strings.TrimSpace(text)
	}
	if _, err := fmt.Fprintf(conn, "%s %s\r\n", command, channel); err != nil {
		t.Fatal(err)
	}
	for line() != ":1" { // the reply: how many subscriptions there are
	}
	return func() string {
		t.Helper()
		var messages []string
		for { // *3, $7 message, $n channel, $n text
			text := ""
			for range 7 {
				text = line()
			}
			messages = append(messages, text)
			if text == "end" {
				return strings.Join(messages, " ")
			}
		}
	}
}

// T36: WAIT on the source is a promise about the target: it returns 1 when the write is there, and never when only the link is shown to live.
func TestWaitOnTheSource(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			proxy := redistest.NewProxy(t, dst.Addr())
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			r := m.start(t)
			r.until(t, replica.InSync, "")
			src.Do(t, "SET", "k", "1")
			if got := src.DoInt(t, "WAIT", "1", "50000"); got != 1 {
				t.Errorf("WAIT: got %d, want 1", got)
			}
			if got := dst.DoString(t, "GET", "k"); got != "1" {
				t.Errorf("after WAIT the target has %q", got)
			}
			proxy.Hold(redistest.FromClient, true)
			src.Do(t, "SET", "k", "2")
			if got := src.DoInt(t, "WAIT", "1", "300"); got != 0 {
				t.Errorf("WAIT while the target cannot be reached: got %d, want 0", got)
			}
			proxy.Hold(redistest.FromClient, false)
			if got := src.DoInt(t, "WAIT", "1", "50000"); got != 1 {
				t.Errorf("WAIT: got %d, want 1", got)
			}
			if got := dst.DoString(t, "GET", "k"); got != "2" {
				t.Errorf("after WAIT the target has %q", got)
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}

			m.run.AckLiveness = true
			r = m.start(t)
			r.until(t, replica.InSync, "")
			src.Do(t, "SET", "k", "3")
			r.reach(t, src)
			if got := src.DoInt(t, "WAIT", "1", "500"); got != 0 {
				t.Errorf("WAIT with acknowledgements of offset 0: got %d, want 0", got)
			}
		})
	}
}

// T34: names in any case, as clients write them.
func TestNamesInAnyCase(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Latest(t))
	say(t, f.src, "set a 1", "iNCr a", "multi", "Append a x", "select 2", "SeT b 1", "exec", "fLuShDb", "set c 1", "SwApDb 0 2", "del redferry:x c", "mSet redferry:y 1 d 2")
	f.equal(t)
	ours(t, f.dst)
}

// T34: a command that the source has renamed stops the run in front of it, and with the map the same run goes on.
func TestRenamedCommands(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	rename := redistest.Config("rename-command INCR hidden:incr", "rename-command FLUSHALL hidden:flush", "rename-command SWAPDB hidden:swap", "repl-ping-replica-period 3600")
	src, dst := redistest.Start(t, b, rename), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	say(t, src, "SET n 1", "SET before 1")
	r.reach(t, src)
	before := src.Offset(t)
	say(t, src, "hidden:incr n", "SET after 1")
	wantStop(t, r.wait(t), replica.Refused, "hidden:incr")
	rec := mustRecord(t, dst)
	if rec.Offset < before || rec.Offset > before+100 || rec.Rejected != 0 { // the SELECT may come between
		t.Errorf("checkpoint: got offset %d with %d rejected, want %d and none", rec.Offset, rec.Rejected, before)
	}
	if got := dst.DoString(t, "GET", "n") + dst.DoString(t, "GET", "after"); got != "1" {
		t.Errorf("something behind the unknown command was applied: %q", got)
	}

	m.apply.Rename = applier.RenameMap{"HIDDEN:INCR": "INCR", "HIDDEN:FLUSH": "FLUSHALL", "HIDDEN:SWAP": "SWAPDB"}
	f := &following{src: src, dst: dst, m: m, running: m.start(t)}
	f.until(t, replica.InSync, "")
	f.equal(t)
	say(t, src, "multi", "Hidden:INCR n", "HIDDEN:swap 0 1", "Hidden:INCR n", "exec", "hidden:incr n")
	f.equal(t)
	ours(t, dst)
	say(t, src, "hidden:flush", "hidden:incr n")
	f.equal(t)
	ours(t, dst)
}

// T34: servers do not know PSYNC under another name; the run says so and the source is not made to fork.
func TestRenamedPSYNC(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("rename-command PSYNC hidden:psync")), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	wantStop(t, m.start(t).wait(t), replica.Config, "PSYNC")
	m.run.PSYNCCommand = "hidden:psync"
	wantStop(t, m.start(t).wait(t), replica.Config, "takes hidden:psync for SYNC")
}

// T35: arguments of every awkward length and content.
func TestAwkwardArguments(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Latest(t))
	var raw []byte
	send := func(args ...string) {
		raw = redcon.AppendArray(raw, len(args))
		for _, arg := range args {
			raw = redcon.AppendBulkString(raw, arg)
		}
	}
	send("SET", "", "")
	send("APPEND", "", "x")
	send("SET", "\r\n\x00$5\r\n*3\r\n", "\x00\r\n+OK\r\n\xff")
	send("HSET", "h\n", "", "", "\r\n", "\r\n")
	send("RPUSH", "l", "", "\n", "\r", "EXEC", "*1\r\n$4\r\nEXEC\r\n")
	for n, step := range map[int]int{1 << 16: 1, 1 << 20: 7} { // of the buffers on the way
		for d := -120; d <= 20; d += step {
			send("SET", fmt.Sprintf("size:%d", n+d), strings.Repeat("v", n+d))
		}
	}
	members := make([]string, 0, 1_000_002)
	members = append(members, "SADD", "million")
	for i := range 1_000_000 {
		members = append(members, fmt.Sprint(i))
	}
	send(members...)
	replay(t, f.src, raw)
	f.through(t)
	want, got := f.src.DoStrings(t, "DEBUG", "DIGEST-VALUE", "million"), f.dst.DoStrings(t, "DEBUG", "DIGEST-VALUE", "million")
	if card := f.dst.DoInt(t, "SCARD", "million"); card != 1_000_000 || got[0] != want[0] {
		t.Errorf("a million members: got %d, digest %s, want %s", card, got, want)
	}
	f.src.Do(t, "UNLINK", "million") // Compare would read it
	f.equal(t)
}

// T35: a value longer than the target takes stops the run in front of it, by name; when the target takes it the same run goes on.
func TestValueLongerThanTheTargetTakes(t *testing.T) {
	t.Parallel()
	for size, limit := range map[int]string{4 << 20: "1mb", 600 << 20: "512mb"} { // the second is every server's default
		t.Run(fmt.Sprintf("%d MB", size>>20), func(t *testing.T) {
			if size > 512<<20 && os.Getenv("LONG") == "" {
				t.Skip("moves 600 MB, which takes a minute: only with LONG=1")
			}
			t.Parallel()
			b := redistest.Latest(t)
			src, dst := redistest.Start(t, b), redistest.Start(t, b, redistest.Config("proto-max-bulk-len "+limit))
			src.Do(t, "CONFIG", "SET", "proto-max-bulk-len", "1gb", "client-query-buffer-limit", "2gb", "repl-backlog-size", "1200mb")
			m := newMigration(t, src.URL(), dst.URL())
			r := m.start(t)
			r.until(t, replica.InSync, "")
			say(t, src, "SET before 1")
			r.reach(t, src)
			setHuge(t, src, size)
			say(t, src, "SET after 1")
			wantStop(t, r.wait(t), replica.Refused, "the target's proto-max-bulk-len is")
			if got := dst.DoStrings(t, "KEYS", "[^r]*"); len(got) != 1 {
				t.Errorf("the target has %q, want only what came before", got)
			}
			dst.Do(t, "CONFIG", "SET", "proto-max-bulk-len", "1gb", "client-query-buffer-limit", "2gb")
			m.finish(t)
			want := strings.Join(src.DoStrings(t, "DEBUG", "DIGEST-VALUE", "huge", "after"), " ")
			got := strings.Join(dst.DoStrings(t, "DEBUG", "DIGEST-VALUE", "huge", "after"), " ")
			if got != want || dst.DoInt(t, "STRLEN", "huge") != int64(size) {
				t.Errorf("digests: got %s, want %s", got, want)
			}
		})
	}
}

// setHuge sets a string of that size without having it in memory here.
func setHuge(t *testing.T, s *redistest.Server, size int) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out := bufio.NewWriterSize(conn, 1<<20)
	fmt.Fprintf(out, "*3\r\n$3\r\nSET\r\n$4\r\nhuge\r\n$%d\r\n", size)
	piece := make([]byte, 1<<20)
	for i := range size / len(piece) {
		piece[i] = byte(i)
		if _, err := out.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := out.WriteString("\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || got != "+OK\r\n" {
		t.Fatalf("set a huge value: %q, %v", got, err)
	}
}

// T16: a source in cluster mode that has all slots: its RDB has hints of slots between the keys.
func TestClusterSourceOfOneShard(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		if b.Name == "redis-6.0" {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.StartCluster(t, b, 1)[0], redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 2000, Databases: 1})
			f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			say(t, src, "INCR n", "MULTI", "INCR {n}", "INCR n", "EXEC", "FLUSHALL", "INCR n", "PUBLISH c x")
			f.equal(t)
		})
	}
}

func TestClusterSourceOfThreeShardsIsRefused(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	nodes, dst := redistest.StartCluster(t, b, 3), redistest.Start(t, b)
	wantStop(t, newMigration(t, nodes[0].URL(), dst.URL()).start(t).wait(t), replica.Config, "cluster of 3 shards")
	if got := fullResyncs(t, nodes[0]); got != "0" {
		t.Errorf("the source was made to fork %s times", got)
	}
	if got := dst.DoInt(t, "DBSIZE"); got != 0 {
		t.Errorf("the target has %d keys", got)
	}
}
