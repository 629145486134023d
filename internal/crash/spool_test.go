package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// dir is the victim's --dir.
func (v *victim) dir() string { return v.args[slices.Index(v.args, "--dir")+1] }

// spool is the folder of its spool.
func (v *victim) spool() string { return filepath.Join(v.dir(), "default", "spool") }

// said tells whether redferry has logged this since the mark, which is a length of its log.
func (v *victim) said(mark int, what string) bool { return strings.Contains(v.logged()[mark:], what) }

func (v *victim) logged() string {
	text, err := os.ReadFile(v.log)
	if err != nil && !os.IsNotExist(err) {
		v.t.Fatal(err)
	}
	return string(text)
}

// until waits for something.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stat is a number of a server's INFO stats.
func stat(t *testing.T, s *redistest.Server, name string) int {
	t.Helper()
	n, err := strconv.Atoi(s.Info(t, "stats")[name])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// pair starts a source with a small backlog and a target that keeps what it has.
func pair(t *testing.T, config ...string) (src, dst *redistest.Server) {
	t.Helper()
	b := redistest.Latest(t)
	return redistest.Start(t, b, redistest.Config(config...)), redistest.Start(t, b, redistest.Config("appendonly yes", "appendfsync always"))
}

// equal runs redferry to the end, and makes sure that both sides are equal then and the source has forked once.
func (v *victim) equal(src, dst *redistest.Server) {
	v.t.Helper()
	v.finish()
	redistest.AssertEqual(v.t, src, dst, redistest.CompareOptions{})
	if n := stat(v.t, src, "sync_full"); n != 1 {
		v.t.Errorf("full resyncs: got %d, want 1", n)
	}
}

// The target is down for long, and redferry is killed and started again meanwhile, more than once: it goes on receiving at once, each time, and what it had
// received before is there, although the source's backlog no longer has it.
func TestCrashWhileTheTargetIsDown(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, "repl-backlog-size 1mb")
	v := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	v.finish()
	p := v.linked(src)
	dst.Kill()
	first := src.Offset(t)
	for i := range uint64(2) {
		have := src.Offset(t)
		stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: i, Writers: 2, Rate: 8000, SwapDB: true, Flush: true})
		until(t, "several times the backlog is written", func() bool { return src.Offset(t) > have+2<<20 })
		p.Kill()
		stop() // how long a start takes is not to decide whether the backlog still has what it asks for
		p = v.linked(src)
	}
	if n, err := strconv.ParseInt(src.Info(t, "replication")["repl_backlog_first_byte_offset"], 10, 64); err != nil || n < first+2<<20 {
		t.Fatalf("the backlog begins at %d, and the target is at %d (%v): not far enough for this test", n, first, err)
	}
	p.Kill()
	dst.Restart(t)
	v.equal(src, dst)
}

// linked starts redferry, and waits until the source goes on with it.
func (v *victim) linked(src *redistest.Server) *redistest.Process {
	v.t.Helper()
	before := stat(v.t, src, "sync_partial_ok")
	p := v.start()
	until(v.t, "the link is up", func() bool { return stat(v.t, src, "sync_partial_ok") > before })
	return p
}

// arrived tells whether the RDB is in the spool, whole, and has not been freed.
func (v *victim) arrived() bool {
	s, _ := readSpool(v.spool())
	return s.Snapshot != nil && s.Snapshot.Complete
}

// trusted is how far the spool's stream survives a power cut; 0 without a spool.
func (v *victim) trusted() int64 {
	s, _ := readSpool(v.spool())
	return s.StreamOnDisk
}

