package applier_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"

	"redferry/internal/redistest"
)

// Sentinels on both sides call their primary by the default name. What those of the source tell
// each other through it reaches the target in the stream: its own would take the source for their
// primary, since its epoch is newer, and make the target its replica.
func TestSentinelsOnBothSides(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	redistest.StartSentinels(t, src, 1, redistest.Config("sentinel config-epoch "+redistest.Master+" 5"))
	watching := redistest.StartSentinels(t, dst, 1)[0]
	f := &following{src: src, dst: dst, m: newMigration(t, src.URL(), dst.URL())}
	f.running = f.m.start(t)
	src.Do(t, "SET", "k", "v")

	var said atomic.Int64 // by the source's sentinel
	ctx, stop := context.WithCancel(context.Background())
	listener, err := src.Rueidis()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = listener.Receive(ctx, listener.B().Subscribe().Channel("__sentinel__:hello").Build(), func(rueidis.PubSubMessage) { said.Add(1) })
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	for n := range int64(3) { // the first is behind the snapshot, the last one was heard by whoever was to hear it
		eventually(t, "the source's sentinel speaks", func() bool { return said.Load() > n })
		f.through(t)
	}
	reply := watching.Do(t, "SENTINEL", "MASTER", redistest.Master)
	state, err := reply.AsStrMap()
	if err != nil {
		t.Fatal(err)
	}
	if state["num-other-sentinels"] != "0" || state["ip"]+":"+state["port"] != dst.Addr() {
		t.Errorf("the target's sentinel knows %s others, and watches %s:%s, not %s", state["num-other-sentinels"], state["ip"], state["port"], dst.Addr())
	}
	if role := dst.Info(t, "replication")["role"]; role != "master" {
		t.Errorf("the target is a %s", role)
	}
	f.equal(t)
}

// What a source tells those who listen to its keys is no command: nothing of it reaches the target.
func TestNotificationsStay(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b)
			f.src.Do(t, "CONFIG", "SET", "notify-keyspace-events", "KEA")
			f.src.Do(t, "SET", "k", "v", "PX", "20")
			eventually(t, "it expires", func() bool { return f.src.DoInt(t, "EXISTS", "k") == 0 })
			f.src.Do(t, "PUBLISH", "__keyspace@0__:k", "by a client")
			f.equal(t)
			if got := f.dst.Info(t, "commandstats")["cmdstat_publish"]; !strings.HasPrefix(got, "calls=1,") {
				t.Errorf("the target has heard of PUBLISH: %q, want it once", got)
			}
		})
	}
}
