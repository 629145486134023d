package applier_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/applier/verify"
	"redferry/internal/leaks"
	"redferry/internal/redistest"
	"redferry/replica"
	"redferry/replica/spool"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// migration is what a test gives to a run; change its fields between runs as an operator changes flags.
type migration struct {
	dir    string
	source string // URLs
	target string
	run    replica.RunConfig
	apply  applier.Config
	srcTLS replica.TLSFiles
	dstTLS replica.TLSFiles

	cutover *replica.CutoverConfig // nil for a run that cannot be cut over
	compare func(keys []string)    // hears which keys are compared because of lost replies; nil for a run that compares none
	noSpool bool                   // --spool=off
	spool   spool.Config           // what an operator may choose
}

func newMigration(t testing.TB, source, target string) *migration {
	t.Helper()
	return &migration{dir: t.TempDir(), source: source, target: target, apply: applier.Config{Name: "test", OnFullResync: applier.Refuse, OnNotEmpty: applier.Refuse}, spool: spool.Config{Keep: time.Hour}}
}

// running is one process's worth of a migration, in this process.
type running struct {
	status *replica.Status
	spool  *spool.Spool     // to look at
	sink   *applier.Applier // likewise
	stop   context.CancelFunc
	done   chan struct{}
	err    error

	mu     sync.Mutex
	states []string // "state: why", in order
	log    strings.Builder
}

// Write takes a line of the run's log.
func (r *running) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(line)
}

// said tells how often the log has said something.
func (r *running) said(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), text)
}

// lines are the lines of the log that have a text.
func (r *running) lines(text string) (found []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// start runs the migration until it ends by itself or the test ends.
func (m *migration) start(t testing.TB) *running {
	t.Helper()
	r := &running{status: &replica.Status{}, done: make(chan struct{})}
	r.status.Observe = func(s replica.State, why string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.states = append(r.states, string(s)+": "+why)
	}
	home, err := applier.OpenHome(m.dir, m.apply.Name)
	if err != nil {
		r.err, r.stop = err, func() {}
		close(r.done)
		return r
	}
	var rc replica.RunConfig
	var ac applier.Config
	rc, ac = m.run, m.apply
	if rc.Source, err = replica.ParseEndpoint(m.source, m.srcTLS); err != nil {
		t.Fatal(err)
	}
	if ac.Target, err = replica.ParseEndpoint(m.target, m.dstTLS); err != nil {
		t.Fatal(err)
	}
	log := zerolog.New(r)
	if os.Getenv("REDFERRY_TEST_LOG") != "" {
		log = zerolog.New(zerolog.MultiLevelWriter(r, zerolog.NewTestWriter(t)))
	}
	rc.Status, ac.Status, rc.Log, ac.Log, ac.Home = r.status, r.status, log, log, home
	sc := m.spool
	if !m.noSpool {
		sc.Dir, sc.Place = filepath.Join(home.Dir(), "spool"), home.Place()
	}
	if rc.Spool, err = spool.Open(sc); err != nil {
		t.Fatal(err)
	}
	r.spool = rc.Spool
	rc.LimitsFile = filepath.Join(home.Dir(), "source-limits")
	a := applier.New(ac)
	r.sink = a
	if m.cutover != nil {
		c := *m.cutover
		c.Closer, c.File = a, filepath.Join(home.Dir(), "cutover")
		rc.Cutover = &c
	}
	if m.compare != nil {
		rc.Lost = &replica.LostReplies{Record: a, Compare: func(ctx context.Context, keys []string) (int64, []string, error) {
			m.compare(keys)
			report, err := verify.Run(ctx, verify.Config{Source: rc.Source, Target: ac.Target, Name: ac.Name, Mode: verify.Listed, Keys: keys})
			return report.Total(), nil, err
		}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		defer close(r.done)
		r.err = replica.Run(ctx, rc, a)
		a.Close()
		if err := rc.Spool.Close(); err != nil && r.err == nil {
			r.err = err
		}
		home.Close()
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
		if t.Failed() {
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Logf("states of a run:\n  %s", strings.Join(r.states[max(0, len(r.states)-30):], "\n  "))
		}
	})
	return r
}

// forget drops what the spool has, as `redferry reset` does.
func (m *migration) forget(t testing.TB) {
	t.Helper()
	if err := spool.Remove(filepath.Join(m.dir, m.apply.Name, "spool")); err != nil {
		t.Fatal(err)
	}
}

// end stops the run as SIGTERM does and gives its error.
func (r *running) end() error {
	r.stop()
	<-r.done
	return r.err
}

// wait waits for the run to end by itself.
func (r *running) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(3 * time.Minute):
		state, why, _ := r.status.Now()
		t.Fatalf("the run did not end; it is %s: %s", state, why)
		return nil
	}
}

