package replica

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/internal/redistest"
)

// dialScript connects to a scripted source.
func dialScript(t *testing.T, play func(p *redistest.Peer), change ...func(*LinkConfig)) (*Link, error) {
	t.Helper()
	script := redistest.StartScript(t, play)
	c := LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: script.Addr()}, ReadTimeout: time.Minute}
	for _, f := range change {
		f(&c)
	}
	l, err := Dial(t.Context(), c)
	if err == nil {
		t.Cleanup(func() { _ = l.Close() })
	}
	return l, err
}

// mustDialScript is dialScript for a play whose handshake goes well.
func mustDialScript(t *testing.T, play func(p *redistest.Peer), change ...func(*LinkConfig)) *Link {
	t.Helper()
	l, err := dialScript(t, play, change...)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	return l
}

// Waiting is reported once for each wait, and is not silence: newlines keep the link alive for longer than its timeout.
func TestWaits(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var waits []string
	const pause, silence = 300 * time.Millisecond, 3 * time.Second
	l := mustDialScript(t, func(p *redistest.Peer) {
		p.Handshake()
		newlines := slices.Repeat([]string{"\n"}, 12)
		p.SendSlowly(pause, append(newlines, "+FULLRESYNC "+testID+" 1\r\n")...)
		p.SendSlowly(pause, append(newlines, "$0\r\n")...)
		p.Hang()
	}, func(c *LinkConfig) {
		c.ReadTimeout = silence
		c.OnWait = func(reason string) {
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, reason)
		}
	})
	if _, err := l.Sync(t.Context(), Position{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Transfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"waiting for the source to start its BGSAVE", "waiting for the source's BGSAVE"}; !cmp.Equal(want, waits) {
		t.Errorf("waits %q, want %q", waits, want)
	}
}

func TestSilenceEndsTheLink(t *testing.T) {
	t.Parallel()
	l := mustDialScript(t, func(p *redistest.Peer) {
		p.Handshake()
		p.Send("+CONTINUE\r\n" + resp("PING"))
		p.Hang()
	}, func(c *LinkConfig) { c.ReadTimeout = 3 * time.Second })
	reply, err := l.Sync(t.Context(), Position{ReplID: testID})
	if err != nil {
		t.Fatal(err)
	}
	got, err := units(NewStream(l.Reader(), reply.At))
	if len(got) != 1 || !errors.Is(err, os.ErrDeadlineExceeded) || AsStop(err) != nil {
		t.Errorf("%d units and %v, want one and a timeout that is worth another try", len(got), err)
	}
}

// A context that ends unblocks each step at once.
func TestCancelled(t *testing.T) {
	hang := func(*redistest.Peer) {}
	steps := []struct {
		name string
		play func(p *redistest.Peer) // up to where the source falls silent
	}{
		{"PING", hang},
		{"REPLCONF", func(p *redistest.Peer) { p.Receive(); p.Send("+PONG\r\n") }},
		{"PSYNC", func(p *redistest.Peer) { p.Handshake() }},
		{"the RDB's announcement", func(p *redistest.Peer) { p.Handshake(); p.Send("+FULLRESYNC " + testID + " 1\r\n") }},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			silent := make(chan struct{})
			script := redistest.StartScript(t, func(p *redistest.Peer) {
				step.play(p)
				close(silent)
				p.Hang()
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			why := errors.New("enough")
			go func() { <-silent; cancel(why) }()
			err := func() error {
				l, err := Dial(ctx, LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: script.Addr()}})
				if err != nil {
					return err
				}
				defer func() { _ = l.Close() }()
				if _, err := l.Sync(ctx, Position{}); err != nil {
					return err
				}
				_, err = l.Transfer(ctx)
				return err
			}()
			if !errors.Is(err, why) {
				t.Errorf("error %v, want the context's cause", err)
			}
		})
	}
	t.Run("beforehand", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Dial(ctx, LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: "127.0.0.1:1"}}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	})
}

func TestLinkWrites(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	l := newLink(near, LinkConfig{ReadTimeout: 3 * time.Second})
	done := make(chan error)
	go func() { done <- errors.Join(l.KeepAlive(), l.Ack(0), l.Ack(1<<40), l.KeepAlive()) }()
	want := "\n" + resp("REPLCONF", "ACK", "0") + resp("REPLCONF", "ACK", "1099511627776") + "\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(far, got); err != nil || string(got) != want {
		t.Errorf("the source heard %q, %v, want %q", got, err, want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := l.Ack(2); !errors.Is(err, os.ErrDeadlineExceeded) { // nobody reads
		t.Errorf("Ack to a source that does not read: %v, want a timeout", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if err := l.Ack(3); err == nil {
		t.Error("Ack after Close succeeds")
	}
}

// Close and Interrupt unblock a reader; after Interrupt a last Ack still goes out.
func TestReaderUnblocked(t *testing.T) {
	for name, unblock := range map[string]func(*Link){
		"Close":     func(l *Link) { _ = l.Close() },
		"Interrupt": (*Link).Interrupt,
	} {
		t.Run(name, func(t *testing.T) {
			acked := make(chan int64, 1)
			l := mustDialScript(t, func(p *redistest.Peer) {
				p.Handshake()
				p.Send("+CONTINUE\r\n")
				acked <- p.WaitAck()
			}, func(c *LinkConfig) { c.ReadTimeout = time.Minute })
			if _, err := l.Sync(t.Context(), Position{ReplID: testID}); err != nil {
				t.Fatal(err)
			}
			go unblock(l)
			if _, err := l.Reader().ReadByte(); err == nil {
				t.Error("a read goes on")
			}
			if name == "Interrupt" {
				if err := l.Ack(9); err != nil {
					t.Errorf("the last Ack: %v", err)
				}
				if got := <-acked; got != 9 {
					t.Errorf("the source heard of offset %d, want 9", got)
				}
				if _, err := l.Reader().Read(make([]byte, 1)); err == nil {
					t.Error("a later read goes on")
				}
			}
		})
	}
}

// A source that goes away is worth another try, wherever it happens.
func TestSourceGone(t *testing.T) {
	l, err := dialScript(t, func(p *redistest.Peer) { p.Receive() })
	if err == nil {
		_ = l.Close()
	}
	if !errors.Is(err, io.EOF) || AsStop(err) != nil {
		t.Errorf("Dial: %v, want io.EOF", err)
	}
	l = mustDialScript(t, func(p *redistest.Peer) { p.Handshake(); p.Send("+FULLRES") })
	if _, err := l.Sync(t.Context(), Position{}); !errors.Is(err, io.ErrUnexpectedEOF) || AsStop(err) != nil {
		t.Errorf("Sync: %v, want io.ErrUnexpectedEOF", err)
	}
	if _, err := Dial(t.Context(), LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: "127.0.0.1:1"}}); err == nil || AsStop(err) != nil {
		t.Errorf("Dial of a closed port: %v, want an error worth another try", err)
	}
}
