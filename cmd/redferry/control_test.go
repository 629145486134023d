package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
	"redferry/replica/events"
)

// migration is where the program keeps the migration "default".
func (p *program) migration() string { return filepath.Join(p.home, "redferry", "default") }

// status is what status --json says of a run, which must be there.
func (p *program) status(t *testing.T) fullStatus {
	t.Helper()
	r := p.run(t, "status", "--json")
	var s fullStatus
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || r.code != exitDone {
		t.Fatalf("code %d, %v:\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	return s
}

// An operator looks at a run, pauses it, and has it go on. What happened is known afterwards, however it ended.
func TestOperatorsCommands(t *testing.T) {
	t.Parallel()
	source, target := pair(t, redistest.Password("s3cr3tw0rd"))
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	wait(t, "it has looked at the source twice", func() bool { r := p.status(t).Run; return r.Lag.Bytes == 0 && r.Backlog.Spare > 0 })
	wait(t, "it says that there is no lag", func() bool { // the source's pings are one, for a moment
		text := p.run(t, "status").stdout
		return strings.Contains(text, "state         in_sync for ") && strings.Contains(text, "lag           0 B, 0s")
	})
	p.run(t, "status").expect(t, exitDone, "migration     default: from "+source.Addr()+" to "+target.Addr(), fmt.Sprint("pid ", run.Pid()),
		"loaded: 502 keys", "may be down   ", " 1.0 MB", "1 full resync", "memory        ")
	var s fullStatus
	wait(t, "the target has all", func() bool { s = p.status(t); return s.Run.Offset.Checkpointed >= s.Run.Offset.Source })
	if r := s.Run; !s.Running || s.statusJSON != nil || r.State != replica.InSync || r.Backlog.Spare < 1<<20-100 || r.Snapshot.Percent != 100 || r.Backlog.Size != 1<<20 ||
		r.Spool.Max == 0 || r.Server.Source != source.Addr() {
		t.Errorf("got %+v", r)
	}

	p.run(t, "pause").expect(t, exitDone, `paused "default"`)
	before := target.DoString(t, "HGET", "redferry:default", "offset")
	for i := range 200 {
		source.Do(t, "SET", fmt.Sprint("while paused:", i), strings.Repeat("x", 1000))
	}
	wait(t, "it has received that", func() bool { return p.status(t).Run.Lag.ToApply > 200_000 })
	if s := p.status(t); s.Run.State != replica.Paused || !s.Run.Paused || s.Run.Phase != replica.InSync && s.Run.Phase != replica.CatchingUp {
		t.Errorf("paused: got %+v", s.Run)
	}
	if got := target.DoString(t, "HGET", "redferry:default", "offset"); got != before {
		t.Errorf("the checkpoint went from %s to %s", before, got)
	}
	p.run(t, "resume").expect(t, exitDone, `resumed "default"`)
	wait(t, "it has caught up", func() bool { s := p.status(t); return s.Run.State == replica.InSync && s.Run.Lag.Bytes == 0 })

	p.run(t, "pause").expect(t, exitDone)
	run.Kill()
	p.run(t, "pause").expect(t, exitUsage, "does not run on this machine") // over its stale socket
	p.run(t, "status").expect(t, exitDecide, "does not run on this machine", " paused ", " in_sync ")

	run = p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync") // not paused
	p.run(t, "pause").expect(t, exitDone)
	run.Signal(syscall.SIGTERM)
	run.wait(t).expect(t, exitDone, "SIGTERM received")
	p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitDone)
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{})

	r := p.run(t, "events", "--json", "--count", "1000")
	r.expect(t, exitDone)
	var states []string
	for _, line := range logLines(t, r.stdout) {
		states = append(states, line["state"].(string))
	}
	got := strings.Join(states, " ")
	for _, want := range []string{"connecting snapshot", "in_sync paused", "paused connecting", "paused stopped", "settling stopped"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in the events: %s", want, got)
		}
	}
	text, err := os.ReadFile(eventsFile(p.migration()))
	if err != nil || strings.Contains(string(text), "s3cr3t") {
		t.Errorf("the events hold a password, or cannot be read: %v", err)
	}
}

func wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patient); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// talk gives commands to an address and returns all that is answered until the connection ends.
func talk(t *testing.T, network, addr, text string) string {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patient))
	if _, err := io.WriteString(c, text+"\r\nQUIT\r\n"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(got)
}

// The socket and the address: settings that change at once, a password that is not to be seen, and an end like SIGTERM's.
func TestAdminSocket(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	port := redistest.FreeAddr(t)
	p := newProgram(t)
	p.run(t, with(ends(source, target), "--admin-addr", port)...).expect(t, exitUsage, "want each other", "REDFERRY_ADMIN_PASSWORD")
	p.run(t, with(ends(source, target), "--admin-addr", "192.0.2.1:1", "--admin-password", "pw")...).expect(t, exitUsage, "--admin-addr 192.0.2.1:1")
	run := p.start(t, with(ends(source, target), "--admin-addr", port, "--admin-password", "s3cr3tw0rd", "--log-interval", "1h")...)
	run.until(t, "in_sync")
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", run.Pid())); err == nil && strings.Contains(string(line), "s3cr3t") {
		t.Errorf("the password is in the process list: %q", line)
	}
	socket := socketFile(p.migration())
	if got := talk(t, "tcp", port, "INFO"); !strings.Contains(got, "NOAUTH") {
		t.Errorf("without the password: got %s", got)
	}
	if got := talk(t, "tcp", port, "AUTH s3cr3tw0rd\r\nINFO server"); !strings.Contains(got, "server_name:default") {
		t.Errorf("with the password: got %s", got)
	}
	if text := run.stderr.String(); strings.Contains(text, `"message":"progress"`) || strings.Contains(text, `"level":"debug"`) {
		t.Errorf("it logs too much from the beginning: %s", text)
	}
	if got := talk(t, "unix", socket, "CONFIG SET log-interval 50ms log-level debug\r\nCONFIG GET *\r\nCONFIG SET log-level loud\r\nCONFIG SET log-interval -1s"); !strings.Contains(got, "+OK") ||
		!strings.Contains(got, "50ms") || !strings.Contains(got, "must be one of") || !strings.Contains(got, "is no duration") {
		t.Errorf("settings: got %s", got)
	}
	run.untilText(t, `"message":"progress"`)
	talk(t, "unix", socket, "CONFIG SET log-level error")
	wait(t, "it logs no more", func() bool {
		before := len(run.stderr.String())
		time.Sleep(500 * time.Millisecond) // ten lines, before
		return len(run.stderr.String()) == before
	})
	talk(t, "unix", socket, "CONFIG SET log-level info")
	if got := talk(t, "unix", socket, "SHUTDOWN"); !strings.HasPrefix(got, "+OK") {
		t.Errorf("got %s", got)
	}
	r := run.wait(t)
	r.expect(t, exitDone, "SHUTDOWN received", "the same command goes on from here")
	if strings.Contains(r.stderr, "s3cr3t") {
		t.Error("the password is in the log")
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// Prometheus finds the figures of the run, and an orchestrator whether it is in sync.
func TestMetricsAddr(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	addr := redistest.FreeAddr(t)
	p := newProgram(t)
	p.run(t, with(ends(source, target), "--metrics-addr", "192.0.2.1:1")...).expect(t, exitUsage, "--metrics-addr 192.0.2.1:1")
	run := p.start(t, with(ends(source, target), "--metrics-addr", addr)...)
	run.until(t, "in_sync")
	get := func(path string) string {
		r, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.Status + "\n" + string(body)
	}
	wait(t, "the metrics have the source's offset", func() bool {
		return strings.Contains(get("/metrics"), fmt.Sprintf("redferry_checkpointed_offset_bytes{name=\"default\"} %d\n", source.Offset(t)))
	})
	wait(t, "it is ready", func() bool { return strings.HasPrefix(get("/readyz"), "200 OK\nin_sync: ") })
	p.run(t, "pause").expect(t, exitDone)
	if got := get("/readyz"); !strings.HasPrefix(got, "503 Service Unavailable\npaused: ") {
		t.Errorf("paused: got %s", got)
	}
	if got := get("/healthz"); !strings.HasPrefix(got, "200 OK") {
		t.Errorf("paused: got %s", got)
	}
	http.DefaultClient.CloseIdleConnections()
	run.Signal(os.Interrupt)
	run.wait(t).expect(t, exitDone)
}

// A socket that the system does not allow costs the commands, and not the run.
func TestSocketPathTooLong(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	dir := filepath.Join(p.home, strings.Repeat("x", 120))
	p.run(t, with(ends(source, target), "--dir", dir, "--stop-at", "caught-up")...).expect(t, exitDone, "a socket's path may have", "do not reach this run", "caught up")
	p.run(t, "pause", "--dir", dir).expect(t, exitUsage, "does not run on this machine, or has no admin socket")
	p.run(t, "events", "--dir", dir).expect(t, exitDone, "--stop-at caught-up is reached")
}

// listen is at the socket of a migration that does not run.
func (p *program) listen(t *testing.T) net.Listener {
	t.Helper()
	if err := os.MkdirAll(p.migration(), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socketFile(p.migration()))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A socket that nobody answers at is not taken for a run that is not there.
func TestRunThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	_, target := pair(t)
	p := newProgram(t)
	l := p.listen(t)
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			_, _ = c.Read(make([]byte, 100))
			_ = c.Close()
		}
	}()
	defer l.Close()
	p.run(t, "status").expect(t, exitFailed, "the run's answer")
	p.run(t, "pause").expect(t, exitFailed, "the run's answer")
	p.run(t, "status", "--target", target.URL()).expect(t, exitDecide, "warning: ", "the run's answer", "has no checkpoint")
}

