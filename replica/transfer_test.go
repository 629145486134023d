package replica

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
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
			if err == nil && (got.Size != test.size || got.Reader != l.Reader()) {
				t.Errorf("Transfer = %+v, want size %d and the link's reader", got, test.size)
			}
		})
	}
}

// The end of an RDB is where the parser says; the source's own idea of it must be the same (T9, T10, T11).
func TestEndTransfer(t *testing.T) {
	mark := strings.Repeat("0123456789", 4)
	const rdb = "REDIS0011 and so on"
	stream := resp("SET", "k", "v")
	tests := []struct {
		name, sent string
		parsed     int // bytes that the parser takes
		bad        bool
		eof        bool
	}{
		{"at the length", "$19\r\n" + rdb + stream, len(rdb), false, false},
		{"before the length", "$19\r\n" + rdb + stream, len(rdb) - 1, true, false},
		{"behind the length", "$19\r\n" + rdb + stream, len(rdb) + 1, true, false},
		{"an RDB of no bytes", "$0\r\n" + stream, 0, false, false},
		{"at the mark", "$EOF:" + mark + "\r\n" + rdb + mark + stream, len(rdb), false, false},
		{"a value that looks like the mark (T11)", "$EOF:" + mark + "\r\n" + mark + rdb + mark + stream, len(mark) + len(rdb), false, false},
		{"a byte before the mark", "$EOF:" + mark + "\r\n" + rdb + mark + stream, len(rdb) - 1, true, false},
		{"a byte into the mark", "$EOF:" + mark + "\r\n" + rdb + mark + stream, len(rdb) + 1, true, false},
		{"half a mark (T12)", "$EOF:" + mark + "\r\n" + rdb + mark[:20], len(rdb), false, true},
	}
	for _, test := range tests {
		for _, pieces := range []string{"at once", "bytewise"} {
			t.Run(test.name+"/"+pieces, func(t *testing.T) {
				l := mustDialScript(t, func(p *redistest.Peer) {
					p.Handshake()
					send := p.Send
					if pieces == "bytewise" {
						send = p.SendBytewise
					}
					send("+FULLRESYNC " + testID + " 1\r\n" + test.sent)
				})
				if _, err := l.Sync(t.Context(), Position{}); err != nil {
					t.Fatal(err)
				}
				tr, err := l.Transfer(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, tr.Reader, int64(test.parsed)); err != nil {
					t.Fatal(err)
				}
				err = l.EndTransfer()
				var pe *ProtocolError
				switch {
				case test.eof:
					if !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("EndTransfer: %v, want io.ErrUnexpectedEOF", err)
					}
				case test.bad:
					if !errors.As(err, &pe) {
						t.Errorf("EndTransfer: %v, want a ProtocolError", err)
					}
				case err != nil:
					t.Errorf("EndTransfer: %v", err)
				default:
					rest, err := io.ReadAll(l.Reader())
					if err != nil || string(rest) != stream {
						t.Errorf("behind it comes %q, %v, want the stream", rest, err)
					}
				}
				if l.EndTransfer() == nil {
					t.Error("a second EndTransfer succeeds")
				}
			})
		}
	}
}
