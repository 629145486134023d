package applier_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
	"redferry/replica/spool"
)

// recorded is what a real source once sent to a replica: a snapshot and a stream. It can be sent again and again, from any byte on.
type recorded struct {
	info   string // of INFO, after the stream
	start  replica.Position
	rdb    []byte
	stream []byte
	digest string // of the source's dataset, after the stream
}

func (r *recorded) end() int64 { return r.start.Offset + int64(len(r.stream)) }

// keys are what the recorded snapshot holds.
var keys = []string{
	"SET n 0", "SET s abc", "RPUSH l a b c d e f", "HSET h f1 v1 f2 v2 n 1", "SADD set a b c", "SADD ints 1 2 3", "ZADD z 1 a 2 b", "XADD x 1-1 f v", "XGROUP CREATE x g 0",
	"SET ttl 1", "PEXPIREAT ttl 4102444800000", "SETRANGE long 300 x", "PFADD hll a b c", "SETBIT bits 100 1",
	"SELECT 1", "SET n 100", "SET s one", "RPUSH l 1", "HSET h f 1", "SADD set 1",
	"SELECT 2", "SET n 200", "SET gone 1", "RPUSH l gone", "SELECT 9", "SET n 900", "SET s nine", "ZADD z 9 nine",
}

// units are what the recorded stream says: nearly all of it shows when it is done twice or not at all.
var units = []string{
	"INCR n", "APPEND s x", "LPUSH l x", "SELECT 1", "INCR n", "APPEND s y",
	"MULTI", "INCR n", "SELECT 0", "INCR n", "LPUSH l y", "EXEC", "INCR n", "RPOPLPUSH l l", "ZINCRBY z 1 a", "HINCRBY h n 5",
	"SELECT 2", "INCR n", "FLUSHDB", "INCR n", "APPEND s z", "SWAPDB 0 1", "INCR n", "SELECT 0", "INCR n", "RENAME s s2", "APPEND s z",
	"MULTI", "INCR n", "SWAPDB 1 0", "INCR n", "APPEND s2 x", "EXEC", "INCR n", "SET s new", "RENAME s s3", "APPEND s q",
	"XADD x 2-1 f w", "XREADGROUP GROUP g c COUNT 1 STREAMS x >", "SPOP set", "LTRIM l 0 3", "MOVE z 9", "COPY h h2", "HINCRBY h2 n 1", "SMOVE set ints b",
	"SELECT 9", "INCR n", "MULTI", "DEL z", "RPUSH l 1", "RPUSH l 2", "FLUSHDB", "INCR n", "APPEND s 9", "EXEC", "APPEND s 9", "SWAPDB 9 2", "INCR n",
	"MULTI", "SWAPDB 0 2", "INCR n", "SWAPDB 2 0", "INCR n", "EXEC", "SELECT 0", "SETRANGE long 5 y", "BITFIELD bits INCRBY u8 0 1", "PFADD hll d", "INCR n",
}

// recordSource is a replica of a real source while it writes all that.
func recordSource(t *testing.T) *recorded {
	t.Helper()
	src := redistest.Start(t, redistest.Latest(t), quiet)
	say(t, src, keys...)
	rec := &recorded{}
	var in *bufio.Reader
	rec.start, rec.rdb, in = psync(t, src)
	say(t, src, units...)
	rec.stream = make([]byte, src.Offset(t)-rec.start.Offset)
	if _, err := io.ReadFull(in, rec.stream); err != nil {
		t.Fatal(err)
	}
	rec.info, rec.digest = src.DoString(t, "INFO"), src.DoString(t, "DEBUG", "DIGEST")
	return rec
}

// psync is a replica of a real source: it gives the position that the source names, its RDB, and, until the test ends, its stream.
func psync(t *testing.T, src *redistest.Server) (start replica.Position, rdb []byte, in *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", src.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(conn, "PSYNC ? -1\r\n"); err != nil {
		t.Fatal(err)
	}
	in = bufio.NewReader(conn)
	line := func(prefix string) string { // beside newlines, while the source waits for its child
		for {
			text, err := in.ReadString('\n')
			if err != nil {
				t.Fatalf("record the source: %v", err)
			}
			if rest, ok := strings.CutPrefix(text, prefix); ok {
				return strings.TrimSpace(rest)
			}
			if text != "\n" {
				t.Fatalf("record the source: it says %q", text)
			}
		}
	}
	id, offset, _ := strings.Cut(line("+FULLRESYNC "), " ")
	start = replica.Position{ReplID: id, Offset: number(t, offset)}
	rdb = make([]byte, number(t, line("$")))
	if _, err := io.ReadFull(in, rdb); err != nil {
		t.Fatal(err)
	}
	return start, rdb, in
}

// replayed serves a recording as a source does.
type replayed struct {
	*redistest.Script
	*recorded
	cut  atomic.Int64 // bytes of the next answer to PSYNC until the connection ends; negative: all
	full atomic.Int64 // full resyncs so far
}

