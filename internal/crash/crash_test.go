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

	"redferry/internal/leaks"
	"redferry/internal/redistest"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "redferry-crash-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	leaks.Main(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

var binDir string // set by TestMain

// program builds redferry once for all tests.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "redferry")
	out, err := exec.Command("go", append(append([]string{"build"}, raceFlags...), "-o", path, "redferry/cmd/redferry")...).CombinedOutput()
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

// newVictim is a migration with its state in dir.
func newVictim(t *testing.T, dir, source, target string, args ...string) *victim {
	t.Helper()
	v := &victim{
		t: t, log: filepath.Join(t.TempDir(), "log"),
		args: append([]string{"run", "--source", source, "--target", target, "--dir", dir, "--log-format", "json"}, args...),
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(v.log)
			lines := strings.Split(string(text), "\n")
			t.Logf("end of redferry's log:\n%s", strings.Join(lines[max(0, len(lines)-80):], "\n"))
		}
	})
	return v
}

func (v *victim) start(more ...string) *redistest.Process {
	v.t.Helper()
	path, err := program()
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

// patience is how long is waited for what has to come: hardly anything of it on a quiet machine, and much where other tests take the processors.
const patience = 3 * time.Minute

// finish runs redferry to the end.
func (v *victim) finish() {
	v.t.Helper()
	p := v.start("--stop-at", "caught-up")
	if code, err := p.ExitCode(patience); err != nil || code != 0 {
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

// seeded is a seed, and whether it is the one that SEED=n asks for.
func seeded(t *testing.T) (seed uint64, asked bool) {
	text := os.Getenv("SEED")
	if text == "" {
		return rand.Uint64() >> 32, false // short, for whoever has to type it
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("SEED: %v", err)
	}
	return seed, true
}

// dice are thrown the same way with the same SEED.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	seed, _ := seeded(t)
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// between is a random time.
func between(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

// The matrix: whatever goes wrong, in whatever order, the target is what the source is, and nothing cost more than it had to. A failed row prints its plan,
// and SEED=n makes the same one again.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	builds := redistest.Servers(t)
	end := time.Now().Add(duration(t, 0))
	for lane := range 2 {
		t.Run(fmt.Sprint("lane", lane), func(t *testing.T) {
			t.Parallel()
			seed, asked := seeded(t)
			if asked && lane > 0 {
				t.Skip("one seed needs one lane")
			}
			for first := true; first || !asked && time.Now().Before(end); first = false {
				t.Run(fmt.Sprint(seed), func(t *testing.T) { endure(t, newPlan(seed, builds)) })
				seed, _ = seeded(t)
			}
		})
	}
}

// T41: SIGKILL at random moments in the stream of the oldest server, which sends relative TTLs and has no functions.
func TestCrashInTheStreamOfTheOldest(t *testing.T) {
	t.Parallel()
	r := dice(t)
	b := redistest.Servers(t)[0]
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 256mb"))
	dst := redistest.Start(t, b)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 1000, Seed: r.Uint64()})
	v := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	v.finish()
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: r.Uint64(), Writers: 3, Rate: 6000, SwapDB: true, Flush: true})
	kills := 0
	for end := time.Now().Add(duration(t, 8*time.Second)); time.Now().Before(end); kills++ {
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
}

// A process that is frozen while another takes the migration over, and then woken, ends without having written anything.
func TestCrashFrozenAndReplaced(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src := redistest.Start(t, b, redistest.Config("repl-backlog-size 256mb"))
	dst := redistest.Start(t, b, redistest.Config("user default on nopass ~* &* +@all -client|kill")) // so that the fence alone is between them
	v := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	v.finish()
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Writers: 2, Rate: 4000})
	epoch := func() string { return dst.DoString(t, "HGET", "redferry:default", "epoch") }
	before := epoch()
	old := v.start()
	until(t, "the process owns the migration", func() bool { return epoch() != before })
	time.Sleep(time.Second) // in the midst of its work
	old.Freeze()

	before = epoch()
	same := v.start()
	if code, err := same.ExitCode(patience); code != 5 {
		t.Fatalf("a second process with the frozen one's directory: exit code %d (%v), want 5", code, err)
	}
	other := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	taker := other.start() // the frozen one's lease runs out
	until(t, "the lease of a frozen process runs out", func() bool { return epoch() != before })
	time.Sleep(500 * time.Millisecond)
	old.Thaw()
	if code, err := old.ExitCode(patience); code != 5 {
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
