package replica

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
)

// dialScript connects to a scripted source.
func dialScript(t *testing.T, play func(p *redistest.Peer), change ...func(*LinkConfig)) (*Link, error) {
	t.Helper()
	script := redistest.StartScript(t, play)
	c := LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: script.Addr()}, ReadTimeout: 5 * time.Second}
	for _, f := range change {
		f(&c)
	}
	l, err := Dial(t.Context(), c)
	if err == nil {
		t.Cleanup(func() { _ = l.Close() })
	}
	return l, err
}

// mustDialScript is dialScript for a play whose handshake goes well.
func mustDialScript(t *testing.T, play func(p *redistest.Peer), change ...func(*LinkConfig)) *Link {
	t.Helper()
	l, err := dialScript(t, play, change...)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	return l
}

// outcome is an error's class.
type outcome struct {
	Stop     bool // with Kind Config
	Reply    bool // a *ReplyError
	Protocol bool // a *ProtocolError
}

func classify(t *testing.T, err error) outcome {
	t.Helper()
	var o outcome
	if s := AsStop(err); s != nil {
		o.Stop = true
		if s.Kind != Config || s.Hint == "" {
			t.Errorf("Stop of kind %v with hint %q, want Config and a hint", s.Kind, s.Hint)
		}
	}
	var re *ReplyError
	var pe *ProtocolError
	o.Reply, o.Protocol = errors.As(err, &re), errors.As(err, &pe)
	return o
}

func TestHandshake(t *testing.T) {
	common := func(p *redistest.Peer) {
		for _, option := range [][]string{{"listening-port", "0"}, {"capa", "eof"}, {"capa", "psync2"}, {"version", "9.0.0"}} {
			p.Expect(append([]string{"REPLCONF"}, option...)...)
		}
	}
	as := func(user, password string) func(*LinkConfig) {
		return func(c *LinkConfig) { c.Endpoint.Username, c.Endpoint.Password = user, password }
	}
	psync := func(p *redistest.Peer) {
		p.Expect("PSYNC", "?", "-1")
		p.Send("+FULLRESYNC " + testID + " 1\r\n")
	}
	tests := []struct {
		name   string
		change func(*LinkConfig)
		play   func(p *redistest.Peer)
	}{
		{"without a password", as("", ""), func(p *redistest.Peer) {
			p.Expect("PING")
			p.Send("+PONG\r\n")
			common(p)
			p.Send("+OK\r\n+OK\r\n+OK\r\n-ERR Unrecognized REPLCONF option: version\r\n")
			psync(p)
		}},
		{"with a password", as("", "secret"), func(p *redistest.Peer) {
			p.Expect("PING")
			p.Send("-NOAUTH Authentication required.\r\n")
			p.Expect("AUTH", "secret")
			p.Send("+OK\r\n")
			common(p)
			p.Send("+OK\r\n+OK\r\n+OK\r\n+OK\r\n")
			psync(p)
		}},
		{"as a user", as("alice", "secret"), func(p *redistest.Peer) {
			p.Expect("PING")
			p.Send("-NOAUTH Authentication required.\r\n")
			p.Expect("AUTH", "alice", "secret")
			p.Send("+OK\r\n")
			common(p)
			p.Send("+OK\r\n+OK\r\n+OK\r\n+OK\r\n")
			psync(p)
		}},
		{"a PING that is not permitted, options that are not known", as("", ""), func(p *redistest.Peer) {
			p.Expect("PING")
			p.Send("-NOPERM this user has no permissions to run the 'ping' command\r\n")
			common(p)
			p.Send(strings.Repeat("-ERR Unrecognized REPLCONF option\r\n", 4))
			psync(p)
		}},
		{"replies a byte at a time, with newlines between (T8)", as("", ""), func(p *redistest.Peer) {
			p.Expect("PING")
			p.SendBytewise("\n\n+PONG\r\n")
			common(p)
			p.SendBytewise("+OK\r\n+OK\r\n\n+OK\r\n+OK\r\n")
			psync(p)
		}},
		{"a renamed PSYNC", func(c *LinkConfig) { c.PSYNCCommand = "SECRETSYNC" }, func(p *redistest.Peer) {
			p.Expect("PING")
			p.Send("+PONG\r\n")
			common(p)
			p.Send("+OK\r\n+OK\r\n+OK\r\n+OK\r\n")
			p.Expect("SECRETSYNC", "?", "-1")
			p.Send("+FULLRESYNC " + testID + " 1\r\n")
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := mustDialScript(t, test.play, test.change)
			got, err := l.Sync(t.Context(), Position{})
			want := SyncReply{Full: true, At: Position{ReplID: testID, Offset: 1}}
			if err != nil || got != want {
				t.Errorf("Sync = %v, %v, want %v", got, err, want)
			}
		})
	}
}

