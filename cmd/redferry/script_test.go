package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/rogpeppe/go-internal/testscript"

	"redferry/internal/redistest"
)

// TestScripts runs testdata/script/*.txtar, each of which shows what the program answers in one situation. Each has a source that holds a key, and an empty target, of its own:
// $SOURCE and $TARGET are their URLs, $SOURCE_ADDR and $TARGET_ADDR their addresses. Beside testscript's own commands there are those of [script]; `[redis-cli]` is true where there is
// one, and `exec redis-cli` is it.
func TestScripts(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	cli := filepath.Join(filepath.Dir(b.Path), "cli")
	command := func(f func(s *script, ts *testscript.TestScript, neg bool, args []string)) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			f(ts.Value("script").(*script), ts, neg, args)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			tb, ok := env.T().(redistest.TB)
			if !ok {
				return errors.New("a testscript is no test here")
			}
			s := &script{t: tb, source: redistest.Start(tb, b, redistest.Password("s3cr3tw0rd")), target: redistest.Start(tb, b)}
			s.source.Do(tb, "SET", "key", "value")
			bin := filepath.Join(env.WorkDir, "bin")
			if err := errors.Join(os.Mkdir(bin, 0o700), os.Symlink(cli, filepath.Join(bin, "redis-cli")), os.Symlink(binary, filepath.Join(bin, "redferry"))); err != nil {
				return err
			}
			env.Values["script"] = s
			env.Vars = append(env.Vars, "SOURCE="+s.source.URL(), "TARGET="+s.target.URL(), "SOURCE_ADDR="+s.source.Addr(), "TARGET_ADDR="+s.target.Addr(),
				"XDG_STATE_HOME="+filepath.Join(env.WorkDir, "state"), "GORACE=atexit_sleep_ms=0", "PATH="+bin+":"+os.Getenv("PATH"))
			s.env = slices.Clone(env.Vars)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "redis-cli" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			_, err := os.Stat(cli)
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"redferry": command((*script).redferry),
			"run":      command((*script).start),
			"until":    command((*script).until),
			"signal":   command((*script).signal),
			"ended":    command((*script).ended),
			"arrived":  command((*script).arrived),
			"source":   command(func(s *script, ts *testscript.TestScript, neg bool, args []string) { speak(s.source, ts, neg, args) }),
			"target":   command(func(s *script, ts *testscript.TestScript, neg bool, args []string) { speak(s.target, ts, neg, args) }),
		},
	})
}

// script is what a running script has beside its folder.
type script struct {
	t              redistest.TB
	env            []string
	source, target *redistest.Server
	run            *running // the last one; nil before
}

// redferry is `redferry CODE ARG…`: the program to its end, which must have this exit code.
func (s *script) redferry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: redferry CODE ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitCode(ts, args[1:]); got != want {
		ts.Fatalf("exit code: got %d, want %d", got, want)
	}
}

// exitCode runs the program, and gives its exit code.
func exitCode(ts *testscript.TestScript, args []string) int {
	err := ts.Exec(binary, args...)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		return ended.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	return 0
}

// start is `run ARG…`: redferry run from the source to the target, in the background. One is under way at a time.
func (s *script) start(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: run ARG…")
	}
	if s.run != nil {
		select {
		case <-s.run.Exited():
		default:
			ts.Fatalf("the last run is still under way")
		}
	}
	cmd := exec.Command(binary, append([]string{"run", "--source", s.source.URL(), "--target", s.target.URL()}, args...)...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), s.env
	r := &running{}
	cmd.Stdout, cmd.Stderr = &r.stdout, &r.stderr
	r.Process = redistest.StartProcess(s.t, cmd)
	s.run = r
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("the run's log:\n%s", r.stderr.String())
		}
	})
}

// until is `until PATTERN ARG…`: redferry ARG… again and again, until its output has the pattern; for as long as is waited for anything. Its exit code does not count.
func (s *script) until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN ARG…")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(patient); ; time.Sleep(20 * time.Millisecond) {
		exitCode(ts, args[1:])
		if pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("redferry %s never says %q", strings.Join(args[1:], " "), args[0])
		}
	}
}

// signal is `signal TERM|INT|KILL`, to the run.
func (s *script) signal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": os.Interrupt, "KILL": os.Kill}
	if neg || len(args) != 1 || signals[args[0]] == nil || s.run == nil {
		ts.Fatalf("usage: signal TERM|INT|KILL, after run")
	}
	s.run.Signal(signals[args[0]])
}

// ended is `ended CODE`: the run ends with this exit code; -1 is that of one that was killed. stdout and stderr are all that it has printed.
func (s *script) ended(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || s.run == nil {
		ts.Fatalf("usage: ended CODE, after run")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got, err := s.run.ExitCode(patient)
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), s.run.stdout.String())
	fmt.Fprint(ts.Stderr(), s.run.stderr.String())
	if got != want {
		ts.Fatalf("exit code of the run: got %d, want %d", got, want)
	}
}

// arrived is `arrived KEY VALUE`: the target gets this string. That a run says it has no lag may be older than the write to the source.
func (s *script) arrived(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: arrived KEY VALUE")
	}
	for end := time.Now().Add(patient); ; time.Sleep(20 * time.Millisecond) {
		got := s.target.DoString(s.t, "GET", args[0])
		if got == args[1] {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("the target has %q in %s, want %q", got, args[0], args[1])
		}
	}
}

// speak is `source ARG…` and `target ARG…`: a command to a server. Its answer is in stdout, a line for each element; an error, which only `! source ARG…` permits, in stderr.
func speak(server *redistest.Server, ts *testscript.TestScript, neg bool, args []string) {
	results, err := server.Pipeline(args)
	ts.Check(err)
	answer, err := results[0].ToAny()
	stdout, stderr := ts.Stdout(), ts.Stderr() // also where there is nothing to print: what the last command has printed goes
	if rueidis.IsRedisNil(err) {
		answer, err = "(nil)", nil
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	} else if list, ok := answer.([]any); ok {
		for _, element := range list {
			fmt.Fprintln(stdout, element)
		}
	} else {
		fmt.Fprintln(stdout, answer)
	}
	if (err != nil) != neg {
		ts.Fatalf("%q: %v", args, err)
	}
}
