package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
)

const (
	// grace is how much longer than until the deadline a file may take that has begun.
	grace = time.Minute
	// patience is how long is waited for what should take a moment.
	patience = time.Minute
	// migration is the name that redferry gives one that has no other.
	migration = "default"
	// stall is how long a test may take: some wait for ever, when they find another client than their own.
	stall = 2 * time.Minute
	// ended is why a file ends with its source.
	ended = "the suite has ended the source"
	// rounds is how often both sides are compared before a difference counts: a client of the suite may still be writing.
	rounds = 3
)

// fileRun is one file of a suite, with its servers.
type fileRun struct {
	*plan
	options
	result   *result
	out      io.Writer
	deadline time.Time

	t                       redistest.TB
	source, control, target *redistest.Server
	ferry                   *ferry
	known                   map[finding]bool // by the last comparison, whatever the test
}

// run runs the file and fills in the result.
func (f *fileRun) run(ctx context.Context, t redistest.TB) {
	dir := f.start(t)
	defer f.ferry.end()
	if !f.await(ctx) {
		return
	}
	began, before := f.source.Offset(t), f.commands()
	s := runSuite(t, f.suite, f.result.file, f.source)
	last := f.follow(ctx, s)
	s.end()
	f.result.outcome = s.said()
	if f.result.broke != "" && last != "" {
		f.result.broke += fmt.Sprintf(", after %q", last)
	}
	f.result.kills = f.ferry.kills
	f.result.commands = f.commands() - before
	if offset, err := offsetOf(f.source); err == nil {
		f.result.bytes = offset - began
	}
	f.account(filepath.Join(dir, migration, "rejected.resp"))
}

// start starts the servers and redferry, whose folder it gives.
func (f *fileRun) start(t redistest.TB) (dir string) {
	f.t = t
	// The backlog outlasts redferry's absences, whatever a test writes.
	config := []string{"repl-backlog-size 256mb"}
	if f.build.Has70() {
		config = append(config, "enable-protected-configs yes")
	}
	f.source = redistest.Start(t, f.build, redistest.Config(config...))
	f.control = redistest.Start(t, controlFor(f.build, f.plan.target), redistest.ReplicaOf(f.source))
	f.target = redistest.Start(t, f.plan.target)
	dir = t.TempDir()
	f.ferry = startFerry(t, f.options, f.random, dir, f.source, f.target)
	return dir
}

// controlFor is the build of the control: the target's where that can be a replica of the source, for one version may do by the same command what another one does not.
func controlFor(source, target redistest.Build) redistest.Build {
	newer := func(other redistest.Build) bool {
		var major, minor int
		_, _ = fmt.Sscanf(other.Version, "%d.%d", &major, &minor)
		return target.AtLeast(other.Server, major, minor)
	}
	if newer(source) || target.Server == "valkey" && source.Server == "redis" && !source.AtLeast("redis", 7, 4) {
		return target
	}
	return source
}

// follow compares after each test, until the suite has ended or something else has. It gives the last test.
func (f *fileRun) follow(ctx context.Context, s *running) (test string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	since := time.Now()
	for {
		select {
		case waiting := <-s.tests:
			test = waiting.name
			if !f.compare(ctx, test) {
				return test
			}
			waiting.resume()
			since = time.Now()
		case <-s.process.Exited():
			if f.compare(ctx, "the end of the file") {
				f.settle()
			}
			return test
		case <-tick.C:
			if err := f.ferry.tend(); err != nil {
				f.result.stopped = err.Error()
				return test
			}
			if time.Now().After(f.deadline) {
				f.result.broke = "the time was over"
				return test
			}
			if time.Since(since) > stall {
				f.result.broke = fmt.Sprintf("no test has ended for %v", stall)
				return test
			}
		case <-f.source.Process().Exited():
			f.result.broke = ended
			return test
		case <-ctx.Done():
			f.result.broke = "interrupted"
			return test
		}
	}
}

// await waits until control and target have all that the source has written. False means that the file cannot go on, and that the result says why.
func (f *fileRun) await(ctx context.Context) bool {
	offset, err := offsetOf(f.source)
	for tries := 0; err != nil && tries < 20; tries++ { // tests close connections
		pause(ctx, 100*time.Millisecond)
		offset, err = offsetOf(f.source)
	}
	select {
	case <-f.source.Process().Exited():
		f.result.broke = ended
		return false
	default:
	}
	if err != nil {
		f.result.broke = "the source: " + err.Error()
		return false
	}
	var control, target int64
	for end := time.Now().Add(patience); ; {
		if err := f.ferry.tend(); err != nil {
			f.result.stopped = err.Error()
			return false
		}
		control, _ = offsetOf(f.control)
		target = f.checkpoint().Offset
		switch {
		case control >= offset && target >= offset && f.checkpoint().Phase == checkpoint.PhaseStream:
			return true
		case ctx.Err() != nil:
			f.result.broke = "interrupted"
			return false
		case time.Now().After(end) && target < offset && control >= offset:
			f.result.stopped = fmt.Sprintf("redferry is at offset %d after %v, the source was at %d", target, patience, offset)
			return false
		case time.Now().After(end):
			f.result.broke = fmt.Sprintf("the control is at offset %d after %v, the source was at %d", control, patience, offset)
			return false
		}
		pause(ctx, 2*time.Millisecond)
	}
}

