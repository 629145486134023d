package applier

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/internal/redistest"
	"redferry/rdbstream"
	"redferry/replica"
)

// stream is an Applier that has taken an empty snapshot, and whose Commit goes on beside the test.
type stream struct {
	*Applier
	at replica.Position
}

func streaming(t testing.TB, target string) *stream {
	t.Helper()
	a := New(Config{
		Name: "test", Target: replica.Endpoint{Network: "tcp", Addr: target}, Home: openHome(t, t.TempDir(), "test"),
		Status: &replica.Status{}, Log: zerolog.Nop(),
	})
	t.Cleanup(a.Close)
	if _, err := a.Resume(t.Context(), replica.SourceInfo{Addr: "here:1", Version: "7.0.0"}); err != nil {
		t.Fatal(err)
	}
	rdb := []byte("REDIS0011\xff")
	rdb = binary.LittleEndian.AppendUint64(rdb, rdbstream.CRC64(0, rdb))
	at, err := a.Snapshot(t.Context(), replica.Snapshot{
		At: replica.Position{ReplID: fmt.Sprintf("%040d", 1), Offset: 1}, Size: int64(len(rdb)), RDB: bufio.NewReader(bytes.NewReader(rdb)),
		End: func() error { return nil }, Durable: func(int64) {}, Interrupt: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Commit(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("commit: %v", err)
		}
	})
	return &stream{a, at}
}

// set applies one SET of one of many keys.
func (s *stream) set(ctx context.Context, key int) error {
	u := replica.Unit{Cmds: []replica.Command{{Args: [][]byte{
		[]byte("SET"), fmt.Append(nil, "stream:key:", key), fmt.Append(nil, "a value of some bytes that says ", s.at.Offset),
	}}}, Start: s.at.Offset, End: s.at}
	u.End.Offset += 100
	s.at = u.End
	return s.Apply(ctx, &u)
}

// A target that has the next batch waiting whenever it is done with one is settled, too: Commit comes round for it.
func TestSettlesBesideAStreamThatNeverPauses(t *testing.T) {
	s := redistest.Start(t, redistest.Latest(t))
	proxy := redistest.NewProxy(t, s.Addr())
	a := streaming(t, proxy.Addr())
	fillShifted(t, s, 10_000)
	proxy.Throttle(redistest.FromClient, 4<<20)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	settled := make(chan error, 1)
	for i := 0; len(settled) == 0; i++ {
		if err := a.set(ctx, i%100); err != nil {
			t.Fatalf("after %d commands: %v", i, err)
		}
		if i == 50_000 {
			go func() { settled <- a.Settle(ctx, 0) }()
		}
	}
	if err := <-settled; err != nil {
		t.Error(err)
	}
	if n := a.Status.Settled.Load(); n != 10_000 {
		t.Errorf("%d keys were settled, want 10,000", n)
	}
}
