package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/internal/redistest"
)

// receipt is an RDB that was received whole.
type receipt struct {
	bytes int64
	wall  time.Duration
}

// rate is in bytes a second.
func (r receipt) rate() float64 { return float64(r.bytes) / r.wall.Seconds() }

// receipts are what a measurement of receiving has found. cli is empty where there is no redis-cli.
type receipts struct {
	title         string
	cli, redferry []receipt
}

// receive measures how fast the RDB of a source comes in while the target stands still: from the start of redferry until the RDB's last byte
// is in its spool. Beside it redis-cli, which writes the RDB to a file and does nothing else, from its start until its end.
func (b *bench) receive() *receipts {
	b.Helper()
	source := b.filled(b.Keys)
	want := b.contents(source)
	cli := b.cli()
	r := &receipts{}
	for round := range b.Rounds {
		both := []func(){
			func() { r.redferry = append(r.redferry, b.spooled(source, want)) },
			func() {
				if cli != "" {
					r.cli = append(r.cli, b.downloaded(source, cli))
				}
			},
		}
		both[round%2]()
		both[(round+1)%2]()
	}
	source.Kill()
	r.title = fmt.Sprintf("Receiving an RDB of %s while the target is stopped", humanize.Bytes(uint64(r.redferry[0].bytes)))
	return r
}

// spooled measures redferry. Afterwards the target is let go, and must get all of it.
func (b *bench) spooled(source *redistest.Server, want string) receipt {
	b.Helper()
	f := b.ferry(source)
	rdb := filepath.Join(f.dir, "default", "spool", "rdb-*")
	full := b.number("sync_full", source.Info(b, "stats")["sync_full"])
	began := time.Now()
	f.start()
	b.until("a full resync", func() bool { return b.number("sync_full", source.Info(b, "stats")["sync_full"]) > full })
	f.target.Freeze()
	var r receipt
	b.until("the RDB to be received", func() bool {
		if n := b.sizes(rdb); n > r.bytes {
			r = receipt{n, time.Since(began)}
		}
		return strings.Contains(source.Info(b, "replication")["slave0"], "state=online")
	})
	f.target.Thaw()
	b.progress("%s: %s in %.2f s", f.name(), humanize.Bytes(uint64(r.bytes)), r.wall.Seconds())
	b.until("redferry to load what it has received", f.loaded)
	f.end()
	b.verify(f, want)
	f.target.Kill()
	return r
}

// downloaded measures redis-cli.
func (b *bench) downloaded(source *redistest.Server, cli string) receipt {
	b.Helper()
	file := filepath.Join(b.TempDir(), "dump.rdb")
	host, port, err := net.SplitHostPort(source.Addr())
	if err != nil {
		b.Fatalf("address of the source: %v", err)
	}
	cmd := exec.Command(cli, "-h", host, "-p", port, "--rdb", file)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	code, err := redistest.StartProcess(b, cmd).ExitCode(patience)
	r := receipt{wall: time.Since(began)}
	if err != nil || code != 0 {
		b.Fatalf("%s ended with exit code %d, %v: %s", cli, code, err, &said)
	}
	r.bytes = b.sizes(file)
	if err := os.Remove(file); err != nil {
		b.Fatalf("remove the RDB: %v", err)
	}
	b.progress("redis-cli --rdb: %s in %.2f s", humanize.Bytes(uint64(r.bytes)), r.wall.Seconds())
	return r
}

// cli is the redis-cli of the server's build, or an installed one; "" when there is none.
func (b *bench) cli() string {
	fetched := filepath.Join(filepath.Dir(b.build.Path), "cli")
	for _, name := range []string{fetched, b.build.Server + "-cli", "redis-cli"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// sizes adds up the files that a pattern names.
func (b *bench) sizes(pattern string) (sum int64) {
	b.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		b.Fatalf("%v", err)
	}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil { // else it is removed already
			sum += info.Size()
		}
	}
	return sum
}

// print writes the medians.
func (r *receipts) print(w io.Writer) {
	t := newTable(w, r.title)
	wall := func(r receipt) time.Duration { return r.wall }
	if r.cli == nil {
		t.row("median of "+fmt.Sprint(len(r.redferry)), "redferry")
		t.row("wall time", seconds(median(r.redferry, wall)))
		t.row("rate", perSecond(median(r.redferry, receipt.rate)))
		t.end()
		fmt.Fprintln(w, "\n  no redis-cli here to compare with")
		return
	}
	theirs, ours := median(r.cli, receipt.rate), median(r.redferry, receipt.rate)
	t.row("median of "+fmt.Sprint(len(r.redferry)), "redis-cli --rdb", "redferry", "ratio", "goal")
	t.row("wall time", seconds(median(r.cli, wall)), seconds(median(r.redferry, wall)))
	t.row("rate", perSecond(theirs), perSecond(ours), fmt.Sprintf("%.2f", ours/theirs), fmt.Sprintf("≥ %.2f %s", receiveBar, met(ours >= receiveBar*theirs)))
	t.end()
	each := func(r receipt) string { return perSecond(r.rate()) }
	fmt.Fprintf(w, "\n  rates: redis-cli %s; redferry %s\n", list(r.cli, each), list(r.redferry, each))
}

func perSecond(bytes float64) string { return fmt.Sprintf("%.0f MB/s", bytes/1e6) }
