package applier_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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
	"redferry/rdbstream"
	"redferry/replica"
)

// cached is an RDB as the spool keeps it, with what the source has said of it, and a migration that loads it.
type cached struct {
	at   replica.Position
	rdb  []byte
	keys []int64 // where each key ends
	dst  *redistest.Server
	m    *migration
	kept int64 // the bytes before it were given up: what Durable has said
}

// cache takes a source's RDB, for a target.
func cache(t *testing.T, src, dst *redistest.Server) *cached {
	t.Helper()
	c := &cached{dst: dst, m: newMigration(t, src.URL(), dst.URL())}
	c.at, c.rdb, _ = psync(t, src)
	r := rdbstream.NewReader(bufio.NewReaderSize(bytes.NewReader(c.rdb), 64<<10))
	var e rdbstream.Entry
	for r.Next(&e) == nil {
		if e.Kind == rdbstream.KindKey {
			c.keys = append(c.keys, e.End)
		}
	}
	return c
}

// behind is how many keys end behind a byte of the RDB.
func (c *cached) behind(read int64) int {
	n := 0
	for _, end := range c.keys {
		if end > read {
			n++
		}
	}
	return n
}

// some is a byte of the RDB, so many or a few more keys behind another byte.
func (c *cached) some(from int64, keys int) int64 {
	i := len(c.keys) - c.behind(from) + keys + rand.IntN(100)
	return c.keys[i-1] + rand.Int64N(c.keys[i]-c.keys[i-1])
}

// process is one process of a migration that loads a cached RDB.
type process struct {
	*applier.Applier
	*cached
	t      *testing.T
	status *replica.Status
	home   *applier.Home
	end    sync.Once
}

func (c *cached) process(t *testing.T) *process {
	t.Helper()
	p := &process{cached: c, t: t, status: &replica.Status{}}
	var err error
	if p.home, err = applier.OpenHome(c.m.dir, c.m.apply.Name); err != nil {
		t.Fatal(err)
	}
	conf := c.m.apply
	if conf.Target, err = replica.ParseEndpoint(c.m.target, c.m.dstTLS); err != nil {
		t.Fatal(err)
	}
	conf.Status, conf.Log, conf.Home = p.status, zerolog.Nop(), p.home
	p.Applier = applier.New(conf)
	t.Cleanup(p.close)
	return p
}

// close ends the process.
func (p *process) close() {
	p.end.Do(func() {
		p.Close()
		p.home.Close()
	})
}

// resume asks the target, as Run does, and makes sure that a part offered is one of this RDB.
func (p *process) resume() replica.Resume {
	p.t.Helper()
	resume, err := p.Resume(context.Background(), replica.SourceInfo{Addr: "here:1"})
	if err != nil {
		p.t.Fatal(err)
	}
	if part := resume.Part; part != (replica.Part{}) && (part.At != p.at || part.Read <= 0 || part.Read >= int64(len(p.rdb)) || !resume.From.IsZero()) {
		p.t.Fatalf("the sink offers %+v, beside %+v", part, resume.From)
	}
	return resume
}

// breakOff says where a snapshot is to break off, and how.
type breakOff struct {
	at int64 // a byte of the RDB
	// how is called when everything before it was read and some of that is durable; its error is that of the next read. With nil the rest is read.
	how func(cancel context.CancelFunc) error
	// deaf: the process ends when it stores its progress for the first time, and nobody hears of it.
	deaf bool
}

// pause is a read that waits until f returns.
type pause func() error

func (f pause) Read([]byte) (int, error) {
	if err := f(); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// snapshot loads the RDB from a byte on.
func (p *process) snapshot(from int64, b breakOff) (replica.Position, error) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if from > 0 && from < p.kept {
		p.t.Fatalf("the RDB is wanted from byte %d; that was given up up to %d", from, p.kept)
	}
	durable := make(chan struct{})
	var once sync.Once
	rdb := []io.Reader{bytes.NewReader(p.rdb[from:])}
	if b.at > 0 {
		rdb = []io.Reader{bytes.NewReader(p.rdb[from:b.at]), pause(func() error {
			select {
			case <-durable:
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(2 * time.Minute):
				return errors.New("nothing became durable")
			}
			if b.how == nil {
				return nil
			}
			return b.how(cancel)
		}), bytes.NewReader(p.rdb[b.at:])}
	}
	return p.Snapshot(ctx, replica.Snapshot{
		At: p.at, Size: int64(len(p.rdb)), From: from, RDB: bufio.NewReaderSize(io.MultiReader(rdb...), 64<<10),
		End: func() error { return nil },
		Durable: func(read int64) {
			if read < from || read < p.kept { // the same again when nothing moved
				p.t.Errorf("durable up to byte %d, after %d and %d", read, from, p.kept)
			}
			if b.deaf {
				cancel()
				return
			}
			p.kept = read
			once.Do(func() { close(durable) })
		},
		Interrupt: cancel,
	})
}