func (r *recorded) serve(t *testing.T) *replayed {
	s := &replayed{recorded: r}
	s.cut.Store(-1)
	s.Script = redistest.StartScript(t, s.play)
	return s
}

func (s *replayed) play(p *redistest.Peer) {
	for {
		switch args := p.Receive(); strings.ToUpper(args[0]) {
		case "PING":
			p.Send("+PONG\r\n")
		case "INFO":
			p.Send(fmt.Sprintf("$%d\r\n%s\r\n", len(s.info), s.info))
		case "CLIENT", "SELECT":
			p.Send("+OK\r\n")
		case "REPLCONF":
			if !strings.EqualFold(args[1], "ACK") {
				p.Send("+OK\r\n")
			}
		case "PSYNC":
			if s.answer(p, args[1], args[2]) {
				return
			}
		default: // CONFIG, COMMAND, HELLO: not every source has them
			p.Send("-ERR unknown command '" + args[0] + "'\r\n")
		}
	}
}

// answer is the answer to PSYNC, and tells whether it was cut. The stream comes in several pieces, so that it makes several transactions.
func (s *replayed) answer(p *redistest.Peer, id, next string) (cut bool) {
	head, stream := "+CONTINUE\r\n", s.stream
	if id == "?" {
		s.full.Add(1)
		head = fmt.Sprintf("+FULLRESYNC %s %d\r\n$%d\r\n%s", s.start.ReplID, s.start.Offset, len(s.rdb), s.rdb)
	} else {
		n, err := strconv.ParseInt(next, 10, 64)
		if n -= s.start.Offset + 1; err != nil || id != s.start.ReplID || n < 0 || n > int64(len(stream)) {
			p.Send("-ERR not in the recording\r\n")
			return true
		}
		stream = stream[n:]
	}
	pieces := []string{head}
	for size := len(s.stream)/5 + 1; len(stream) > 0; {
		n := min(size, len(stream))
		pieces = append(pieces, string(stream[:n]))
		stream = stream[n:]
	}
	left := s.cut.Swap(-1)
	for _, piece := range pieces {
		if left >= 0 && int64(len(piece)) >= left {
			p.Send(piece[:left])
			return true
		}
		p.SendSlowly(2*time.Millisecond, piece)
		if left >= 0 {
			left -= int64(len(piece))
		}
	}
	return false
}

// answerSize is how long the answer to the first PSYNC is, and where in it the RDB and the stream begin.
func (r *recorded) answerSize() (rdb, stream, end int64) {
	head := fmt.Sprintf("+FULLRESYNC %s %d\r\n$%d\r\n", r.start.ReplID, r.start.Offset, len(r.rdb))
	rdb = int64(len(head))
	stream = rdb + int64(len(r.rdb))
	return rdb, stream, stream + int64(len(r.stream))
}

// bench is one place to run the recorded migration in, again and again.
type bench struct {
	src   *replayed
	dst   *redistest.Server
	proxy *redistest.Proxy // in front of dst
	m     *migration
}

func newBench(t *testing.T, rec *recorded) *bench {
	t.Helper()
	b := &bench{src: rec.serve(t), dst: redistest.Start(t, redistest.Latest(t))}
	b.proxy = redistest.NewProxy(t, b.dst.Addr())
	b.m = newMigration(t, "redis://"+b.src.Addr(), b.dst.URLAt(b.proxy.Addr()))
	b.m.run.StopAt = replica.StopAt{Offset: rec.end()}
	b.m.apply.Pipelines = applier.NewPipelines(1)
	return b
}

// dropOurs takes what is redferry's own out of database 0. The source has nothing of it anywhere.
const dropOurs = "for _, k in ipairs(redis.call('KEYS', 'redferry:*')) do redis.call('DEL', k) end"

// run migrates into an emptied target and tells what is wrong with the result.
func (b *bench) run(observe func(replica.State)) (full int64, err error) {
	if err := b.dst.TryDo("FLUSHALL"); err != nil {
		return 0, err
	}
	b.src.full.Store(0)
	if err := b.migrate(observe); err != nil {
		return 0, fmt.Errorf("migrate: %w", err)
	}
	results, err := b.dst.Pipeline([]string{"HGETALL", checkpoint.Key("test")}, []string{"PEXPIRETIME", "ttl"},
		append([]string{"EXISTS"}, checkpoint.Keys("test")...), []string{"EVAL", dropOurs, "0"}, []string{"DEBUG", "DIGEST"})
	if err != nil {
		return 0, err
	}
	fields, err := results[0].AsStrMap()
	if err != nil {
		return 0, err
	}
	rec, _, err := checkpoint.Parse(fields)
	ttl, _ := results[1].AsInt64()
	ours, _ := results[2].AsInt64()
	digest, _ := results[4].ToString()
	switch {
	case err != nil:
		return 0, err
	case rec.Offset != b.src.end() || rec.Phase != checkpoint.PhaseStream || rec.Rejected+rec.Diverged != 0:
		return 0, fmt.Errorf("the checkpoint is %+v", rec)
	case ttl != 4102444800000:
		return 0, fmt.Errorf("the key with a TTL expires at %d", ttl)
	case ours != int64(len(checkpoint.Keys("test"))):
		return 0, fmt.Errorf("the target has %d keys of ours", ours)
	case digest != b.src.digest:
		return 0, fmt.Errorf("the target differs from the source: digest %s, want %s", digest, b.src.digest)
	}
	return b.src.full.Load(), nil
}

