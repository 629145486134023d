package crash

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// plan is one row of the matrix: a migration, and what will happen to it. All of it comes from the seed (and from which builds there are), so the same seed
// makes the same plan. What cannot be repeated is the scheduling: what each process is at when a fault hits it.
type plan struct {
	seed           uint64
	source, target redistest.Build
	shape          shape
	diskless       bool   // the source sends its RDB without a file
	backlog        string // the source's repl-backlog-size
	saves          bool   // the replica that is read from saves its data now and then, so that it goes on after a kill
	keys           int    // before the migration begins
	arriving       bool   // the faults begin with the snapshot; otherwise once the target is caught up
	lines          [2]int // bytes a second between redferry and source, and target, so that a snapshot takes its time; 0: no limit
	writers, rate  int    // of the load on the source, meanwhile
	ttl            bool   // keys and fields expire, and are renewed
	settled        bool   // a run was over when the faults begin, and has settled the target: this one goes on with that
	spool          []string
	small          bool // --dir is on a disk of its own, that can be full
	faults         []fault
}

// shape is what the source is.
type shape int

const (
	alone     shape = iota // one server
	secondary              // a replica; its primary lives on and is written to
	failover               // a primary with a replica, both of which redferry knows
)

func (s shape) String() string {
	return [...]string{"alone", "a replica that is read from", "a primary with a replica that is promoted"}[s]
}

// party is what a fault happens to. At most one fault is under way for each; those of different parties overlap.
type party string

const (
	theFerry   party = "redferry"
	theTarget  party = "target"
	theSource  party = "source"
	theDisk    party = "disk"
	theNetwork party = "" // cuts may overlap with everything
)

// fault is one thing that goes wrong.
type fault struct {
	*kind
	at, lasts time.Duration // since the beginning, since then
	n         int64         // what else its kind wants to have drawn
}

func (f fault) String() string {
	text := fmt.Sprintf("+%.3fs %s", f.at.Seconds(), f.name)
	if f.detail != nil {
		text += ": " + f.detail(f.n)
	}
	if f.longest > 0 {
		text += fmt.Sprintf(", for %.3fs", f.lasts.Seconds())
	}
	return text
}

// newPlan draws a plan.
func newPlan(seed uint64, builds []redistest.Build) plan {
	r := rand.New(rand.NewPCG(seed, 0))
	yes := func(percent int) bool { return r.IntN(100) < percent }
	p := plan{
		seed: seed, source: builds[r.IntN(len(builds))], shape: shape(r.IntN(3)),
		diskless: yes(50), saves: yes(50), writers: 1 + r.IntN(3), rate: 1000 + r.IntN(4000),
		keys: 1000, arriving: yes(40), backlog: "256mb",
	}
	p.target = p.source
	if newest := newestOf(p.source.Server, builds); yes(40) {
		p.target = newest
	}
	if yes(20) {
		p.backlog = "512kb"
	}
	if p.arriving {
		p.keys = 10_000 + r.IntN(20_000)
		p.lines = [2]int{(5 + r.IntN(40)) << 20, (2 + r.IntN(10)) << 20}
	}
	switch r.IntN(10) {
	case 0, 1:
		p.spool = []string{"--spool=off"}
	case 2, 3:
		p.spool = []string{"--spool-max=16MiB"}
	}
	p.small = p.spooled() && yes(30)
	p.ttl = yes(60)
	p.settled = !p.arriving && yes(30)
	p.drawFaults(r)
	return p
}

// newestOf is the newest build of a server, redis or valkey.
func newestOf(server string, builds []redistest.Build) redistest.Build {
	for _, b := range slices.Backward(builds) {
		if b.Server == server {
			return b
		}
	}
	return builds[0]
}

// filling is what is there before the migration begins. Some of it expires while that goes on, unless it was settled: then what is there expires by itself, as nobody else may have to do it.
func (p *plan) filling() redistest.FillOptions {
	o := redistest.FillOptions{Keys: p.keys, Seed: p.seed}
	if p.ttl && !p.settled {
		o.MinTTL, o.MaxTTL = time.Second, 10*time.Second
	}
	return o
}

func (p *plan) spooled() bool { return !slices.Contains(p.spool, "--spool=off") }

// drawFaults draws some faults, one after the other; those that last overlap with the next.
func (p *plan) drawFaults(r *rand.Rand) {
	free := map[party]time.Duration{} // from when on
	seen := map[string]int{}
	at := time.Duration(0)
	for range 6 + r.IntN(12) {
		at += between(r, 10*time.Millisecond, 700*time.Millisecond)
		var able []*kind
		for _, k := range kinds {
			if free[k.of] <= at && (k.when == nil || k.when(p)) && (k.most == 0 || seen[k.name] < k.most) {
				able = append(able, slices.Repeat([]*kind{k}, cmp.Or(k.weight, 1))...)
			}
		}
		f := fault{kind: able[r.IntN(len(able))], at: at, n: r.Int64()}
		if f.longest > 0 {
			f.lasts = between(r, 0, f.longest)
		}
		if f.of != theNetwork {
			free[f.of] = at + f.lasts + 50*time.Millisecond
		}
		seen[f.name]++
		p.faults = append(p.faults, f)
	}
}

func (p plan) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("SEED=%d", p.seed)
	line("  source %s, %s; repl-diskless-sync %v, repl-backlog-size %s%s; target %s", p.source.Name, p.shape, p.diskless, p.backlog, p.savesText(), p.target.Name)
	line("  %d keys; load of %d writers, %d commands a second%s; the faults begin %s", p.keys, p.writers, p.rate, p.ttlText(), p.beginText())
	line("  %s; --dir on %s", cmp.Or(strings.Join(p.spool, " "), "--spool=on"), map[bool]string{true: "a small disk of its own", false: "the usual disk"}[p.small])
	for _, f := range p.faults {
		line("  %v", f)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (p *plan) savesText() string {
	if p.shape == secondary && p.saves {
		return ", saves its data"
	}
	return ""
}

func (p *plan) ttlText() string {
	if p.ttl {
		return ", with TTLs"
	}
	return ""
}

func (p *plan) beginText() string {
	switch {
	case p.arriving:
		return fmt.Sprintf("with the snapshot, on lines of %d and %d MiB/s", p.lines[0]>>20, p.lines[1]>>20)
	case p.settled:
		return "in the stream, after a run that has settled"
	}
	return "in the stream"
}

// The same seed makes the same plan, another one another, and in none does one thing happen twice at a time.
func TestPlan(t *testing.T) {
	t.Parallel()
	builds := []redistest.Build{{Name: "redis-7.0", Server: "redis"}, {Name: "redis-8.0", Server: "redis"}, {Name: "valkey-9", Server: "valkey"}}
	drawn := map[string]bool{}
	for seed := range uint64(500) {
		p := newPlan(seed, builds)
		if again := newPlan(seed, builds); p.String() != again.String() {
			t.Fatalf("two plans of one seed:\n%v\n%v", p, again)
		}
		if next := newPlan(seed+1, builds); fmt.Sprint(p.faults) == fmt.Sprint(next.faults) {
			t.Errorf("seeds %d and %d make the same faults", seed, seed+1)
		}
		until := map[party]time.Duration{}
		for _, f := range p.faults {
			if drawn[f.name] = true; f.of == theNetwork {
				continue
			}
			if f.at < until[f.of] {
				t.Errorf("%v while another is under way in\n%v", f, p)
			}
			until[f.of] = f.at + f.lasts
		}
	}
	for _, k := range kinds {
		if !drawn[k.name] {
			t.Errorf("never drawn: %s", k.name)
		}
	}
}