// A run that ends while it is asked has ended, and is not one that does not answer.
func TestStatusOfARunThatEnds(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	l := p.listen(t)
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = errors.Join(l.Close(), c.Close()) // as a run does: the socket first, and its connections when it has no more to say
		}
		ended <- err
	}()
	p.run(t, "status").expect(t, exitDecide, "does not run on this machine")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// status --watch goes on until Ctrl-C, or until the run is gone.
func TestWatch(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	watch, other := p.start(t, "status", "--watch", "--json"), p.start(t, "status", "--watch")
	wait(t, "two looks", func() bool {
		return strings.Count(watch.stdout.String(), "\n") >= 2 && strings.Count(other.stdout.String(), "migration ") >= 2
	})
	watch.Signal(os.Interrupt)
	r := watch.wait(t)
	r.expect(t, exitDone)
	for _, line := range logLines(t, r.stdout) {
		if line["running"] != true {
			t.Errorf("got %v", line)
		}
	}
	run.Signal(os.Interrupt)
	run.wait(t).expect(t, exitDone)
	other.wait(t).expect(t, exitDecide, "does not run on this machine")
}

// Also while the target is away, or has no checkpoint yet; and a run that got no further has done nothing.
func TestWatchWithoutCheckpoint(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	target.Kill()
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "waiting")
	watch, lines := p.start(t, "status", "--watch", "--target", target.URL()), p.start(t, "status", "--watch", "--json", "--target", target.URL())
	wait(t, "two looks", func() bool {
		return strings.Count(watch.stdout.String(), "connection refused") >= 4 && strings.Count(lines.stdout.String(), `"running":true`) >= 2
	})
	watch.Signal(os.Interrupt)
	watch.wait(t).expect(t, exitDone)
	lines.Signal(os.Interrupt)
	lines.wait(t).expect(t, exitDone)
	run.Signal(os.Interrupt)
	run.wait(t).expect(t, exitDone, "stopped before it knew both ends, and has done nothing")
}

