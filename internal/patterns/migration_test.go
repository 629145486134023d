package patterns

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// site is a server as an application knows it.
type site struct {
	addr  string
	acked atomic.Int64 // commands that were acknowledged to the application here
}

// journey is what an application goes through. Work is the application at one of the servers: it
// ends soon after ctx, with all of its connections.
type journey struct {
	from, to string // builds
	work     func(ctx context.Context, at *site)

	before func()   // runs while redferry follows, right before the cutover
	after  func()   // runs once the application has worked at the target for a while
	flags  []string // of redferry cutover
	kill   bool     // redferry in the midst of the cutover
}

// migration is an application that moves with a cutover.
type migration struct {
	t              *testing.T
	source, target *redistest.Server
	home, moved    string // moved is the file in which --on-cutover tells the application its new server
	run            *redistest.Process
	log            *output // of the last run

	away []span // when redferry was not in sync before the cutover

	old, new *site
}

// span is a time.
type span struct{ from, to time.Time }

// newMigration starts both servers.
func newMigration(t *testing.T, from, to string) *migration {
	t.Helper()
	m := &migration{t: t, home: t.TempDir()}
	m.moved = filepath.Join(m.home, "moved")
	m.source = redistest.Start(t, redistest.ServerNamed(t, from), redistest.Config("repl-backlog-size 64mb"))
	m.target = redistest.Start(t, redistest.ServerNamed(t, to))
	m.old, m.new = &site{addr: m.source.Addr()}, &site{addr: m.target.Addr()}
	return m
}

// travel has an application work at the source, redferry follow, die and follow again, and cut
// over. It returns when the application has moved and worked on, and redferry is done. Nothing of
// the application runs any more then.
func (m *migration) travel(j journey) {
	m.t.Helper()
	app := start(j.work, m.old, m.new, m.moved)
	defer app.stop()
	m.works(m.old, "before redferry starts")
	began := time.Now()
	m.start()
	m.inSync()
	m.away = append(m.away, span{began, time.Now()})
	m.works(m.old, "while redferry follows")
	began = time.Now()
	m.run.Kill()
	m.works(m.old, "while redferry is dead")
	m.start()
	m.inSync()
	m.away = append(m.away, span{began, time.Now()})
	m.works(m.old, "while redferry follows again")
	if j.before != nil {
		j.before()
	}
	if m.quiet() {
		app.leave()
		j.flags = append(j.flags, "--source-writes=stopped")
	}
	if j.kill {
		m.cutOverAndDie(j.flags)
	} else {
		m.cutOver(j.flags)
	}
	m.works(m.new, "after the cutover")
	m.over()
	if j.after != nil {
		j.after()
	}
}

// quiet tells whether the application has to be stopped before a cutover: such a source cannot
// pause its writes alone.
func (m *migration) quiet() bool { return m.source.Build.Name == "redis-6.0" }

// works waits until the application has got on.
func (m *migration) works(at *site, when string) {
	m.t.Helper()
	enough := at.acked.Load() + 200
	until(m.t, "the application works "+when, func() bool { return at.acked.Load() >= enough })
}

func (m *migration) command(out *output, args ...string) *redistest.Process {
	m.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"XDG_STATE_HOME=" + m.home, "PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	cmd.Stdout, cmd.Stderr = out, out
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("redferry %s:\n%s", strings.Join(args, " "), out.String())
		}
	})
	return redistest.StartProcess(m.t, cmd)
}

// start starts redferry run: always the same command.
func (m *migration) start(more ...string) {
	m.t.Helper()
	tell := "echo " + m.target.Addr() + " >" + m.moved + ".new && mv " + m.moved + ".new " + m.moved
	m.log = &output{}
	args := []string{"run", "--source", m.source.URL(), "--target", m.target.URL(), "--log-format", "json"}
	m.run = m.command(m.log, append(append(args, "--on-cutover", tell), more...)...)
}