// compare waits and compares after a test. What differs again after a further wait is told. False is as for await.
func (f *fileRun) compare(ctx context.Context, test string) bool {
	var found []redistest.Difference
	var err error
	for round := range rounds {
		if round > 0 {
			pause(ctx, 200*time.Millisecond)
		}
		if !f.await(ctx) {
			return false
		}
		if found, err = compareServers(f.source, f.target, false); err == nil && len(found) == 0 {
			break
		}
	}
	f.judge(test, found, err)
	return true
}

// settle has redferry end by itself, for which it gives the target the source's expiry times, and compares once more.
func (f *fileRun) settle() {
	if err := f.ferry.finish(); err != nil {
		f.result.stopped = err.Error()
		return
	}
	found, err := compareServers(f.source, f.target, true)
	f.judge("the end of redferry", found, err)
}

// judge tells what was found different by a comparison, unless it was the same at the one before. What the control has as the target is the server's own gap.
func (f *fileRun) judge(test string, found []redistest.Difference, err error) {
	var gaps, others []redistest.Difference
	if err == nil && len(found) > 0 {
		gaps, err = compareServers(f.source, f.control, false)
	}
	if err == nil && len(gaps) > 0 {
		others, err = compareServers(f.control, f.target, false)
	}
	if err != nil { // a test that leaves the source so that nobody may read it, or the like
		f.result.uncompared = append(f.result.uncompared, fmt.Sprintf("%s: %v", test, err))
		return
	}
	f.result.compared++
	alike, apart, known := placesOf(gaps), placesOf(others), f.known
	f.known = map[finding]bool{}
	for _, d := range found {
		at := finding{Difference: d, own: alike[placeOf(d)] && !apart[placeOf(d)]}
		if f.known[at] = true; !known[at] {
			at.test = test
			f.result.note(at, f.out)
		}
	}
}

// place is the key, or the function library, that a difference is about.
type place struct {
	db   int
	name string
}

func placeOf(d redistest.Difference) place { return place{d.DB, d.Key} }

func placesOf(all []redistest.Difference) map[place]bool {
	places := map[place]bool{}
	for _, d := range all {
		places[placeOf(d)] = true
	}
	return places
}

// compareServers is redistest.Compare with its errors as such. It gives all differences, for the control's are looked for among the target's.
func compareServers(want, got *redistest.Server, settled bool) (found []redistest.Difference, err error) {
	err = redistest.Outside("suites", io.Discard, func(t redistest.TB) {
		found = redistest.Compare(t, want, got, redistest.CompareOptions{Settled: settled, Max: 1_000_000})
	})
	return found, err
}

// offsetOf is Server.Offset with its error as such.
func offsetOf(s *redistest.Server) (offset int64, err error) {
	err = redistest.Outside("suites", io.Discard, func(t redistest.TB) {
		if text := s.Info(t, "replication")["slave_repl_offset"]; text != "" { // a replica's master_repl_offset is the same, or not yet
			offset, err = strconv.ParseInt(text, 10, 64)
			return
		}
		offset = s.Offset(t)
	})
	return offset, err
}

// checkpoint is what the target knows; the zero Record when it says nothing.
func (f *fileRun) checkpoint() (rec checkpoint.Record) {
	replies, err := f.target.Pipeline([]string{"HGETALL", checkpoint.Key(migration)})
	if err != nil {
		return rec
	}
	fields, err := replies[0].AsStrMap()
	if err != nil {
		return rec
	}
	rec, _, _ = checkpoint.Parse(fields)
	return rec
}

// asked are the commands that the program itself sends to a control, or that go over a link anyway. A stream has few of them.
var asked = []string{
	"info", "ping", "replconf", "select", "hello", "client", "command", "auth", "scan", "dump", "type", "pttl", "pexpiretime", "time", "get", "lrange",
	"smembers", "zrange", "hgetall", "hpexpiretime", "xinfo", "function",
}

// commands is how many commands the control has carried out for the source.
func (f *fileRun) commands() (sum int64) {
	for name, stat := range f.control.Info(f.t, "commandstats") {
		name, _, _ = strings.Cut(strings.TrimPrefix(name, "cmdstat_"), "|")
		var calls int64
		if _, err := fmt.Sscanf(stat, "calls=%d", &calls); err == nil && !slices.Contains(asked, name) {
			sum += calls
		}
	}
	return sum
}

// tell says more of the file, once its servers are gone.
func (f *fileRun) tell() {
	for _, test := range f.result.failures {
		fmt.Fprintf(f.out, "    failed: %s\n", test)
	}
	for line := range strings.Lines(f.ferry.logs.String()) {
		fmt.Fprintf(f.out, "    redferry: %s", line)
	}
}

// account adds what redferry itself has counted.
func (f *fileRun) account(rejected string) {
	rec := f.checkpoint()
	f.result.divergence, f.result.diverged = rec.Divergence, rec.Diverged
	if rec.Rejected == 0 {
		return
	}
	text, err := os.ReadFile(rejected)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatalf("read the refused writes: %v", err)
	}
	f.result.rejected, f.result.refused = rec.Rejected, refusals(text)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
