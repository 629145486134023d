package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
	"redferry/replica/spool"
)

// A spool that is dropped while it is read (a disk that fails its fsync) has no replication ID: none reaches the sink, and the source is asked again for what
// the target does not have.
func TestRunSpoolDroppedWhileRead(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	first := 100 + int64(len(one))
	src := newSource(t, first, nil)
	src.play = func(p *redistest.Peer, n int, _, _ string) {
		p.Send("+CONTINUE\r\n" + one)
		p.Hang()
	}
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	var sp *spool.Spool
	r := startRun(t, src.endpoint(), sink, stopAtOffset(first+int64(len(one))), func(c *RunConfig) { sp = c.Spool })
	eventually(t, "the first unit is in", func() bool { at, _, _ := sink.seen(); return at.Offset == first })
	src.grow(first + int64(len(one)))
	if err := sp.Drop(); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	at, _, news := sink.seen()
	if len(news) > 0 || at.ReplID != testID {
		t.Errorf("the sink is at %v, and was told of %v", at, news)
	}
	if diff := cmp.Diff([]string{testID + " 101", fmt.Sprintf("%s %d", testID, first+1)}, src.asked()); diff != "" {
		t.Errorf("PSYNC (-want +got):\n%s", diff)
	}
}

// A unit that began under one replication ID and ended under the next has a position that the spool serves.
func TestRunUnitAcrossReplicationIDs(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	end := 100 + int64(len(one))
	src := newSource(t, 100, nil)
	src.play = func(p *redistest.Peer, n int, _, _ string) {
		if n == 1 {
			src.set("master_replid", otherID)
			src.set("master_replid2", testID)
			src.set("second_repl_offset", fmt.Sprint(end+1))
			src.grow(end)
			p.Send("+CONTINUE\r\n" + one[:5])
			return
		}
		p.Send("+CONTINUE " + otherID + "\r\n" + one[5:])
		p.Hang()
	}
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	var ids []string
	sink.onCommit = func(context.Context, int64) error {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		if sink.taken.Offset == end {
			ids = append(ids, sink.taken.ReplID)
		}
		return nil
	}
	var sp *spool.Spool
	if err := startRun(t, src.endpoint(), sink, stopAtOffset(end), func(c *RunConfig) { sp = c.Spool }).wait(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if !sp.Holds(id, end) {
			t.Errorf("the position %s:%d was stored, and the spool does not serve it", id, end)
		}
	}
}

// An RDB that the target has no use for any more, because it went back to before what is still here of it, is not waited for.
func TestRunGivesUpAnRDBThatNobodyCanUse(t *testing.T) {
	t.Parallel()
	const big = 3 << 20
	src := newSource(t, 100, func(p *redistest.Peer, n int, _, _ string) {
		if n == 1 {
			p.Send(fmt.Sprintf("+FULLRESYNC %s 100\r\n$%d\r\n", testID, 2*big) + strings.Repeat("x", big))
			p.Hang()
		}
		p.FullResync(100, fakeRDB)
		p.Hang()
	})
	sink := newSink(t)
	sink.onResume = func(n int, _ SourceInfo) (Resume, error) { return Resume{From: sink.at}, nil }
	sink.onLoad = func(ctx context.Context, snap Snapshot) error {
		if _, loads := sink.counts(); loads > 1 {
			return readRDB(ctx, snap)
		}
		if _, err := io.CopyN(io.Discard, snap.RDB, big); err != nil {
			return err
		}
		for range 3 {
			snap.Durable(big)
		}
		return errors.New("the target went back to its beginning")
	}
	r := startRun(t, src.endpoint(), sink, stopAtCaughtUp, func(c *RunConfig) {
		c.Spool = openSpoolOf(t, spool.Config{Dir: t.TempDir(), Segment: 1 << 20, Max: 1 << 30})
	})
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"? -1", "? -1"}, src.asked()); diff != "" {
		t.Errorf("PSYNC (-want +got):\n%s", diff)
	}
}

// An RDB that goes on where it should end is asked for once more, and not for ever: each costs the source a fork.
func TestRunRDBLongerThanItParses(t *testing.T) {
	t.Parallel()
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send(fmt.Sprintf("+FULLRESYNC %s 100\r\n$%d\r\n", testID, len(fakeRDB)+8) + fakeRDB + "and more")
		p.Hang()
	})
	sink := newSink(t)
	sink.onLoad = func(_ context.Context, snap Snapshot) error {
		_, err := io.CopyN(io.Discard, snap.RDB, int64(len(fakeRDB)))
		return err
	}
	err := startRun(t, src.endpoint(), sink).wait()
	if stop := AsStop(err); stop == nil || stop.Kind != Failed || !strings.Contains(stop.Error(), "damaged snapshot 2 times") || !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want a Stop", err)
	}
	if diff := cmp.Diff([]string{"? -1", "? -1"}, src.asked()); diff != "" {
		t.Errorf("PSYNC (-want +got):\n%s", diff)
	}
}

