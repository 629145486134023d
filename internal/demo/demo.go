package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/internal/redistest"
)

// options are the command line's.
type options struct {
	binary string
	keys   int
	rate   int  // commands a second
	spoil  bool // change the target before the comparison
}

const (
	writerDatabases = 4 // that the writer changes; the keyspace is spread over more
	clientCount     = 4
)

// demo is one telling.
type demo struct {
	redistest.TB
	options
	out, errs io.Writer

	source, target *redistest.Server
	dir            string // redferry's state
	step           int

	stopWriter func() redistest.LoadResult
	clients    *redistest.Counters
	last       *page // of the process that was started last
}

// tell is the story, from the first server to the comparison. Its error is the verdict; what goes wrong before ends it through the TB.
func (d *demo) tell(ctx context.Context) error {
	began := time.Now()
	build := redistest.Latest(d)
	d.source = redistest.Start(d, build)
	d.target = redistest.Start(d, build)
	d.dir = d.TempDir()
	// On Ctrl-C whatever waits for a server's answer is let go by ending the server.
	defer context.AfterFunc(ctx, func() { d.source.Kill(); d.target.Kill() })()

	d.say("Two throw-away servers of %s %s: the source at %s, and the target at %s, which is empty.", title(build.Server), build.Version, d.source.Addr(), d.target.Addr())
	start := time.Now()
	redistest.Fill(d, d.source, redistest.FillOptions{Keys: d.keys})
	has := d.count(d.source)
	d.say("The source is filled with %s keys of every type in %d databases, %s of them with a TTL,\n   and %d function libraries (%s).",
		comma(has.keys), has.databases, comma(has.expires), has.functions, seconds(start))
	d.stopWriter = redistest.StartLoad(d, d.source, redistest.LoadOptions{Writers: 2, Keys: 200, Databases: writerDatabases, Rate: d.rate})
	d.clients = redistest.StartCounters(d, d.source, clientCount, 1, clientPause)
	d.say("It is in use from now on. A writer sends about %s commands a second that show when one is lost or done twice: INCR, APPEND,\n"+
		"   RPOPLPUSH, SPOP, XADD *, RENAME, MULTI…EXEC, scripts. And %d clients count, and remember what was acknowledged to them.", comma(d.rate), clientCount)

	d.say("Does anything speak against a migration? It changes nothing; what is ok is left out here:")
	d.check(ctx)
	run := d.hurt(ctx)
	said := d.last
	d.say("How is it doing?")
	d.run(ctx, "status")
	var r result
	if canCutOver(build) {
		said.close() // the cutover says the same
		d.cutOver(ctx, run, &r)
	} else {
		d.stopAndFinish(ctx, run, &r)
	}
	if d.spoil {
		d.target.DB(1).Do(d, "INCR", "load:counter:0")
	}
	return d.conclude(&r, began)
}

// hurt has redferry carry the source over, kills it on the way, and holds up the target. The run that it returns is in sync.
func (d *demo) hurt(ctx context.Context) *redistest.Process {
	d.Helper()
	inSync := func() bool { return d.inSync(ctx) }
	d.say("redferry loads a snapshot into the target, and follows what is written meanwhile:")
	first := d.startRun()
	d.until(ctx, first, patience, "get in sync", inSync)
	d.pass(ctx, first, 2*time.Second)

	first.Kill()
	d.say("redferry is killed with SIGKILL. The source is written to for 2 seconds without it.")
	d.pass(ctx, nil, 2*time.Second)
	at := d.checkpoint().Offset
	d.say("The same command again. The checkpoint in the target says offset %d; the source is %s further by now:", at, humanize.Bytes(uint64(d.source.Offset(d)-at)))
	second := d.startRun()
	d.until(ctx, second, patience, "get in sync", inSync)
	d.pass(ctx, second, time.Second)

	before, backlog := d.source.Offset(d), d.backlogSize()
	d.target.Freeze()
	d.say("The target stops answering (SIGSTOP). redferry goes on receiving, into its spool:")
	frozen := time.Now()
	d.until(ctx, second, patience, "see the source write more than its backlog", func() bool { return d.source.Offset(d)-before > backlog*3/2 })
	d.target.Thaw()
	d.say("It answers again, after %s. The source has written %s meanwhile, and could repeat only its last %s:",
		seconds(frozen), humanize.Bytes(uint64(d.source.Offset(d)-before)), humanize.Bytes(uint64(backlog)))
	d.until(ctx, second, patience, "catch up", func() bool { return d.checkpoint().Offset-before > backlog*3/2 && inSync() })
	d.pass(ctx, second, time.Second)
	return second
}

