package main

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
	"redferry/replica"
)

// A key that is written to whenever it is looked at, and differs each time, was not found equal: neither for lost replies nor for a cutover.
func TestKeysThatCannotBeJudgedAreNotEqual(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	source, target := redistest.Start(t, b), redistest.Start(t, b)
	proxy := redistest.NewCommandProxy(t, source.Addr())
	var writes atomic.Int64
	proxy.Handle(func(int, [][]byte) redistest.Answer { // whatever is asked, it is written to just before
		_ = source.TryDo("SET", "busy", fmt.Sprint(writes.Add(1)))
		return redistest.Forward()
	})
	c := &cutovers{ends: verify.Config{Rounds: 2, Pause: 50 * time.Millisecond}}
	for _, end := range []struct {
		to  *replica.Endpoint
		url string
	}{{&c.ends.Source, source.URLAt(proxy.Addr())}, {&c.ends.Target, target.URL()}} {
		var err error
		if *end.to, err = replica.ParseEndpoint(end.url, replica.TLSFiles{}); err != nil {
			t.Fatal(err)
		}
	}
	stopped := replica.AsStop(c.compare(t.Context(), verify.Full))
	if stopped == nil || stopped.Kind != replica.Failed || stopped.Hint == "" {
		t.Errorf("all keys: %v", stopped)
	}
	if n, _, err := compareKeys(c.ends)(t.Context(), []string{"busy"}); err == nil {
		t.Errorf("one key: %d differ", n)
	}
}
