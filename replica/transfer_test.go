package replica

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
	"redferry/replica/spool"
)

func TestTransferAnnouncements(t *testing.T) {
	mark := strings.Repeat("0123456789", 4)
	tests := []struct {
		name, line string
		size       int64
		err        outcome
	}{
		{"a length", "$17", 17, outcome{}},
		{"a length after newlines (T5)", "\n\n\n$17", 17, outcome{}},
		{"a mark", "$EOF:" + mark, -1, outcome{}},
		{"a mark that is too short", "$EOF:" + mark[1:], 0, outcome{Protocol: true}},
		{"a mark that is too long", "$EOF:" + mark + "x", 0, outcome{Protocol: true}},
		{"a negative length", "$-1", 0, outcome{Protocol: true}},
		{"no length", "$", 0, outcome{Protocol: true}},
		{"a length that overflows", "$9223372036854775808", 0, outcome{Protocol: true}},
		{"something else", "+OK", 0, outcome{Protocol: true}},
		{"an error (T6)", "-ERR BGSAVE failed, replication can't continue", 0, outcome{Reply: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := mustDialScript(t, func(p *redistest.Peer) {
				p.Handshake()
				p.Send("+FULLRESYNC " + testID + " 1\r\n")
				p.SendBytewise(test.line + "\r\n")
				p.Hang()
			})
			if _, err := l.Sync(t.Context(), Position{}); err != nil {
				t.Fatal(err)
			}
			got, err := l.Transfer(t.Context())
			if (err != nil) != (test.err != outcome{}) {
				t.Fatalf("Transfer: error %v, want one: %v", err, test.err)
			}
			if diff := cmp.Diff(test.err, classify(t, err)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if err == nil && got != test.size {
				t.Errorf("Transfer = %d, want %d", got, test.size)
			}
		})
	}
}

// The RDB ends where the source has said: behind so many bytes, or at the mark that nothing follows (T9, T10, T11, T12).
func TestReadRDB(t *testing.T) {
	mark := strings.Repeat("0123456789", 4)
	const rdb = "REDIS0011 and so on \xff12345678"
	long := strings.Repeat("0123456789abcdef", 10000) + "\xff12345678"
	false49 := "\xff12345678" + mark // what a value would have to hold to look like the end
	stream := resp("SET", "k", "v")
	tests := []struct {
		name, sent string
		then       string // sent once the replica acknowledges
		want       string
		cut        bool
	}{
		{"a length", fmt.Sprintf("$%d\r\n", len(rdb)) + rdb + stream, "", rdb, false},
		{"no bytes", "$0\r\n" + stream, "", "", false},
		{"a length that is not reached", "$1000\r\n" + rdb, "", rdb, true},
		{"a mark", "$EOF:" + mark + "\r\n" + rdb + mark, stream, rdb, false},
		{"a mark behind much", "$EOF:" + mark + "\r\n" + long + mark, stream, long, false},
		{"a value that holds the mark (T11)", "$EOF:" + mark + "\r\n" + mark + "x" + mark + rdb + mark, stream, mark + "x" + mark + rdb, false},
		{"a value that looks like the end", "$EOF:" + mark + "\r\n" + false49 + rdb + mark, stream, false49 + rdb, false},
		{"half a mark (T12)", "$EOF:" + mark + "\r\n" + rdb + mark[:20], "", "", true},
		{"no mark", "$EOF:" + mark + "\r\n" + long, "", long[:len(long)-49], true},
	}
	for _, test := range tests {
		for _, pieces := range []string{"at once", "bytewise"} {
			if pieces == "bytewise" && len(test.sent) > 10000 {
				continue
			}
			t.Run(test.name+"/"+pieces, func(t *testing.T) {
				t.Parallel()
				l := mustDialScript(t, func(p *redistest.Peer) {
					p.Handshake()
					send := p.Send
					if pieces == "bytewise" {
						send = p.SendBytewise
					}
					send("+FULLRESYNC " + testID + " 1\r\n" + test.sent)
					if test.then != "" {
						p.WaitAck()
						p.Send(test.then)
					}
				})
				if _, err := l.Sync(t.Context(), Position{}); err != nil {
					t.Fatal(err)
				}
				if _, err := l.Transfer(t.Context()); err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(bufio.NewReaderSize(rdbOf{l}, 64<<10))
				if string(got) != test.want {
					t.Errorf("an RDB of %d bytes, want %d", len(got), len(test.want))
				}
				if test.cut {
					if !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("it ends with %v, want io.ErrUnexpectedEOF", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if test.then != "" {
					if err := l.Ack(0); err != nil {
						t.Fatal(err)
					}
				}
				rest, err := io.ReadAll(l.Reader())
				if err != nil || string(rest) != stream {
					t.Errorf("behind it comes %q, %v, want the stream", rest, err)
				}
			})
		}
	}
}

// A spool that drops everything while an RDB waits for the disk ends the wait.
func TestRDBDroppedWhileItWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, err := spool.Open(spool.Config{Dir: dir, Segment: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.BeginSnapshot(testID, 0, -1); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+"-gone"); err != nil { // so that no other segment can be made
		t.Fatal(err)
	}
	status := &Status{Observe: func(state State, _ string) {
		if state == Waiting {
			if err := errors.Join(os.Rename(dir+"-gone", dir), s.Drop()); err != nil {
				t.Error(err)
			}
		}
	}}
	r := &run{RunConfig: RunConfig{Spool: s, Status: status}}
	if err := r.keepRDB(t.Context(), make([]byte, 900)); err != nil {
		t.Fatal(err)
	}
	if err := r.keepRDB(t.Context(), make([]byte, 1500)); !errors.Is(err, spool.ErrDropped) {
		t.Errorf("got %v, want that it was dropped", err)
	}
}