// anotherBoot has the spool's state say that the machine was started anew since.
func (v *victim) anotherBoot() {
	v.t.Helper()
	path := filepath.Join(v.spool(), "state")
	text, err := os.ReadFile(path)
	if err != nil {
		v.t.Fatal(err)
	}
	_, body, _ := bytes.Cut(text, []byte("\n"))
	var s map[string]json.RawMessage
	if err := json.Unmarshal(body, &s); err != nil {
		v.t.Fatalf("the spool's state: %v\n%s", err, text)
	}
	s["boot"] = json.RawMessage(`"another"`)
	if body, err = json.Marshal(s); err != nil {
		v.t.Fatal(err)
	}
	text = fmt.Appendf(nil, "redferry-spool 1 state %08x\n%s", crc32.ChecksumIEEE(body), body)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// tamper has change rewrite each segment of a kind; first is the number of the segment's first byte.
func (v *victim) tamper(kind string, change func(first int64, bytes []byte) []byte) {
	v.t.Helper()
	all := segments(v.spool(), kind+"-")
	if len(all) == 0 {
		v.t.Fatalf("no segments of the %s", kind)
	}
	for _, g := range all {
		b, err := os.ReadFile(g.path)
		if err != nil {
			v.t.Fatal(err)
		}
		b = append(b[:headerSize:headerSize], change(g.first, b[headerSize:])...)
		if err := os.WriteFile(g.path, b, 0o600); err != nil {
			v.t.Fatal(err)
		}
	}
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// What a power cut, or a bad disk, may do to the stream in the spool while the target does not have it yet. Nothing of it comes into the target, and nothing is lost as long as the
// source's backlog has it.
func TestCrashSpoiltStream(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		boot  bool // the machine was started anew
		spoil func(v *victim, r *rand.Rand, trusted int64)
		says  string
	}{
		"cut off behind what is trusted": {true, func(v *victim, _ *rand.Rand, trusted int64) {
			v.tamper("stream", func(first int64, b []byte) []byte { return b[:min(max(trusted-first, 0), int64(len(b)))] })
		}, "found the stream"},
		"garbled behind what is trusted": {true, func(v *victim, r *rand.Rand, trusted int64) {
			v.tamper("stream", func(first int64, b []byte) []byte {
				sound := b[:min(max(trusted-first, 0), int64(len(b)))]
				return append(slices.Clip(sound), noise(r, len(b)-len(sound)+1000)...)
			})
		}, "found the stream"},
		"garbled before that": {false, func(v *victim, r *rand.Rand, trusted int64) {
			v.tamper("stream", func(first int64, b []byte) []byte {
				if at := int(trusted - first - 20_000); at >= 0 && at+300 < len(b) {
					copy(b[at:], noise(r, 300)) // longer than a command of this load
				}
				return b
			})
		}, "the spool cannot be read; it is dropped, and asked of the source again"},
		"a segment lost": {false, func(v *victim, _ *rand.Rand, _ int64) {
			v.tamper("stream", func(int64, []byte) []byte { return nil })
		}, "found"},
		"the state lost": {false, func(v *victim, _ *rand.Rand, _ int64) {
			if err := os.Remove(filepath.Join(v.spool(), "state")); err != nil {
				v.t.Fatal(err)
			}
		}, "there is no state that vouches for them"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := dice(t)
			src, dst := pair(t, "repl-backlog-size 64mb")
			v := newVictim(t, t.TempDir(), src.URL(), dst.URL(), "--log-level", "debug")
			v.finish()
			p := v.linked(src)
			dst.Kill()
			begun := src.Offset(t)
			stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: r.Uint64(), Rate: 4000, SwapDB: true, Flush: true})
			until(t, "the spool trusts some of it", func() bool { return v.trusted() > begun+100_000 })
			p.Kill()
			stop()
			trusted := v.trusted()
			if test.boot {
				v.anotherBoot()
			}
			test.spoil(v, r, trusted)
			mark := len(v.logged())
			dst.Restart(t)
			v.equal(src, dst)
			if !v.said(mark, test.says) {
				t.Errorf("it did not say %q", test.says)
			}
		})
	}
}