var errCut = errors.New("the link is cut")

// The ways in which a snapshot breaks off.
var (
	cutLink = func(context.CancelFunc) error { return errCut }
	killed  = func(cancel context.CancelFunc) error {
		cancel()
		return context.Canceled
	}
)

// calls is how often a server has carried out a command.
func calls(t *testing.T, s *redistest.Server, command string) int {
	t.Helper()
	stat, _, _ := strings.Cut(strings.TrimPrefix(s.Info(t, "commandstats")["cmdstat_"+command], "calls="), ",")
	n, err := strconv.Atoi(stat)
	if err != nil && stat != "" {
		t.Fatal(err)
	}
	return n
}

// breakOffOnce is one process that goes on with what is there, until something more is durable and the snapshot breaks off.
func (c *cached) breakOffOnce(t *testing.T, how func(context.CancelFunc) error) {
	t.Helper()
	p := c.process(t)
	defer p.close()
	from := p.resume().Part.Read
	if _, err := p.snapshot(from, breakOff{at: c.some(from, 1200), how: how}); err == nil {
		t.Fatal("the snapshot did not break off")
	}
}

// complete loads the rest of a part and makes sure that nothing was loaded again.
func (c *cached) complete(t *testing.T, src *redistest.Server) {
	t.Helper()
	p := c.process(t)
	defer p.close()
	part := p.resume().Part
	if part.Read == 0 {
		t.Fatal("no part is offered")
	}
	before := calls(t, c.dst, "restore")
	at, err := p.snapshot(part.Read, breakOff{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := calls(t, c.dst, "restore")-before, c.behind(part.Read); got != want {
		t.Errorf("%d keys were restored, %d of %d are behind byte %d", got, want, len(c.keys), part.Read)
	}
	if at.ReplID != c.at.ReplID || at.Offset != c.at.Offset {
		t.Errorf("the stream goes on at %v, behind the RDB of %v", at, c.at)
	}
	rec := mustRecord(t, c.dst)
	if rec.Phase != checkpoint.PhaseStream || rec.Position() != at || rec.SnapshotScan != "" || rec.SnapshotRead != int64(len(c.rdb)) {
		t.Errorf("the checkpoint is %+v", rec)
	}
	if have, _ := p.Checkpointed(); have != c.at.Offset {
		t.Errorf("checkpointed: got %d, want %d", have, c.at.Offset)
	}
	if got := p.status.SnapshotKeys.Load(); got != int64(len(c.keys)) {
		t.Errorf("the status counts %d keys of %d", got, len(c.keys))
	}
	if got := p.status.SnapshotTotal.Load(); got != int64(len(c.keys)) {
		t.Errorf("the status says that %d keys are announced, of %d", got, len(c.keys))
	}
	redistest.AssertEqual(t, src, c.dst, redistest.CompareOptions{})
}

// However a snapshot breaks off, the next process goes on with what the target has.
func TestSnapshotGoesOn(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 9000, Seed: rand.Uint64()})
			c := cache(t, src, dst)
			libraries := calls(t, src, "function|load") + calls(t, src, "function")
			from := int64(0)
			for _, off := range []breakOff{{how: cutLink}, {how: killed}, {deaf: true}} {
				off.at = c.some(from, 1200)
				p := c.process(t)
				if part := p.resume().Part; part.Read != from {
					t.Fatalf("offered: byte %d, want %d", part.Read, from)
				}
				if _, err := p.snapshot(from, off); err == nil || replica.AsStop(err) != nil {
					t.Fatalf("the snapshot breaks off with %v", err)
				}
				if have, _ := p.Checkpointed(); have != 0 {
					t.Errorf("checkpointed in the midst of a snapshot: %d", have)
				}
				p.close()
				read := mustRecord(t, dst).SnapshotRead
				if read <= from || read > off.at || read < c.kept {
					t.Fatalf("broken off at byte %d, the checkpoint says %d, after %d; the last word was %d", off.at, read, from, c.kept)
				}
				from = read
			}
			c.complete(t, src)
			if got := calls(t, dst, "function|load") + calls(t, dst, "function"); b.Has70() && (got != libraries || got == 0) {
				t.Errorf("%d function libraries were loaded, the source has %d", got, libraries)
			}
		})
	}
}