// migrate is one process's worth of the migration.
func (b *bench) migrate(observe func(replica.State)) (err error) {
	dir, err := os.MkdirTemp(b.m.dir, "run")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	home, err := applier.OpenHome(dir, b.m.apply.Name)
	if err != nil {
		return err
	}
	defer home.Close()
	status := &replica.Status{}
	status.Observe = func(s replica.State, _ string) {
		if observe != nil {
			observe(s)
		}
	}
	rc, ac := b.m.run, b.m.apply
	rc.Source, err = replica.ParseEndpoint(b.m.source, b.m.srcTLS)
	if err != nil {
		return err
	}
	if ac.Target, err = replica.ParseEndpoint(b.m.target, b.m.dstTLS); err != nil {
		return err
	}
	rc.Status, ac.Status, rc.Log, ac.Log, ac.Home = status, status, zerolog.Nop(), zerolog.Nop(), home
	if rc.Spool, err = spool.Open(spool.Config{Dir: filepath.Join(home.Dir(), "spool"), Place: home.Place()}); err != nil {
		return err
	}
	defer rc.Spool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	a := applier.New(ac)
	defer a.Close()
	if err := replica.Run(ctx, rc, a); err != nil {
		return err
	}
	if ctx.Err() != nil {
		state, why, _ := status.Now()
		return fmt.Errorf("it did not end; it is %s: %s", state, why)
	}
	return nil
}

// benches is how many migrations run at the same time: most of the time each of them waits before it tries again.
const benches = 10

// sweep runs the migration once for each k, after cut has been told of it.
func sweep(t *testing.T, rec *recorded, ks []int64, cut func(b *bench, k int64), most func(k int64) int64) {
	t.Helper()
	todo := make(chan int64)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range benches {
		b := newBench(t, rec)
		wg.Go(func() {
			for k := range todo {
				cut(b, k)
				full, err := b.run(nil)
				if err == nil && full > most(k) {
					err = fmt.Errorf("%d full resyncs, want at most %d", full, most(k))
				}
				if err != nil {
					failed.Add(1)
					t.Errorf("cut after %d bytes: %v", k, err)
				}
			}
		})
	}
	for _, k := range ks {
		if failed.Load() > 3 {
			break
		}
		todo <- k
	}
	close(todo)
	wg.Wait()
	t.Logf("%d cuts", len(ks))
}

// every lists from, from+step, … up to and with to. With LONG=1 it leaves nothing out.
func every(from, to, step int64) (ks []int64) {
	if os.Getenv("LONG") != "" {
		step = 1
	}
	for k := from; k <= to; k += step {
		ks = append(ks, k)
	}
	return ks
}

// TestCutAtEveryByteOfTheSource ends the source's connection after k bytes of its first answer to PSYNC: for every k with LONG=1, else for some.
func TestCutAtEveryByteOfTheSource(t *testing.T) {
	t.Parallel()
	rec := recordSource(t)
	rdb, stream, end := rec.answerSize()
	t.Logf("RDB at %d, stream at %d, end at %d", rdb, stream, end)
	cut := func(b *bench, k int64) { b.src.cut.Store(k) }
	sweep(t, rec, append(every(0, stream-1, 41), every(stream, end, 19)...), cut, func(k int64) int64 {
		if k < stream {
			return 2 // the snapshot was not whole
		}
		return 1
	})
}

// TestCutAtEveryByteOfTheTarget ends all connections to the target after k bytes in one direction: for every k with LONG=1, else for some.
func TestCutAtEveryByteOfTheTarget(t *testing.T) {
	t.Parallel()
	rec := recordSource(t)
	for name, dir := range map[string]redistest.Direction{"what it is sent": redistest.FromClient, "what it answers": redistest.FromServer} {
		step := map[redistest.Direction]int64{redistest.FromClient: 307, redistest.FromServer: 193}[dir]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain := newBench(t, rec)
			stream := int64(0)
			if _, err := plain.run(func(s replica.State) {
				if s == replica.CatchingUp {
					stream = plain.proxy.Passed(dir)
				}
			}); err != nil {
				t.Fatal(errors.Join(errors.New("without a cut"), err))
			}
			end := plain.proxy.Passed(dir)
			t.Logf("stream at %d, end at %d", stream, end)
			ks := append(every(0, stream-1, 4*step), every(stream, end, step)...)
			sweep(t, rec, ks, func(b *bench, k int64) { b.proxy.CutAfter(dir, k) }, func(int64) int64 { return 2 })
		})
	}
}
