package crash

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// world is a plan's servers, connections and processes. It belongs to the test's goroutine.
type world struct {
	t *testing.T
	plan

	source  *redistest.Server // that redferry reads from, or will have to
	written *redistest.Server // by the load
	replica *redistest.Server // of the first one written; nil if it is alone
	target  *redistest.Server
	inner   *redistest.Proxy // between the replica and its primary
	ways    map[*redistest.Server]*redistest.Proxy

	victim  *victim
	ferry   *redistest.Process // redferry; nil while there is none
	leaving bool               // it was sent SIGTERM
	disk    string             // its own, if it has one
	cramped time.Time          // until when the disk is full, or was just now

	stopLoad func() redistest.LoadResult
	loads    uint64
	commands int64     // of the loads that are over
	began    time.Time // of the timetable

	underWay []fault
	ledger
}

// newWorld starts all but redferry.
func newWorld(t *testing.T, p plan) *world {
	w := &world{t: t, plan: p, ways: map[*redistest.Server]*redistest.Proxy{}}
	quiet := redistest.Config("repl-backlog-size "+p.backlog, "repl-diskless-sync "+map[bool]string{true: "yes", false: "no"}[p.diskless])
	first := redistest.Start(t, p.source, quiet)
	w.written, w.source = first, first
	redistest.Fill(t, first, p.filling())
	w.target = redistest.Start(t, p.target, redistest.Config("appendonly yes", "appendfsync always"))
	if p.shape != alone {
		w.inner = redistest.NewProxy(t, first.Addr())
		lines := []string{"replicaof " + strings.Replace(w.inner.Addr(), ":", " ", 1)}
		if p.saves && p.shape == secondary {
			lines = append(lines, "save 1 1")
		}
		w.replica = redistest.Start(t, p.source, quiet, redistest.Config(lines...))
		until(t, "the replica follows", func() bool { return w.replica.Info(t, "replication")["master_link_status"] == "up" })
		if p.shape == secondary {
			w.source = w.replica
		}
	}
	for s, line := range map[*redistest.Server]int{first: p.lines[0], w.replica: p.lines[0], w.target: p.lines[1]} {
		if s != nil {
			w.ways[s] = redistest.NewProxy(t, s.Addr())
			w.ways[s].Throttle(redistest.FromClient, line)
			w.ways[s].Throttle(redistest.FromServer, line)
		}
	}
	w.counted = -stat(t, w.source, "sync_full") // those of its own replica
	w.prepare()
	return w
}

// prepare makes redferry's command line.
func (w *world) prepare() {
	dir := w.t.TempDir()
	if w.small {
		var err error
		if dir, err = smallDisk(w.t); err != nil {
			w.t.Logf("no disk of its own, hence none that is full: %v", err)
			dir, w.small = w.t.TempDir(), false
		}
		w.disk = dir
		dir = filepath.Join(dir, "home")
	}
	source := w.source.URLAt(w.ways[w.source].Addr())
	if w.shape == failover {
		source += "," + w.ways[w.replica].Addr()
	}
	w.victim = newVictim(w.t, dir, source, w.target.URLAt(w.ways[w.target].Addr()), w.spool...)
}

// endure carries out a plan and then looks at what is left.
func endure(t *testing.T, p plan) {
	t.Log(p)
	w := newWorld(t, p)
	if p.settled {
		w.victim.finish()
	}
	w.launch()
	if !p.arriving {
		until(t, "the target has the snapshot", func() bool { return w.checkpoint().phase == "stream" })
	}
	w.startLoad()
	for _, e := range p.timetable() {
		w.until(e.at)
		if e.ends {
			w.takeBack(e.fault)
		} else {
			w.happen(e.fault)
		}
	}
	w.settle()
}

// event is the beginning or the end of a fault.
type event struct {
	at   time.Duration
	ends bool
	fault
}