// large is a source with so many keys that a snapshot of it can break off, and a target.
func large(t *testing.T, lines ...string) (src, dst *redistest.Server) {
	t.Helper()
	b := redistest.Latest(t)
	src, dst = redistest.Start(t, b), redistest.Start(t, b, redistest.Config(lines...))
	redistest.Fill(t, src, redistest.FillOptions{Keys: 6000})
	return src, dst
}

// The stream goes on in the database that the RDB has named at its beginning, which nobody reads again.
func TestSnapshotOfAChainGoesOn(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	primary := redistest.Start(t, b)
	redistest.Fill(t, primary, redistest.FillOptions{Keys: 6000})
	src, dst := redistest.Start(t, b, redistest.ReplicaOf(primary)), redistest.Start(t, b)
	eventually(t, "the chain stands", func() bool { return src.Info(t, "replication")["master_link_status"] == "up" })
	say(t, primary, "SELECT 7", "SET last 1")
	eventually(t, "the replica has it", func() bool { return src.DB(7).DoString(t, "GET", "last") == "1" })
	c := cache(t, src, dst)
	c.breakOffOnce(t, cutLink)
	c.breakOffOnce(t, killed)
	c.complete(t, src)
	if got := mustRecord(t, dst).DB; got != 7 {
		t.Errorf("the stream goes on in database %d, want 7", got)
	}
}

// Over other keys a snapshot goes on as it does over none: it needs no leave, since nothing is emptied.
func TestMergeGoesOn(t *testing.T) {
	t.Parallel()
	src, dst := large(t)
	c := cache(t, src, dst)
	dst.Do(t, "SET", "mine", "1")
	c.m.apply.OnNotEmpty = applier.Merge
	c.breakOffOnce(t, cutLink)
	c.m.apply.OnNotEmpty = applier.Refuse
	p := c.process(t)
	resume := p.resume()
	wantStop(t, resume.FullResync, replica.Decide, "broke off")
	wantStop(t, resume.Part.Lost, replica.Decide, "--on-full-resync=flush")
	p.close()
	if got := dst.DoString(t, "GET", "mine"); got != "1" {
		t.Errorf("a key of the target's own: got %q", got)
	}
	src.Do(t, "SET", "mine", "1")
	c.complete(t, src)
	if got := mustRecord(t, dst).Origin; got != checkpoint.OriginMerge {
		t.Errorf("origin: got %q", got)
	}
}