// said waits until the run logs this text. It returns false if the run ends without.
func (m *migration) said(text string) bool {
	m.t.Helper()
	found := false
	until(m.t, "redferry says "+text, func() bool {
		select {
		case <-m.run.Exited():
			found = strings.Contains(m.log.String(), text)
			return true
		default:
			found = strings.Contains(m.log.String(), text)
			return found
		}
	})
	return found
}

func (m *migration) inSync() {
	m.t.Helper()
	if !m.said(`"state":"in_sync"`) {
		m.t.Fatal("redferry ended before it was in sync")
	}
}

// impatience is for how long redferry cutover may look for a moment in which a busy key can be compared:
// where the replies to its writes were lost, and it is written to all the time, there may be none.
const impatience = 30 * time.Second

// forced are the flags for that: docs/operations.md, *How do I end the migration?*
var forced = []string{"--force", "--verify=full"}

func (m *migration) cutOver(flags []string) {
	m.t.Helper()
	p := m.command(&output{}, append([]string{"cutover"}, flags...)...)
	code, err := p.ExitCode(impatience)
	if err != nil {
		p.Signal(os.Interrupt)
		if code, err = p.ExitCode(patience); err == nil && code != 0 {
			m.t.Log("a busy key could not be compared: the cutover is forced")
			code, err = m.command(&output{}, append(append([]string{"cutover"}, forced...), flags...)...).ExitCode(patience)
		}
	}
	if err == nil && code == 0 {
		return
	}
	// A run that was about to finish an earlier cutover takes no order, and does it all the same.
	if runs, running := m.run.ExitCode(impatience); running != nil || runs != 0 {
		m.t.Fatalf("redferry cutover: exit code %d, %v; the run: %d, %v", code, err, runs, running)
	}
}

// cutOverAndDie kills the run somewhere in its cutover, and gives the same commands again, as an operator
// would.
func (m *migration) cutOverAndDie(flags []string) {
	m.t.Helper()
	said := &output{}
	asked := m.command(said, append(append([]string{"cutover"}, forced...), flags...)...)
	if !m.said(`"state":"cutting_over"`) {
		m.t.Fatal("redferry ended before it cut over")
	}
	delay := time.Duration(rand.Int64N(int64(60 * time.Millisecond)))
	time.Sleep(delay)
	m.run.Kill()
	code, err := asked.ExitCode(patience)
	refuses := m.source.DoStrings(m.t, "CONFIG", "GET", "min-replicas-to-write")[1] != "0"
	if err != nil || code == 0 && !refuses {
		m.t.Errorf("redferry cutover, whose run was killed: exit code %d, %v", code, err)
	}
	m.t.Logf("killed %v after the cutover had begun; exit code %d; the source refuses writes: %v\n%s",
		delay, code, refuses, said.String())
	m.start()
	if m.said(`"state":"in_sync"`) { // else it has finished what the killed one had begun
		m.cutOver(flags)
	}
}

// over waits until the run is done: then the target has the source's TTLs.
func (m *migration) over() {
	m.t.Helper()
	if code, err := m.run.ExitCode(patience); err != nil || code != 0 {
		m.t.Fatalf("redferry run: exit code %d, %v", code, err)
	}
}

// application is one that works at its old server until a file names another one, and then there.
type application struct {
	leave func() // the old server, before there is another one
	stop  func()
}

func start(work func(ctx context.Context, at *site), old, next *site, moved string) *application {
	ctx, stop := context.WithCancel(context.Background())
	atOld, leave := context.WithCancel(ctx)
	left := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer close(left)
		work(atOld, old)
	})
	all.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			if addr, err := os.ReadFile(moved); err == nil {
				next.addr = string(bytes.TrimSpace(addr))
				leave() // what it still waits for at the old server, it waits for while it works at the new one
				work(ctx, next)
				return
			}
		}
	})
	return &application{leave: func() { leave(); <-left }, stop: func() { leave(); stop(); all.Wait() }}
}

// output is a buffer that one goroutine writes and another reads.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
