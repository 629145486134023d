package applier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/rdbstream"
	"redferry/replica"
)

// The size of a snapshot's transaction.
const (
	loadKeys  = 512
	loadBytes = 256 << 10
)

// progress is a place in the RDB: the end of an entry, with what the RDB has said up to there of where the stream goes on.
type progress struct {
	scan rdbstream.State
	db   int
}

// loader carries keys from the scanner to the pipelines. Its batches go round: at most twice as many as there ever were pipelines, and one, are in memory.
type loader struct {
	a     *Applier
	r     *rdbstream.Reader // the scanner's
	db    int               // that the stream goes on in, as far as the RDB has said; the scanner's
	cur   *keyBatch         // that the scanner fills
	empty chan *keyBatch    // to fill
	full  chan *keyBatch    // to write; closed when the RDB is through
	ended chan struct{}     // closed then, too
	seq   int64

	expiries expiries             // how they are written
	field    func(ms int64) int64 // likewise, those of hash fields; nil for as they are

	mu      sync.Mutex
	running int                // pipelines
	most    int                // that there ever were
	written map[int64]progress // where batches end that are in, but not all before them
	next    int64              // the first batch that is not in
	done    progress           // all up to here is in
}

// keyBatch is some keys of the snapshot, in memory of its own.
type keyBatch struct {
	seq   int64
	bytes []byte
	keys  []loadKey
	left  []int    // the places in keys of those that are not written yet
	end   progress // behind its last key; zero for the last batch, with which the RDB ends

	giant []byte        // the payload of the last key, which is not in bytes then
	in    chan struct{} // closed when the batch is in the target; nil where nobody waits for it
}

// loadKey is one key of a batch: where it and its payload end in bytes, and what RESTORE needs beside them.
type loadKey struct {
	key, payload int
	db           int
	typ          byte
	expireAt     int64
	idle         int64
	freq         int
	offset       int64
}

// newLoader makes a loader for what r yields: the RDB behind from.
func newLoader(a *Applier, r *rdbstream.Reader, from progress) *loader {
	const batches = 2 * MaxPipelines
	l := &loader{
		a: a, r: r, db: from.db, cur: &keyBatch{}, empty: make(chan *keyBatch, batches+1), full: make(chan *keyBatch, batches+1), ended: make(chan struct{}),
		expiries: a.usual(), written: map[int64]progress{}, done: from,
	}
	if l.expiries != (expiries{}) {
		l.field = l.expiries.field
	}
	l.empty <- &keyBatch{}
	return l
}

