package main

import (
	"context"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/leaks"
	"redferry/internal/redistest"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		output string
		want   outcome
	}{
		"nothing": {"", outcome{}},
		"6.0": {
			"Testing unit/sort\n[ok]: SORT DESC\n[ignore]: Tag: slow\n[1/1 done]: unit/sort (0 seconds)\n\n",
			outcome{ok: 1, skipped: 1, last: "[1/1 done]: unit/sort (0 seconds)"},
		},
		"7.0": {"[ready]: 12\n[testing]: a\n[ok]: a (3 ms)\n[skip]: b\n[ok]: c [d] (0 ms)\n", outcome{ok: 2, skipped: 1, last: "[ok]: c [d] (0 ms)"}},
		"failures": {
			"[err]: a in tests/unit/sort.tcl\nExpected '1' to be equal to '2'\nmore\n[ok]: b\n",
			outcome{ok: 1, failures: []string{"a in tests/unit/sort.tcl: Expected '1' to be equal to '2'"}, last: "[ok]: b"},
		},
		"an end": {
			"[ok]: a\n[exception]: Executing test client: ERR no\nERR no\n    while executing\n[exception]: more\n",
			outcome{ok: 1, exception: "exception: Executing test client: ERR no", last: "[exception]: more"},
		},
		"what a test prints is no outcome": {"say [ok]: a\nok: b\n", outcome{last: "ok: b"}},
	} {
		if got := parse(c.output); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestFiles(t *testing.T) {
	s := suite{t.TempDir()}
	if files, err := s.files(); err == nil {
		t.Errorf("an empty folder has the files %q", files)
	}
	for _, path := range []string{"unit/sort.tcl", "unit/type/list.tcl", "unit/type/list-common.tcl", "unit/moduleapi/a.tcl", "unit/notes.md", "integration/psync2.tcl"} {
		write(t, filepath.Join(s.dir, "tests", path), "")
	}
	files, err := s.files()
	if want := []string{"unit/sort", "unit/type/list", "unit/type/list-common"}; err != nil || !slices.Equal(files, want) {
		t.Errorf("got %q and %v, want %q", files, err, want)
	}
	for file, want := range map[string]bool{"unit/type/list-common": true, "unit/sort": false, "unit/scan": true} {
		if why := s.leftOut(file); (why != "") != want {
			t.Errorf("%s is left out because of %q", file, why)
		}
	}
}

// TestFindSuite says how to get a suite that is not there.
func TestFindSuite(t *testing.T) {
	root := t.TempDir()
	t.Setenv("REDFERRY_SUITES", root)
	if _, err := findSuite("redis-7.0"); err == nil || !strings.Contains(err.Error(), "servers.sh --suites") {
		t.Errorf("a suite that is not there: %v", err)
	}
	write(t, filepath.Join(root, "redis-7.0", "VERSION"), "7.0.15\n")
	if s, err := findSuite("redis-7.0"); err != nil || s.dir != filepath.Join(root, "redis-7.0") {
		t.Errorf("got %+v and %v", s, err)
	}
}

func TestRefusals(t *testing.T) {
	// The arguments that a server repeats would make each one a kind of its own.
	one := "*2\r\n$6\r\nSELECT\r\n$1\r\n9\r\n*2\r\n$4\r\nECHO\r\n$69\r\nredferry: refused at 123456: ERR wrong, with args beginning with: 'a'\r\n*3\r\n$3\r\nset\r\n$1\r\na\r\n$1\r\nb\r\n"
	want := map[string]int{"SET (ERR wrong)": 2}
	if got := refusals([]byte(one + one + "*2\r\n$6\r\nSEL")); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestVerdict(t *testing.T) {
	missing := finding{test: "a test", Difference: redistest.Difference{DB: 9, Key: "k", What: "missing"}}
	gap := missing
	gap.own = true
	for name, c := range map[string]struct {
		result
		code int
		says string
	}{
		"equal":           {result{compared: 1, outcome: outcome{ok: 1}}, 0, "equal"},
		"a difference":    {result{compared: 1, outcome: outcome{ok: 1}, findings: []finding{missing, gap}}, 1, "DIFFERS: 1 differences; 1 gaps of the server's own"},
		"a gap":           {result{compared: 1, outcome: outcome{ok: 1}, findings: []finding{gap}}, 0, "equal; 1 gaps of the server's own"},
		"divergence":      {result{compared: 1, outcome: outcome{ok: 1}, divergence: checkpoint.Divergence{"DEL": 3}}, 0, "equal; divergence DEL=3"},
		"a stop":          {result{compared: 1, stopped: "redferry ended with exit code 4: no"}, 1, "DIFFERS: redferry ended with exit code 4: no"},
		"a refusal":       {result{compared: 1, rejected: 2, refused: map[string]int{"SET (ERR)": 2}}, 1, "DIFFERS: 2 refused: SET (ERR) ×2"},
		"nothing ran":     {result{skipped: "the time was over"}, 1, "skipped: the time was over"},
		"nothing to do":   {result{compared: 1, outcome: outcome{skipped: 1}}, 0, "skipped: the suite leaves it out with an external server"},
		"no test":         {result{compared: 1, outcome: outcome{last: "no"}}, 0, `skipped: the suite has run no test; its last words were "no"`},
		"ended":           {result{compared: 1, broke: "the suite has ended the source"}, 0, "equal; ended early: the suite has ended the source"},
		"the fence broke": {result{compared: 1, diverged: 1}, 1, "DIFFERS: 1 transactions in spite of the fence"},
	} {
		if got := c.verdictText(); got != c.says {
			t.Errorf("%s: it says %q, want %q", name, got, c.says)
		}
		if got := verdict(io.Discard, []result{c.result}); got != c.code {
			t.Errorf("%s: exit code %d, want %d", name, got, c.code)
		}
	}
}

// TestTable has a row for each file that ran, and a count of those that did not for lack of time.
func TestTable(t *testing.T) {
	var text strings.Builder
	printTable(&text, []result{
		{server: "redis-7.0", file: "unit/sort", compared: 3, commands: 7, outcome: outcome{ok: 1, failures: []string{"a"}}},
		{server: "redis-7.0", file: "unit/scan", skipped: tooLate},
		{server: "redis-7.0", file: "unit/geo", skipped: tooLate},
	})
	for _, want := range []string{"redis-7.0  unit/sort  2      1       3         7 ", "not begun, for the time was over: redis-7.0 ×2"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "unit/scan") {
		t.Errorf("a row for a file that was not begun:\n%s", text.String())
	}
}

// TestControlFor tells whether the target's build can be a replica of the source's.
func TestControlFor(t *testing.T) {
	build := func(server, version string) redistest.Build {
		return redistest.Build{Name: server + "-" + version, Server: server, Version: version}
	}
	redis6, redis8, valkey8, valkey9 := build("redis", "6.0.16"), build("redis", "8.0.2"), build("valkey", "8.1.1"), build("valkey", "9.1.2")
	for _, c := range []struct{ source, target, want redistest.Build }{
		{redis6, redis6, redis6},
		{redis6, redis8, redis8},
		{redis6, valkey8, valkey8},
		{redis8, redis6, redis8},
		{redis8, valkey9, redis8},
		{valkey8, valkey9, valkey9},
		{valkey9, valkey8, valkey9},
		{valkey8, redis8, valkey8},
	} {
		if got := controlFor(c.source, c.target); got != c.want {
			t.Errorf("from %s to %s: %s, want %s", c.source.Name, c.target.Name, got.Name, c.want.Name)
		}
	}
}

// tiny is a suite of two procs, as far as the hook sees.
const tiny = `
set ::host 127.0.0.1
proc start_server {options {code undefined}} { uplevel 1 $code }
proc send_data_packet {fd status data} { puts "\[$status\]: $data" }
set ::test_server_fd stdout
proc test {name code {okpattern undefined} {tags {}}} {
    if {[catch {uplevel 1 $code} error]} {
        if {[string match assertion:* $error]} { send_data_packet stdout err $name; return }
        error $error
    }
    send_data_packet stdout ok $name
}
`

// TestHook runs a suite that is small: it waits after each test, errors and variables are as without the hook, and a test that wants a replica or another server does not run.
func TestHook(t *testing.T) {
	if _, err := exec.LookPath("tclsh"); err != nil {
		t.Skip("no tclsh here")
	}
	s := suite{t.TempDir()}
	write(t, filepath.Join(s.dir, "tests/support/util.tcl"), tiny)
	write(t, filepath.Join(s.dir, "tests/test_helper.tcl"), `
source tests/support/util.tcl
proc body {} {
    set n 1
    test "first" { incr n } {*} {tag}
    test "second $n" { error "assertion: no" }
    test "third" { r replicaof 127.0.0.1 1 }
    start_server {tags {a}} { incr n; start_server {tags {b}} { test "nested" {} } }
    test "fourth" { if {[srv 0 pid] == 1 || [srv host] ne "here"} { error "assertion: another process" } }
    test "$n" { error "ERR unknown" }
}
proc srv {args} { return here }
if {[catch body error]} { puts "\[exception\]: $error" }
`)
	r := runSuite(t, s, "unit/tiny", redistest.Start(t, redistest.Latest(t)))
	var names []string
	for r.process != nil {
		select {
		case test := <-r.tests:
			names = append(names, test.name)
			select {
			case <-r.process.Exited():
				t.Fatalf("it did not wait after %q", test.name)
			case other := <-r.tests:
				t.Fatalf("it did not wait after %q, but ran %q", test.name, other.name)
			case <-time.After(20 * time.Millisecond):
			}
			test.resume()
			continue
		case <-r.process.Exited():
		case <-time.After(patience):
			t.Fatal("it does not end")
		}
		break
	}
	if want := []string{"first", "second 2", "fourth", "3"}; !slices.Equal(names, want) {
		t.Errorf("it waited after %q, want %q", names, want)
	}
	if got, want := r.said(), (outcome{ok: 2, skipped: 2, failures: []string{"second 2"}, exception: "exception: ERR unknown", last: "[exception]: ERR unknown"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v; it said\n%s", got, want, r.output)
	}
}

// TestCompare follows a source with the real redferry, which is killed meanwhile, and spoils the target, and then the control in the same way.
func TestCompare(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "redferry")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/redferry").CombinedOutput(); err != nil {
		t.Fatalf("build redferry: %v\n%s", err, out)
	}
	b := redistest.Latest(t)
	var said strings.Builder
	f := &fileRun{
		plan: &plan{build: b, target: b, random: rand.New(rand.NewPCG(1, 1))}, options: options{Redferry: binary, Kill: time.Second},
		result: &result{server: b.Name, file: "unit/tiny"}, out: &said,
	}
	f.start(t)
	step := func(what string) {
		t.Helper()
		if !f.compare(t.Context(), what) || len(f.result.uncompared) > 0 {
			t.Fatalf("%s: %+v", what, *f.result)
		}
	}
	f.source.DB(9).Do(t, "SET", "a", "1")
	step("equal")
	if len(f.result.findings) > 0 || f.result.compared != 1 {
		t.Fatalf("equal servers: %+v", *f.result)
	}
	f.ferry.dies = time.Now()
	f.source.DB(9).Do(t, "SET", "killed", "1")
	step("killed")
	if f.ferry.kills == 0 || len(f.result.findings) > 0 {
		t.Fatalf("after a kill: %d kills, %+v", f.ferry.kills, *f.result)
	}
	f.ferry.mean = 0 // what is spoilt is not to be compared by a redferry that has lost replies
	f.target.DB(9).Do(t, "SET", "a", "2")
	step("spoilt")
	step("still spoilt")
	if got := f.result.findings; len(got) != 1 || got[0].own || got[0].Key != "a" || got[0].test != "spoilt" {
		t.Fatalf("a spoilt target: %v", got)
	}
	f.control.Do(t, "CONFIG", "SET", "replica-read-only", "no")
	for _, s := range []*redistest.Server{f.control, f.target} {
		s.DB(9).Do(t, "SET", "b", "2")
	}
	step("a gap")
	f.control.DB(9).Do(t, "SET", "c", "1")
	f.target.DB(9).Do(t, "SET", "c", "2")
	step("another one")
	got := f.result.findings
	if len(got) != 3 || !got[1].own || got[1].Key != "b" || got[2].own || got[2].Key != "c" {
		t.Fatalf("gaps: %v", got)
	}
	if !strings.Contains(said.String(), `db 9 key "b": extra (and so is the control)`) {
		t.Errorf("it said %s", said.String())
	}
	f.source.DB(9).Do(t, "SET", "d", "1", "EX", "100")
	step("an expiry")
	f.settle()
	if ttl := f.target.DB(9).DoInt(t, "TTL", "d"); ttl < 1 || ttl > 100 || f.result.stopped != "" || len(f.result.findings) != 3 {
		t.Errorf("settled, the target has a TTL of %d s: %+v", ttl, *f.result)
	}
	if f.compare(context.Background(), "the end") || !strings.HasPrefix(f.result.stopped, "redferry ended with exit code 0") {
		t.Errorf("redferry has ended: %q", f.result.stopped)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
