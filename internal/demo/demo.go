package main

import (
	"context"
	"fmt"
	"io"
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

// databases that the writer changes; the keyspace is spread over more.
const writerDatabases = 4

// demo is one telling.
type demo struct {
	redistest.TB
	options
	out, errs io.Writer

	source, target *redistest.Server
	dir            string // redferry's state
	step           int
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

	stopWriter := redistest.StartLoad(d, d.source, redistest.LoadOptions{Writers: 2, Keys: 200, Databases: writerDatabases, Rate: d.rate})
	d.say("A writer changes it from now on, with about %s commands a second that show when one is lost or done twice: INCR,\n   APPEND, LPUSH, RPOPLPUSH, ZINCRBY, SPOP, XADD *, RENAME, MULTI…EXEC, scripts. redferry starts:", comma(d.rate))
	first := d.start()
	d.until(ctx, first, time.Minute, "reach the stream", d.inStream)
	d.pass(ctx, first, 4*time.Second)

	first.Kill()
	d.say("redferry is killed with SIGKILL. The writer goes on without it for 2 seconds.")
	d.pass(ctx, nil, 2*time.Second)
	at := d.checkpoint().Offset
	d.say("The same command again. The checkpoint in the target says offset %s; the source is %s further by now:", comma(at), humanize.Bytes(uint64(d.source.Offset(d)-at)))
	second := d.start()
	d.pass(ctx, second, 4*time.Second)
	before := d.source.Offset(d)
	d.target.Freeze()
	d.say("The target stops answering for 8 seconds (SIGSTOP). redferry goes on receiving, into its spool:")
	d.pass(ctx, second, 8*time.Second)
	d.target.Thaw()
	d.say("It answers again. The source has written %s meanwhile, and could repeat only its last %s:",
		humanize.Bytes(uint64(d.source.Offset(d)-before)), humanize.Bytes(uint64(d.backlogSize())))
	d.pass(ctx, second, 3*time.Second)
	written := stopWriter()
	d.say("The writer stops, after %s commands. redferry is told to stop, too (SIGTERM):", comma(written.Acknowledged))
	d.end(second)
	d.say("It runs for a last time, until the target has all that the source has:")
	d.finish(ctx, d.start("--stop-at", "caught-up"))

	if d.spoil {
		d.target.DB(1).Do(d, "INCR", "load:counter:0")
	}
	return d.conclude(written, began)
}

// conclude compares the servers, prints what happened and gives the verdict.
func (d *demo) conclude(written redistest.LoadResult, began time.Time) error {
	d.say("Both servers are compared, key by key:")
	found := redistest.Compare(d, d.source, d.target, redistest.CompareOptions{Settled: true})
	r := result{
		want: d.count(d.source), got: d.count(d.target), written: written, differences: found, took: time.Since(began),
		full: d.stat("sync_full"), partial: d.stat("sync_partial_ok"),
	}
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
