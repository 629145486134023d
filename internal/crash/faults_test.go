package crash

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"redferry/internal/redistest"
)

// kind is a kind of fault. begin makes it, end takes it back.
type kind struct {
	name     string
	of       party
	when     func(*plan) bool // it can happen; nil for always
	most     int              // times in a plan; 0: no limit
	weight   int              // how likely it is; 0 means 1
	longest  time.Duration    // between begin and end; 0: it has no end
	detail   func(n int64) string
	harmless bool // to an RDB that arrives, wherever the spool is on the disk
	begin    func(w *world, f fault)
	end      func(w *world, f fault)
}

// kinds are all that can go wrong.
var kinds = []*kind{
	{
		name: "kill redferry", of: theFerry, weight: 4, longest: 500 * time.Millisecond,
		begin: func(w *world, _ fault) { w.killFerry() },
		end:   func(w *world, _ fault) { w.launch() },
	},
	{
		name: "SIGTERM to redferry, and SIGKILL at the end", of: theFerry, weight: 1, longest: 500 * time.Millisecond,
		begin: func(w *world, _ fault) { w.ferry.Signal(syscall.SIGTERM); w.leaving = true },
		end:   func(w *world, _ fault) { w.killFerry(); w.launch() },
	},
	{
		name: "freeze redferry", of: theFerry, weight: 2, longest: time.Second,
		begin: func(w *world, _ fault) { w.ferry.Freeze() },
		end:   func(w *world, _ fault) { w.ferry.Thaw() },
	},
	{
		name: powerCut, of: theFerry, weight: 2, longest: 500 * time.Millisecond, when: (*plan).spooled,
		detail: func(n int64) string { return fmt.Sprintf("the target has not heard of the last %v", lacks(n)) },
		begin:  func(w *world, f fault) { w.cutPower(lacks(f.n), rand.New(rand.NewPCG(uint64(f.n), 0))) },
		end:    func(w *world, _ fault) { w.launch() },
	},
	{
		name: "kill the target", of: theTarget, weight: 3, longest: 1500 * time.Millisecond, harmless: true,
		begin: func(w *world, _ fault) { w.target.Kill() },
		end:   func(w *world, _ fault) { w.target.Restart(w.t) },
	},
	{
		name: "freeze the target", of: theTarget, weight: 2, longest: time.Second, harmless: true,
		begin: func(w *world, _ fault) { w.target.Freeze() },
		end:   func(w *world, _ fault) { w.target.Thaw() },
	},
	{
		name: "target out of memory", of: theTarget, weight: 2, longest: time.Second, harmless: true,
		begin: func(w *world, _ fault) { w.target.Do(w.t, "CONFIG", "SET", "maxmemory", "1") },
		end:   func(w *world, _ fault) { w.target.Do(w.t, "CONFIG", "SET", "maxmemory", "0") },
	},
	{
		name: "kill the source", of: theSource, weight: 3, most: 2, longest: time.Second, when: func(p *plan) bool { return p.shape == secondary },
		begin: func(w *world, _ fault) { w.countResyncs(); w.source.Kill() },
		end:   func(w *world, _ fault) { w.source.Restart(w.t) },
	},
	{
		name: "the source fails over", of: theSource, weight: 3, most: 1, longest: 800 * time.Millisecond, when: func(p *plan) bool { return p.shape == failover },
		detail: func(n int64) string {
			return fmt.Sprintf("its replica%s lacks the last %v", map[bool]string{true: ", as the target,"}[n%2 == 0], lacks(n))
		},
		begin: func(w *world, f fault) { w.losePrimary(lacks(f.n), f.n%2 == 0) },
		end:   func(w *world, _ fault) { w.promote() },
	},
	{
		name: "freeze the source", of: theSource, weight: 2, longest: time.Second,
		begin: func(w *world, _ fault) { w.source.Freeze() },
		end:   func(w *world, _ fault) { w.source.Thaw() },
	},
	{
		name: "the source closes the link", of: theSource, weight: 2,
		begin: func(w *world, _ fault) { w.source.Do(w.t, "CLIENT", "KILL", "TYPE", "replica") },
	},
	{
		name: "cut the source's connections", of: theNetwork, weight: 4, detail: cutText,
		begin: func(w *world, f fault) { cut(w.ways[w.source], f.n) },
	},
	{
		name: "cut the target's connections", of: theNetwork, weight: 4, detail: cutText, harmless: true,
		begin: func(w *world, f fault) { cut(w.ways[w.target], f.n) },
	},
	{
		name: "the disk is full", of: theDisk, weight: 3, longest: 2500 * time.Millisecond, when: func(p *plan) bool { return p.small },
		begin: func(w *world, _ fault) { w.fillDisk() },
		end:   func(w *world, _ fault) { w.freeDisk() },
	},
}

// lacks is how much of the newest writes a replica has not heard of when its primary dies, or a target when redferry does: nothing in half of the cases.
func lacks(n int64) time.Duration {
	return max(0, time.Duration(n/2%600)-300) * time.Millisecond
}

// drawnCut is where a cut comes: after how many bytes, mostly few, in which direction.
func drawnCut(n int64) (redistest.Direction, int64) {
	r := rand.New(rand.NewPCG(uint64(n), 0))
	return redistest.Direction(r.IntN(2)), r.Int64N(16 << r.IntN(18))
}

func cutText(n int64) string {
	dir, bytes := drawnCut(n)
	return fmt.Sprintf("after %d more bytes from the %s", bytes, [...]string{"client", "server"}[dir])
}

func cut(p *redistest.Proxy, n int64) {
	dir, bytes := drawnCut(n)
	p.CutAfter(dir, bytes)
}