// What a target says that belongs to no history which is received is neither acknowledged nor taken for in sync.
func TestRunCheckpointOfAnotherHistory(t *testing.T) {
	t.Parallel()
	never := &Stop{Kind: Decide, Reason: "a full resync is not allowed"}
	one := resp("INCR", "n")
	end := 100 + int64(len(one))
	acks := &ackLog{}
	src := newSource(t, end, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n" + one)
		acks.hear(p, func(int64) {})
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	sink.onResume = func(n int, _ SourceInfo) (Resume, error) {
		if n > 1 {
			sink.at = Position{ReplID: otherID, Offset: 1 << 40} // its backup
		}
		return Resume{From: sink.at, FullResync: never}, nil
	}
	sink.onCommit = func(_ context.Context, offset int64) error {
		if offset == end {
			return errBoom
		}
		return nil
	}
	if err := startRun(t, src.endpoint(), sink).wait(); AsStop(err) == nil {
		t.Errorf("got %v, want a Stop", err)
	}
	if last, n := acks.last(); n > 0 && last > end {
		t.Errorf("%d was acknowledged", last)
	}
}

// A target that is nearer than the source takes nothing out of the spool before the source has said whether it has that, too: what the source lost in a failover meanwhile
// can be cut off only as long as the target does not have it.
func TestRunReadsNothingBeforeTheSourceIsKnown(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	shared, end := 100+int64(len(one)), 100+2*int64(len(one))
	src := newSource(t, shared, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE " + otherID + "\r\n")
		p.Hang()
	})
	src.set("master_replid", otherID)
	src.set("master_replid2", testID)
	src.set("second_repl_offset", fmt.Sprint(shared+1))
	src.onInfo = func(n int) {
		if n > 1 {
			time.Sleep(200 * time.Millisecond) // it is far away
		}
	}
	sp := openSpoolOf(t, spool.Config{Dir: t.TempDir()})
	if err := errors.Join(sp.BeginStream(testID, 100), sp.Append(t.Context(), []byte(one+one), time.Now())); err != nil {
		t.Fatal(err)
	}
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	sink.onResume = func(int, SourceInfo) (Resume, error) {
		return Resume{From: sink.at, FullResync: &Stop{Kind: Decide, Reason: "a full resync is not allowed"}}, nil
	}
	if err := startRun(t, src.endpoint(), sink, stopAtCaughtUp, func(c *RunConfig) { c.Spool = sp }).wait(); err != nil {
		t.Error(err)
	}
	if at, _, _ := sink.seen(); at.Offset != shared {
		t.Errorf("the sink is at %v, want %d; the spool had %d", at, shared, end)
	}
}

// A disk that does not give back what it took is given up, and the source is asked for the same again.
func TestRunSpoolThatCannotBeRead(t *testing.T) {
	t.Parallel()
	one := resp("INCR", "n")
	end := 100 + int64(len(one))
	src := newSource(t, end, func(p *redistest.Peer, _ int, _, next string) {
		p.Send("+CONTINUE\r\n")
		if next == "101" {
			p.Send(one)
		}
		p.Hang()
	})
	dir := t.TempDir()
	sp := openSpoolOf(t, spool.Config{Dir: dir})
	if err := errors.Join(sp.BeginStream(testID, 100), sp.Append(t.Context(), []byte(one), time.Now()),
		os.Truncate(filepath.Join(dir, "stream-00000000000000000100"), 128)); err != nil {
		t.Fatal(err)
	}
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	if err := startRun(t, src.endpoint(), sink, stopAtOffset(end), func(c *RunConfig) { c.Spool = sp }).wait(); err != nil {
		t.Fatal(err)
	}
	if _, units, _ := sink.seen(); len(units) != 1 {
		t.Errorf("%d units", len(units))
	}
}

// What is left of an RDB that the target has, when a process is killed right then, goes with the next one.
func TestRunFreesAnRDBThatTheTargetHas(t *testing.T) {
	t.Parallel()
	src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n")
		p.Hang()
	})
	sp := openSpoolOf(t, spool.Config{Dir: t.TempDir()})
	if err := errors.Join(sp.BeginSnapshot(testID, 100, -1), sp.Append(t.Context(), []byte(fakeRDB), time.Now()), sp.EndSnapshot()); err != nil {
		t.Fatal(err)
	}
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	if err := startRun(t, src.endpoint(), sink, stopAtCaughtUp, func(c *RunConfig) { c.Spool = sp }).wait(); err != nil {
		t.Fatal(err)
	}
	if c := sp.Contents(); c.Snapshot || c.EndID == "" {
		t.Errorf("the spool has %+v", c)
	}
}
