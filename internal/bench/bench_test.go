package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/leaks"
	"redferry/internal/redistest"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func TestParseCPU(t *testing.T) {
	for _, test := range []struct {
		name, stat string
		want       time.Duration
		fails      bool
	}{
		{"plain", "1 (redferry) S 1 1 1 0 -1 4194560 100 0 0 0 250 33 0 0 20 0", 2830 * time.Millisecond, false},
		{"brackets in the name", "1 (a) S 9 (b) S 1 1 1 0 -1 4194560 100 0 0 0 1 2 0 0 20 0", 30 * time.Millisecond, false},
		{"cut", "1 (redferry) S 1 1", 0, true},
		{"empty", "", 0, true},
		{"not a number", "1 (redferry) S 1 1 1 0 -1 4194560 100 0 0 0 x 33 0 0", 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseCPU(test.stat)
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("%v, %v; want %v, error %v", got, err, test.want, test.fails)
			}
		})
	}
}

func TestParseBusy(t *testing.T) {
	stat := "cpu  100 20 30 4000 500 6 7 80 9 10\ncpu0 1 2 3 4\n"
	if got, want := parseBusy(stat), 1630*time.Millisecond; got != want { // 100+20+30+6+7
		t.Errorf("%v, want %v", got, want)
	}
}

func TestUsageOf(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("no /proc here")
	}
	u, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.peak < 1<<20 || u.peak > 10<<30 {
		t.Errorf("peak memory of %d bytes", u.peak)
	}
}

func TestMedian(t *testing.T) {
	of := func(s sample) time.Duration { return s.wall }
	for _, test := range []struct {
		name string
		wall []time.Duration
		want time.Duration
	}{
		{"one", []time.Duration{5}, 5},
		{"three", []time.Duration{9, 1, 4}, 4},
		{"four", []time.Duration{9, 1, 4, 6}, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			var samples []sample
			for _, w := range test.wall {
				samples = append(samples, sample{wall: w})
			}
			if got := median(samples, of); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	f := &figures{
		title: "A snapshot", bar: 1.3,
		columns: columns[sample]{
			{"native", []sample{{wall: 2 * time.Second, source: time.Second, target: time.Second}}},
			{"redferry", []sample{{wall: 3 * time.Second, others: time.Hour, source: time.Second, target: 2 * time.Second, own: usage{time.Second, 20 << 20}}}},
			{"redferry --spool=off", []sample{{wall: 2 * time.Second, source: 2 * time.Second, target: time.Second, own: usage{time.Second / 2, 10 << 20}}}},
		},
	}
	var out strings.Builder
	f.print(&out)
	want := []string{
		"", "A snapshot", "",
		"median of 1 native redferry ratio redferry --spool=off ratio goal",
		"wall time 2.00 s 3.00 s 1.50 2.00 s 1.00 ≤ 1.30 NOT MET",
		"CPU of the source 1.00 s 1.00 s 1.00 2.00 s 2.00",
		"CPU of the target 1.00 s 2.00 s 2.00 1.00 s 1.00",
		"CPU of redferry 1.00 s 0.50 s",
		"CPU of all else 0.00 s 3600.00 s 0.00 s",
		"peak memory of redferry 20 MiB 10 MiB ≤ 128 MiB met",
		"", "wall times: native 2.00 s; redferry 3.00 s; redferry --spool=off 2.00 s",
		"the machine was busy with something else in 1 of 3 measurements: wall times are worth little, CPU times are",
	}
	if diff := cmp.Diff(want, words(out.String())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// words are the lines of a table with one blank where there are several.
func words(text string) (lines []string) {
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func TestPrintReceipts(t *testing.T) {
	for _, test := range []struct {
		name string
		cli  []receipt
		want []string
	}{
		{"both", []receipt{{300e6, 3 * time.Second}}, []string{
			"", "Receiving", "",
			"median of 1 redis-cli --rdb redferry ratio goal",
			"wall time 3.00 s 4.00 s",
			"rate 100 MB/s 75 MB/s 0.75 ≥ 0.90 NOT MET",
			"", "rates: redis-cli 100 MB/s; redferry 75 MB/s",
		}},
		{"without redis-cli", nil, []string{
			"", "Receiving", "",
			"median of 1 redferry",
			"wall time 4.00 s",
			"rate 75 MB/s",
			"", "no redis-cli here to compare with",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			(&receipts{title: "Receiving", cli: test.cli, redferry: []receipt{{300e6, 4 * time.Second}}}).print(&out)
			if diff := cmp.Diff(test.want, words(out.String())); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestPrintBurdens(t *testing.T) {
	all := &burdens{title: "The source's side"}
	all.columns.add("native", burden{fork: 2 * time.Second, buffer: 10e6, wall: 4 * time.Second})
	all.columns.add("redferry", burden{fork: time.Second, buffer: 5e6, memory: 1e6, wall: 40 * time.Second})
	var out strings.Builder
	all.print(&out)
	want := []string{
		"", "The source's side", "",
		"median of 1 native redferry ratio",
		"lifetime of the source's fork 2.00 s 1.00 s 0.50",
		"most in the replica's output buffer 10 MB 5.0 MB 0.50",
		"most of mem_clients_slaves 0 B 1.0 MB -",
		"until the snapshot was loaded 4.00 s 40.00 s 10.00",
	}
	if diff := cmp.Diff(want, words(out.String())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestOmem(t *testing.T) {
	list := "id=3 addr=127.0.0.1:1 obl=0 oll=2 omem=41024 tot-mem=5 cmd=psync\nid=4 addr=127.0.0.1:2 omem=7 cmd=psync\n"
	if got := omem(list); got != 41024 {
		t.Errorf("%d, want the larger one", got)
	}
}

// The same seed must write the same data: rounds are compared with one another.
func TestFillAndLoad(t *testing.T) {
	build := redistest.Latest(t)
	var digests [2]string
	for i := range digests {
		b := &bench{TB: t, build: build, errs: &strings.Builder{}}
		s := redistest.Start(t, build)
		b.fill(s, 3000)
		if got := s.DB(0).DoInt(t, "DBSIZE") + s.DB(1).DoInt(t, "DBSIZE"); got != 3000 {
			t.Errorf("%d keys, want 3000", got)
		}
		b.load(s, 5000, 7)
		s.Do(t, "SET", "redferry:default", "not part of it")
		for db := range databases { // entry IDs are the clock's
			for _, key := range s.DB(db).DoStrings(t, "KEYS", "*stream:*") {
				s.DB(db).Do(t, "DEL", key)
			}
		}
		digests[i] = b.contents(s)
	}
	if digests[0] != digests[1] || !strings.HasPrefix(digests[0], "db0:keys=") {
		t.Errorf("contents differ:\n%s\n%s", digests[0], digests[1])
	}
}