// until waits for a state; reason, unless it is empty, must be part of why.
func (r *running) until(t testing.TB, state replica.State, reason string) {
	t.Helper()
	eventually(t, string(state)+" ("+reason+")", func() bool {
		select {
		case <-r.done:
			t.Fatalf("the run ended before it was %s: %v", state, r.err)
		default:
		}
		now, why, _ := r.status.Now()
		return now == state && strings.Contains(why, reason)
	})
}

// saw tells whether the run was ever in a state for a reason that contains the text.
func (r *running) saw(state replica.State, reason string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.states {
		if strings.HasPrefix(s, string(state)+":") && strings.Contains(s, reason) {
			return true
		}
	}
	return false
}

// finish runs the migration until it is caught up, and fails the test when it does not get there.
func (m *migration) finish(t testing.TB) {
	t.Helper()
	m.run.StopAt = replica.StopAt{CaughtUp: true}
	defer func() { m.run.StopAt = replica.StopAt{} }()
	if err := m.start(t).wait(t); err != nil {
		t.Fatalf("catch up: %v", err)
	}
}

// once waits until the run has been in a state, which may be over before anybody looks; see until.
func (r *running) once(t testing.TB, state replica.State, reason string) {
	t.Helper()
	eventually(t, "once "+string(state)+" ("+reason+")", func() bool {
		if r.saw(state, reason) {
			return true
		}
		select {
		case <-r.done:
			t.Fatalf("the run ended before it was %s: %v", state, r.err)
		default:
		}
		return false
	})
}

// eventually waits for what is to come, as long as a machine takes that has much else to do.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// wantStop fails the test unless err is a Stop of this kind that says this.
func wantStop(t testing.TB, err error, kind replica.Kind, text string) {
	t.Helper()
	stop := replica.AsStop(err)
	if stop == nil {
		t.Fatalf("got %v, want a Stop", err)
	}
	if stop.Kind != kind || !strings.Contains(stop.Error()+" "+stop.Hint, text) {
		t.Errorf("got kind %d, %q (hint %q); want kind %d with %q", stop.Kind, stop.Error(), stop.Hint, kind, text)
	}
}

// record is the target's checkpoint.
func record(t testing.TB, s *redistest.Server) (checkpoint.Record, bool) {
	t.Helper()
	reply := s.Do(t, "HGETALL", checkpoint.Key("test"))
	fields, err := reply.AsStrMap()
	if err != nil {
		t.Fatal(err)
	}
	rec, ok, err := checkpoint.Parse(fields)
	if err != nil {
		t.Fatal(err)
	}
	return rec, ok
}

// fullResyncs is how often the source was asked for its whole dataset and said yes.
func fullResyncs(t testing.TB, s *redistest.Server) string {
	t.Helper()
	return s.Info(t, "stats")["sync_full"]
}

func mustRecord(t testing.TB, s *redistest.Server) checkpoint.Record {
	t.Helper()
	rec, ok := record(t, s)
	if !ok {
		t.Fatal("the target has no checkpoint")
	}
	return rec
}

// load writes to a source, and fails the test when it could not.
func load(t testing.TB, s *redistest.Server, o redistest.LoadOptions) {
	t.Helper()
	got, err := redistest.Load(context.Background(), s, o)
	if err != nil || got.Acknowledged < o.Commands/2 {
		t.Fatalf("load: %+v, %v", got, err)
	}
}