// A target that comes back with all it had loses nothing; one that comes back with less is asked what that is.
func TestTargetRestartsInTheSnapshot(t *testing.T) {
	t.Parallel()
	t.Run("with an AOF", func(t *testing.T) {
		t.Parallel()
		src, dst := large(t, "appendonly yes", "appendfsync always")
		c := cache(t, src, dst)
		p := c.process(t)
		p.resume()
		_, err := p.snapshot(0, breakOff{at: c.some(0, 3000), how: func(context.CancelFunc) error {
			dst.Kill()
			dst.Restart(t)
			return nil
		}})
		if err == nil || replica.AsStop(err) != nil {
			t.Fatalf("got %v, want to start over", err)
		}
		part := p.resume().Part // the same process
		if part.Read < c.kept {
			t.Fatalf("offered: byte %d, behind %d", part.Read, c.kept)
		}
		if _, err := p.snapshot(part.Read, breakOff{}); err != nil {
			t.Fatal(err)
		}
		redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	})
	t.Run("with an older RDB", func(t *testing.T) {
		t.Parallel()
		src, dst := large(t)
		c := cache(t, src, dst)
		p := c.process(t)
		p.resume()
		_, err := p.snapshot(0, breakOff{at: c.some(0, 2000), how: func(context.CancelFunc) error {
			dst.Do(t, "SAVE")
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		dst.Kill()
		dst.Restart(t)
		saved := mustRecord(t, dst).SnapshotRead
		part := p.resume().Part
		if have, _ := p.Checkpointed(); part.Read != saved || saved > c.kept || have != 0 {
			t.Fatalf("offered: byte %d, checkpointed %d; the target came back with byte %d", part.Read, have, saved)
		}
		c.kept = 0 // the RDB is still there
		_, err = p.snapshot(part.Read, breakOff{at: c.some(part.Read, 1200), how: func(context.CancelFunc) error {
			dst.Kill() // the keys since part.Read are gone, and this process knows of none of its own that is missing
			dst.Restart(t)
			return nil
		}})
		if err == nil || replica.AsStop(err) != nil {
			t.Fatalf("got %v, want to start over", err)
		}
		c.kept = 0
		if part := p.resume().Part; part.Read != saved {
			t.Fatalf("offered: byte %d, want %d", part.Read, saved)
		}
		if _, err := p.snapshot(saved, breakOff{}); err != nil {
			t.Fatal(err)
		}
		redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	})
}

// A snapshot that goes on is fenced as one that begins: who is replaced writes nothing more.
func TestSnapshotThatGoesOnIsFenced(t *testing.T) {
	t.Parallel()
	src, dst := large(t)
	c := cache(t, src, dst)
	c.breakOffOnce(t, cutLink)
	p := c.process(t)
	part := p.resume().Part
	taken := 0
	_, err := p.snapshot(part.Read, breakOff{at: c.some(part.Read, 1200), how: func(context.CancelFunc) error {
		dst.Do(t, "HINCRBY", checkpoint.OwnerKey("test"), "epoch", "1") // what a claim does, but for ending our connections
		dst.Do(t, "HSET", checkpoint.OwnerKey("test"), "place", "elsewhere")
		dst.Do(t, "SET", checkpoint.FenceKey("test"), "new:0")
		taken = calls(t, dst, "restore")
		return nil
	}})
	wantStop(t, err, replica.Fenced, "taken over")
	if got := calls(t, dst, "restore"); got != taken {
		t.Errorf("%d keys were written after that", got-taken)
	}
}

// An attempt is to begin anew, and the FLUSHALL of that is held up on its way; the next one goes on. Either it finds nothing to go on with, or the
// FLUSHALL finds the fence closed.
func TestLateFlush(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"arrives before the next looks": true, "arrives behind it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := large(t)
			c := cache(t, src, dst)
			late := make(chan func(), 1)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var armed atomic.Bool
			gate := newGateProxy(t, dst.Addr(), func(_ *gateProxy, _ int, client, server net.Conn) {
				buf := make([]byte, 1<<20)
				for {
					n, err := client.Read(buf)
					if err != nil {
						return
					}
					data := bytes.Clone(buf[:n])
					if bytes.Contains(data, []byte("FLUSHALL")) && armed.CompareAndSwap(true, false) {
						late <- func() {
							server.Write(append(data, "CLIENT SETNAME arrived\r\n"...))
							eventually(t, "it arrives", func() bool { return strings.Contains(dst.DoString(t, "CLIENT", "LIST"), "name=arrived") })
						}
						cancel()
						client.Close()
						return
					}
					server.Write(data)
				}
			})
			c.m.target = dst.URLAt(gate.l.Addr().String())
			c.breakOffOnce(t, cutLink)
			p := c.process(t)
			part := p.resume().Part
			armed.Store(true)
			if _, err := p.Snapshot(ctx, replica.Snapshot{At: c.at, Size: int64(len(c.rdb)), RDB: bufio.NewReader(bytes.NewReader(c.rdb))}); !errors.Is(err, context.Canceled) {
				t.Fatalf("the attempt that begins anew: %v", err)
			}
			if again := p.resume().Part; again.Read != part.Read {
				t.Fatalf("offered: byte %d, want %d", again.Read, part.Read)
			}
			if early {
				(<-late)()
				if _, err := p.snapshot(part.Read, breakOff{}); err == nil || replica.AsStop(err) != nil {
					t.Fatalf("got %v, want to start over", err)
				}
				if part := p.resume().Part; part.Read != 0 {
					t.Errorf("offered: byte %d of a target that was emptied", part.Read)
				}
				return
			}
			_, err := p.snapshot(part.Read, breakOff{at: c.some(part.Read, 1200), how: func(context.CancelFunc) error {
				(<-late)()
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
		})
	}
}

// What is offered, by what the checkpoint says and what the operator allows.
func TestPartOffered(t *testing.T) {
	t.Parallel()
	src, dst := large(t)
	c := cache(t, src, dst)
	c.breakOffOnce(t, cutLink)
	good := dst.DoString(t, "HGET", checkpoint.Key("test"), checkpoint.FieldSnapScan)
	read := mustRecord(t, dst).SnapshotRead
	for name, tt := range map[string]struct {
		fields  []string // set in the checkpoint
		onFull  applier.Choice
		keep    bool
		offered bool
		lost    bool // there is a Stop
	}{
		"as it was":                      {nil, applier.Refuse, false, true, true},
		"flush is allowed":               {nil, applier.Flush, false, true, false},
		"merge is allowed":               {nil, applier.Merge, false, true, false},
		"of an older redferry":           {[]string{checkpoint.FieldSnapScan, ""}, applier.Refuse, false, false, false},
		"no state":                       {[]string{checkpoint.FieldSnapScan, good + "x"}, applier.Refuse, false, false, false},
		"another place":                  {[]string{checkpoint.FieldSnapRead, strconv.FormatInt(read+1, 10)}, applier.Refuse, false, false, false},
		"nothing read":                   {[]string{checkpoint.FieldSnapRead, "0"}, applier.Refuse, false, false, false},
		"keys were refused":              {[]string{checkpoint.FieldRejected, "1"}, applier.Refuse, false, false, false},
		"keys were refused, and may be":  {[]string{checkpoint.FieldRejected, "1"}, applier.Refuse, true, true, true},
		"it has diverged":                {[]string{checkpoint.FieldDiverged, "1"}, applier.Refuse, false, false, false},
		"the stream phase was reached":   {[]string{checkpoint.FieldPhase, "stream"}, applier.Refuse, false, false, false},
		"over other keys, which may not": {[]string{checkpoint.FieldOrigin, "merge"}, applier.Refuse, false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			dst.Do(t, "HSET", checkpoint.Key("test"), checkpoint.FieldSnapScan, good, checkpoint.FieldSnapRead, strconv.FormatInt(read, 10),
				checkpoint.FieldRejected, "0", checkpoint.FieldDiverged, "0", checkpoint.FieldPhase, "snapshot", checkpoint.FieldOrigin, "empty")
			if tt.fields != nil {
				dst.Do(t, append([]string{"HSET", checkpoint.Key("test")}, tt.fields...)...)
			}
			c.m.apply.OnFullResync, c.m.apply.KeepGoing = tt.onFull, tt.keep
			p := c.process(t)
			defer p.close()
			resume, err := p.Resume(t.Context(), replica.SourceInfo{Addr: "here:1"})
			if err != nil {
				t.Fatal(err)
			}
			want := replica.Part{}
			if tt.offered {
				want = replica.Part{At: c.at, Read: read, Lost: resume.Part.Lost}
			}
			if resume.Part != want {
				t.Errorf("offered: %+v, want %+v", resume.Part, want)
			}
			if tt.lost {
				wantStop(t, resume.Part.Lost, replica.Decide, "--on-full-resync=flush")
			} else if resume.Part.Lost != nil {
				t.Errorf("a Stop: %v", resume.Part.Lost)
			}
		})
	}
}

// A part is gone on with by its own RDB, from its own byte, or not at all.
func TestPartOfAnotherRDB(t *testing.T) {
	t.Parallel()
	src, dst := large(t)
	c := cache(t, src, dst)
	c.breakOffOnce(t, cutLink)
	p := c.process(t)
	part := p.resume().Part
	before := calls(t, dst, "restore")
	if _, err := p.snapshot(part.Read+1, breakOff{}); err == nil || !strings.Contains(err.Error(), "cannot take that of") {
		t.Errorf("another byte: %v", err)
	}
	right := c.at
	for _, c.at = range []replica.Position{{ReplID: right.ReplID, Offset: right.Offset + 1}, {ReplID: strings.Repeat("f", 40), Offset: right.Offset}} {
		if _, err := p.snapshot(part.Read, breakOff{}); err == nil || !strings.Contains(err.Error(), "cannot take that of") {
			t.Errorf("the RDB of %s: %v", c.at, err)
		}
	}
	c.at = right
	if got := calls(t, dst, "restore"); got != before {
		t.Errorf("%d keys of it are in the target", got-before)
	}
	p.close()
	c.complete(t, src)
}

// An RDB that is damaged is not to be used again, whoever finds it and wherever reading began.
func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	src, dst := large(t)
	c := cache(t, src, dst)
	c.breakOffOnce(t, cutLink)
	whole := c.rdb
	last := len(whole) - 1
	for _, tt := range []struct {
		name string
		anew bool
		at   int
		to   byte
		kind replica.Kind
	}{
		{"in part, CRC", false, last, ^whole[last], replica.Failed},
		{"in part, unknown", false, last - 8, 0x60, replica.Decide}, // in the place of EOF
		{"anew, CRC", true, last, ^whole[last], replica.Failed},
		{"anew, unknown", true, last - 8, 0x60, replica.Decide},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.rdb = bytes.Clone(whole)
			c.rdb[tt.at] = tt.to
			p := c.process(t)
			defer p.close()
			from := p.resume().Part.Read
			if tt.anew {
				from, c.kept = 0, 0
			} else if from == 0 {
				t.Fatal("no part is offered")
			}
			_, err := p.snapshot(from, breakOff{})
			wantStop(t, err, tt.kind, "RDB byte")
			if !errors.Is(err, replica.ErrDamaged) {
				t.Errorf("%v does not say that the RDB is of no more use", err)
			}
		})
	}
}

