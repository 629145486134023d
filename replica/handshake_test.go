package replica

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
)

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
