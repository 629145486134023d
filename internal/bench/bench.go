package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"redferry/internal/redistest"
)

// bench is one run of all measurements. What goes wrong ends it through its TB.
type bench struct {
	redistest.TB
	options
	interrupted <-chan struct{}
	build       redistest.Build
	errs        io.Writer // progress
}

// pollEvery is how often a target is asked how far it is.
const pollEvery = 20 * time.Millisecond

// patience is how long anything that is measured may take.
const patience = 10 * time.Minute

// sample is one measurement of one contender.
type sample struct {
	wall           time.Duration
	source, target time.Duration // CPU time of the servers, the source's fork included
	own            usage         // redferry's; zero for native replication
	others         time.Duration // CPU time of everything else on the machine, this program included
}

// measure starts a contender and waits until it is done. before is the target's CPU time until then; a frozen one could not be asked.
func (b *bench) measure(c contender, source *redistest.Server, before time.Duration, done func() bool) sample {
	b.Helper()
	sourceBefore, busyBefore := b.cpu(source), machineBusy()
	began := time.Now()
	c.start()
	b.until(c.name()+" to be done", done)
	s := sample{wall: time.Since(began), own: c.usage()}
	b.until("the source's fork to end", func() bool { return source.Info(b, "persistence")["rdb_bgsave_in_progress"] == "0" })
	s.source, s.target = b.cpu(source)-sourceBefore, b.cpu(c.server())-before
	s.others = max(0, machineBusy()-busyBefore-s.source-s.target-s.own.cpu)
	b.progress("%s: %.2f s", c.name(), s.wall.Seconds())
	return s
}

// until polls, and ends the benchmark when it is interrupted or the time is over.
func (b *bench) until(what string, cond func() bool) {
	b.Helper()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !cond(); {
		select {
		case <-b.interrupted:
			b.Fatalf("interrupted")
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			b.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.errs, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// cpu is a server's CPU time since its start, with that of its ended children.
func (b *bench) cpu(s *redistest.Server) time.Duration {
	b.Helper()
	info := s.Info(b, "cpu")
	sum := 0.0
	for _, name := range []string{"used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children"} {
		seconds, err := strconv.ParseFloat(info[name], 64)
		if err != nil {
			b.Fatalf("INFO cpu, %s: %v", name, err)
		}
		sum += seconds
	}
	return time.Duration(sum * float64(time.Second))
}

// contents is a server's keyspace in brief: how many keys each database has, how many with a TTL, and DEBUG DIGEST. redferry's own keys are
// deleted first.
func (b *bench) contents(s *redistest.Server) string {
	b.Helper()
	for _, key := range s.DoStrings(b, "KEYS", "redferry:*") {
		s.Do(b, "DEL", key)
	}
	var text strings.Builder
	info := s.Info(b, "keyspace")
	for db := range 16 {
		if keys := info[fmt.Sprint("db", db)]; keys != "" {
			keys, _, _ = strings.Cut(keys, ",avg_ttl")
			fmt.Fprintf(&text, "db%d:%s ", db, keys)
		}
	}
	return text.String() + s.DoString(b, "DEBUG", "DIGEST")
}

// verify ends the benchmark when the target does not hold what the source does: a measurement of something else would be worth nothing.
func (b *bench) verify(c contender, want string) {
	b.Helper()
	if got := b.contents(c.server()); got != want {
		b.Fatalf("%s: the target holds %s, want %s", c.name(), got, want)
	}
}

// target starts a fresh target.
func (b *bench) target() *redistest.Server {
	b.Helper()
	return redistest.Start(b, b.build)
}
