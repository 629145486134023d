package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// pair is a source with some keys, and an empty target.
func pair(t *testing.T, opts ...redistest.Option) (source, target *redistest.Server) {
	t.Helper()
	b := redistest.Latest(t)
	source, target = redistest.Start(t, b, opts...), redistest.Start(t, b, opts...)
	redistest.Fill(t, source, redistest.FillOptions{Keys: 500, NoTTL: true})
	return source, target
}

func ends(source, target *redistest.Server) []string {
	return []string{"--source", source.URL(), "--target", target.URL()}
}

func with(args []string, more ...string) []string {
	return append(append([]string{"run"}, args...), more...)
}

func TestRunUntilCaughtUp(t *testing.T) {
	t.Parallel()
	source, target := pair(t, redistest.Password("s3cr3tw0rd"))
	p := newProgram(t)
	r := p.run(t, with(ends(source, target), "--stop-at", "caught-up", "--log-interval", "10ms")...)
	r.expect(t, exitDone, "caught up")
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{})
	if r.stdout != "" {
		t.Errorf("stdout: got %q, want nothing", r.stdout)
	}
	if strings.Contains(r.stderr, "s3cr3t") {
		t.Error("the password is in the log")
	}
	lines := logLines(t, r.stderr)
	last := lines[len(lines)-1]
	if got := last["snapshot_keys"]; got != float64(502) || last["full_resyncs"] != float64(1) || last["exit_code"] != float64(0) {
		t.Errorf("the last line does not sum it up: %v", last)
	}
	// Again: it goes on from the checkpoint, and has nothing to do.
	r = p.run(t, with(ends(source, target), "--stop-at", "caught-up")...)
	r.expect(t, exitDone, `"full_resyncs":0`)
}

func TestStopAtOffset(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	run := p.start(t, with(ends(source, target), "--stop-at", fmt.Sprint(source.Offset(t)+400))...)
	run.until(t, "in_sync")
	for i := range 20 {
		source.Do(t, "SET", fmt.Sprint("after:", i), "x")
	}
	run.wait(t).expect(t, exitDone, "the target has all up to offset")
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": os.Interrupt, "SIGHUP": syscall.SIGHUP} {
		t.Run(name, func(t *testing.T) {
			source, target := pair(t)
			run := newProgram(t).start(t, with(ends(source, target))...)
			run.until(t, "in_sync")
			source.Do(t, "SET", "last", "words")
			run.Signal(sig)
			run.wait(t).expect(t, exitDone, name+" received", "the same command goes on from here")
		})
	}
	t.Run("SIGHUP under nohup", func(t *testing.T) {
		source, target := pair(t)
		p := newProgram(t)
		p.nohup = true
		run := p.start(t, with(ends(source, target))...)
		run.until(t, "in_sync")
		run.Signal(syscall.SIGHUP)
		run.Signal(syscall.SIGTERM)
		r := run.wait(t)
		r.expect(t, exitDone, "SIGTERM received")
		if strings.Contains(r.stderr, "SIGHUP received") {
			t.Errorf("it was heard: %s", r.stderr)
		}
	})
	t.Run("in the snapshot", func(t *testing.T) {
		source, target := pair(t, redistest.Config("rdb-key-save-delay 50000")) // µs for each key
		run := newProgram(t).start(t, with(ends(source, target))...)
		run.until(t, "snapshot")
		run.Signal(syscall.SIGTERM)
		run.wait(t).expect(t, exitDone, "stopped in the midst of the snapshot; the same command goes on with it")
	})
	t.Run("a second one", func(t *testing.T) {
		source, target := pair(t)
		p := newProgram(t)
		run := p.start(t, with(ends(source, target))...)
		run.until(t, "in_sync")
		target.Freeze() // so that the first one has to wait
		source.Do(t, "SET", "key", "value")
		wait(t, "it has something for the target", func() bool { return p.status(t).Run.Lag.ToApply > 0 })
		run.Signal(syscall.SIGTERM)
		run.untilText(t, "SIGTERM received")
		run.Signal(syscall.SIGTERM)
		began := time.Now()
		run.wait(t).expect(t, exitFailed)
		if took := time.Since(began); took > 40*time.Second { // the target has a minute to answer
			t.Errorf("it took %v", took)
		}
		target.Thaw()
	})
	t.Run("SIGKILL costs nothing", func(t *testing.T) {
		source, target := pair(t)
		p := newProgram(t)
		run := p.start(t, with(ends(source, target))...)
		run.until(t, "in_sync")
		run.Kill()
		source.Do(t, "SET", "meanwhile", "x")
		p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitDone, `"full_resyncs":0`)
		redistest.AssertEqual(t, source, target, redistest.CompareOptions{})
	})
}

