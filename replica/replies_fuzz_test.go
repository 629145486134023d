package replica

import (
	"encoding/json"
	"errors"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// What a sentinel names is an address that can be dialled, and nothing but an address; or it is refused.
func FuzzSentinelReplies(f *testing.F) {
	f.Add("( 10.0.0.1 6379 )", "( ( name mymaster ip 10.0.0.1 port 6379 ) ( name other ) )")
	f.Add("( ::1 6379 )", "( ( ) ( :1 ~ ) name )")
	f.Add(`( "" 6379 )`, "~")
	f.Add(`( "host/x" 0 )`, "!ERR")
	f.Add(`( "a\nb" 65536 )`, "( ( name ) )")
	f.Fuzz(func(t *testing.T, address, masters string) {
		reply := redistest.ReplyOf(address)
		addr, err := primaryAddr(&reply)
		if err != nil {
			if addr != "" {
				t.Errorf("%s: %q beside %v", address, addr, err)
			}
		} else {
			host, port, err := net.SplitHostPort(addr)
			n, bad := strconv.Atoi(port)
			if err != nil || bad != nil || host == "" || n < 1 || n > 65535 || strings.ContainsAny(addr, " \r\n\x00/@") {
				t.Errorf("%s: %q: %v", address, addr, errors.Join(err, bad))
			}
		}
		reply = redistest.ReplyOf(masters)
		names := masterNames(&reply)
		if !slices.IsSorted(names) || slices.Contains(names, "") {
			t.Errorf("%s: %q", masters, names)
		}
	})
}

// The table of COMMAND has places that a command can have, under names as translate looks them up.
func FuzzCommandTable(f *testing.F) {
	f.Add("( ( get :2 ( readonly fast ) :1 :1 :1 ( @read ) ) ( EVAL :-3 ( noscript movablekeys ) :0 :0 :0 ) )")
	f.Add("( ( mset :-3 ( write ) :1 :-1 :2 ) ( x :1 ~ :9223372036854775807 :-9223372036854775808 :9223372036854775807 ) )")
	f.Add("( ( get ) ~ ( ) :1 ( :1 :1 :1 :1 :1 :1 ) ( a b c d e f ) )")
	f.Fuzz(func(t *testing.T, text string) {
		reply := redistest.ReplyOf(text)
		list, err := reply.ToArray()
		if err != nil {
			return
		}
		table := keySpecs(list)
		if len(table) > len(list) {
			t.Errorf("%d commands of %d", len(table), len(list))
		}
		for name, spec := range table {
			if name == "" || name != strings.ToLower(name) || spec.First < 0 || spec.Step < 0 || max(spec.First, spec.Last, -spec.Last, spec.Step) > mostPlaces {
				t.Errorf("%q: %+v", name, spec)
			}
		}
	})
}

// The lines by which a source begins to send are a position and a length within their bounds, or a ProtocolError, a Stop, or a refusal that quotes them.
func FuzzLinkLines(f *testing.F) {
	const id = "0123456789abcdef0123456789abcdef01234567"
	f.Add("+FULLRESYNC "+id+" 12", "$1234", int64(0))
	f.Add("+CONTINUE", "$EOF:"+id, int64(7))
	f.Add("+CONTINUE "+id, "$-1", int64(7))
	f.Add("+FULLRESYNC "+id+" -12", "$9223372036854775808", int64(0))
	f.Add("+CONTINUE x y", "-NOMASTERLINK", int64(1))
	f.Add("", "", int64(0))
	f.Fuzz(func(t *testing.T, answer, length string, offset int64) {
		from := Position{}
		if offset > 0 {
			from = Position{ReplID: id, Offset: offset, DB: 3}
		}
		r, err := parseSyncReply(answer, from)
		var garbage *ProtocolError
		switch {
		case err != nil:
			if !errors.As(err, &garbage) && AsStop(err) == nil && !strings.Contains(err.Error(), strings.TrimSpace(answer)) {
				t.Errorf("%q: %v", answer, err)
			}
			if r != (SyncReply{}) {
				t.Errorf("%q: %+v beside %v", answer, r, err)
			}
		case !validReplID(r.At.ReplID), r.At.Offset < 0, r.Full && r.At.DB != 0:
			t.Errorf("%q: %+v", answer, r)
		case !r.Full && (from.IsZero() || r.At.Offset != from.Offset || r.At.DB != from.DB):
			t.Errorf("%q after %v: %+v", answer, from, r)
		}
		l := newLink(nil, LinkConfig{Endpoint: Endpoint{Addr: "h:1"}})
		size, next, err := l.announced(length)
		if err == nil && (size < -1 || size >= 0 && next.left != size || size < 0 && len(next.mark) != markLen) {
			t.Errorf("%q: %d, %+v", length, size, next)
		}
	})
}

// The file of lifted limits has limits that can be put back as they were, or is refused.
func FuzzRaisedLimits(f *testing.F) {
	f.Add([]byte(`[{"addr":"h:1","run_id":"x","limit":"replica 268435456 67108864 60","since":"2026-01-02T03:04:05Z"}]`))
	f.Add([]byte(`[{"addr":"h:1","limit":""}]`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`[null]`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, err := parseRaised(text)
		if err != nil {
			return
		}
		for _, r := range records {
			l, err := parseBufferLimit(r.Limit)
			if err != nil {
				t.Fatalf("%q: %v", r.Limit, err)
			}
			if again, err := parseBufferLimit(l.String()); err != nil || again != l {
				t.Errorf("%q becomes %q: %v", r.Limit, l, err)
			}
			if r.of("", Endpoint{Addr: "another:1"}) && r.Addr != "another:1" {
				t.Errorf("%+v is of every server", r)
			}
		}
		again, err := json.Marshal(records)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := parseRaised(again); err != nil || len(second) != len(records) {
			t.Errorf("%q becomes %q: %v", text, again, err)
		}
	})
}

// Whatever a source says of its buffers and of what is written there, the judgement is a sentence with numbers, and the way out a command that holds.
func FuzzSourceLimits(f *testing.F) {
	f.Add("redis_version:7.0.1\nused_memory_dataset:1000000000\nrdb_last_bgsave_time_sec:12\nmaster_repl_offset:100\nmaster_replid:a\nrun_id:r\nrepl_backlog_active:1\n",
		"master_repl_offset:900000000\nmaster_replid:a\nrun_id:r\nclient_output_buffer_limit_disconnections:3\n", "normal 0 0 0 slave 268435456 67108864 60", int64(time.Second))
	f.Add("used_memory_dataset:18446744073709551615\nrdb_last_bgsave_time_sec:9223372036854775807\ntotal_net_input_bytes:0\n", "total_net_input_bytes:9223372036854775807\nmaster_repl_offset:-1", "replica 1 1 18446744073709551615", int64(1))
	f.Add("paused_reason:x\npaused_timeout_milliseconds:9223372036854775807\n", "repl-timeout:9223372036", "replica 0 0 0", int64(-1))
	f.Fuzz(func(t *testing.T, before, after, limit string, between int64) {
		a, b := ParseInfo(before), ParseInfo(after)
		l, err := parseBufferLimit(limit)
		facts := bufferFacts{limit: l, known: err == nil}
		facts.rate, facts.atMost = writeRate(a, b, time.Duration(between))
		facts.took, facts.tookWhy = transferTime(a)
		if math.IsNaN(facts.rate) || facts.took < 0 || (facts.took > 0) != (facts.tookWhy != "") {
			t.Errorf("%+v", facts)
		}
		risk := facts.risk()
		if risk.Text == "" || strings.Contains(risk.Text+risk.Hint, "%!") || strings.Contains(risk.Text+risk.Hint, "NaN") || strings.Contains(risk.Text, " -") {
			t.Errorf("%+v", risk)
		}
		offset, _ := strconv.ParseInt(a["master_repl_offset"], 10, 64)
		mark := markTransfer(a, facts, Position{ReplID: a["master_replid"], Offset: offset})
		if c := mark.judge(b, linkEnd{when: mark.began.Add(time.Duration(between)), received: offset, rdb: 5, rdbSize: 50}); c != nil {
			if c.text == "" || strings.Contains(c.text+c.hint, "%!") || strings.Contains(c.text+c.hint, "NaN") {
				t.Errorf("%+v", c)
			}
		}
		there, _ := strconv.ParseInt(b["master_repl_offset"], 10, 64)
		if c := l.tooMuch(there - offset); c != nil && (there-offset <= 0 || l.Hard == 0 || strings.Contains(c.text+c.hint, "%!")) {
			t.Errorf("%d, %d: %+v", offset, there, c)
		}
		if why, left := pausedFor(a); left < 0 || (why == "") != (left == 0) {
			t.Errorf("paused by %q for %v", why, left)
		}
		if timeout := secondsText(b["repl-timeout"]); timeout < 0 || timeout > time.Second<<31 {
			t.Errorf("%q: %v", b["repl-timeout"], timeout)
		}
	})
}
