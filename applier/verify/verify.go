package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"redferry/replica"
)

// Mode is how thoroughly two servers are compared.
type Mode string

// The modes.
const (
	Count  Mode = "count"  // how many keys each database has
	Sample Mode = "sample" // some random keys of each database, of either side
	Full   Mode = "full"   // all keys
	Listed Mode = "listed" // those of Config.Keys, in each database, and nothing else
)

// Config says what is compared, and how. The zero value of all but the ends is usable.
type Config struct {
	Source, Target replica.Endpoint
	// Name is the migration that may lie between the two; empty for "default". Where the target has no checkpoint of it, nothing is known of how far the target is.
	Name string
	Mode Mode // empty for Full
	// Keys are what Listed looks at.
	Keys []string
	// Sample is how many keys of each database and side Sample looks at; 0 means 1000.
	Sample int
	// Rate is how many keys of either side are looked at in a second at most; 0 means as many as go.
	Rate int
	// TTLTolerance is how far two expiries may be apart; 0 means 1 s.
	TTLTolerance time.Duration
	// Rounds is how often what differs is looked at again; 0 means 12.
	Rounds int
	// Pause is how long a target of which nothing is known may take to get what the source has; 0 means 1 s.
	Pause time.Duration
	// Patience is how long a live migration may take to get past the source's offset, and how long keys are looked at again that are written to all the time; 0 means 30 s.
	Patience time.Duration
	// First is how many differences the report has in full; 0 means 20.
	First int
	// Progress is called now and then, by one goroutine at a time, and must not block for long; nil for nobody.
	Progress func(Progress)
}

// Progress is how far a comparison is.
type Progress struct {
	Looked, Total int64 // keys, of both sides; Total is what they had at the beginning
	Suspected     int64 // keys that are to be looked at again
	Found         int64 // differences
	Round         int   // of looking again; 0 in a pass
}

const (
	// pageKeys are asked for by one SCAN, and compared together.
	pageKeys = 500
	// workers compare pages at the same time: while one of them thinks, the servers work for the others.
	workers = 3
	// maxSuspects are kept at most until they are looked at again.
	maxSuspects = 10_000
	// maxDifferences end a comparison: two servers that differ in so many keys are not meant to be equal.
	maxDifferences = 100_000
)

func (c *Config) setDefaults() {
	def := func(n *int, to int) {
		if *n == 0 {
			*n = to
		}
	}
	wait := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	if c.Mode == "" {
		c.Mode = Full
	}
	if c.Name == "" {
		c.Name = "default"
	}
	def(&c.Sample, 1000)
	def(&c.Rounds, 12)
	def(&c.First, 20)
	wait(&c.TTLTolerance, time.Second)
	wait(&c.Pause, time.Second)
	wait(&c.Patience, 30*time.Second)
}

// Run compares source and target, and tells what it has found; an error says that it could not. A [replica.Stop] is one that the operator has to do something about.
func Run(ctx context.Context, c Config) (Report, error) {
	c.setDefaults()
	r := &run{Config: c, began: time.Now()}
	defer r.close()
	if err := r.open(ctx); err != nil {
		return Report{}, err
	}
	err := r.all(ctx)
	if errors.Is(err, errEnough) {
		r.report.Ended, err = true, nil
	}
	if err != nil {
		return Report{}, err
	}
	r.report.Elapsed = time.Since(r.began)
	r.report.Looked = r.looked.Load()
	r.report.Expired = r.expired.Load()
	r.report.Shifted = r.shifted.Load()
	return r.report, nil
}

// errEnough ends a comparison that has found maxDifferences.
var errEnough = errors.New("enough differences")

// run is one comparison.
type run struct {
	Config
	began   time.Time
	workers []*worker
	scanner *worker // where pages come from; it also looks again
	limit   *rate.Limiter
	burst   int
	follows bool // the target follows the source's offset: its checkpoint says so, and somebody is at it

	looked, expired, shifted, total atomic.Int64

	mu       sync.Mutex
	suspects map[place]bool
	report   Report
	round    int
	shown    time.Time
}