// A key that was refused before the snapshot broke off stays counted when a run that may do without it goes on.
func TestRefusedKeyStaysCounted(t *testing.T) {
	t.Parallel()
	src, dst := large(t, "proto-max-bulk-len 1mb")
	src.Do(t, "CONFIG", "SET", "rdbcompression", "no")
	for i := range 40 { // among the first keys in any case
		src.Do(t, "SETRANGE", fmt.Sprint("large", i), "2000000", "x")
	}
	c := cache(t, src, dst)
	c.m.apply.KeepGoing = true
	c.breakOffOnce(t, cutLink)
	before := mustRecord(t, dst)
	if before.Rejected == 0 {
		t.Fatal("nothing was refused before the snapshot broke off")
	}
	p := c.process(t)
	if _, err := p.snapshot(p.resume().Part.Read, breakOff{}); err != nil {
		t.Fatal(err)
	}
	if got := mustRecord(t, dst).Rejected; got < 40 || got < before.Rejected {
		t.Errorf("rejected: got %d, want the %d from before and the rest of 40", got, before.Rejected)
	}
	p.close()
	c.m.apply.KeepGoing = false
	p = c.process(t)
	_, err := p.Resume(t.Context(), replica.SourceInfo{Addr: "here:1"})
	wantStop(t, err, replica.Refused, "the target refused")
}

