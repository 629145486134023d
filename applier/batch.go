package applier

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"redferry/replica"
)

// batch holds units on their way to the target, in memory of its own.
type batch struct {
	bytes []byte // all arguments, one behind the other, but for lent ones
	ends  []int  // where each argument ends in bytes
	lent  []lent // arguments that lie elsewhere, in order
	total int    // bytes of all arguments
	cmds  []command
	units []unit
}

// lent is an argument in the memory of the unit that it came with.
type lent struct {
	n   int // its number among all arguments of the batch
	arg []byte
}

// lendFrom is the size from which on an argument is lent rather than copied, where that is allowed.
const lendFrom = 128

// command is one command of a batch.
type command struct {
	args   int // where its arguments end, in ends
	db     int
	needs  [2]int // databases that it needs beside db
	effect effect
	expect expect
	form   formKey // what its first key is given before it
	unfit  error   // why it cannot be sent to any target
	skip   bool    // refused for good, and left out
}

// unit is one unit of a batch.
type unit struct {
	cmds  int // where its commands end, in cmds
	bytes int // of all arguments up to and with its own
	start int64
	end   replica.Position
}

// add puts a command behind the others. lend says that the memory of its arguments stays as it is.
func (b *batch) add(args [][]byte, c command, lend bool) {
	for _, arg := range args {
		if lend && len(arg) >= lendFrom {
			b.lent = append(b.lent, lent{len(b.ends), arg})
		} else {
			b.bytes = append(b.bytes, arg...)
		}
		b.ends = append(b.ends, len(b.bytes))
		b.total += len(arg)
	}
	c.args = len(b.ends)
	b.cmds = append(b.cmds, c)
}

// grow makes room for the commands of a large unit, which would else be made again and again.
func (b *batch) grow(cmds []replica.Command) {
	copied, args, lent := 0, 0, 0
	for _, c := range cmds {
		args += len(c.Args)
		for _, arg := range c.Args {
			if len(arg) < lendFrom {
				copied += len(arg)
			} else {
				lent++
			}
		}
	}
	b.bytes, b.ends = slices.Grow(b.bytes, copied), slices.Grow(b.ends, args)
	b.lent, b.cmds = slices.Grow(b.lent, lent), slices.Grow(b.cmds, len(cmds))
}

func (b *batch) close(u *replica.Unit) {
	b.units = append(b.units, unit{cmds: len(b.cmds), bytes: b.total, start: u.Start, end: u.End})
}

// size of a batch is its memory, roughly.
func (b *batch) size() int {
	return b.total + 8*len(b.ends) + 32*len(b.lent) + 64*len(b.cmds) + 88*len(b.units)
}

// keepAtMost is the memory that an empty batch keeps for its next use; what a giant unit took is given back.
const keepAtMost = 8 << 20

func (b *batch) reset() {
	if cap(b.bytes) > keepAtMost || cap(b.ends) > keepAtMost/8 || len(b.lent) > 0 {
		*b = batch{}
		return
	}
	b.bytes, b.ends, b.cmds, b.units, b.total = b.bytes[:0], b.ends[:0], b.cmds[:0], b.units[:0], 0
}

// commands are the places in cmds of unit i's commands.
func (b *batch) commands(i int) (from, to int) {
	if i > 0 {
		from = b.units[i-1].cmds
	}
	return from, b.units[i].cmds
}

// span is the places in cmds of the commands of units [from, to).
func (b *batch) span(from, to int) (first, last int) {
	first, _ = b.commands(from)
	return first, b.units[to-1].cmds
}

// arguments calls f for each argument of command i. Its memory is the batch's.
func (b *batch) arguments(i int, f func(arg []byte)) {
	n := 0
	if i > 0 {
		n = b.cmds[i-1].args
	}
	at := 0
	if n > 0 {
		at = b.ends[n-1]
	}
	lent := b.lent[sort.Search(len(b.lent), func(k int) bool { return b.lent[k].n >= n }):]
	for ; n < b.cmds[i].args; n++ {
		if len(lent) > 0 && lent[0].n == n {
			f(lent[0].arg)
			lent = lent[1:]
			continue
		}
		f(b.bytes[at:b.ends[n]])
		at = b.ends[n]
	}
}

// argument is the n-th argument of command i; the name is the 0th.
func (b *batch) argument(i, n int) (got []byte) {
	b.arguments(i, func(arg []byte) {
		if n == 0 {
			got = arg
		}
		n--
	})
	return got
}

// weight is how many bytes unit i's arguments have.
func (b *batch) weight(i int) int {
	if i == 0 {
		return b.units[0].bytes
	}
	return b.units[i].bytes - b.units[i-1].bytes
}

// build makes a rueidis command of command i, over the batch's memory: it may be reused only after the reply.
func (b *batch) build(c rueidis.Builder, i int) rueidis.Completed {
	arbitrary := c.Arbitrary()
	b.arguments(i, func(arg []byte) { arbitrary = arbitrary.Args(rueidis.BinaryString(arg)) })
	return arbitrary.Build()
}