// keep starts pipelines, by calling start, until there are as many as there are to be, and again whenever that is more.
func (l *loader) keep(ctx context.Context, start func()) {
	for {
		n, changed := l.a.Pipelines.watch()
		l.mu.Lock()
		for ; l.running < n; l.running++ {
			if l.running == l.most {
				l.most++
				l.empty <- &keyBatch{}
				l.empty <- &keyBatch{}
			}
			start()
		}
		l.mu.Unlock()
		select {
		case <-changed:
		case <-l.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// surplus tells a pipeline that it is one too many, and is to end.
func (l *loader) surplus() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running <= l.a.Pipelines.Get() {
		return false
	}
	l.running--
	return true
}

// session writes to the target that has taken what was loaded so far.
func (l *loader) session() session { return session{a: l.a, held: l.a.target.history} }

func isEnd(err error) bool { return errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) }

// add puts a key into the batch that fills.
func (l *loader) add(ctx context.Context, e *rdbstream.Entry) error {
	if checkpoint.Reserved(e.Key) {
		return nil
	}
	if err := l.a.probe(ctx, e.DB); err != nil {
		return err
	}
	b := l.cur
	k := loadKey{db: e.DB, typ: e.Type, idle: e.Idle, freq: e.Freq, offset: e.Offset}
	if e.HasExpire {
		k.expireAt = l.expiries.key(max(1, e.ExpireAt)) // 0 means none to RESTORE, and a negative one is refused
	}
	b.bytes = append(b.bytes, e.Key...)
	k.key = len(b.bytes)
	var err error
	if l.field == nil || !rdbstream.HasFieldExpiries(e.Valkey, e.Type) {
		b.giant, _, err = l.r.TakeDump(e)
	}
	if b.giant == nil && err == nil {
		b.bytes, err = rdbstream.AppendDumpMapped(b.bytes, e, l.field)
	}
	if err != nil {
		return readError(fmt.Errorf("key %q in db %d: %w", e.Key, e.DB, err))
	}
	k.payload = len(b.bytes)
	b.keys = append(b.keys, k)
	size := len(b.payload(len(b.keys) - 1))
	if int64(size) > l.a.target.maxBulk {
		return l.tooLong(ctx, b, int64(size))
	}
	if b.giant == nil && len(b.bytes) < loadBytes && len(b.keys) < loadKeys {
		return nil
	}
	end := progress{scan: l.r.State(), db: l.db} // not for each key: it brings the CRC up to here
	if size >= replica.Giant {
		return l.flushGiant(ctx, end)
	}
	return l.flush(ctx, end)
}

// flushGiant hands over a batch that ends with something giant, and waits until it is in the target,
// so that only one such thing is in memory.
func (l *loader) flushGiant(ctx context.Context, end progress) error {
	in := make(chan struct{})
	l.cur.in = in
	if err := l.flush(ctx, end); err != nil {
		return err
	}
	select {
	case <-in:
	case <-ctx.Done():
		return ctx.Err()
	}
	runtime.GC()
	return nil
}

// tooLong refuses the batch's last key: the target would close the connection on it.
func (l *loader) tooLong(ctx context.Context, b *keyBatch, size int64) error {
	i := len(b.keys) - 1
	err := l.refuse(ctx, b.keys[i].db, b.command(i, &l.a.target), b.keys[i].offset, b.describe(i),
		overBulk("its payload has", size, l.a.target.maxBulk))
	b.bytes, b.giant = b.bytes[:b.start(i)], nil
	b.keys = b.keys[:i]
	return err
}

// flush hands the batch that fills to the pipelines and takes an empty one. end is where the scanner is.
func (l *loader) flush(ctx context.Context, end progress) error {
	l.cur.seq, l.cur.end = l.seq, end
	l.seq++
	select {
	case l.full <- l.cur:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case l.cur = <-l.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is one pipeline: it takes batches until there are no more, or until it is one too many.
func (l *loader) write(ctx context.Context) error {
	s := l.session()
	defer s.close()
	for b := range l.full {
		if err := l.writeBatch(ctx, &s, b); err != nil {
			return err
		}
		l.landed(b)
		b.reset()
		select {
		case l.empty <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		if l.surplus() {
			return nil
		}
	}
	return nil
}

func (l *loader) writeBatch(ctx context.Context, s *session, b *keyBatch) error {
	for i := range b.keys {
		b.left = append(b.left, i)
	}
	return l.writeKeys(ctx, s, b, b.left)
}

// writeKeys writes keys of a batch. Those on which the target hangs up again are written in ever smaller parts, until the one is alone that it does not take: between keys
// there is no order to keep.
func (l *loader) writeKeys(ctx context.Context, s *session, b *keyBatch, keys []int) error {
	s.hangs, s.patience = hangUps{}, splitAfter
	if len(keys) == 1 {
		s.patience = 1 // a limit that it is over needs no second try
	}
	for len(keys) > 0 {
		v, err := s.run(ctx, func(p *pipeline) {
			for _, i := range keys {
				p.queue(b.keys[i].db, b.build(p.b, i, &l.a.target), i)
			}
		})
		if end := (*hungUpError)(nil); errors.As(err, &end) {
			if at := b.split(keys); at > 0 {
				if err := l.writeKeys(ctx, s, b, keys[:at]); err != nil {
					return err
				}
				return l.writeKeys(ctx, s, b, keys[at:])
			}
			if out, err := l.hungUpOn(ctx, s, b, keys[0], end); out || err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("write the snapshot: %w", err)
		}
		if v.unguarded {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.a.diverge(ctx, v)
		}
		for _, f := range v.failed {
			keys = slices.DeleteFunc(keys, func(i int) bool { return i == f.ref })
			if err := l.refuse(ctx, b.keys[f.ref].db, b.command(f.ref, &l.a.target), b.keys[f.ref].offset, b.describe(f.ref), f.err); err != nil {
				return err
			}
		}
		if v.committed {
			return nil
		}
	}
	return nil
}

// hungUpOn deals with key i, which was sent alone and on which the target hung up. out tells that it is left out; else it is to be sent again.
func (l *loader) hungUpOn(ctx context.Context, s *session, b *keyBatch, i int, end *hungUpError) (out bool, err error) {
	h := heavy{what: "it"}
	restore := b.build(rueidis.Builder{}, i, &l.a.target)
	for _, arg := range restore.Commands() {
		h.add(len(arg))
	}
	large := l.a.tooLarge(ctx, s.conn, h, end)
	switch {
	case large != nil:
		return true, l.refuse(ctx, b.keys[i].db, b.command(i, &l.a.target), b.keys[i].offset, b.describe(i), large)
	case h.bytes < largeWrite:
		s.patience = 0 // it is not the key
	default:
		s.patience = end.tries + 1
	}
	return false, nil
}

// refuse deals with a key that the target will not take: it is kept, and ends the run unless it may go on without it.
func (l *loader) refuse(ctx context.Context, db int, command [][]byte, offset int64, what string, reply error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.a.keep(db, command, fmt.Sprintf("snapshot byte %d", offset), what, reply); err != nil {
		return err
	}
	if l.a.KeepGoing {
		return nil
	}
	help := mend(reply, "")
	if help != "" {
		help += ", and run the same command again; "
	}
	return l.a.keepCounts(ctx, &replica.Stop{
		Kind: replica.Refused, Reason: fmt.Sprintf("the target %s (version %s) refuses %s", l.a.Target, l.a.target.version, what), Err: reply,
		Hint: help + "it is in " + l.a.Home.RejectedPath() + "; --on-error=continue loads the snapshot without such keys; once the source does without it, " + newSnapshot,
	})
}

// landed notes that a batch is in the target, and how far everything before it is.
func (l *loader) landed(b *keyBatch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.a.Status.SnapshotKeys.Add(int64(len(b.keys)))
	l.written[b.seq] = b.end
	for {
		end, ok := l.written[l.next]
		if !ok {
			return
		}
		delete(l.written, l.next)
		l.next++
		if end.scan.Offset > 0 { // behind the last batch there is nothing to go on with
			l.done = end
			l.a.Status.SnapshotRead.Store(end.scan.Offset)
		}
	}
}

// keepProgress stores each second how far the snapshot is, and then tells snap.Durable.
func (l *loader) keepProgress(ctx context.Context, snap replica.Snapshot) error {
	s := l.session()
	defer s.close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		l.mu.Lock()
		done, rejected := l.done, l.a.rec.Rejected // what was refused before that place is counted by then
		l.mu.Unlock()
		v, err := s.run(ctx, func(p *pipeline) {
			p.hset(checkpoint.Key(l.a.Name), []string{
				checkpoint.FieldSnapRead, strconv.FormatInt(done.scan.Offset, 10),
				checkpoint.FieldSnapScan, done.scan.String(),
				checkpoint.FieldDB, strconv.Itoa(done.db),
				checkpoint.FieldRejected, strconv.FormatInt(rejected, 10),
				checkpoint.FieldTime, strconv.FormatInt(time.Now().UnixMilli(), 10),
			})
		})
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if v.unguarded {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.a.diverge(ctx, v)
		}
		snap.Durable(done.scan.Offset)
	}
}

func (b *keyBatch) reset() {
	if cap(b.bytes) > 4*loadBytes { // a giant value's memory is given back
		b.bytes = nil
	}
	b.bytes, b.keys, b.left, b.end, b.giant = b.bytes[:0], b.keys[:0], b.left[:0], progress{}, nil
	if b.in != nil {
		close(b.in)
		b.in = nil
	}
}

func (b *keyBatch) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.keys[i-1].payload
}

// payload is that of key i.
func (b *keyBatch) payload(i int) []byte {
	if b.giant != nil && i == len(b.keys)-1 {
		return b.giant
	}
	return b.bytes[b.keys[i].key:b.keys[i].payload]
}

// split is where keys are parted of which the target does not take one: before the last, if that is large, for a large key ends its batch; else in the middle.
func (b *keyBatch) split(keys []int) int {
	n := len(keys)
	if last := keys[n-1]; len(b.payload(last)) >= largeWrite {
		return n - 1
	}
	return n / 2
}

// build makes the RESTORE of key i, over the batch's memory: it may be reused only after the reply.
func (b *keyBatch) build(c rueidis.Builder, i int, t *target) rueidis.Completed {
	k := &b.keys[i]
	cmd := c.Arbitrary("RESTORE").Args(
		rueidis.BinaryString(b.bytes[b.start(i):k.key]), strconv.FormatInt(k.expireAt, 10), rueidis.BinaryString(b.payload(i)), "REPLACE", "ABSTTL")
	switch {
	case t.lru && k.idle >= 0:
		cmd = cmd.Args("IDLETIME", strconv.FormatInt(k.idle, 10))
	case t.lfu && k.freq >= 0:
		cmd = cmd.Args("FREQ", strconv.Itoa(k.freq))
	}
	return cmd.Build()
}

// command is key i's RESTORE as the file of refused commands takes it.
func (b *keyBatch) command(i int, t *target) (args [][]byte) {
	cmd := b.build(rueidis.Builder{}, i, t)
	for _, arg := range cmd.Commands() {
		args = append(args, []byte(arg))
	}
	return args
}

func (b *keyBatch) describe(i int) string {
	key := b.bytes[b.start(i):b.keys[i].key]
	dots := ""
	if len(key) > 100 {
		key, dots = key[:100], "…"
	}
	return fmt.Sprintf("RESTORE of key %q%s in db %d (RDB type %d, %d bytes)", key, dots, b.keys[i].db, b.keys[i].typ, len(b.payload(i)))
}