// The arguments of a process are everybody's to read: no password may stay there.
func TestPasswordLeavesTheProcessList(t *testing.T) {
	t.Parallel()
	source, target := pair(t, redistest.Password("s3cr3tw0rd"))
	run := newProgram(t).start(t, "run", "--source", source.URL(), "--target="+target.URL())
	run.until(t, "in_sync")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", run.Pid())) // the same process as was started
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	if got := string(bytes.TrimRight(text, "\x00")); got != binary+"\x00run" {
		t.Errorf("cmdline: got %q", got)
	}
	run.Signal(syscall.SIGTERM)
	run.wait(t).expect(t, exitDone)
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	source, target := pair(t, redistest.Password("right"))
	bad := func(s *redistest.Server) string { return strings.Replace(s.URL(), "right", "wr0ng", 1) }
	p := newProgram(t)
	p.run(t, "run", "--source", bad(source), "--target", target.URL()).expect(t, exitUsage, "the source "+source.Addr(), "WRONGPASS")
	p.run(t, "run", "--source", source.URL(), "--target", bad(target)).expect(t, exitUsage, "the target "+target.Addr(), "WRONGPASS")
	for _, command := range []string{"status", "reset", "inspect"} {
		r := p.run(t, command, "--target", bad(target))
		r.expect(t, exitUsage, "WRONGPASS")
		if strings.Contains(r.stderr, "wr0ng") {
			t.Errorf("%s says the password", command)
		}
	}
}

// A target that lacks a command of redferry's own cannot become one by waiting.
func TestTargetLacksACommand(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	source := redistest.Start(t, b)
	for _, name := range []string{"EVAL", "WATCH"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := redistest.Start(t, b, redistest.Config("rename-command "+name+" hidden"))
			p := newProgram(t)
			p.run(t, "check", "--source", source.URL(), "--target", target.URL()).expect(t, exitDecide, "does not know "+name)
			p.run(t, with(ends(source, target))...).expect(t, exitUsage, "lacks a command", name)
		})
	}
}

// A sentinel that is given as a server has no data, and never will.
func TestSentinelAsAServer(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			source, target := redistest.Start(t, b), redistest.Start(t, b)
			sentinel := redistest.StartSentinels(t, source, 1)[0]
			p := newProgram(t)
			p.run(t, with(ends(sentinel, target))...).expect(t, exitUsage, "the source "+sentinel.Addr()+" is a sentinel", "redis+sentinel://")
			p.run(t, with(ends(source, sentinel))...).expect(t, exitUsage, "the target "+sentinel.Addr()+" is a sentinel", "redis+sentinel://")
		})
	}
}

func TestTargetNotEmpty(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	target.Do(t, "SET", "mine", "x")
	p := newProgram(t)
	p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitDecide, "is not empty (db0: 1", "--on-target-not-empty=flush")
	if got := target.DoString(t, "GET", "mine"); got != "x" {
		t.Errorf("the key is gone")
	}
	p.run(t, with(ends(source, target), "--stop-at", "caught-up", "--on-target-not-empty=merge")...).expect(t, exitDone)
	if got := target.DoString(t, "GET", "mine"); got != "x" {
		t.Errorf("the key is gone after merging")
	}
}

func TestRefusedWrite(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	target.Do(t, "RPUSH", "counter", "a list") // somebody else writes to the target
	source.Do(t, "INCR", "counter")
	r := run.wait(t)
	r.expect(t, exitRefused, "WRONGTYPE", "rejected.resp", "--on-error=continue")
	lines := logLines(t, r.stderr)
	if last := lines[len(lines)-1]; last["level"] != "error" || last["exit_code"] != float64(exitRefused) || last["hint"] == nil {
		t.Errorf("the last line is not the error: %v", last)
	}
	rejected, err := os.ReadFile(filepath.Join(p.home, "redferry", "default", "rejected.resp"))
	if want := "*2\r\n$4\r\nINCR\r\n$7\r\ncounter\r\n"; err != nil || !strings.HasSuffix(string(rejected), want) {
		t.Errorf("rejected.resp: got %q, %v, want it to end in %q", rejected, err, want)
	}
	p.run(t, with(ends(source, target), "--stop-at", "caught-up")...).expect(t, exitRefused, "refused 1 writes in an earlier run")
	p.run(t, with(ends(source, target), "--stop-at", "caught-up", "--on-error=continue")...).expect(t, exitDone)
	p.run(t, "status", "--target", target.URL()).expect(t, exitDone, "1 writes that the target refused")
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	t.Run("of this machine", func(t *testing.T) {
		p.run(t, with(ends(source, target))...).expect(t, exitOwned, "runs already on this machine", fmt.Sprint("pid ", run.Pid()))
	})
	other := newProgram(t)
	t.Run("of another one", func(t *testing.T) {
		other.run(t, with(ends(source, target))...).expect(t, exitOwned, "which is alive", "--takeover")
	})
	t.Run("that takes over", func(t *testing.T) {
		other.run(t, with(ends(source, target), "--takeover", "--stop-at", "caught-up")...).expect(t, exitDone)
		run.wait(t).expect(t, exitOwned, "another process has taken over")
	})
}

