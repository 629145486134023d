package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"redferry/internal/redistest"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "redferry-crash-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

var binDir string // set by TestMain

// binary builds redferry once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "redferry")
	out, err := exec.Command("go", "build", "-o", path, "redferry/cmd/redferry").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// victim starts redferry runs of one migration.
type victim struct {
	t    *testing.T
	args []string
	log  string
}

func newVictim(t *testing.T, source, target string, args ...string) *victim {
	t.Helper()
	dir := t.TempDir()
	v := &victim{
		t: t, log: filepath.Join(dir, "log"),
		args: append([]string{"run", "--source", source, "--target", target, "--dir", dir, "--log-format", "json"}, args...),
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(v.log)
			lines := strings.Split(string(text), "\n")
			t.Logf("end of redferry's log:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	return v
}

func (v *victim) start(more ...string) *redistest.Process {
	v.t.Helper()
	path, err := binary()
	if err != nil {
		v.t.Fatal(err)
	}
	log, err := os.OpenFile(v.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		v.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(path, append(v.args, more...)...)
	cmd.Stdout, cmd.Stderr = log, log
	return redistest.StartProcess(v.t, cmd)
}

// finish runs redferry to the end.
func (v *victim) finish() {
	v.t.Helper()
	p := v.start("--stop-at", "caught-up")
	if code, err := p.ExitCode(60 * time.Second); err != nil || code != 0 {
		v.t.Fatalf("catch up: exit code %d, %v", code, err)
	}
}

// duration of a crash test: CRASHTIME, or a default that suits a test suite.
func duration(t *testing.T, short time.Duration) time.Duration {
	text := os.Getenv("CRASHTIME")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("CRASHTIME: %v", err)
	}
	return d
}

// seeded is a source of randomness that a failure can be repeated with: SEED=n.
func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SEED: %v", err)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// between is a random time.
func between(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

// T41: SIGKILL at random moments under a load of commands that show it when one is lost or done twice. One full resync, ever.
func TestCrashInTheStream(t *testing.T) {
	t.Parallel()
	for _, b := range []redistest.Build{redistest.Servers(t)[0], redistest.Latest(t)} {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			r := seeded(t)
			src := redistest.Start(t, b, redistest.Config("repl-backlog-size 256mb"))
			dst := redistest.Start(t, b)
			redistest.Fill(t, src, redistest.FillOptions{Keys: 1000, Seed: r.Uint64()})
			v := newVictim(t, src.URL(), dst.URL())
			v.finish()
			stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: r.Uint64(), Writers: 3, Rate: 6000, SwapDB: true, Flush: true})
			kills := 0
			for end := time.Now().Add(duration(t, 12*time.Second)); time.Now().Before(end); kills++ {
				p := v.start()
				time.Sleep(between(r, 20*time.Millisecond, 500*time.Millisecond))
				p.Kill()
			}
			got := stop()
			v.finish()
			redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
			if n := src.Info(t, "stats")["sync_full"]; n != "1" {
				t.Errorf("full resyncs: got %s, want 1", n)
			}
			t.Logf("%d kills under %d commands", kills, got.Acknowledged)
		})
	}
}

// SIGKILL while the snapshot is loaded: every start loads it anew, and nothing of the tries before stays.
func TestCrashInTheSnapshot(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b, redistest.Config("repl-backlog-size 256mb")), redistest.Start(t, b)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 60000, Seed: r.Uint64()})
	v := newVictim(t, src.URL(), dst.URL())
	for i := range 8 {
		p := v.start()
		time.Sleep(between(r, 50*time.Millisecond, 400*time.Millisecond))
		p.Kill()
		src.Do(t, "DEL", src.DoString(t, "RANDOMKEY")) // an orphan, if the next try only went over this one
		src.Do(t, "SET", fmt.Sprintf("between:%d", i), "1")
	}
	v.finish()
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// Everything at once: redferry and its target are killed, connections are cut after a random number of bytes, the link is closed by the source.
func TestCrashEverything(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 256mb"))
	dst := redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
	up, down := redistest.NewProxy(t, src.Addr()), redistest.NewProxy(t, dst.Addr())
	v := newVictim(t, src.URLAt(up.Addr()), dst.URLAt(down.Addr()))
	v.finish()
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: r.Uint64(), Writers: 2, Rate: 3000, SwapDB: true, Flush: true})
	p := v.start()
	done := map[string]int{}
	for end := time.Now().Add(duration(t, 12*time.Second)); time.Now().Before(end); {
		time.Sleep(between(r, 10*time.Millisecond, 250*time.Millisecond))
		switch what := []string{"redferry", "target", "cut", "cut", "cut", "source closes", "freeze"}[r.IntN(7)]; what {
		case "redferry":
			p.Kill()
			p = v.start()
			done[what]++
		case "target":
			dst.Kill()
			dst.Restart(t)
			done[what]++
		case "cut":
			proxy := []*redistest.Proxy{up, down}[r.IntN(2)]
			proxy.CutAfter(redistest.Direction(r.IntN(2)), r.Int64N(20_000))
			done[what]++
		case "source closes":
			src.Do(t, "CLIENT", "KILL", "TYPE", "replica")
			done[what]++
		case "freeze":
			p.Freeze()
			time.Sleep(between(r, 10*time.Millisecond, 200*time.Millisecond))
			p.Thaw()
			done[what]++
		}
		select {
		case <-p.Exited():
			code, _ := p.ExitCode(0)
			t.Fatalf("redferry ended by itself with exit code %d after %v", code, done)
		default:
		}
	}
	p.Kill()
	stop()
	for _, proxy := range []*redistest.Proxy{up, down} {
		for _, dir := range []redistest.Direction{redistest.FromClient, redistest.FromServer} {
			proxy.CutAfter(dir, -1)
		}
	}
	v.finish()
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if n := src.Info(t, "stats")["sync_full"]; n != "1" {
		t.Errorf("full resyncs: got %s, want 1", n)
	}
	t.Logf("done: %v", done)
}

// A process that is frozen while another takes the migration over, and then woken, ends without having written anything.
func TestCrashFrozenAndReplaced(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 256mb"))
	dst := redistest.Start(t, b, redistest.Config("user default on nopass ~* &* +@all -client|kill")) // so that the fence alone is between them
	v := newVictim(t, src.URL(), dst.URL())
	v.finish()
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Writers: 2, Rate: 4000})
	old := v.start()
	time.Sleep(time.Second)
	old.Freeze()

	same := v.start()
	if code, err := same.ExitCode(20 * time.Second); code != 5 {
		t.Fatalf("a second process with the frozen one's directory: exit code %d (%v), want 5", code, err)
	}
	other := newVictim(t, src.URL(), dst.URL())
	taker := other.start() // the frozen one's lease runs out
	epoch := dst.DoString(t, "HGET", "redferry:default", "epoch")
	deadline := time.Now().Add(30 * time.Second)
	for dst.DoString(t, "HGET", "redferry:default", "epoch") == epoch {
		if time.Now().After(deadline) {
			t.Fatal("the lease of a frozen process did not run out")
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(500 * time.Millisecond)
	old.Thaw()
	if code, err := old.ExitCode(30 * time.Second); code != 5 {
		t.Errorf("the woken process: exit code %d (%v), want 5", code, err)
	}
	stop()
	taker.Kill()
	other.finish()
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if n := dst.DoString(t, "HGET", "redferry:default", "diverged"); n != "0" {
		t.Errorf("diverged: got %s", n)
	}
}
