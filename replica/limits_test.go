package replica

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseBufferLimit(t *testing.T) {
	tests := []struct {
		name, text string
		want       string // empty for an error
	}{
		{"a server's default", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "slave 268435456 67108864 60"},
		{"by its new name", "normal 0 0 0 replica 1 2 3", "replica 1 2 3"},
		{"alone", "slave 0 0 0", "slave 0 0 0"},
		{"the largest", "slave 18446744073709551615 1 0", "slave 18446744073709551615 1 0"},
		{"empty", "", ""},
		{"none for replicas", "normal 0 0 0", ""},
		{"two for replicas", "slave 0 0 0 replica 0 0 0", ""},
		{"too few numbers", "normal 0 0 0 slave 1 2", ""},
		{"a word too many", "slave 1 2 3 4", ""},
		{"two spaces", "slave  1 2 3", ""},
		{"units", "slave 256mb 64mb 60", ""},
		{"negative", "slave -1 0 0", ""},
		{"a sign", "slave +1 0 0", ""},
		{"too large", "slave 18446744073709551616 0 0", ""},
		{"another class is wrong", "normal a b c slave 1 2 3", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := parseBufferLimit(test.text)
			if got := l.String(); (err != nil) != (test.want == "") || err == nil && got != test.want {
				t.Errorf("parseBufferLimit(%q) = %s, %v, want %q", test.text, got, err, test.want)
			}
		})
	}
}

// What is understood is what CONFIG SET takes back, and no number of a source breaks the words about it.
func FuzzParseBufferLimit(f *testing.F) {
	f.Add("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", 1e6, int64(1000))
	f.Add("replica 18446744073709551615 1 18446744073709551615", 1e300, int64(1)<<62)
	f.Fuzz(func(t *testing.T, text string, rate float64, took int64) {
		l, err := parseBufferLimit(text)
		if err != nil {
			return
		}
		if again, err := parseBufferLimit(l.String()); err != nil || again != l {
			t.Errorf("%q becomes %q, which is read as %v, %v", text, l, again, err)
		}
		facts := bufferFacts{limit: l, known: true, rate: rate, took: time.Duration(took)}
		if r := facts.risk(); r.Text == "" || r.Level > RiskFine && r.Hint == "" {
			t.Errorf("no words for %+v: %+v", facts, r)
		}
	})
}

func TestRisk(t *testing.T) {
	const mib = 1 << 20
	usual := bufferLimit{"slave", 256 * mib, 64 * mib, 60}
	tests := []struct {
		name  string
		facts bufferFacts
		want  RiskLevel
		words string // in the text or the hint
	}{
		{"hard, far off", bufferFacts{limit: bufferLimit{Hard: 256 * mib}, known: true, rate: mib, took: 127 * time.Second}, RiskFine, "1.0 MiB/s of writes for about 2m7s"},
		{"hard, close", bufferFacts{limit: bufferLimit{Hard: 256 * mib}, known: true, rate: mib, took: 129 * time.Second}, RiskLikely, "reached after 4m16s"},
		{"hard, just over", bufferFacts{limit: bufferLimit{Hard: 256 * mib}, known: true, rate: mib, took: 511 * time.Second}, RiskLikely, "--raise-source-limits"},
		{"hard, far over", bufferFacts{limit: bufferLimit{Hard: 256 * mib}, known: true, rate: mib, took: 512 * time.Second}, RiskCertain, `"replica 1024mb 1024mb 0"`},
		{"soft comes first", bufferFacts{limit: usual, known: true, rate: 2 * mib, took: 184 * time.Second}, RiskCertain, "reached after 1m32s"},
		{"hard comes first", bufferFacts{limit: usual, known: true, rate: 10 * mib, took: 52 * time.Second}, RiskCertain, "reached after 26s"},
		{"soft, over before its seconds", bufferFacts{limit: usual, known: true, rate: 10 * mib, took: 12 * time.Second}, RiskFine, "120 MiB"},
		{"soft alone", bufferFacts{limit: bufferLimit{Soft: mib, SoftSeconds: 1}, known: true, rate: mib, took: 4 * time.Second}, RiskCertain, "1.0 MiB for more than 1 s"},
		{"an upper bound is not certain", bufferFacts{limit: usual, known: true, rate: 1000 * mib, took: time.Hour, atMost: true}, RiskLikely, "at most"},
		{"nothing is written", bufferFacts{limit: usual, known: true, rate: 0, took: time.Hour}, RiskFine, "0 B/s"},
		{"no limit", bufferFacts{known: true, rate: 10 * mib, took: time.Minute}, RiskFine, "600 MiB"},
		{"no limit, nothing else known", bufferFacts{known: true, rate: -1}, RiskFine, "no client-output-buffer-limit"},
		{"CONFIG refused", bufferFacts{rate: mib, took: time.Minute}, RiskUnknown, "+config|get"},
		{"rate unknown", bufferFacts{limit: usual, known: true, rate: -1, took: time.Minute}, RiskUnknown, "+info"},
		{"time unknown", bufferFacts{limit: usual, known: true, rate: mib}, RiskUnknown, "256 MiB, or 64 MiB for more than 60 s"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := test.facts.risk()
			if got.Level != test.want || !strings.Contains(got.Text+got.Hint, test.words) {
				t.Errorf("risk = %d %q %q, want %d and %q", got.Level, got.Text, got.Hint, test.want, test.words)
			}
		})
	}
}

