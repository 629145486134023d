package applier_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/replica"
)

// T42: a target with an AOF that is killed in the middle of writes and comes back goes on exactly.
func TestTargetKilledAndRestarted(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb"))
	dst := redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync everysec"))
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 42, Writers: 2, Rate: 4000, SwapDB: true, Flush: true})
	for range 4 {
		time.Sleep(400 * time.Millisecond) // under load, at no particular moment
		dst.Kill()
		dst.Restart(t)
		eventually(t, "the stream flows again", func() bool {
			have, received := r.status.Checkpointed.Load(), r.status.Received.Load()
			state, _, _ := r.status.Now()
			return state != replica.Waiting && have > 0 && received-have < 1<<20
		})
	}
	stop()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// T43: the target fails over to a replica that lags behind the checkpoint. What it lost is asked for again from the backlog.
func TestTargetFailsOverWithLoss(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb"))
	dst := redistest.Start(t, b)
	spare := redistest.Start(t, b, redistest.ReplicaOf(dst))
	eventually(t, "the target's replica is up", func() bool { return spare.Info(t, "replication")["master_link_status"] == "up" })
	proxy := redistest.NewProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	r := m.start(t)
	r.until(t, replica.InSync, "")
	load(t, src, redistest.LoadOptions{Seed: 43, Commands: 2000})
	eventually(t, "the replica has the checkpoint", func() bool { rec, ok := record(t, spare); return ok && rec.Offset > 1000 })
	spare.Freeze()
	load(t, src, redistest.LoadOptions{Seed: 44, Commands: 5000})
	eventually(t, "the target is ahead of its replica", func() bool { return r.status.Checkpointed.Load() >= src.Offset(t)-1000 })
	before := mustRecord(t, dst).Offset

	dst.Kill()
	spare.Thaw()
	spare.Do(t, "REPLICAOF", "NO", "ONE")
	if got := mustRecord(t, spare).Offset; got >= before {
		t.Skipf("the replica was not behind: %d of %d", got, before)
	}
	proxy.SetTarget(spare.Addr())
	proxy.Cut()
	load(t, src, redistest.LoadOptions{Seed: 45, Commands: 500})
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, spare, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// T44: the reply of an EXEC is lost, again and again; each transaction is nevertheless in the target once.
func TestRepliesOfExecLost(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	r := m.start(t)
	r.until(t, replica.InSync, "")
	var seen, lost atomic.Int64
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if !strings.EqualFold(string(args[0]), "exec") {
			return redistest.Forward()
		}
		switch seen.Add(1) % 7 {
		case 3:
			lost.Add(1)
			return redistest.LoseReply()
		case 5:
			lost.Add(1)
			return redistest.CutBeforeCommand()
		}
		return redistest.Forward()
	})
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 4, Rate: 4000})
	eventually(t, "replies are lost", func() bool { return lost.Load() >= 6 })
	stop()
	proxy.Handle(nil)
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	rec := mustRecord(t, dst)
	if rec.Unchecked == "" {
		t.Error("replies were lost, and the checkpoint does not say which")
	}
	if rec.Diverged != 0 || rec.Rejected != 0 {
		t.Errorf("diverged %d, rejected %d; want none", rec.Diverged, rec.Rejected)
	}
}

// T46: a full target is waited for, and nothing is lost meanwhile.
func TestTargetOutOfMemory(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	dst.Do(t, "CONFIG", "SET", "maxmemory", "1mb")
	load(t, src, redistest.LoadOptions{Seed: 46, Commands: 3000})
	r.until(t, replica.Waiting, "OOM")
	at := mustRecord(t, dst).Offset
	if at >= src.Offset(t) {
		t.Fatal("the checkpoint moved on although the target took nothing")
	}
	dst.Do(t, "CONFIG", "SET", "maxmemory", "0")
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// The same in the snapshot phase: it waits, and then goes on with the same transfer.
func TestTargetOutOfMemoryInSnapshot(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 5000})
	dst.Do(t, "CONFIG", "SET", "maxmemory", "2mb")
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.Waiting, "OOM")
	dst.Do(t, "CONFIG", "SET", "maxmemory", "0")
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if got := fullResyncs(t, src); got != "1" {
		t.Errorf("full resyncs: got %s, want 1", got)
	}
}

