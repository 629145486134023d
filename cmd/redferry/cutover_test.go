package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"redferry/internal/redistest"
	"redferry/replica"
)

// An operator ends a migration, and opens the source again.
func TestCutover(t *testing.T) {
	t.Parallel()
	source, target := pair(t, redistest.Password("s3cr3tw0rd"))
	p := newProgram(t)
	facts := filepath.Join(t.TempDir(), "facts")
	run := p.start(t, with(ends(source, target), "--on-cutover", "env > "+facts, "--ttl-grace", "30s")...) // under all these writes a slow machine is behind
	run.until(t, "in_sync")
	target.Do(t, "SET", "foreign", "x")
	p.run(t, "cutover").expect(t, exitRefused, "no cutover, and replication goes on", "count of database 0: source 33 keys, target 34 keys")
	source.Do(t, "SET", "still", "open")
	target.Do(t, "DEL", "foreign")

	clients := redistest.StartCounters(t, source, 4, 25, 5*time.Millisecond) // up to 20,000 writes a second
	time.Sleep(time.Second)
	r := p.run(t, "cutover", "--json")
	r.expect(t, exitDone)
	var report cutoverResult
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Offset <= 0 || len(report.ReplID) != 40 || report.StoppedSeconds <= 0 || !strings.Contains(report.Source, "refuses") {
		t.Errorf("%v: %+v", err, report)
	}
	run.wait(t).expect(t, exitDone, "cut over: the target is the one to write to")
	clients.AwaitRefused(t)
	clients.End()
	clients.Check(t, target)
	clients.CheckRefused(t)
	t.Logf("writes were stopped for %v", time.Duration(report.StoppedSeconds*float64(time.Second)))
	text, err := os.ReadFile(facts)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"REDFERRY_NAME=default", "REDFERRY_REPLID=" + report.ReplID, "REDFERRY_OFFSET=", "REDFERRY_STOPPED_MS="} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the hook does not know %s:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "s3cr3tw0rd") {
		t.Error("the hook has a password in its environment")
	}
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{Settled: true})
}

// Settled expiries are the source's, and compared as such while some are still shifted.
func TestCutoverComparesExpiries(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	source.Do(t, "SET", "far", "x", "PX", "36000000")
	source.Do(t, "SET", "near", "x", "PX", "300000")
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	p.run(t, "cutover", "--verify", "full").expect(t, exitDone, "cut over")
	run.wait(t).expect(t, exitDone)
	for _, key := range []string{"far", "near"} {
		if late := target.DoInt(t, "PEXPIRETIME", key) - source.DoInt(t, "PEXPIRETIME", key); late != 0 {
			t.Errorf("%s expires %d ms late", key, late)
		}
	}
}

