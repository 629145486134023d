package replica

import (
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// The backlog's answer is the source's own, at both of its ends and at the end of the history before a failover.
func TestBacklogHasWhatTheSourceHas(t *testing.T) {
	quiet := redistest.Config("repl-ping-replica-period 3600", "repl-backlog-size 16kb", "repl-diskless-sync yes")
	// ask compares the two answers, and returns them.
	ask := func(t *testing.T, s *redistest.Server, p Position) bool {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
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
			deadline := time.Now().Add(time.Minute)
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
			if got, want := resumes(t, dialServer(t, replica), old), (Position{has.ReplID, old.Offset, 3}); got != want {
				t.Errorf("after the failover it goes on from %v, want %v", got, want)
			}
		})
	})
}

func TestBacklogHasSaysWhy(t *testing.T) {
	const other = "fedcba9876543210fedcba9876543210fedcba98"
	b := Backlog{ReplID: testID, ReplID2: other, SecondOffset: 1201, FirstByte: 1051, HistLen: 450, MasterOffset: 1500, Active: true}
	tests := []struct {
		name string
		b    Backlog
		p    Position
		why  string // contained; "" for a yes
	}{
		{"inside", b, Position{ReplID: testID, Offset: 1300}, ""},
		{"at its end", b, Position{ReplID: testID, Offset: 1500}, ""},
		{"at its beginning", b, Position{ReplID: testID, Offset: 1050}, ""},
		{"gone", b, Position{ReplID: testID, Offset: 900}, "begins at offset 1051, the checkpoint is at 900: 150 bytes are gone"},
		{"ahead", b, Position{ReplID: testID, Offset: 1510}, "at offset 1510, the source only at 1500: it has lost 10 bytes"},
		{"before the failover", b, Position{ReplID: other, Offset: 1200}, ""},
		{"lost in the failover", b, Position{ReplID: other, Offset: 1207}, "promoted at offset 1200, the checkpoint is at 1207 in the history before that: 7 bytes were lost"},
		{"another history", b, Position{ReplID: strings.Repeat("7", 40), Offset: 1300}, "belongs to the replication ID " + strings.Repeat("7", 40)},
		{"no backlog", Backlog{ReplID: testID, SecondOffset: -1}, Position{ReplID: testID}, "keeps no backlog"},
		{"no position", b, Position{}, "no position"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ok, why := test.b.Has(test.p)
			if ok != (test.why == "") || !strings.Contains(why, test.why) {
				t.Errorf("Has = %v, %q, want %q", ok, why, test.why)
			}
		})
	}
}

// Only a replica comes to what it lacks, and only in the history that it writes now.
func TestBacklogBehind(t *testing.T) {
	const other = "fedcba9876543210fedcba9876543210fedcba98"
	b := Backlog{ReplID: testID, ReplID2: other, SecondOffset: 1201, FirstByte: 1051, HistLen: 450, MasterOffset: 1500, Active: true, Replica: true}
	primary := b
	primary.Replica = false
	tests := []struct {
		name string
		b    Backlog
		p    Position
		want bool
	}{
		{"ahead of a replica", b, Position{ReplID: testID, Offset: 1501}, true},
		{"at its end", b, Position{ReplID: testID, Offset: 1500}, false},
		{"ahead of a primary", primary, Position{ReplID: testID, Offset: 1501}, false},
		{"in the history before", b, Position{ReplID: other, Offset: 1501}, false},
		{"no position", b, Position{}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.b.Behind(test.p); got != test.want {
				t.Errorf("Behind = %v", got)
			}
		})
	}
}

func TestParseBacklog(t *testing.T) {
	const text = "# Replication\r\nrole:master\r\nslave0:ip=127.0.0.1,port=0,state=online\r\nmaster_replid:" + testID +
		"\r\nmaster_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:1500\r\nsecond_repl_offset:-1\r\n" +
		"repl_backlog_active:1\r\nrepl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1051\r\nrepl_backlog_histlen:450\r\n"
	want := Backlog{ReplID: testID, ReplID2: strings.Repeat("0", 40), SecondOffset: -1, FirstByte: 1051, HistLen: 450, MasterOffset: 1500, Active: true}
	if got, err := ParseBacklog(ParseInfo(text)); err != nil || got != want {
		t.Errorf("ParseBacklog = %+v, %v, want %+v", got, err, want)
	}
	for _, field := range []string{"master_replid", "master_repl_offset", "second_repl_offset", "repl_backlog_first_byte_offset", "repl_backlog_histlen"} {
		info := ParseInfo(text)
		delete(info, field)
		if _, err := ParseBacklog(info); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: error %v, want one that names it", field, err)
		}
	}
	if got := ParseInfo(text)["slave0"]; got != "ip=127.0.0.1,port=0,state=online" {
		t.Errorf("a field with colons and commas is %q", got)
	}
	if info := ParseInfo("# not:a field\n\njust text\na:b:c"); len(info) != 1 || info["a"] != "b:c" {
		t.Errorf("ParseInfo = %q", info)
	}
}