// T47: a target that was demoted takes no writes until it is promoted again.
func TestTargetReadOnly(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst, other := redistest.Start(t, b), redistest.Start(t, b), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	_, port, _ := strings.Cut(other.Addr(), ":")
	other.Freeze() // so that the demoted target keeps its data: it cannot synchronise with its new primary
	dst.Do(t, "REPLICAOF", "127.0.0.1", port)
	load(t, src, redistest.LoadOptions{Seed: 47, Commands: 2000})
	r.until(t, replica.Waiting, "")
	dst.Do(t, "REPLICAOF", "NO", "ONE")
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// A target that does not answer is given up after the write timeout, and asked what it has when it answers again.
func TestTargetFrozen(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	m.apply.Timeout = time.Second
	r := m.start(t)
	r.until(t, replica.InSync, "")
	for range 2 {
		dst.Freeze()
		load(t, src, redistest.LoadOptions{Seed: 5, Commands: 500})
		r.until(t, replica.Waiting, "target")
		dst.Thaw()
		r.until(t, replica.InSync, "")
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.apply.Timeout = 0 // else a busy target could be given up, too
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// Refusals that come and go between the parts of a transaction. Nothing may be lost or doubled; where the guard itself was refused and EXEC
// was not, the fence is in doubt, and the run says so and stays stopped.
func TestRefusalsComeAndGo(t *testing.T) {
	t.Parallel()
	refusals := map[string]string{
		"OOM":        "-OOM command not allowed when used memory > 'maxmemory'.",
		"NOREPLICAS": "-NOREPLICAS Not enough good replicas to write.",
		"READONLY":   "-READONLY You can't write against a read only replica.",
	}
	for name, refusal := range refusals {
		for _, place := range []string{"eval", "exec", "watch"} {
			t.Run(name+" at "+place, func(t *testing.T) {
				t.Parallel()
				refuseNow(t, place, refusal)
			})
		}
	}
}

func refuseNow(t *testing.T, place, refusal string) {
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	r := m.start(t)
	r.until(t, replica.InSync, "")
	var count, refused atomic.Int64
	var writer atomic.Int64
	proxy.Handle(func(conn int, args [][]byte) redistest.Answer {
		cmd := strings.ToLower(string(args[0]))
		if cmd == "watch" {
			writer.Store(int64(conn)) // the connection that carries transactions, not the one of the lease
		}
		if cmd != place || int64(conn) != writer.Load() || count.Add(1)%5 != 2 || refused.Load() >= 8 {
			return redistest.Forward()
		}
		refused.Add(1)
		if place == "exec" { // the server never sees it, and discards the transaction when the connection is closed
			return redistest.Reply("-EXECABORT Transaction discarded because of: " + strings.TrimPrefix(refusal, "-"))
		}
		return redistest.Reply(refusal)
	})
	i := 0
	eventually(t, "something is refused", func() bool { // at first in many small transactions; a busy machine makes few of them
		src.Do(t, "INCR", fmt.Sprintf("n%d", i%7))
		i++
		return i >= 150 && refused.Load() > 0
	})
	proxy.Handle(nil)
	if place == "eval" || place == "watch" {
		wantStop(t, r.wait(t), replica.Refused, "guard had not agreed")
		wantStop(t, m.start(t).wait(t), replica.Refused, "without their guard's consent")
		if got := mustRecord(t, dst).Diverged; got == 0 {
			t.Error("the checkpoint does not say that the fence was in doubt")
		}
		return
	}
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// The same by a real server that changes its mind every few milliseconds.
func TestTargetThatRefusesNowAndThen(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 64mb")), redistest.Start(t, b)
	m := newMigration(t, src.URL(), dst.URL())
	r := m.start(t)
	r.until(t, replica.InSync, "")
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: 6, Rate: 3000})
	for i := range 15 {
		setting := [][]string{{"min-replicas-to-write", "1", "0"}, {"maxmemory", "1mb", "0"}}[i%2]
		dst.Do(t, "CONFIG", "SET", setting[0], setting[1])
		time.Sleep(time.Duration(10+7*i) * time.Millisecond)
		dst.Do(t, "CONFIG", "SET", setting[0], setting[2])
		time.Sleep(time.Duration(7*i) * time.Millisecond)
	}
	stop()
	end, stopped := src.Offset(t), false
	eventually(t, "the target has all, or the run has stopped", func() bool {
		select {
		case <-r.done:
			stopped = true
		default:
		}
		return stopped || r.status.Checkpointed.Load() >= end
	})
	if stopped { // the one outcome beside equality: the fence was in doubt, and said so
		wantStop(t, r.err, replica.Refused, "guard had not agreed")
		return
	}
	r.until(t, replica.InSync, "")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.finish(t)
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}