func TestHandshakeRefused(t *testing.T) {
	tests := []struct {
		name, ping, auth, replconf string // replies; the first that is not + ends it
		want                       outcome
		text                       string // is in the error
	}{
		{"no password given (T1)", "-NOAUTH Authentication required.", "", "", outcome{Stop: true}, "AUTH"},
		{"wrong password (T1)", "-NOAUTH x", "-WRONGPASS invalid username-password pair or user is disabled.", "", outcome{Stop: true}, "AUTH"},
		{"wrong password before 6.0", "-NOAUTH x", "-ERR invalid password", "", outcome{Stop: true}, "AUTH"},
		{"a password that nobody wants", "+PONG", "-ERR AUTH <password> called without any password configured", "", outcome{Stop: true}, "AUTH"},
		{"AUTH while loading", "+PONG", "-LOADING Redis is loading the dataset in memory", "", outcome{Reply: true}, "LOADING"},
		{"protected mode", "-DENIED Redis is running in protected mode", "", "", outcome{Stop: true}, "DENIED"},
		{"loading (T3)", "-LOADING Redis is loading the dataset in memory", "", "", outcome{Reply: true}, "LOADING"},
		{"busy (T3)", "-BUSY Redis is busy running a script", "", "", outcome{Reply: true}, "BUSY"},
		{"without its primary (T3)", "-MASTERDOWN Link with MASTER is down", "", "", outcome{Reply: true}, "MASTERDOWN"},
		{"cannot write its disk (T3)", "-MISCONF Redis is configured to save RDB snapshots", "", "", outcome{Reply: true}, "MISCONF"},
		{"too many clients", "-ERR max number of clients reached", "", "", outcome{Reply: true}, "max number"},
		{"REPLCONF not permitted", "+PONG", "", "-NOPERM this user has no permissions to run the 'replconf' command", outcome{Stop: true}, "'replconf'"},
		{"REPLCONF hidden", "+PONG", "", "-ERR unknown command 'REPLCONF'", outcome{Stop: true}, "REPLCONF"},
		{"not Redis", "HTTP/1.1 400 Bad Request", "", "", outcome{Stop: true, Protocol: true}, "HTTP"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := dialScript(t, func(p *redistest.Peer) {
				for {
					reply := "+OK"
					switch p.Receive()[0] {
					case "PING":
						reply = test.ping
					case "AUTH":
						reply = test.auth
					case "REPLCONF":
						reply = test.replconf
					}
					p.Send(reply + "\r\n")
				}
			}, func(c *LinkConfig) {
				if test.auth != "" {
					c.Endpoint.Password = "hunter2"
				}
			})
			if err == nil {
				t.Fatal("Dial succeeded")
			}
			if diff := cmp.Diff(test.want, classify(t, err)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if text := err.Error(); !strings.Contains(text, test.text) || strings.Contains(text, "hunter2") {
				t.Errorf("the error is %q: want %q in it, and no password", text, test.text)
			}
		})
	}
}

