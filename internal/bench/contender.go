package main

import (
	"bytes"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
)

// contender is one way to get a source's data into a target.
type contender interface {
	name() string
	server() *redistest.Server // the target
	start()                    // begin, or go on where suspend has stopped
	loaded() bool              // the snapshot is in the target
	offset() int64             // that the target has; -1 before there is one
	suspend()                  // stop, so that start can go on
	end()                      // for good; the target stays
	usage() usage              // of a program beside the servers, since its last start
}

// contenders make one of each, in each round in another order, so that none is always the first.
func (b *bench) contenders(round int, source *redistest.Server) []contender {
	b.Helper()
	all := []contender{
		&native{b: b, source: source, target: b.target()},
		b.ferry(source),
	}
	if b.Watched {
		all = append(all, b.watched(b.ferry(source)))
	} else {
		all = append(all, b.ferry(source, "--spool=off"))
	}
	return slices.Concat(all[round%len(all):], all[:round%len(all)])
}

// native is the server's own replication.
type native struct {
	b              *bench
	source, target *redistest.Server
	frozen         bool
}

func (n *native) name() string              { return "native" }
func (n *native) server() *redistest.Server { return n.target }
func (n *native) usage() usage              { return usage{} }

func (n *native) start() {
	n.b.Helper()
	if n.frozen {
		n.target.Thaw()
		n.frozen = false
		return
	}
	host, port, err := net.SplitHostPort(n.source.Addr())
	if err != nil {
		n.b.Fatalf("address of the source: %v", err)
	}
	n.target.Do(n.b, "REPLICAOF", host, port)
}

func (n *native) loaded() bool {
	n.b.Helper()
	info := n.target.Info(n.b, "replication")
	return info["master_link_status"] == "up" && info["master_sync_in_progress"] == "0"
}

func (n *native) offset() int64 {
	n.b.Helper()
	text, ok := n.target.Info(n.b, "replication")["slave_repl_offset"]
	if !ok {
		return -1
	}
	return n.b.number("slave_repl_offset", text)
}

// suspend freezes the replica and cuts its link: REPLICAOF NO ONE would give it a history of its own, from which no partial resync leads back.
func (n *native) suspend() {
	n.b.Helper()
	n.target.Freeze()
	n.frozen = true
	n.source.Do(n.b, "CLIENT", "KILL", "TYPE", "replica")
}

func (n *native) end() {
	n.b.Helper()
	n.target.Do(n.b, "REPLICAOF", "NO", "ONE")
}

// ferry is redferry.
type ferry struct {
	b              *bench
	source, target *redistest.Server
	targetURL      string // the target's own, or a proxy's
	dir            string
	flags          []string // beside those that every run needs

	process *redistest.Process
	said    *bytes.Buffer // valid once the process has ended
}

// ferry makes one with a fresh target.
func (b *bench) ferry(source *redistest.Server, flags ...string) *ferry {
	b.Helper()
	target := b.target()
	return &ferry{b: b, source: source, target: target, targetURL: target.URL(), dir: b.TempDir(), flags: flags}
}

func (f *ferry) name() string              { return strings.Join(append([]string{"redferry"}, f.flags...), " ") }
func (f *ferry) server() *redistest.Server { return f.target }

func (f *ferry) start() {
	f.b.Helper()
	args := append([]string{"run", "--source", f.source.URL(), "--target", f.targetURL, "--dir", f.dir}, f.flags...)
	cmd := exec.Command(f.b.Redferry, args...)
	f.said = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = f.said, f.said
	f.process = redistest.StartProcess(f.b, cmd)
}

func (f *ferry) loaded() bool {
	f.b.Helper()
	return f.field(checkpoint.FieldPhase) == string(checkpoint.PhaseStream)
}

func (f *ferry) offset() int64 {
	f.b.Helper()
	text := f.field(checkpoint.FieldOffset)
	if text == "" {
		return -1
	}
	return f.b.number("the checkpoint's offset", text)
}

// field is one field of the checkpoint; empty before there is one.
func (f *ferry) field(name string) string {
	f.b.Helper()
	select {
	case <-f.process.Exited():
		f.b.Fatalf("redferry has ended: %s", f.said)
	default:
	}
	return f.target.DoString(f.b, "HGET", checkpoint.Key("default"), name)
}

func (f *ferry) suspend() {
	f.b.Helper()
	f.process.Signal(syscall.SIGTERM)
	code, err := f.process.ExitCode(patience)
	if err != nil {
		f.b.Fatalf("stop redferry: %v", err)
	}
	if code != 0 {
		f.b.Fatalf("redferry ended with exit code %d: %s", code, f.said)
	}
}

func (f *ferry) end() { f.suspend() }

func (f *ferry) usage() usage {
	f.b.Helper()
	u, err := usageOf(f.process.Pid())
	if err != nil {
		f.b.Fatalf("what redferry used: %v", err)
	}
	return u
}

func (b *bench) number(what, text string) int64 {
	b.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
	return n
}
