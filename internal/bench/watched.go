package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"time"
)

// watched is redferry that is looked at each second: Prometheus scrapes it, and somebody has its status shown. It fails the benchmark when nobody ever got an answer.
type watched struct {
	*ferry
	metrics string // host:port
	stop    context.CancelFunc
	looking sync.WaitGroup
	scraped int // while it was looked at
	shown   int
}

func (b *bench) watched(f *ferry) *watched {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatalf("find a port for the metrics: %v", err)
	}
	defer l.Close()
	f.flags = append(f.flags, "--metrics-addr", l.Addr().String())
	return &watched{ferry: f, metrics: l.Addr().String()}
}

func (w *watched) name() string { return "redferry, watched" }

func (w *watched) start() {
	w.b.Helper()
	w.ferry.start()
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	w.looking.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if scrape(ctx, "http://"+w.metrics+"/metrics") == nil {
				w.scraped++
			}
			if exec.CommandContext(ctx, w.b.Redferry, "status", "--dir", w.dir).Run() == nil {
				w.shown++
			}
		}
	})
}

// scrape reads a page to its end.
func scrape(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	_, err = io.Copy(io.Discard, reply.Body)
	return err
}

func (w *watched) suspend() {
	w.b.Helper()
	w.stop()
	w.looking.Wait()
	w.ferry.suspend()
}

func (w *watched) end() {
	w.b.Helper()
	w.suspend()
	if w.scraped == 0 || w.shown == 0 {
		w.b.Fatalf("it was scraped %d times, and its status shown %d times", w.scraped, w.shown)
	}
}