// A log that is not JSON, and not on a terminal: no bar, no colours.
func TestConsoleLog(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	r := newProgram(t).run(t, with(ends(source, target), "--stop-at", "caught-up", "--log-format", "console")...)
	r.expect(t, exitDone, "snapshot: ", "in_sync: ", "502 keys of a snapshot", "1 full resync, 0 reconnects, 0 refused writes")
	if strings.Contains(r.stderr, "\x1b") {
		t.Errorf("escapes in %q", r.stderr)
	}
}

// The rights that docs/operations.md names are enough, and none is asked for beyond them: no server has logged a refusal.
func TestDocumentedRights(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`(?m)^    ACL SETUSER (ferry-\S+) (on .*)$`).FindAllSubmatch(doc, -1)
	if len(rules) != 2 {
		t.Fatalf("found %d lines of ACL SETUSER, want one of the source and one of the target", len(rules))
	}
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			source, target := redistest.Start(t, b), redistest.Start(t, b)
			redistest.Fill(t, source, redistest.FillOptions{Keys: 200, NoTTL: true})
			for i, s := range []*redistest.Server{source, target} {
				rule := string(rules[i][2])
				leaveOut := func(words ...string) { // as the page says
					for _, w := range words {
						rule = strings.Replace(rule, " "+w, "", 1)
					}
				}
				if !b.Has70() {
					leaveOut("resetchannels", "&*", "+spublish")
					rule = strings.Replace(rule, "+client|setname", "+client", 1)
				}
				if b.Server == "redis" && !b.AtLeast("redis", 7, 2) {
					leaveOut("+client|setinfo")
				}
				s.Do(t, append([]string{"ACL", "SETUSER", string(rules[i][1])}, strings.Fields(rule)...)...)
			}
			url := func(s *redistest.Server, i int) string {
				return fmt.Sprintf("redis://%s:secret@%s", rules[i][1], s.Addr())
			}
			p := newProgram(t)
			run := p.start(t, "run", "--source", url(source, 0), "--target", url(target, 1))
			run.until(t, "in_sync")
			awkward(t, source)
			time.Sleep(1500 * time.Millisecond) // a lease and an acknowledgement or two
			run.Signal(syscall.SIGTERM)
			run.wait(t).expect(t, exitDone)
			p.run(t, "run", "--source", url(source, 0), "--target", url(target, 1), "--stop-at", "caught-up", "--takeover").expect(t, exitDone)
			redistest.AssertEqual(t, source, target, redistest.CompareOptions{})
			p.run(t, "status", "--target", url(target, 1)).expect(t, exitDone)
			p.run(t, "reset", "--target", url(target, 1)).expect(t, exitDone)
			for _, s := range []*redistest.Server{source, target} {
				log := s.Do(t, "ACL", "LOG")
				entries, _ := log.ToArray()
				for _, e := range entries {
					fields, _ := e.AsMap()
					what := fields["object"]
					text, _ := what.ToString()
					t.Errorf("%s refused %q", s.Addr(), text)
				}
			}
		})
	}
}

// awkward writes what is easily forgotten when rights are given.
func awkward(t *testing.T, s *redistest.Server) {
	t.Helper()
	s.Do(t, "FLUSHALL")
	s.DB(3).Do(t, "SET", "a", "b")
	s.Do(t, "SWAPDB", "3", "4")
	s.Do(t, "PUBLISH", "channel", "message")
	s.Do(t, "EVAL", "redis.call('SET', KEYS[1], 'x'); redis.call('LPUSH', KEYS[2], 'y')", "2", "{k}1", "{k}2")
	s.Do(t, "XADD", "stream", "*", "a", "b")
	s.Do(t, "PFADD", "hll", "a")
	s.Do(t, "GEOADD", "geo", "13.3", "38.1", "Palermo")
	s.Do(t, "SET", "expires", "x", "EX", "3600")
	s.Do(t, "RENAME", "{k}1", "{k}3")
	s.DB(4).Do(t, "MOVE", "a", "5")
	s.DB(5).Do(t, "FLUSHDB")
	if s.Build.Has70() {
		s.Do(t, "FUNCTION", "LOAD", "#!lua name=late\nredis.register_function('late', function() return 1 end)")
		s.Do(t, "FUNCTION", "DELETE", "late")
		s.Do(t, "SPUBLISH", "channel", "message")
		s.Do(t, "FUNCTION", "FLUSH")
	}
}

// The last line says that the target differs, and so does that of the next run; the exit code is that of a run that did what it should.
func TestRunThatSeesADivergence(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	source.Do(t, "SADD", "members", "a", "b", "c")
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	target.Do(t, "SREM", "members", "a")
	source.Do(t, "SREM", "members", "a")
	run.untilText(t, `"command":"SREM","count":1,"keys":["\"members\" in database 0"]`)
	run.Signal(os.Interrupt)
	run.wait(t).expect(t, exitDone, `"divergence":1,"divergence_kinds":"SREM=1"`)
	p.run(t, with(ends(source, target), "--stop-at", "caught-up", "--log-format", "console")...).expect(t, exitDone, "that has shown 1 time since the snapshot (SREM=1)")
	p.run(t, "status", "--target", target.URL()).expect(t, exitDone, "SREM=1: ")
}
