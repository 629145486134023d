package applier_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// held has a proxy hold a command up: it tells of the first one, and lets all go on when let is closed.
type held struct {
	arrived, let chan struct{}
	seen         atomic.Bool
	lost         atomic.Bool // what was held never arrives
	mute         atomic.Bool // the EXEC behind it is carried out, and its reply is lost
}

func hold(proxy *redistest.CommandProxy, which func(args [][]byte) bool) *held {
	h := &held{arrived: make(chan struct{}), let: make(chan struct{})}
	proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if strings.EqualFold(string(args[0]), "exec") && h.seen.Load() && h.mute.CompareAndSwap(true, false) {
			return redistest.LoseReply()
		}
		if which(args) {
			if !h.seen.Swap(true) {
				close(h.arrived)
			}
			<-h.let
			if h.lost.Load() {
				return redistest.CutBeforeCommand()
			}
		}
		return redistest.Forward()
	})
	return h
}

func isSettling(args [][]byte) bool {
	return strings.EqualFold(string(args[0]), "eval") && strings.Contains(string(args[1]), "'SCAN'")
}

func isTombstone(args [][]byte) bool {
	for _, arg := range args {
		if string(arg) == string(checkpoint.PhaseCompleted) {
			return true
		}
	}
	return false
}

// heldCutover is a cutover of a fresh migration that is held up in the target at a command of its own.
func heldCutover(
	t *testing.T, which func(args [][]byte) bool,
) (src, dst *redistest.Server, m *migration, r *running, h *held, ended chan error) {
	t.Helper()
	b := redistest.Latest(t)
	src, dst = redistest.Start(t, b, quiet), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	src.Do(t, "SET", "volatile", "x", "PX", "3600000")
	m = newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
	r = m.start(t)
	r.until(t, replica.InSync, "")
	h, ended = hold(proxy, which), make(chan error, 1)
	go func() {
		_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
		ended <- err
	}()
	<-h.arrived
	return src, dst, m, r, h, ended
}

// A source of several hosts, whose next primary was promoted while the last one is as it was, is not cut over: a Sentinel
// promotes first, and tells the last primary later.
func TestNoCutoverOfASourceThatFailsOver(t *testing.T) {
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
	next := redistest.Start(t, b, redistest.Config("replicaof "+strings.Replace(src.Addr(), ":", " ", 1)))
	eventually(t, "the next primary follows", func() bool { return next.Info(t, "replication")["master_link_status"] == "up" })
	src.Do(t, "SET", "k", "v")
	proxy := redistest.NewCommandProxy(t, dst.Addr())
	m := newMigration(t, "redis://"+next.Addr()+","+src.Addr(), dst.URLAt(proxy.Addr())) // the first primary of them counts
	m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
	r := m.start(t)
	r.until(t, replica.InSync, "")
	h, ended := hold(proxy, isTombstone), make(chan error, 1)
	h.lost.Store(true)
	go func() {
		_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
		ended <- err
	}()
	<-h.arrived
	next.Do(t, "REPLICAOF", "NO", "ONE")
	next.Do(t, "SET", "acknowledged", "x")
	close(h.let)
	if err := <-ended; err == nil {
		t.Error("it was cut over")
	}
	src.Kill() // else the link would stay with it for as long as it is there
	eventually(t, "what the new primary has acknowledged arrives", func() bool { return dst.DoInt(t, "EXISTS", "acknowledged") == 1 })
	if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseStream {
		t.Errorf("the checkpoint's phase is %q", rec.Phase)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// The source's sentinels fail it over while a cutover settles, or when its tombstone is on the way.
func TestNoCutoverWhileSentinelsFailOver(t *testing.T) {
	b := redistest.Latest(t)
	for name, which := range map[string]func(args [][]byte) bool{"while it settles": isSettling, "before the tombstone": isTombstone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
			next := redistest.Start(t, b, redistest.Config("replicaof "+strings.Replace(src.Addr(), ":", " ", 1)))
			eventually(t, "the next primary follows", func() bool { return next.Info(t, "replication")["master_link_status"] == "up" })
			sentinels := redistest.StartSentinels(t, src, 3)
			src.Do(t, "SET", "volatile", "x", "PX", "3600000")
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			m := newMigration(t, redistest.SentinelURL("", sentinels...), dst.URLAt(proxy.Addr()))
			m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			h, ended := hold(proxy, which), make(chan error, 1)
			h.lost.Store(name == "before the tombstone")
			go func() {
				_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
				ended <- err
			}()
			<-h.arrived
			eventually(t, "a sentinel fails over", func() bool { return sentinels[0].TryDo("SENTINEL", "FAILOVER", redistest.Master) == nil })
			for _, sentinel := range sentinels {
				redistest.AwaitMaster(t, sentinel, next)
			}
			next.Do(t, "SET", "acknowledged", "x")
			close(h.let)
			if err := <-ended; err == nil {
				t.Error("it was cut over")
			}
			if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseStream {
				t.Errorf("the checkpoint's phase is %q", rec.Phase)
			}
			// It may have followed the last primary beyond the point where they part, which ends it with exit code 3.
			if stop := replica.AsStop(r.end()); stop != nil && stop.Kind != replica.Decide {
				t.Error(stop)
			}
		})
	}
}