// While a newer snapshot is on its way, the target holds nothing that could be acknowledged: an older history's offset is none of the new one.
func TestCheckpointedBeginsAnew(t *testing.T) {
	t.Parallel()
	src, dst := large(t)
	psync(t, src)
	src.Do(t, "SET", "now", "its offset is not 0")
	c := cache(t, src, dst)
	c.breakOffOnce(t, cutLink)
	c.complete(t, src)
	c.at, c.rdb, _ = psync(t, src)
	c.kept, c.m.apply.OnFullResync = 0, applier.Flush
	p := c.process(t)
	if resume, err := p.Resume(t.Context(), replica.SourceInfo{Addr: "here:1"}); err != nil || resume.From.IsZero() {
		t.Fatalf("got %+v, %v; want the checkpoint", resume, err)
	}
	have, moved := p.Checkpointed()
	if have == 0 {
		t.Fatal("nothing is checkpointed")
	}
	_, err := p.snapshot(0, breakOff{at: c.some(0, 1200), how: func(context.CancelFunc) error {
		select {
		case <-moved:
		default:
			t.Error("whoever waits for the checkpoint does not hear of it")
		}
		if got, _ := p.Checkpointed(); got != 0 || p.status.Checkpointed.Load() != 0 {
			t.Errorf("checkpointed: got %d, want 0", got)
		}
		return errCut
	}})
	if err == nil {
		t.Fatal("the snapshot did not break off")
	}
	p.close()
	c.complete(t, src)
}