// The hook hears of each change, the last one too, whatever it does itself, and finds no password.
func TestOnState(t *testing.T) {
	t.Parallel()
	source, target := pair(t, redistest.Password("s3cr3tw0rd"))
	p := newProgram(t)
	heard := filepath.Join(p.home, "heard")
	r := p.run(t, with(ends(source, target), "--stop-at", "caught-up", "--on-state", `echo "$REDFERRY_NAME $REDFERRY_STATE: $REDFERRY_WHY" >> `+heard+`; env >> `+heard+`.env; false`)...)
	r.expect(t, exitDone, "the hook of --on-state failed", "exit status 1")
	text, err := os.ReadFile(heard)
	if err != nil || !strings.HasPrefix(string(text), "default connecting: ") || !strings.HasSuffix(string(text), "default stopped: --stop-at caught-up is reached\n") {
		t.Errorf("got %q, %v", text, err)
	}
	env, err := os.ReadFile(heard + ".env")
	if err != nil || strings.Contains(string(env), "s3cr3t") || !strings.Contains(string(env), "REDFERRY_DIR="+filepath.Join(p.home, "redferry")+"\n") || !strings.Contains(string(env), "PATH=") {
		t.Errorf("its environment: %v, %s", err, env)
	}
	target.Do(t, "SET", "mine", "x")
	q := newProgram(t)
	q.run(t, with(ends(source, target), "--name", "other", "--on-state", "echo $REDFERRY_STATE >> "+heard)...).expect(t, exitDecide)
	if text, _ := os.ReadFile(heard); !strings.HasSuffix(string(text), "\nfailed\n") {
		t.Errorf("a run that failed: got %q", text)
	}
}

// A journal says nothing secret, says why a run ended, and does without a file where there can be none.
func TestJournal(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	home, err := applier.OpenHome(root, "default")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	var log locked
	j := newJournal(home, nil, zerolog.New(&log))
	j.observe(replica.Waiting, "dial redis://u:s3cret@h: refused")
	j.end(&replica.Stop{Kind: replica.Failed, Reason: "it broke at redis://u:s3cret@h"}, "")
	list, err := events.Read(eventsFile(home.Dir()), 10)
	if err != nil || len(list) != 2 || list[0].Why != "dial redis://***@h: refused" || list[1].State != "failed" || list[1].Why != "it broke at redis://***@h" {
		t.Errorf("got %+v, %v", list, err)
	}
	if log.String() != "" {
		t.Errorf("the log says %s", log.String())
	}
	if err := os.RemoveAll(home.Dir()); err != nil {
		t.Fatal(err)
	}
	j = newJournal(home, nil, zerolog.New(&log))
	j.observe(replica.InSync, "x")
	j.end(nil, "SIGTERM received")
	if !strings.Contains(log.String(), "changes of state are not kept") {
		t.Errorf("without a folder the log says %q", log.String())
	}
}

// A hook that hangs is ended with what it has started; of the changes meanwhile it hears of the last one.
func TestHookThatHangs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log locked
	h := newHook("cd "+dir+"; echo $REDFERRY_STATE >> heard; if [ ! -e child ]; then sleep 1000 & echo $! > new; mv new child; wait; fi", "default", dir, zerolog.New(&log))
	h.limit = 5 * time.Second // the first one is there by then
	began := time.Now()
	for i := range 1000 {
		h.tell(events.Event{State: fmt.Sprint(i)})
		if i == 0 {
			wait(t, "it runs", func() bool { _, err := os.Stat(dir + "/child"); return err == nil })
		}
	}
	told := time.Since(began)
	h.end()
	if text, _ := os.ReadFile(dir + "/heard"); string(text) != "0\n999\n" {
		t.Errorf("it heard of %q", text)
	}
	if told > time.Minute { // one that waits for the hook takes 83 minutes
		t.Errorf("telling took %v", told)
	}
	text, err := os.ReadFile(dir + "/child")
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "what it has started is ended", func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child)) // of one that has ended, and that nobody has asked for how, it says Z
		return errors.Is(syscall.Kill(child, 0), syscall.ESRCH) || err == nil && strings.Contains(string(state), ") Z ")
	})
	if strings.Count(log.String(), "deadline exceeded") != 1 {
		t.Errorf("the log says %s", log.String())
	}
}
