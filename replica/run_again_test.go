package replica

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"redferry/internal/redistest"
)

// A source that cannot serve for the moment is asked again, and not for a full resync.
func TestRunWaitsForTheSource(t *testing.T) {
	tests := []struct {
		name string
		info map[string]string // until it is well again
		why  string
	}{
		{"loading", map[string]string{"loading": "1"}, "is loading its dataset"},
		{"a replica without its primary, synchronised from elsewhere", map[string]string{"role": "slave", "master_link_status": "down", "master_replid": otherID}, "has lost its own primary"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 100, func(p *redistest.Peer, _ int, _, _ string) {
				p.Send("+CONTINUE " + testID + "\r\n")
				p.Hang()
			})
			for field, value := range test.info {
				src.set(field, value)
			}
			sink := newSink(t)
			sink.at = Position{ReplID: testID, Offset: 100}
			r := startRun(t, src.endpoint(), sink, stopAtCaughtUp)
			eventually(t, "the wait "+test.why, func() bool { return r.saw(Waiting, test.why) })
			if got := src.asked(); len(got) > 0 {
				t.Errorf("meanwhile it heard PSYNC %q", got)
			}
			for field := range test.info {
				src.set(field, map[string]string{"role": "master", "master_replid": testID}[field])
			}
			if err := r.wait(); err != nil {
				t.Error(err)
			}
			if !r.saw(InSync, "all up to offset 100") {
				t.Errorf("states %q, want in_sync", r.states)
			}
		})
	}
}

// With the stream going on, a broken link is mended at once and everything arrives once, wherever in a unit it broke.
func TestRunReconnectsAtOnce(t *testing.T) {
	const links = 15
	one := resp("MULTI") + resp("INCR", "n") + resp("EXEC")
	for _, piece := range []int{len(one), len(one) - 7, 11} {
		t.Run(fmt.Sprintf("%d bytes of %d", piece, len(one)), func(t *testing.T) {
			t.Parallel()
			text := strings.Repeat(one, links)
			end := 100 + int64(len(text))
			var wants []string
			for at := 101; at <= int(end); at += piece {
				wants = append(wants, fmt.Sprintf("%s %d", testID, at))
			}
			src := newSource(t, end, func(p *redistest.Peer, _ int, _, next string) {
				from, _ := strconv.Atoi(next)
				p.Send("+CONTINUE\r\n" + text[from-101:min(from-101+piece, len(text))])
				if from-101+piece >= len(text) {
					p.Hang()
				}
			})
			sink := newSink(t)
			sink.at = Position{ReplID: testID, Offset: 100}
			began := time.Now()
			r := startRun(t, src.endpoint(), sink, stopAtOffset(end))
			if err := r.wait(); err != nil {
				t.Fatal(err)
			}
			if _, units, _ := sink.seen(); len(units) != links {
				t.Errorf("%d units, want %d", len(units), links)
			}
			if n := int(r.status.Reconnects.Load()); n != len(wants)-1 {
				t.Errorf("%d attempts after the first, want %d", n, len(wants)-1)
			}
			if took := time.Since(began); took > 30*time.Second { // with pauses it would be minutes
				t.Errorf("it took %v", took)
			}
			if diff := cmp.Diff(wants, src.asked()); diff != "" {
				t.Errorf("PSYNC (-want +got):\n%s", diff)
			}
		})
	}
}

