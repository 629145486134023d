package redistest

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// TB is the part of [testing.TB] that this package uses, so that the benchmark and the demo can stand in for a test.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Skipf(format string, args ...any)
	TempDir() string
	Cleanup(f func())
}

// Build is a server program.
type Build struct {
	Name    string // of the build, as tests name it: redis-7.0, valkey-9
	Server  string // "redis" or "valkey"
	Version string // as the program says: 7.0.15
	Path    string // of the executable
}

// names are the builds that servers.sh fetches, oldest first; a full test run needs them all.
func names() []string {
	return []string{"redis-6.0", "redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9"}
}

// AtLeast tells whether the build is of the named server ("redis", "valkey") and of this version or a later one.
func (b Build) AtLeast(server string, major, minor int) bool {
	if b.Server != server {
		return false
	}
	parts := strings.SplitN(b.Version, ".", 3)
	gotMajor, _ := strconv.Atoi(parts[0])
	gotMinor := 0
	if len(parts) > 1 {
		gotMinor, _ = strconv.Atoi(parts[1])
	}
	return cmp.Or(cmp.Compare(gotMajor, major), cmp.Compare(gotMinor, minor)) >= 0
}

// Has70 tells whether the server has what came with Redis 7.0, as every Valkey does: functions, PEXPIRETIME, absolute TTLs in the stream.
func (b Build) Has70() bool { return b.Server == "valkey" || b.AtLeast("redis", 7, 0) }

// HasFieldTTL tells whether hash fields may have a TTL (HPEXPIRE): Redis 7.4 or Valkey 9.0.
func (b Build) HasFieldTTL() bool { return b.AtLeast("redis", 7, 4) || b.AtLeast("valkey", 9, 0) }

// Servers lists the builds that are there, oldest first. With CI=true or REDFERRY_ALL_SERVERS=1 every build that servers.sh fetches must be
// there: the test fails, naming what is missing. Without any of them it takes the redis-server and valkey-server of PATH, and skips the
// test when there is none.
func Servers(t TB) []Build {
	t.Helper()
	var builds []Build
	var missing []string
	for _, name := range names() {
		b, ok := fetched(name)
		if !ok {
			missing = append(missing, name)
			continue
		}
		builds = append(builds, b)
	}
	if len(missing) > 0 && (os.Getenv("CI") == "true" || os.Getenv("REDFERRY_ALL_SERVERS") == "1") {
		t.Fatalf("servers missing: %s; run `make servers`", strings.Join(missing, ", "))
	}
	if len(builds) == 0 {
		builds = installed()
	}
	if len(builds) == 0 {
		t.Skipf("no server to test with; run `make servers`")
	}
	return builds
}

// ServerNamed gives the named build (redis-7.0, valkey-9…) and skips the test when this machine has not got it; where [Servers] insists on all,
// it fails.
func ServerNamed(t TB, name string) Build {
	t.Helper()
	for _, b := range Servers(t) {
		if b.Name == name {
			return b
		}
	}
	t.Skipf("no %s on this machine; run `make servers`", name)
	return Build{}
}

// Latest gives the newest Redis for tests to which the version does not matter, or else whatever there is.
func Latest(t TB) Build {
	t.Helper()
	all := Servers(t)
	best := all[0]
	for _, b := range all {
		if b.Server == "redis" {
			best = b
		}
	}
	return best
}

// fetched reads one folder of servers.sh. It has VERSION when it is whole.
func fetched(name string) (Build, bool) {
	root := os.Getenv("REDFERRY_SERVERS")
	if root == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return Build{}, false
		}
		root = filepath.Join(cmp.Or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(home, ".cache")), "redferry", "servers")
	}
	version, err := os.ReadFile(filepath.Join(root, name, "VERSION"))
	if err != nil {
		return Build{}, false
	}
	server, _, _ := strings.Cut(name, "-")
	return Build{name, server, strings.TrimSpace(string(version)), filepath.Join(root, name, "server")}, true
}

// installed finds the machine's own servers.
func installed() []Build {
	var builds []Build
	for _, server := range []string{"redis", "valkey"} {
		path, err := exec.LookPath(server + "-server")
		if err != nil {
			continue
		}
		out, err := exec.Command(path, "--version").Output()
		if err != nil {
			continue
		}
		if m := regexp.MustCompile(` v=((\d+\.\d+)\S*)`).FindSubmatch(out); m != nil {
			builds = append(builds, Build{server + "-" + string(m[2]), server, string(m[1]), path})
		}
	}
	return builds
}

// patience is how long is waited for what takes a moment: a machine that runs other tests at the same time may let any process stand still for seconds.
const patience = time.Minute

// within polls cond until it holds or the time is over, and tells which.
func within(d time.Duration, cond func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(5 * time.Millisecond) {
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