// place is a key in a database.
type place struct {
	db  int
	key string
}

// open connects to both ends, and asks them who they are.
func (r *run) open(ctx context.Context) error {
	r.suspects = map[place]bool{}
	r.burst = pageKeys
	if r.Rate > 0 {
		r.burst = max(1, min(pageKeys, r.Rate/10))
		r.limit = rate.NewLimiter(rate.Limit(r.Rate), r.burst)
	}
	for range r.connections() {
		w := &worker{r: r}
		r.workers = append(r.workers, w) // for close, whatever happens
		if err := w.open(ctx); err != nil {
			return err
		}
	}
	last := len(r.workers) - 1
	r.scanner, r.workers = r.workers[last], r.workers[:last]
	source, target := r.scanner.source, r.scanner.target
	if source.runID != "" && source.runID == target.runID {
		return &replica.Stop{Kind: replica.Decide, Reason: fmt.Sprintf("source %s and target %s are the same server", r.Source, r.Target), Hint: "check --source and --target"}
	}
	r.report = Report{Mode: r.Mode, Source: r.Source.String(), Target: r.Target.String(), Differences: map[Kind]int64{}}
	return r.findMigration(ctx)
}

// connections are how many it takes to each side. A cutover counts while nobody can write: every round trip of a handshake costs time then.
func (r *run) connections() int {
	if r.Mode == Count {
		return 1
	}
	return workers + 1
}

func (r *run) close() {
	if r.scanner != nil {
		r.scanner.close()
	}
	for _, w := range r.workers {
		w.close()
	}
}

// all compares what the mode asks for.
func (r *run) all(ctx context.Context) error {
	dbs, err := r.databases(ctx)
	if err != nil {
		return err
	}
	if r.Mode != Listed {
		if err := r.functions(ctx); err != nil {
			return err
		}
	}
	for _, db := range dbs {
		switch r.Mode {
		case Count:
			err = r.count(ctx, db)
		case Sample, Listed:
			err = r.some(ctx, db)
		default:
			err = r.database(ctx, db)
		}
		if err != nil {
			return err
		}
	}
	return r.settle(ctx)
}

// pace waits until n more keys may be looked at.
func (r *run) pace(ctx context.Context, n int) error {
	for r.limit != nil && n > 0 {
		k := min(n, r.burst)
		if err := r.limit.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return ctx.Err()
}

// saw counts keys that were looked at, and says so now and then.
func (r *run) saw(n int) {
	r.looked.Add(int64(n))
	r.tell()
}

// tellEvery is how often progress is told.
const tellEvery = 100 * time.Millisecond

func (r *run) tell() {
	if r.Progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.shown) < tellEvery {
		return
	}
	r.shown = time.Now()
	r.Progress(Progress{Looked: r.looked.Load(), Total: r.total.Load(), Suspected: int64(len(r.suspects)), Found: r.report.Total(), Round: r.round})
}

// suspect has keys looked at again.
func (r *run) suspect(db int, found []Difference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range found {
		r.suspects[place{db, d.Key}] = true
	}
}

// full tells whether what is suspected has to be looked at before there is more.
func (r *run) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.suspects) >= maxSuspects
}

// found takes a difference that is one.
func (r *run) found(d Difference) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.Kind == Incomparable {
		if r.report.Incomparable++; len(r.report.FirstIncomparable) < r.First {
			r.report.FirstIncomparable = append(r.report.FirstIncomparable, d)
		}
		return nil
	}
	r.report.Differences[d.Kind]++
	if len(r.report.First) < r.First {
		r.report.First = append(r.report.First, d)
	}
	if r.report.Total() >= maxDifferences {
		return errEnough
	}
	return nil
}

// wait waits.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