// A sink that has to start over costs the source nothing: what it lost is in the spool.
func TestRunRewinds(t *testing.T) {
	t.Parallel()
	const units = 15
	one := resp("INCR", "n")
	end := 100 + int64(units*len(one))
	src := newSource(t, end, func(p *redistest.Peer, _ int, _, _ string) {
		p.Send("+CONTINUE\r\n" + strings.Repeat(one, units))
		p.Hang()
	})
	sink := newSink(t)
	sink.at = Position{ReplID: testID, Offset: 100}
	sink.onCommit = func(_ context.Context, offset int64) error {
		if resumes, _ := sink.counts(); resumes < 6 {
			sink.mu.Lock()
			sink.at.Offset = min(offset, 100+int64(resumes%5*len(one))) // sometimes it got in, and sometimes the target went back
			sink.mu.Unlock()
			return errBoom
		}
		return nil
	}
	r := startRun(t, src.endpoint(), sink, stopAtOffset(end))
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if _, got, _ := sink.seen(); len(got) != units {
		t.Errorf("%d units, want %d", len(got), units)
	}
	if diff := cmp.Diff([]string{testID + " 101"}, src.asked()); diff != "" {
		t.Errorf("PSYNC (-want +got):\n%s", diff)
	}
}

// A source that cannot be reached is asked ever less often, and the end of the run does not wait for the pause.
func TestRunBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Time
		status := &Status{}
		const lasts = 10 * time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		began := time.Now()
		counted := make(chan struct{})
		go func() {
			defer close(counted)
			for ctx.Err() == nil {
				if n := int(status.Reconnects.Load()); n > len(times) {
					times = append(times, time.Now())
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		err := Run(ctx, RunConfig{
			Source: Endpoint{Network: "unix", Addr: "/nonexistent/redis.sock"}, Status: status, Spool: openSpool(t, ""), Log: zerolog.Nop(),
		}, newSink(t))
		if err != nil || time.Since(began) != lasts {
			t.Errorf("Run returned %v after %v, want nil after %v", err, time.Since(began), lasts)
		}
		<-counted
		if n := len(times); n < 40 || n > 150 || int64(n) != status.Reconnects.Load() {
			t.Fatalf("%d attempts, %d counted as further ones", n, status.Reconnects.Load())
		}
		for i := 1; i < len(times); i++ {
			pause := times[i].Sub(times[i-1])
			if pause > 15*time.Second || i == 1 && pause > 250*time.Millisecond || i > 30 && pause < 4*time.Second {
				t.Errorf("pause %d is %v", i, pause)
			}
		}
	})
}

// An attempt that comes to nothing is not repeated at once: least of all a full resync, for which the source forks (T18).
func TestRunDoesNotHammer(t *testing.T) {
	tests := []struct {
		name string
		at   Position
		play func(p *redistest.Peer)
		hurt func(*sinkDouble)
	}{
		{"the link breaks before anything comes", Position{ReplID: testID, Offset: 100}, func(p *redistest.Peer) { p.Send("+CONTINUE\r\n") }, func(*sinkDouble) {}},
		{"the target takes nothing", Position{ReplID: testID, Offset: 100}, func(p *redistest.Peer) {
			p.Send("+CONTINUE\r\n" + resp("INCR", "n"))
			p.Hang()
		}, func(s *sinkDouble) { s.onCommit = func(context.Context, int64) error { return errBoom } }},
		{"the snapshot breaks off", Position{}, func(p *redistest.Peer) {
			p.Send("+FULLRESYNC " + testID + " 100\r\n$1000\r\nhalf")
		}, func(s *sinkDouble) { s.onLoad = readRDB }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t, 1000, func(p *redistest.Peer, _ int, _, _ string) { test.play(p) })
			sink := newSink(t)
			sink.at = test.at
			test.hurt(sink)
			r := startRun(t, src.endpoint(), sink)
			attempts := func() int {
				n, _ := sink.counts() // of the attempts at applying; each link may come with one
				return max(n, len(src.asked()))
			}
			began := time.Now()
			eventually(t, "another attempt", func() bool { return attempts() >= 2 })
			time.Sleep(time.Second - time.Since(began))
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			took := time.Since(began)
			if n := attempts(); n > 7+int(took.Seconds()) { // after 0.1 s, 0.15 s, 0.22 s…, each by a half more or less
				t.Errorf("%d attempts in %v", n, took)
			}
		})
	}
}