// SIGKILL at random moments while an RDB that has arrived is loaded: each start goes on with it, and the source is not asked again.
func TestCrashWithTheRDBInTheSpool(t *testing.T) {
	t.Parallel()
	r := dice(t)
	keys, kills := 40_000, 6
	if os.Getenv("LONG") != "" {
		keys, kills = 300_000, 30
	}
	src, dst := pair(t, "repl-backlog-size 64mb")
	redistest.Fill(t, src, redistest.FillOptions{Keys: keys, Seed: r.Uint64()})
	proxy := redistest.NewProxy(t, dst.Addr())
	proxy.Throttle(redistest.FromClient, keys*6) // so that all kills come before the end of it, on a slow machine too
	v := newVictim(t, t.TempDir(), src.URL(), dst.URLAt(proxy.Addr()))
	p := v.start()
	until(t, "the RDB has arrived", func() bool { return v.arrived() })
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Seed: r.Uint64(), Rate: 300, SwapDB: true})
	loading := 0
	for i := range kills {
		time.Sleep(between(r, 100*time.Millisecond, 2500*time.Millisecond))
		if i == 0 { // moments alone may all come before a slow machine's first report
			until(t, "some of the RDB is recorded as loaded", func() bool {
				n, _ := strconv.ParseInt(dst.DoString(t, "HGET", "redferry:default", "snapshot_read"), 10, 64)
				return n > 0
			})
		}
		p.Kill()
		if dst.DoString(t, "HGET", "redferry:default", "phase") == "snapshot" {
			loading++
		}
		p = v.start()
	}
	p.Kill()
	stop()
	if loading < kills-1 {
		t.Errorf("only %d of %d kills were while the RDB was loaded", loading, kills)
	}
	proxy.Throttle(redistest.FromClient, 0)
	v.equal(src, dst)
	if !v.said(0, "going on at byte") {
		t.Error("no start has gone on in the midst of the RDB")
	}
}

// A byte of a value that a bad disk has changed in the RDB: the RDB's own CRC tells. The copy is dropped, and the source asked for another.
func TestCrashSpoiltRDB(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, "rdbcompression no")
	src.Do(t, "DEBUG", "POPULATE", "2000", "key", "8192")
	proxy := redistest.NewProxy(t, dst.Addr())
	proxy.Throttle(redistest.FromClient, 256<<10) // a minute for all of it: it has arrived long before
	v := newVictim(t, t.TempDir(), src.URL(), dst.URLAt(proxy.Addr()))
	p := v.start()
	until(t, "the RDB has arrived", func() bool { return v.arrived() })
	p.Kill()
	changed := false
	v.tamper("rdb", func(_ int64, b []byte) []byte {
		if at := bytes.LastIndex(b, make([]byte, 4096)); at >= 0 && !changed { // in the midst of a value
			b[at] ^= 1
			changed = true
		}
		return b
	})
	if !changed {
		t.Fatal("found no value to spoil")
	}
	proxy.Throttle(redistest.FromClient, 0)
	damaged := v.start("--stop-at", "caught-up")
	if code, err := damaged.ExitCode(patience); err != nil || code != 1 {
		t.Fatalf("exit code %d (%v), want 1", code, err)
	}
	if phase := dst.DoString(t, "HGET", "redferry:default", "phase"); phase != "snapshot" {
		t.Errorf("phase: got %s", phase)
	}
	v.finish()
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
	if n := stat(t, src, "sync_full"); n != 2 {
		t.Errorf("full resyncs: got %d, want 2", n)
	}
}

// A --dir that was copied elsewhere has a spool that belongs to another place: it is not believed.
func TestCrashCopiedDir(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, "repl-backlog-size 64mb")
	v := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	v.finish()
	there := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	if err := os.CopyFS(filepath.Join(there.dir(), "default"), os.DirFS(filepath.Join(v.dir(), "default"))); err != nil {
		t.Fatal(err)
	}
	stop := redistest.StartLoad(t, src, redistest.LoadOptions{Rate: 2000})
	begun := src.Offset(t)
	until(t, "something is written", func() bool { return src.Offset(t) > begun+100_000 })
	stop()
	v.finish() // the copy is older than the target now
	there.equal(src, dst)
	if !there.said(0, "the folder was copied or moved here") {
		t.Error("it did not say that the folder was copied")
	}
}