func TestSyncReplies(t *testing.T) {
	const newID = "fedcba9876543210fedcba9876543210fedcba98"
	from := Position{ReplID: testID, Offset: 41, DB: 5}
	full := SyncReply{Full: true, At: Position{ReplID: newID, Offset: 7}}
	tests := []struct {
		name, reply string
		from        Position
		want        SyncReply
		err         outcome
	}{
		{"full", "+FULLRESYNC " + newID + " 7", from, full, outcome{}},
		{"full as asked for", "+FULLRESYNC " + newID + " 7", Position{}, full, outcome{}},
		{"full after newlines (T5)", "\n\n\n+FULLRESYNC " + newID + " 7", from, full, outcome{}},
		{"full after empty lines", "\r\n\r\n+FULLRESYNC " + newID + " 7", from, full, outcome{}},
		{"full at offset 0", "+FULLRESYNC " + newID + " 0", from, SyncReply{Full: true, At: Position{ReplID: newID}}, outcome{}},
		{"continue", "+CONTINUE " + testID, from, SyncReply{At: from}, outcome{}},
		{"continue with a new ID keeps offset and database", "+CONTINUE " + newID, from, SyncReply{At: Position{newID, 41, 5}}, outcome{}},
		{"continue without an ID", "+CONTINUE", from, SyncReply{At: from}, outcome{}},
		{"continue when full was asked for", "+CONTINUE " + newID, Position{}, SyncReply{}, outcome{Protocol: true}},
		{"continue with half an ID", "+CONTINUE 0123", from, SyncReply{}, outcome{Protocol: true}},
		{"continue with more", "+CONTINUE " + newID + " x", from, SyncReply{}, outcome{Protocol: true}},
		{"full with half an ID", "+FULLRESYNC 0123 7", from, SyncReply{}, outcome{Protocol: true}},
		{"full with an ID of other characters", "+FULLRESYNC " + strings.Repeat("x", 40) + " 7", from, SyncReply{}, outcome{Protocol: true}},
		{"full without an offset", "+FULLRESYNC " + newID, from, SyncReply{}, outcome{Protocol: true}},
		{"full with an offset below zero", "+FULLRESYNC " + newID + " -1", from, SyncReply{}, outcome{Protocol: true}},
		{"full with an offset that is none", "+FULLRESYNC " + newID + " x", from, SyncReply{}, outcome{Protocol: true}},
		{"a second channel that we did not ask for", "+RDBCHANNELSYNC 12", from, SyncReply{}, outcome{Protocol: true}},
		{"a space", " ", from, SyncReply{}, outcome{Protocol: true}},
		{"a line without an end", "+" + strings.Repeat("x", 2<<20), from, SyncReply{}, outcome{Protocol: true}},
		{"no link to its primary", "-NOMASTERLINK Can't SYNC while not connected with my master", from, SyncReply{}, outcome{Reply: true}},
		{"loading", "-LOADING Redis is loading the dataset in memory", from, SyncReply{}, outcome{Reply: true}},
		{"busy", "-BUSY Redis is busy running a script", from, SyncReply{}, outcome{Reply: true}},
		{"try again", "-TRYAGAIN x", from, SyncReply{}, outcome{Reply: true}},
		{"BGSAVE failed (T6)", "-ERR BGSAVE failed, replication can't continue", from, SyncReply{}, outcome{Reply: true}},
		{"pending output", "-ERR SYNC and PSYNC are invalid with pending output", from, SyncReply{}, outcome{Reply: true}},
		{"hidden (T4)", "-ERR unknown command 'PSYNC', with args beginning with: '?' '-1' ", from, SyncReply{}, outcome{Stop: true}},
		{"hidden, as 5.0 says it", "-ERR unknown command `PSYNC`, with args beginning with: `?`", from, SyncReply{}, outcome{Stop: true}},
		{"not permitted (T2)", "-NOPERM this user has no permissions to run the 'psync' command", from, SyncReply{}, outcome{Stop: true}},
		{"not logged in", "-NOAUTH Authentication required.", from, SyncReply{}, outcome{Stop: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := mustDialScript(t, func(p *redistest.Peer) {
				id, next := p.Handshake()
				if want := [2]string{testID, "42"}; !test.from.IsZero() && [2]string{id, next} != want {
					t.Errorf("PSYNC %s %s, want %v", id, next, want)
				}
				p.Send(test.reply + "\r\n")
				p.Hang()
			})
			got, err := l.Sync(t.Context(), test.from)
			if (err != nil) != (test.err != outcome{}) {
				t.Fatalf("Sync: error %v, want one: %v", err, test.err)
			}
			if diff := cmp.Diff(test.err, classify(t, err)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if got != test.want {
				t.Errorf("Sync = %+v, want %+v", got, test.want)
			}
		})
	}
}

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

// What comes with +CONTINUE, before or after the segment's end, is the stream (T7).
func TestContinueAndCommandsTogether(t *testing.T) {
	sent := "+CONTINUE " + testID + "\r\n" + resp("SET", "k", "v") + resp("PING")
	for split := range len(sent) {
		l := mustDialScript(t, func(p *redistest.Peer) {
			p.Handshake()
			p.Send(sent[:split])
			p.Send(sent[split:])
		})
		from := Position{ReplID: testID, Offset: 10, DB: 2}
		reply, err := l.Sync(t.Context(), from)
		if err != nil {
			t.Fatalf("split at %d: %v", split, err)
		}
		got, err := units(NewStream(l.Reader(), reply.At))
		want := []unitText{{Cmds: []string{"db2 SET k v"}, Start: 10, End: 37, DB: 2}, {Start: 37, End: 51, DB: 2}}
		if diff := cmp.Diff(want, got); err != io.EOF || diff != "" {
			t.Errorf("split at %d: %v (-want +got):\n%s", split, err, diff)
		}
		_ = l.Close()
	}
}

// Waiting is reported once for each wait, and is not silence: newlines keep the link alive for longer than its timeout.
func TestWaits(t *testing.T) {
	var mu sync.Mutex
	var waits []string
	const pause = 60 * time.Millisecond
	l := mustDialScript(t, func(p *redistest.Peer) {
		p.Handshake()
		p.SendSlowly(pause, "\n", "\n", "\n", "\n", "\n", "\n", "+FULLRESYNC "+testID+" 1\r\n")
		p.SendSlowly(pause, "\n", "\n", "\n", "\n", "\n", "\n", "$0\r\n")
		p.Hang()
	}, func(c *LinkConfig) {
		c.ReadTimeout = 4 * pause
		c.OnWait = func(reason string) {
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, reason)
		}
	})
	if _, err := l.Sync(t.Context(), Position{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Transfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"waiting for the source to start its BGSAVE", "waiting for the source's BGSAVE"}; !cmp.Equal(want, waits) {
		t.Errorf("waits %q, want %q", waits, want)
	}
}

func TestSilenceEndsTheLink(t *testing.T) {
	l := mustDialScript(t, func(p *redistest.Peer) {
		p.Handshake()
		p.Send("+CONTINUE\r\n" + resp("PING"))
		p.Hang()
	}, func(c *LinkConfig) { c.ReadTimeout = 100 * time.Millisecond })
	reply, err := l.Sync(t.Context(), Position{ReplID: testID})
	if err != nil {
		t.Fatal(err)
	}
	got, err := units(NewStream(l.Reader(), reply.At))
	if len(got) != 1 || !errors.Is(err, os.ErrDeadlineExceeded) || AsStop(err) != nil {
		t.Errorf("%d units and %v, want one and a timeout that is worth another try", len(got), err)
	}
}

// A context that ends unblocks each step at once.
func TestCancelled(t *testing.T) {
	hang := func(*redistest.Peer) {}
	steps := []struct {
		name string
		play func(p *redistest.Peer) // up to where the source falls silent
	}{
		{"PING", hang},
		{"REPLCONF", func(p *redistest.Peer) { p.Receive(); p.Send("+PONG\r\n") }},
		{"PSYNC", func(p *redistest.Peer) { p.Handshake() }},
		{"the RDB's announcement", func(p *redistest.Peer) { p.Handshake(); p.Send("+FULLRESYNC " + testID + " 1\r\n") }},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			silent := make(chan struct{})
			script := redistest.StartScript(t, func(p *redistest.Peer) {
				step.play(p)
				close(silent)
				p.Hang()
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			why := errors.New("enough")
			go func() { <-silent; cancel(why) }()
			err := func() error {
				l, err := Dial(ctx, LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: script.Addr()}})
				if err != nil {
					return err
				}
				defer func() { _ = l.Close() }()
				if _, err := l.Sync(ctx, Position{}); err != nil {
					return err
				}
				_, err = l.Transfer(ctx)
				return err
			}()
			if !errors.Is(err, why) {
				t.Errorf("error %v, want the context's cause", err)
			}
		})
	}
	t.Run("beforehand", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Dial(ctx, LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: "127.0.0.1:1"}}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	})
}