// timetable is all beginnings and ends, in order.
func (p plan) timetable() []event {
	var all []event
	for _, f := range p.faults {
		all = append(all, event{f.at, false, f})
		if f.end != nil {
			all = append(all, event{f.at + f.lasts, true, f})
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return all
}

func (w *world) startLoad() {
	w.loads++
	w.stopLoad = redistest.StartLoad(w.t, w.written, redistest.LoadOptions{
		Seed: w.seed + w.loads, Writers: w.writers, Rate: w.rate, TTL: w.ttl, SwapDB: true, Flush: true,
	})
}

func (w *world) endLoad() { w.commands += w.stopLoad().Acknowledged }

// launch starts redferry.
func (w *world) launch(more ...string) {
	w.leaving = false
	w.ferry = w.victim.start(append(w.granted(), more...)...)
}

// until waits for a moment of the plan, or longer where the machine is slow, and looks after redferry meanwhile.
func (w *world) until(at time.Duration) {
	if w.began.IsZero() {
		w.began = time.Now()
	}
	for wait := time.Until(w.began.Add(at)); ; wait = time.Until(w.began.Add(at)) {
		var exited <-chan struct{}
		if w.ferry != nil && !w.leaving {
			exited = w.ferry.Exited()
		}
		select {
		case <-exited:
			code, _ := w.ferry.ExitCode(time.Minute)
			w.ended(code)
			w.launch()
			continue
		default:
		}
		select {
		case <-exited:
		case <-time.After(wait):
			return
		}
	}
}

// happen begins a fault.
func (w *world) happen(f fault) {
	w.look(f)
	if f.end != nil {
		w.underWay = append(w.underWay, f)
	}
	f.begin(w, f)
}

// takeBack ends a fault, if that was not done before its time.
func (w *world) takeBack(f fault) {
	i := slices.IndexFunc(w.underWay, func(u fault) bool { return u.at == f.at && u.kind == f.kind })
	if i < 0 {
		return
	}
	w.underWay = slices.Delete(w.underWay, i, i+1)
	f.end(w, f)
}

// release takes everything back that is under way.
func (w *world) release() {
	for len(w.underWay) > 0 {
		w.takeBack(w.underWay[0])
	}
	for _, p := range w.ways {
		p.CutAfter(redistest.FromClient, -1)
		p.CutAfter(redistest.FromServer, -1)
	}
}

// away tells whether a server cannot be asked because of a fault.
func (w *world) away(of party) bool {
	return slices.ContainsFunc(w.underWay, func(f fault) bool { return f.of == of })
}

// killFerry ends redferry, and judges it if it had ended by itself just before. Then the fault that it is killed by may be taken back already, and redferry
// be there again.
func (w *world) killFerry() {
	p := w.ferry
	w.ferry = nil
	p.Kill()
	if code, _ := p.ExitCode(time.Minute); code >= 0 {
		w.ended(code)
	}
}

// losePrimary kills the primary, after its replica has not heard of the last writes, and perhaps the target neither.
func (w *world) losePrimary(lacks time.Duration, target bool) {
	if lacks > 0 {
		w.inner.Hold(redistest.FromServer, true)
		w.ways[w.target].Hold(redistest.FromClient, target)
		time.Sleep(lacks)
	}
	w.countResyncs()
	w.written.Kill()
	w.inner.Cut()
}

// promote makes the replica the primary, which the load is written to from now on.
func (w *world) promote() {
	w.ways[w.target].Cut()
	w.ways[w.target].Hold(redistest.FromClient, false)
	w.replica.Do(w.t, "REPLICAOF", "NO", "ONE")
	w.endLoad()
	w.written, w.source, w.replica = w.replica, w.replica, nil
	w.startLoad()
}

// settle lets everything go, has redferry finish, and compares.
func (w *world) settle() {
	w.release()
	for _, p := range w.ways {
		p.Throttle(redistest.FromClient, 0)
		p.Throttle(redistest.FromServer, 0)
	}
	w.endLoad()
	redistest.AwaitExpiredFields(w.t, w.written)
	w.killFerry()
	if w.written != w.source {
		until(w.t, "the replica has all", func() bool { return w.source.Offset(w.t) >= w.written.Offset(w.t) })
	}
	for code := -1; code != 0; {
		w.launch("--stop-at", "caught-up")
		var err error
		if code, err = w.ferry.ExitCode(patience); err != nil {
			w.t.Fatalf("redferry does not catch up: %v", err)
		}
		if code != 0 {
			w.ended(code)
		}
	}
	redistest.AssertEqual(w.t, w.written, w.target, w.comparing())
	w.audit()
	w.t.Logf("%d commands; %d full resyncs, of which the faults excuse %d", w.commands, w.counted, w.excused)
}