// Whoever has asked for a cutover takes it back before the point of no return by hanging up, however that comes about: the source goes on at once, and so does replication.
func TestCutoverIsTakenBack(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	proxy := redistest.NewCommandProxy(t, target.Addr())
	p := newProgram(t)
	hooked, unhook := filepath.Join(t.TempDir(), "hooked"), filepath.Join(t.TempDir(), "unhook")
	run := p.start(t, "run", "--source", source.URL(), "--target", target.URLAt(proxy.Addr()), "--on-cutover", "touch "+hooked+"; until [ -e "+unhook+" ]; do sleep 0.05; done")
	run.until(t, "in_sync")
	cancel := func() string { return talk(t, "unix", socketFile(p.migration()), "CUTOVER CANCEL") }
	if got := cancel(); !strings.HasPrefix(got, "-ERR no cutover is under way") {
		t.Errorf("got %s", got)
	}
	unpauses := func() (n int) {
		for line := range strings.Lines(source.DB(1).DoString(t, "INFO", "commandstats")) { // on a connection that no write waits on
			_, _ = fmt.Sscanf(line, "cmdstat_client|unpause:calls=%d,", &n)
		}
		return n
	}
	tests := []struct {
		name string
		back func(t *testing.T, asked *running)
		code int // of redferry cutover; -1 when it was killed
		text string
	}{
		{"SIGKILL", func(_ *testing.T, asked *running) { asked.Kill() }, -1, ""},
		{"SIGINT", func(_ *testing.T, asked *running) { asked.Signal(os.Interrupt) }, exitFailed, "no cutover, and replication goes on: it was taken back"},
		{"CUTOVER CANCEL", func(t *testing.T, _ *running) {
			if got := cancel(); !strings.HasPrefix(got, "+OK") {
				t.Errorf("got %s", got)
			}
		}, exitFailed, "no cutover, and replication goes on: it was taken back: CUTOVER CANCEL"},
		{"SIGHUP", func(_ *testing.T, asked *running) { asked.Signal(syscall.SIGHUP) }, exitFailed, "no cutover, and replication goes on: it was taken back"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			held, let := make(chan struct{}, 100), make(chan struct{})
			proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
				if strings.EqualFold(string(args[0]), "EXISTS") { // it is counted while the source's writes are stopped
					held <- struct{}{}
					<-let
				}
				return redistest.Forward()
			})
			asked := p.start(t, "cutover", "--timeout", "1m")
			select {
			case <-held:
			case <-time.After(patient):
				t.Fatal("it does not come to stopped writes")
			}
			wrote := make(chan error, 1)
			go func() { wrote <- source.TryDo("SET", test.name, "x") }()
			select {
			case err := <-wrote:
				t.Errorf("the source's writes are not stopped: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
			before := unpauses()
			test.back(t, asked)
			select {
			case err := <-wrote:
				if err != nil || unpauses() != before+1 { // a pause that is not ended runs out after 4 s
					t.Errorf("the source takes a write after %d times CLIENT UNPAUSE, want one: %v", unpauses()-before, err)
				}
			case <-time.After(patient):
				t.Error("the source's writes are still stopped")
			}
			close(let)
			if test.code >= 0 {
				asked.wait(t).expect(t, test.code, test.text)
			}
			wait(t, "replication goes on", func() bool { return target.DoString(t, "GET", test.name) == "x" })
			wait(t, "it is in sync", func() bool { return p.status(t).Run.State == replica.InSync })
			if got := source.DoStrings(t, "CONFIG", "GET", "min-replicas-to-write")[1]; got != "0" {
				t.Errorf("min-replicas-to-write is %s", got)
			}
		})
	}
	t.Run("before it is asked for", func(t *testing.T) { // the first milliseconds of redferry cutover
		let := make(chan struct{})
		defer close(let)
		proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
			if strings.EqualFold(string(args[0]), "EXISTS") {
				<-let
			}
			return redistest.Forward()
		})
		ctx, stop := context.WithCancelCause(t.Context())
		stop(errors.New("Ctrl-C"))
		for range 20 {
			began := time.Now()
			err := (&cutoverCmd{homeFlags: homeFlags{nameFlag: nameFlag{Name: "default"}, Dir: filepath.Join(p.home, "redferry")}, Timeout: time.Minute, Verify: "count"}).Run(ctx, &streams{out: io.Discard, err: io.Discard})
			if took := time.Since(began); err == nil || !strings.HasPrefix(err.Error(), "no cutover") || took > 40*time.Second {
				t.Fatalf("after %v: %v", took, err)
			}
		}
	})
	proxy.Handle(nil)

	asked := p.start(t, "cutover")
	wait(t, "the hook runs", func() bool { _, err := os.Stat(hooked); return err == nil })
	said := make(chan string, 1)
	go func() {
		defer close(said) // also when there is nobody to talk to any more
		said <- cancel()
	}()
	asked.Signal(os.Interrupt)
	select {
	case got := <-said:
		t.Errorf("before it is known how the cutover ends CANCEL says %s", got)
	case <-time.After(300 * time.Millisecond):
	}
	if err := os.WriteFile(unhook, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := <-said; !strings.HasPrefix(got, "-ERR it is too late") {
		t.Errorf("got %s", got)
	}
	asked.wait(t).expect(t, exitDone, "the target is the one to write to")
	run.wait(t).expect(t, exitDone)
}