func open(t *testing.T, src *redistest.Server) {
	t.Helper()
	if got := src.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1]; got != "0" {
		t.Errorf("the source's min-replicas-to-write is %s", got)
	}
	src.Do(t, "EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "later") // nor is it paused
}

// A source that is demoted while a cutover settles, or between its refusal and the tombstone, is not cut over: its new primary
// acknowledges writes that the target would lack.
func TestNoCutoverOfASourceThatWasDemoted(t *testing.T) {
	for name, which := range map[string]func(args [][]byte) bool{"while it settles": isSettling, "before the tombstone": isTombstone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst, _, r, h, ended := heldCutover(t, which)
			next := redistest.Start(t, src.Build, redistest.Config("replicaof "+strings.Replace(src.Addr(), ":", " ", 1)))
			eventually(t, "the next primary follows", func() bool { return next.Info(t, "replication")["master_link_status"] == "up" })
			next.Do(t, "REPLICAOF", "NO", "ONE")
			src.Do(t, strings.Fields("REPLICAOF "+strings.Replace(next.Addr(), ":", " ", 1))...)
			eventually(t, "the source is a replica", func() bool { return src.Info(t, "replication")["master_link_status"] == "up" })
			next.Do(t, "SET", "acknowledged", "x")
			h.lost.Store(name == "before the tombstone")
			close(h.let)
			if err := <-ended; err == nil {
				t.Error("it was cut over")
			}
			eventually(t, "what the new primary has acknowledged arrives", func() bool { return dst.DoInt(t, "EXISTS", "acknowledged") == 1 })
			if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseStream {
				t.Errorf("the checkpoint's phase is %q", rec.Phase)
			}
			eventually(t, "the source has its settings back", func() bool {
				return src.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1] == "0" && mustRecord(t, dst).Refusal == ""
			})
			if err := r.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whoever undoes a cutover between the source's refusal and the tombstone hears the truth: either the tombstone is there and
// the source stays closed, or it never will be and the source is open.
func TestUndoBeforeTheTombstone(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(map[bool]string{false: "in time", true: "too late"}[late], func(t *testing.T) {
			t.Parallel()
			src, dst, m, r, h, ended := heldCutover(t, isTombstone)
			asked := make(chan error, 1)
			go func() {
				_, err := m.cutover.Orders.Undo(t.Context())
				asked <- err
			}()
			select {
			case err := <-asked:
				t.Fatalf("undo answers %v while nobody can know", err)
			case <-time.After(300 * time.Millisecond):
			}
			if src.TryDo("SET", "x", "y") == nil {
				t.Fatal("the source takes writes while the tombstone is on its way")
			}
			h.lost.Store(!late)
			close(h.let)
			if late {
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if err := r.wait(t); err != nil {
					t.Error(err)
				}
				tombstone(t, dst)
				if src.TryDo("SET", "x", "y") == nil {
					t.Error("the source takes writes")
				}
				return
			}
			if err := <-asked; err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err == nil {
				t.Error("it was cut over")
			}
			open(t, src)
			eventually(t, "replication goes on", func() bool { return dst.DoString(t, "GET", "later") == "x" })
			eventually(t, "the target knows", func() bool { return mustRecord(t, dst).Refusal == "" })
			if err := r.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A tombstone that is there although its reply was lost is there: who undoes the cutover just then is too late.
func TestUndoOfATombstoneWhoseReplyIsLost(t *testing.T) {
	src, dst, m, r, h, ended := heldCutover(t, isTombstone)
	asked := make(chan error, 1)
	go func() {
		_, err := m.cutover.Orders.Undo(t.Context())
		asked <- err
	}()
	h.mute.Store(true)
	close(h.let)
	if err := <-ended; err != nil {
		t.Errorf("the cutover: %v", err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	select {
	case err := <-asked:
		if err == nil {
			t.Error("it was undone")
		}
	default: // it was not heard in time, and its client is told by the end of the run
	}
	tombstone(t, dst)
	if err := src.TryDo("SET", "x", "y"); err == nil || !strings.Contains(err.Error(), redistest.Refusal) {
		t.Errorf("the source says %v", err)
	}
}

// A cutover that is undone at any earlier moment leaves an open source, and the migration goes on.
func TestUndoOfACutoverUnderWay(t *testing.T) {
	src, dst, m, r, h, ended := heldCutover(t, isSettling)
	had, err := m.cutover.Orders.Undo(t.Context())
	close(h.let)
	if err != nil || !had {
		t.Errorf("undo: %v, %v", had, err)
	}
	if err := <-ended; err == nil {
		t.Error("it was cut over")
	}
	open(t, src)
	eventually(t, "replication goes on", func() bool { return dst.DoString(t, "GET", "later") == "x" })
	r.until(t, replica.InSync, "")
	if had, err := m.cutover.Orders.Undo(t.Context()); had || err != nil {
		t.Errorf("a second undo: %v, %v", had, err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// What the source was like before its refusal is in the target, too: another machine finishes the cutover, or undoes it, and
// another migration of the same source does not take the refusal for the operator's own setting.
func TestRefusalIsKnownElsewhere(t *testing.T) {
	for _, then := range []string{"finished", "undone", "another migration"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			b := redistest.Latest(t)
			src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
			src.Do(t, "CONFIG", "SET", "min-replicas-max-lag", "7")
			src.Do(t, "SET", "k", "v")
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
			m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			src.Do(t, "CONFIG", "SET", "min-replicas-to-write", "1") // which redferry itself satisfies
			h := hold(proxy, isTombstone)
			h.lost.Store(true)
			ended := make(chan error, 1)
			go func() {
				_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
				ended <- err
			}()
			<-h.arrived
			if mustRecord(t, dst).Refusal == "" {
				t.Error("the target does not know that the source refuses writes")
			}
			r.stop()
			close(h.let)
			wantStop(t, r.end(), replica.Failed, "in the midst of a cutover")
			<-ended

			if then == "another migration" {
				third := redistest.Start(t, b)
				o := newMigration(t, src.URL(), third.URL())
				o.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
				r := o.start(t)
				r.until(t, replica.InSync, "")
				eventually(t, "it says so at the start", func() bool { return r.said("already refuses writes") == 1 })
				if !r.status.ForeignRefusal.Load() {
					t.Error("the status does not say it")
				}
				_, err := o.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
				wantStop(t, err, replica.Decide, "already refuses writes")
				source, _ := replica.ParseEndpoint(src.URL(), replica.TLSFiles{})
				_, err = replica.UndoCutover(t.Context(), source, filepath.Join(t.TempDir(), "cutover"), nil)
				wantStop(t, err, replica.Decide, "already refuses writes")
				if err := r.end(); err != nil {
					t.Error(err)
				}
				return
			}
			if then == "finished" {
				other := newMigration(t, src.URL(), dst.URL())
				other.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
				other.apply.Takeover = true
				if err := other.start(t).wait(t); err != nil {
					t.Fatal(err)
				}
				if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseCompleted || rec.Refusal == "" {
					t.Errorf("phase %q, refusal %q", rec.Phase, rec.Refusal)
				}
				if done, err := replica.CutoverDone(filepath.Join(other.dir, "test", "cutover")); !done || err != nil {
					t.Errorf("the other machine does not know that it has finished the cutover: %v", err)
				}
			}
			source, _ := replica.ParseEndpoint(src.URL(), replica.TLSFiles{})
			target, _ := replica.ParseEndpoint(dst.URL(), replica.TLSFiles{})
			u, err := applier.BeginUndo(t.Context(), target, "test", "", true)
			if err != nil {
				t.Fatal(err)
			}
			had, err := replica.UndoCutover(t.Context(), source, filepath.Join(t.TempDir(), "cutover"), u)
			u.Close()
			if err != nil || !had || mustRecord(t, dst).Refusal != "" {
				t.Errorf("undo: %v, %v; the target says %q", had, err, mustRecord(t, dst).Refusal)
			}
			if got := src.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1]; got != "1" {
				t.Errorf("min-replicas-to-write is %s, and was 1", got)
			}
		})
	}
}

// A script that writes by redis.pcall answers OK though it was refused. Whether it comes in the pause or behind it, nobody is
// told so; also when redferry dies behind the refusal. Plain writes that waited are told that they were refused.
func TestScriptsBehindACutover(t *testing.T) {
	const script = "redis.pcall('SET', KEYS[1], 'v') return 'OK'"
	for _, b := range pausable(t) {
		for _, dies := range []bool{false, true} {
			if dies && b.Name != redistest.Latest(t).Name {
				continue
			}
			t.Run(b.Name+map[bool]string{true: ", and redferry dies"}[dies], func(t *testing.T) {
				t.Parallel()
				src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
				proxy := redistest.NewCommandProxy(t, dst.Addr())
				src.Do(t, "SET", "k", "v")
				m := newMigration(t, src.URL(), dst.URLAt(proxy.Addr()))
				m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
				r := m.start(t)
				r.until(t, replica.InSync, "")
				waits, wrote := make(chan error, 3), make(chan error, 1)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				ask := func(to chan<- error, words ...string) {
					client, err := src.Client(0)
					if err != nil {
						t.Error(err)
					}
					go func() {
						defer client.Close()
						to <- client.Do(ctx, client.B().Arbitrary(words...).Build()).Error()
					}()
				}
				h := hold(proxy, isTombstone)
				h.lost.Store(dies)
				ended := make(chan error, 1)
				go func() {
					_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{Compare: func(context.Context) error {
						ask(waits, "EVAL", script, "1", "in the pause")
						ask(wrote, "SET", "in the pause", "v")
						time.Sleep(50 * time.Millisecond) // they are waiting by then; where they are not, they come later
						return nil
					}})
					ended <- err
				}()
				<-h.arrived
				ask(waits, "EVAL", script, "1", "behind it")
				if dies {
					r.stop()
				}
				close(h.let)
				if err := r.wait(t); (err != nil) != dies {
					t.Errorf("the run ended with %v", err)
				}
				<-ended
				ask(waits, "EVAL", script, "1", "later")
				if !dies {
					if err := <-wrote; err == nil || !strings.Contains(err.Error(), redistest.Refusal) {
						t.Errorf("a plain write that has waited hears %v", err)
					}
				}
				quiet := 500 * time.Millisecond
				if dies {
					quiet += 4 * time.Second // the pause of the cutover itself is over by then
				}
				select {
				case err := <-waits:
					t.Errorf("a script was answered: %v", err)
				case <-time.After(quiet):
				}
				if n := src.DoInt(t, "EXISTS", "in the pause", "behind it", "later"); n != 0 {
					t.Errorf("%d keys were written", n)
				}
			})
		}
	}
}

// A target that was restarted, or has failed over, in the stream is cut over like any other.
func TestCutoverOfARestartedTarget(t *testing.T) {
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
	m, r := cutoverOf(t, src, dst)
	dst.Kill()
	src.Do(t, "SET", "meanwhile", "x")
	dst.Restart(t)
	eventually(t, "replication goes on", func() bool { return dst.DoInt(t, "EXISTS", "meanwhile") == 1 })
	r.until(t, replica.InSync, "")
	if _, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{}); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	tombstone(t, dst)
}

// Clients that are still connected to the source are counted, and their connections closed where that is wanted.
func TestCutoverAndTheSourcesClients(t *testing.T) {
	b := redistest.Latest(t)
	for _, end := range []bool{false, true} {
		src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
		client, err := src.Client(0)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		popped := make(chan error, 1)
		go func() {
			popped <- client.Do(context.Background(), client.B().Blpop().Key("queue").Timeout(0).Build()).Error()
		}()
		eventually(t, "it waits", func() bool { return src.Info(t, "clients")["blocked_clients"] == "1" })
		others := int64(strings.Count(src.DoString(t, "CLIENT", "LIST"), "\n"))
		m, r := cutoverOf(t, src, dst)
		report, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{EndClients: end})
		if err != nil {
			t.Fatal(err)
		}
		if !end && report.Clients != others || end && (report.Ended != others || report.Clients != 0) {
			t.Errorf("%d clients: %+v", others, report)
		}
		if end {
			if err := <-popped; err == nil {
				t.Error("it has got something")
			}
		}
		if err := r.wait(t); err != nil {
			t.Error(err)
		}
		eventually(t, "a write is refused", func() bool { // a connection that was closed is opened again
			err := src.TryDo("SET", "x", "y")
			return err != nil && strings.Contains(err.Error(), redistest.Refusal)
		})
	}
}