func TestRateBetweenTwoLooks(t *testing.T) {
	look := func(run, id, active string, offset, input int) map[string]string {
		return map[string]string{
			"run_id": run, "master_replid": id, "repl_backlog_active": active,
			"master_repl_offset": fmt.Sprint(offset), "total_net_input_bytes": fmt.Sprint(input),
		}
	}
	tests := []struct {
		name   string
		a, b   map[string]string
		want   float64
		atMost bool
	}{
		{"by the stream", look("r", "i", "1", 100, 0), look("r", "i", "1", 300, 1000), 100, false},
		{"no backlog", look("r", "i", "0", 100, 0), look("r", "i", "0", 101, 1000), 500, true},
		{"a backlog came between", look("r", "i", "0", 100, 0), look("r", "j", "1", 900, 1000), 500, true},
		{"another server", look("r", "i", "1", 100, 0), look("s", "i", "1", 300, 1000), -1, false},
		{"back in time", look("r", "i", "1", 300, 0), look("r", "i", "1", 100, 0), -1, false},
		{"nothing to read", map[string]string{}, map[string]string{}, -1, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if rate, atMost := writeRate(test.a, test.b, 2*time.Second); rate != test.want || atMost != test.atMost {
				t.Errorf("writeRate = %v, %v, want %v, %v", rate, atMost, test.want, test.atMost)
			}
		})
	}
}

func TestTransferTime(t *testing.T) {
	tests := []struct {
		name, dataset, used, last string
		want                      time.Duration
		why                       string
	}{
		{"by size", "104857600", "1", "-1", 2 * time.Second, "100 MiB of data"},
		{"by all memory", "", "104857600", "1", 2 * time.Second, "100 MiB of data"},
		{"by the last save", "104857600", "1", "60", time.Minute, "its last BGSAVE"},
		{"a small one", "0", "0", "-1", 1, "0 B of data"},
		{"no INFO", "", "", "", 0, ""},
		{"an underflow of a fresh server", "18446744073709551544", "104857600", "0", 2 * time.Second, "100 MiB of data"},
		{"underflows alone", "18446744073709551544", "18446744073709551615", "", 0, ""},
		{"beyond measure", "9223372036854775807", "", "9223372036854775807", 1000 * time.Hour, "8.0 EiB"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, why := transferTime(map[string]string{
				"used_memory_dataset": test.dataset, "used_memory": test.used, "rdb_last_bgsave_time_sec": test.last,
			})
			if got != test.want || !strings.Contains(why, test.why) {
				t.Errorf("transferTime = %v (%s), want %v (%s)", got, why, test.want, test.why)
			}
		})
	}
}

func TestDrained(t *testing.T) {
	type look struct {
		received, source int64
		want             bool
	}
	tests := []struct {
		name    string
		earlier bufferLimit
		looks   []look
	}{
		{"at the offset that was first seen", bufferLimit{Hard: 1000}, []look{{100, 900, false}, {800, 1200, false}, {900, 1300, true}}},
		{"nothing had piled up", bufferLimit{Hard: 1000}, []look{{100, 100, true}}},
		{"another pile over the limit", bufferLimit{Hard: 1000, Soft: 300}, []look{{100, 900, false}, {900, 1200, false}, {1100, 1300, false}, {1200, 1400, true}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := &limits{earlier: test.earlier}
			for _, k := range test.looks {
				if got := l.drained(k.received, k.source); got != k.want {
					t.Errorf("drained(%d, %d) = %v", k.received, k.source, got)
				}
			}
		})
	}
}

