package metrics

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"redferry/internal/leaks"
	"redferry/replica"
	"redferry/replica/admin"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// full is a report in which everything is known.
func full() admin.Report {
	s := replica.Span(time.Second)
	return admin.Report{Server: admin.Identity{Name: "default", Source: "a:1", Target: "b:2", Version: "v1"}, View: replica.View{
		State: replica.InSync, Why: "all is well", Since: time.Unix(1000, 0), Left: s,
		Snapshot: replica.SnapshotView{Read: 1, Size: 2, Received: 3, Keys: 4, Total: 5, Percent: 50},
		Offset:   replica.OffsetView{Source: 15, Received: 14, Taken: 13, Checkpointed: 12, Acked: 11},
		Lag:      replica.LagView{Bytes: 3, ToReceive: 1, ToApply: 2, Time: s, Receive: s, Apply: s},
		Backlog:  replica.BacklogView{Size: 6, Spare: 5, Down: s},
		Spool:    replica.SpoolView{Used: 7, Max: 8},
	}}
}

func TestLintedAndDocumented(t *testing.T) {
	reg := registry(full)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "redferry_") {
			n++
			if !strings.Contains(string(doc), "`"+strings.TrimPrefix(f.GetName(), "redferry_")+"`") {
				t.Errorf("docs/operations.md does not have %s", f.GetName())
			}
		}
	}
	if want := len(table()) + 2; n != want {
		t.Errorf("%d metrics of a run of which all is known, want %d", n, want)
	}
}

func TestValues(t *testing.T) {
	r := full()
	c := newCollector(func() admin.Report { return r })
	const head = "# HELP redferry_state 1 for the state that the run is in, 0 for the others.\n# TYPE redferry_state gauge\n"
	want := head
	for _, s := range []string{"catching_up", "comparing", "completed", "connecting", "cutting_over", "in_sync", "paused", "settling", "snapshot", "waiting"} {
		n := "0"
		if s == "in_sync" {
			n = "1"
		}
		want += `redferry_state{name="default",state="` + s + `"} ` + n + "\n"
	}
	want += "# HELP redferry_lag_to_apply_bytes The part of the lag that is in the spool.\n# TYPE redferry_lag_to_apply_bytes gauge\nredferry_lag_to_apply_bytes{name=\"default\"} 2\n" +
		"# HELP redferry_info 1; what runs here.\n# TYPE redferry_info gauge\nredferry_info{name=\"default\",source=\"a:1\",target=\"b:2\",version=\"v1\"} 1\n"
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "redferry_state", "redferry_lag_to_apply_bytes", "redferry_info"); err != nil {
		t.Error(err)
	}
	r.Lag = replica.LagView{Bytes: -1, ToReceive: -1, ToApply: -1, Time: -1, Receive: -1, Apply: -1}
	r.Offset = replica.OffsetView{}
	if n := testutil.CollectAndCount(c, "redferry_lag_bytes", "redferry_lag_seconds", "redferry_lag_to_apply_seconds", "redferry_source_offset_bytes"); n != 0 {
		t.Errorf("%d samples of what is not known", n)
	}
}

// get asks and gives the status and the body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func TestServer(t *testing.T) {
	r := full()
	s, err := Listen("127.0.0.1:0", func() admin.Report { return r })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(s.Addr().String(), full); err == nil {
		t.Error("two listen at one address")
	}
	base := "http://" + s.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if code, body := get(t, base+"/metrics"); code != 200 || !strings.Contains(body, `redferry_lag_bytes{name="default"} 3`) || !strings.Contains(body, "process_resident_memory_bytes") {
		t.Errorf("/metrics: %d, %s", code, body)
	}
	for path, want := range map[string]int{"/healthz": 200, "/": 404, "/debug/pprof/": 404} {
		if code, _ := get(t, base+path); code != want {
			t.Errorf("%s: got %d, want %d", path, code, want)
		}
	}
	for _, state := range replica.States() {
		want := http.StatusServiceUnavailable
		if state == replica.InSync || state == replica.Settling {
			want = http.StatusOK
		}
		r.State = state
		if code, body := get(t, base+"/readyz"); code != want || body != string(state)+": all is well\n" {
			t.Errorf("/readyz when %s: got %d, %q", state, code, body)
		}
	}
	idle, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	began := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 9*time.Second { // an idle connection is closed by itself after 10 s
		t.Errorf("it took %v to end", took)
	}
}