// cutOver ends the migration while everybody writes.
func (d *demo) cutOver(ctx context.Context, run *redistest.Process, r *result) {
	d.Helper()
	d.say("The source is written to as before, and now the target is to take over:")
	d.run(ctx, "cutover")
	d.finish(ctx, run)
	d.pass(ctx, nil, 500*time.Millisecond) // in which the clients try the source
	d.say("The run has ended by itself, with exit code 0. The clients have gone on trying the source for half a second, in vain.")
	r.seen = d.clients.End()
	r.written = d.endWriter()
	r.cutOver = true
	r.refusal = d.source.TryDo("SET", "counter:late", "1")
}

// endWriter stops the writer, one of whose scripts may be waiting at the source for an answer: its connection is closed.
func (d *demo) endWriter() redistest.LoadResult {
	ended := make(chan redistest.LoadResult, 1)
	go func() { ended <- d.stopWriter() }()
	for {
		select {
		case written := <-ended:
			return written
		case <-time.After(100 * time.Millisecond):
			for line := range strings.Lines(d.source.DoString(d, "CLIENT", "LIST")) {
				id, rest, _ := strings.Cut(line, " ")
				_, flags, _ := strings.Cut(rest, " flags=")
				if flags, _, _ = strings.Cut(flags, " "); strings.Contains(flags, "b") { // it waits
					_ = d.source.TryDo("CLIENT", "KILL", "ID", strings.TrimPrefix(id, "id="))
				}
			}
		}
	}
}

// stopAndFinish is for a source whose writes cannot be stopped by a cutover.
func (d *demo) stopAndFinish(ctx context.Context, run *redistest.Process, r *result) {
	d.Helper()
	r.seen = d.clients.End()
	r.written = d.stopWriter()
	d.say("`redferry cutover` would end the migration here without stopping the writer first, but wants a source of Redis 6.2.7 or later.\n"+
		"   So the writer and the clients stop, after %s commands. redferry is told to stop, too (SIGTERM):", comma(r.written.Acknowledged))
	d.end(run)
	d.say("It runs for a last time, until the target has all that the source has:")
	d.run(ctx, "run", "--source", d.source.URL(), "--target", d.target.URL(), "--stop-at", "caught-up")
}

// conclude compares the servers, prints what happened and gives the verdict.
func (d *demo) conclude(r *result, began time.Time) error {
	d.Helper()
	d.say("Both servers are compared, key by key:")
	r.differences = redistest.Compare(d, d.source, d.target, redistest.CompareOptions{Settled: true})
	for i := range r.seen {
		r.got = append(r.got, d.target.DoInt(d, "GET", redistest.CounterKey(i)))
	}
	r.source, r.target = d.count(d.source), d.count(d.target)
	r.full, r.partial, r.took = d.stat("sync_full"), d.stat("sync_partial_ok"), time.Since(began)
	r.print(d.out)
	return r.judge()
}

// backlogSize is how much of its stream the source keeps for a replica that comes back, in bytes.
func (d *demo) backlogSize() int64 {
	d.Helper()
	n, err := strconv.ParseInt(d.source.Info(d, "replication")["repl_backlog_size"], 10, 64)
	if err != nil {
		d.Fatalf("read the source's repl_backlog_size: %v", err)
	}
	return n
}

// say prints the next step of the story.
func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.out, "\n%d. %s\n", d.step, fmt.Sprintf(format, args...))
}

func title(server string) string { return strings.ToUpper(server[:1]) + server[1:] }

func comma[N int | int64](n N) string { return humanize.Comma(int64(n)) }

func seconds(since time.Time) string { return fmt.Sprintf("%.1f s", time.Since(since).Seconds()) }

// canCutOver tells whether redferry can stop the writes of a source of this build: Redis from 6.2.7 on, and every Valkey.
func canCutOver(b redistest.Build) bool {
	var major, minor, patch int
	n, _ := fmt.Sscanf(b.Version, "%d.%d.%d", &major, &minor, &patch)
	return b.Server == "valkey" || n > 0 && slices.Compare([]int{major, minor, patch}, []int{6, 2, 7}) >= 0
}