func TestJudgeTheEnd(t *testing.T) {
	const mib = 1 << 20
	limit := bufferLimit{"slave", 8 * mib, 4 * mib, 5}
	type set struct {
		known        bool
		limit        bufferLimit
		before, then string // the counter; empty without one
		offset       int64
		lasted       time.Duration
	}
	tests := []struct {
		name  string
		set   set
		other func(m *transferMark, end *linkEnd)
		want  string // in the words of the cut; empty for none
	}{
		{"counted", set{true, limit, "0", "1", 8 * mib, 2 * time.Second}, nil, "8.0 MiB of writes waited there for us, 4.0 MiB/s"},
		{"not counted", set{true, limit, "1", "1", 80 * mib, 2 * time.Second}, nil, ""},
		{"counted, but of somebody else", set{true, limit, "0", "1", 1 * mib, 2 * time.Second}, nil, ""},
		{"counted, CONFIG unknown", set{false, bufferLimit{}, "3", "4", 80 * mib, 2 * time.Second}, nil, "unknown to us"},
		{"counted, but our limit is raised", set{true, bufferLimit{class: "slave"}, "0", "1", 80 * mib, 2 * time.Second}, nil, ""},
		{"no counter, hard", set{true, limit, "", "", 8 * mib * 95 / 100, time.Second}, nil, "over its limit"},
		{"no counter, below hard, too short for soft", set{true, limit, "", "", 6 * mib, 4 * time.Second}, nil, ""},
		{"no counter, long over soft", set{true, limit, "", "", 6 * mib, 20 * time.Second}, nil, "over its limit"},
		{"no counter, below soft", set{true, limit, "", "", 3 * mib, time.Hour}, nil, ""},
		{"no counter, CONFIG unknown", set{false, bufferLimit{}, "", "", 80 * mib, time.Second}, nil, ""},
		{"the stream had come", set{true, limit, "0", "1", 8 * mib, time.Second}, func(_ *transferMark, end *linkEnd) { end.received += 7 * mib }, ""},
		{"half of the RDB had come", set{true, limit, "0", "1", 8 * mib, 2 * time.Second}, func(_ *transferMark, end *linkEnd) {
			end.rdb, end.rdbSize = 10, 100 // 20 s at 4 MiB/s, twice
		}, `"replica 160mb 160mb 5"`},
		{"the last BGSAVE took longer", set{true, limit, "0", "1", 8 * mib, 2 * time.Second}, func(m *transferMark, _ *linkEnd) {
			m.facts.took = time.Minute
		}, `"replica 480mb 480mb 5"`},
		{"restarted", set{true, limit, "0", "1", 8 * mib, time.Second}, func(m *transferMark, _ *linkEnd) { m.runID = "other" }, ""},
		{"another history", set{true, limit, "0", "1", 8 * mib, time.Second}, func(m *transferMark, _ *linkEnd) { m.at.ReplID = "other" }, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := map[string]string{"run_id": "run", "client_output_buffer_limit_disconnections": test.set.before}
			after := map[string]string{
				"run_id": "run", "master_replid": testID, "master_repl_offset": fmt.Sprint(1000 + test.set.offset),
				"client_output_buffer_limit_disconnections": test.set.then,
			}
			m := markTransfer(before, bufferFacts{limit: test.set.limit, known: test.set.known, rate: -1}, Position{ReplID: testID, Offset: 1000})
			end := linkEnd{when: m.began.Add(test.set.lasted), received: 1000, rdbSize: -1}
			if test.other != nil {
				test.other(&m, &end)
			}
			c := m.judge(after, end)
			if (c != nil) != (test.want != "") {
				t.Fatalf("judge = %+v, want %q", c, test.want)
			}
			if c != nil && !strings.Contains(c.text+c.hint, test.want) {
				t.Errorf("judge = %q %q, want %q", c.text, c.hint, test.want)
			}
		})
	}
	if (transferMark{}).judge(map[string]string{}, linkEnd{}) != nil {
		t.Error("something is judged of a source that does not permit INFO")
	}
}

func TestTwoCutsInARow(t *testing.T) {
	c := &cut{text: "it was cut", hint: "raise it"}
	var n cuts
	for i, step := range []struct {
		c    *cut
		want bool
	}{{c, false}, {nil, false}, {c, false}, {c, true}} {
		err := n.count(step.c)
		if stop := AsStop(err); (stop != nil) != step.want || stop != nil && (stop.Kind != Decide || stop.Hint != "raise it" || !strings.Contains(stop.Reason, "2nd time")) {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

// A file that is not ours, or not readable, is neither followed nor overwritten.
func TestLimitsFileThatIsBroken(t *testing.T) {
	l := &limits{source: Endpoint{Network: "tcp", Addr: "127.0.0.1:1"}, path: filepath.Join(t.TempDir(), "limits.json")}
	if err := l.restore(t.Context()); err != nil {
		t.Errorf("restore without a file: %v", err)
	}
	if err := os.WriteFile(l.path, []byte(`[{"addr":`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"raise": func() error { return l.raise(t.Context()) }, "restore": func() error { return l.restore(t.Context()) },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), l.path) {
			t.Errorf("%s: %v, want an error that names the file", name, err)
		}
	}
	if err := l.write([]raisedLimit{{Addr: l.source.Addr, Limit: "slave 1 2 3"}}); err != nil {
		t.Fatal(err)
	}
	err := l.restore(t.Context())
	if err == nil || !strings.Contains(err.Error(), `CONFIG SET client-output-buffer-limit "slave 1 2 3"`) {
		t.Errorf("with a source that is away, restore says %v, want the command to run", err)
	}
	if records, err := l.read(); err != nil || len(records) != 1 {
		t.Errorf("the file has %v, %v", records, err)
	}
}