// describe names command i for people, cut short.
func (b *batch) describe(i int) string {
	text := ""
	b.arguments(i, func(arg []byte) {
		if len(text) > 120 {
			return
		}
		if len(arg) > 40 {
			text += fmt.Sprintf(" %q…", arg[:40])
		} else {
			text += fmt.Sprintf(" %q", arg)
		}
	})
	return text[min(1, len(text)):]
}

// queue is where Apply leaves units and Commit takes them: while one batch is being written the next one fills. So a batch is as small as
// what came in meanwhile when the stream is slow, and as large as the limit when it is fast.
type queue struct {
	filled chan struct{} // has something to take
	full   chan struct{} // has a full batch to take
	taken  chan struct{} // has space again, or what was too large to go on is written
	asked  chan struct{} // has nothing, perhaps, but Commit is to look after its record

	mu    sync.Mutex
	cur   *batch
	spare []*batch // empty ones, to use again
	giant bool     // something giant is in the batch that fills, or on its way
	limit int      // bytes in one batch, from which on Apply waits
	most  int      // that limit may be, on this line
}

// The size of a batch. Small ones stay in the processors' caches, on both sides; a long line needs as much under way as it holds.
const (
	minBatch   = 64 << 10
	localBatch = 256 << 10
	maxBatch   = 8 << 20
	lineRate   = 64 << 20 // bytes a second that each of the two batches under way should fill of a long line
)

func newQueue() *queue {
	return &queue{
		filled: make(chan struct{}, 1), full: make(chan struct{}, 1), taken: make(chan struct{}, 1), asked: make(chan struct{}, 1),
		cur: &batch{}, limit: localBatch, most: localBatch,
	}
}

// reset drops what is in the queue: it will be asked for again.
func (q *queue) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.cur.reset()
	q.giant = false
	wake(q.taken)
}

// put hands the batch that fills to f, when there is room in it, and else waits for room. Behind
// something giant it waits until that is written, so that only one such thing is in memory.
func (q *queue) put(ctx context.Context, f func(b *batch) error) error {
	if err := q.await(ctx, func() bool { return q.cur.size() < q.limit }); err != nil {
		return err
	}
	err := f(q.cur)
	size := q.cur.size()
	q.giant = q.giant || size >= replica.Giant
	full, wait := size >= q.limit, q.giant && err == nil
	q.mu.Unlock()
	wake(q.filled)
	if full {
		wake(q.full)
	}
	if !wait {
		return err
	}
	if err := q.await(ctx, func() bool { return !q.giant }); err != nil {
		return err
	}
	q.mu.Unlock()
	return nil
}

// await waits until cond holds, and then has the lock.
func (q *queue) await(ctx context.Context, cond func() bool) error {
	for {
		q.mu.Lock()
		if cond() {
			return nil
		}
		q.mu.Unlock()
		select {
		case <-q.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take waits for units, and at most until idle fires, or somebody asks. nil means that there are none, because of these or because ctx ended.
func (q *queue) take(ctx context.Context, idle <-chan time.Time) *batch {
	for {
		if b := q.swap(); b != nil {
			return b
		}
		select {
		case <-q.filled:
		case <-idle:
			return q.swap()
		case <-q.asked:
			return q.swap()
		case <-ctx.Done():
			return q.swap()
		}
	}
}

// takeFull waits for a full batch, and at most until done is closed: then it returns nil.
func (q *queue) takeFull(done <-chan struct{}) *batch {
	for {
		q.mu.Lock()
		full := q.cur.size() >= q.limit
		q.mu.Unlock()
		if full {
			return q.swap()
		}
		select {
		case <-q.full:
		case <-done:
			return nil
		}
	}
}

// swap takes what there is, on whatever occasion, and tells put of the room: a put that waits is not woken a second time.
func (q *queue) swap() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.cur.units) == 0 {
		return nil
	}
	b := q.cur
	if n := len(q.spare); n > 0 {
		q.cur, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		q.cur = &batch{}
	}
	wake(q.taken)
	return b
}

// through tells put that a batch needs no memory any more. It is not used again.
func (q *queue) through(b *batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b.size() >= replica.Giant {
		q.giant = false
		wake(q.taken)
	}
}

// give returns a batch that was written. Three are in use at most: one that fills, and two under way.
func (q *queue) give(b *batch) {
	q.through(b)
	b.reset()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.spare) < 2 {
		q.spare = append(q.spare, b)
	}
}

// few tells that the batch that fills has less than n commands.
func (q *queue) few(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.cur.cmds) < n
}

// fit sizes batches to the line: what a round trip takes, the batches under way should fill.
func (q *queue) fit(roundTrip time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.most = min(maxBatch, localBatch+int(roundTrip.Seconds()*lineRate))
	q.limit = q.most
	wake(q.taken) // there may be more room now
}

// adapt makes batches smaller on a slow line: one should take about a second at most, so that the line is not mistaken for a dead one.
func (q *queue) adapt(took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case took > 2*time.Second:
		q.limit = max(minBatch, q.limit/2)
	case took < time.Second/2:
		q.limit = min(q.most, q.limit*2)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
