package rdbstream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// TestFromSocket takes the RDB of a full resync from each server's replication socket, where nothing but the RDB itself says where it
// ends (diskless), or its size does (disk).
func TestFromSocket(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		for _, diskless := range []string{"yes", "no"} {
			t.Run(b.Name+"/diskless "+diskless, func(t *testing.T) {
				s := redistest.Start(t, b, redistest.Config("repl-diskless-sync "+diskless))
				for i := range 2000 {
					s.DB(i%3).Do(t, "SET", fmt.Sprintf("key:%d", i), strings.Repeat("v", i))
				}
				fullResync(t, s)
			})
		}
	}
}

func fullResync(t *testing.T, s *redistest.Server) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	br := bufio.NewReaderSize(conn, 64<<10)
	ask := func(text string) string {
		if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
			t.Fatal(err)
		}
		return line(t, br)
	}
	if got := ask("REPLCONF capa eof capa psync2"); got != "+OK" {
		t.Fatal(got)
	}
	if got := ask("REPLCONF version 9.0.0"); got != "+OK" && !strings.HasPrefix(got, "-ERR") { // Redis does not know it
		t.Fatal(got)
	}
	if got := ask("PSYNC ? -1"); !strings.HasPrefix(got, "+FULLRESYNC ") {
		t.Fatal(got)
	}
	size, ok := strings.CutPrefix(line(t, br), "$")
	if !ok {
		t.Fatalf("framing is %q", size)
	}
	r := NewReader(br)
	all, err := readAll(r)
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	for _, e := range all {
		if e.Kind == KindKey {
			keys++
			if want := "key:" + strconv.Itoa(len(mustString(t, &e))); string(e.Key) != want {
				t.Errorf("%q should be %q by its value", e.Key, want)
			}
		}
	}
	if keys != 2000 {
		t.Errorf("got %d keys", keys)
	}
	if mark, diskless := strings.CutPrefix(size, "EOF:"); diskless {
		got := make([]byte, len(mark))
		if _, err := io.ReadFull(br, got); string(got) != mark || err != nil {
			t.Errorf("behind the RDB comes %q, %v, want %q", got, err, mark)
		}
	} else if got := strconv.FormatInt(r.Offset(), 10); got != size {
		t.Errorf("read %s bytes of %s", got, size)
	}
}

// line reads the next line that is not empty: newlines are a source's sign of life.
func line(t *testing.T, br *bufio.Reader) string {
	t.Helper()
	for {
		text, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if text = strings.TrimRight(text, "\r\n"); text != "" {
			return text
		}
	}
}

func mustString(t *testing.T, e *Entry) []byte {
	t.Helper()
	s, err := AppendString(nil, e.Value)
	if err != nil {
		t.Fatalf("%q: %v", e.Key, err)
	}
	return s
}
