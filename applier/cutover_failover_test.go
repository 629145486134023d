package applier_test

import (
	"net"
	"testing"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// A source that was told to fail over says that it is the primary for as long as its replica lags behind, and hands over then. It is not cut over:
// the replica takes writes that the target would lack.
func TestNoCutoverOfASourceThatIsToldToFailOver(t *testing.T) {
	for name, which := range map[string]func(args [][]byte) bool{"at the beginning": nil, "while it settles": isSettling, "before the tombstone": isTombstone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := redistest.ServerNamed(t, "redis-8.0") // which does not tell of the pause, as Valkey does
			src, dst := redistest.Start(t, b, quiet), redistest.Start(t, b)
			next := redistest.Start(t, b, redistest.ReplicaOf(src))
			eventually(t, "the next primary follows", func() bool { return next.Info(t, "replication")["master_link_status"] == "up" })
			src.Do(t, "SET", "volatile", "x", "PX", "3600000")
			proxy := redistest.NewCommandProxy(t, dst.Addr())
			m := newMigration(t, "redis://"+src.Addr()+","+next.Addr(), dst.URLAt(proxy.Addr()))
			m.cutover = &replica.CutoverConfig{Orders: replica.NewOrders()}
			r := m.start(t)
			r.until(t, replica.InSync, "")
			next.Freeze()
			src.Do(t, "SET", "lag", "x")
			host, port, _ := net.SplitHostPort(next.Addr())
			begin := func() { src.Do(t, "FAILOVER", "TO", host, port, "TIMEOUT", "60000") }
			ended := make(chan error, 1)
			order := func() {
				_, err := m.cutover.Orders.Cutover(t.Context(), replica.Cutover{})
				ended <- err
			}
			if which == nil {
				begin()
				go order()
			} else {
				h := hold(proxy, which)
				go order()
				<-h.arrived
				begin()
				h.lost.Store(name == "before the tombstone")
				close(h.let)
			}
			wantStop(t, <-ended, replica.Failed, "FAILOVER ABORT")
			if rec := mustRecord(t, dst); rec.Phase != checkpoint.PhaseStream {
				t.Errorf("the checkpoint's phase is %q", rec.Phase)
			}
			next.Thaw()
			eventually(t, "the replica is the primary", func() bool { return next.TryDo("SET", "acknowledged", "x") == nil })
			eventually(t, "what it has acknowledged arrives", func() bool { return dst.DoInt(t, "EXISTS", "acknowledged") == 1 })
			if err := r.end(); err != nil {
				t.Error(err)
			}
		})
	}
}