func TestLinkWrites(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	l := newLink(near, LinkConfig{ReadTimeout: 100 * time.Millisecond})
	done := make(chan error)
	go func() { done <- errors.Join(l.KeepAlive(), l.Ack(0), l.Ack(1<<40), l.KeepAlive()) }()
	want := "\n" + resp("REPLCONF", "ACK", "0") + resp("REPLCONF", "ACK", "1099511627776") + "\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(far, got); err != nil || string(got) != want {
		t.Errorf("the source heard %q, %v, want %q", got, err, want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := l.Ack(2); !errors.Is(err, os.ErrDeadlineExceeded) { // nobody reads
		t.Errorf("Ack to a source that does not read: %v, want a timeout", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if err := l.Ack(3); err == nil {
		t.Error("Ack after Close succeeds")
	}
}

// Close and Interrupt unblock a reader; after Interrupt a last Ack still goes out.
func TestReaderUnblocked(t *testing.T) {
	for name, unblock := range map[string]func(*Link){
		"Close":     func(l *Link) { _ = l.Close() },
		"Interrupt": (*Link).Interrupt,
	} {
		t.Run(name, func(t *testing.T) {
			acked := make(chan int64, 1)
			l := mustDialScript(t, func(p *redistest.Peer) {
				p.Handshake()
				p.Send("+CONTINUE\r\n")
				acked <- p.WaitAck()
			}, func(c *LinkConfig) { c.ReadTimeout = time.Minute })
			if _, err := l.Sync(t.Context(), Position{ReplID: testID}); err != nil {
				t.Fatal(err)
			}
			go unblock(l)
			if _, err := l.Reader().ReadByte(); err == nil {
				t.Error("a read goes on")
			}
			if name == "Interrupt" {
				if err := l.Ack(9); err != nil {
					t.Errorf("the last Ack: %v", err)
				}
				if got := <-acked; got != 9 {
					t.Errorf("the source heard of offset %d, want 9", got)
				}
				if _, err := l.Reader().Read(make([]byte, 1)); err == nil {
					t.Error("a later read goes on")
				}
			}
		})
	}
}

// A source that goes away is worth another try, wherever it happens.
func TestSourceGone(t *testing.T) {
	l, err := dialScript(t, func(p *redistest.Peer) { p.Receive() })
	if err == nil {
		_ = l.Close()
	}
	if !errors.Is(err, io.EOF) || AsStop(err) != nil {
		t.Errorf("Dial: %v, want io.EOF", err)
	}
	l = mustDialScript(t, func(p *redistest.Peer) { p.Handshake(); p.Send("+FULLRES") })
	if _, err := l.Sync(t.Context(), Position{}); !errors.Is(err, io.ErrUnexpectedEOF) || AsStop(err) != nil {
		t.Errorf("Sync: %v, want io.ErrUnexpectedEOF", err)
	}
	if _, err := Dial(t.Context(), LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: "127.0.0.1:1"}}); err == nil || AsStop(err) != nil {
		t.Errorf("Dial of a closed port: %v, want an error worth another try", err)
	}
}
