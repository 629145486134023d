package main

import (
	"fmt"
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
	stop, ended := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-ended }()
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				_ = source.TryDo("SET", "busy", fmt.Sprint(i))
			}
		}
	}()
	c := &cutovers{ends: verify.Config{Rounds: 2, Pause: 50 * time.Millisecond}}
	for _, end := range []struct {
		to *replica.Endpoint
		of *redistest.Server
	}{{&c.ends.Source, source}, {&c.ends.Target, target}} {
		var err error
		if *end.to, err = replica.ParseEndpoint(end.of.URL(), replica.TLSFiles{}); err != nil {
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