// What is not the spool's stays where it is, in the spool's folder too; files of a newer redferry stop the run.
func TestCrashForeignFiles(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, "repl-backlog-size 64mb")
	v := newVictim(t, t.TempDir(), src.URL(), dst.URL())
	v.finish()
	foreign := []string{"notes.txt", "stream-00000000000000000099", "rdb-1"}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(v.spool(), name), []byte("not redferry's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src.Do(t, "SET", "a", "1")
	v.equal(src, dst)
	for _, name := range foreign {
		if b, err := os.ReadFile(filepath.Join(v.spool(), name)); err != nil || string(b) != "not redferry's" {
			t.Errorf("%s has %q now (%v)", name, b, err)
		}
	}

	path := filepath.Join(v.spool(), "state")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Replace(b, []byte("redferry-spool 1 "), []byte("redferry-spool 2 "), 1)
	if err := os.WriteFile(path, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	mark := len(v.logged())
	p := v.start()
	if code, err := p.ExitCode(patience); err != nil || code != 2 || !v.said(mark, "use the newer redferry that wrote them") {
		t.Errorf("files of a newer version: exit code %d (%v), want 2; it said %s", code, err, v.logged()[mark:])
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, newer) {
		t.Errorf("the newer state was touched (%v)", err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	v.equal(src, dst)
}

var rss = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// T82: a target that takes a tenth of what the source writes costs disk, and neither memory here nor in the source.
func TestCrashSlowTargetMemory(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, "repl-backlog-size 1mb")
	proxy := redistest.NewProxy(t, dst.Addr())
	v := newVictim(t, t.TempDir(), src.URL(), dst.URLAt(proxy.Addr()))
	v.finish()
	p := v.linked(src)
	proxy.Throttle(redistest.FromClient, 512<<10)
	value := string(noise(rand.New(rand.NewPCG(1, 1)), 16<<10))
	before := src.Offset(t)
	tick := time.NewTicker(50 * time.Millisecond) // 10 MB a second
	defer tick.Stop()
	held := func() int {
		n, _ := strconv.Atoi(src.Info(t, "memory")["mem_clients_slaves"])
		return n
	}
	behind := int64(0)
	for i := 0; i < 160 || behind < 48<<20; i++ { // a slow machine writes less while the target takes its part
		var cmds [][]string
		for j := range 32 {
			cmds = append(cmds, []string{"SET", fmt.Sprintf("k%d", (i*32+j)%500), value})
		}
		if _, err := src.Pipeline(cmds...); err != nil {
			t.Fatal(err)
		}
		until(t, "redferry takes from the source what that holds back for it", func() bool { return held() < 8<<20 })
		have, err := strconv.ParseInt(dst.DoString(t, "HGET", "redferry:default", "offset"), 10, 64)
		end := src.Offset(t)
		if behind = end - have; err != nil || end-before > 1<<30 {
			t.Fatalf("the source is at %d, and the target at %d (%v): it takes too much for this test", end, have, err)
		}
		<-tick.C
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Skipf("nobody tells how much memory it has: %v", err)
	}
	kb, _ := strconv.Atoi(string(rss.FindSubmatch(status)[1]))
	t.Logf("at most %d kB of memory, with the target %d bytes behind", kb, behind)
	if kb > mostMemory {
		t.Errorf("redferry had %d kB of memory, want %d at most", kb, mostMemory)
	}
	p.Kill()
	proxy.Throttle(redistest.FromClient, 0)
	v.equal(src, dst)
}
