package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"redferry/internal/redistest"
)

// TestCheck runs testdata/check/*.txtar, each with a source that holds a key, and an empty target, of its own: $SOURCE and $TARGET are their URLs. Two commands are
// added to testscript's: `source ARG…` and `target ARG…` speak to them, and `redferry CODE ARG…` runs the program and wants this exit code.
func TestCheck(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	speak := func(end string) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			if err := ts.Value(end).(*redistest.Server).TryDo(args...); (err != nil) != neg {
				ts.Fatalf("%q: %v", args, err)
			}
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "check"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			tb, ok := env.T().(redistest.TB)
			if !ok {
				return errors.New("a testscript is no test here")
			}
			source, target := redistest.Start(tb, b, redistest.Password("s3cr3tw0rd")), redistest.Start(tb, b)
			source.Do(tb, "SET", "key", "value")
			env.Values["source"], env.Values["target"] = source, target
			env.Vars = append(env.Vars, "SOURCE="+source.URL(), "TARGET="+target.URL(), "SOURCE_ADDR="+source.Addr(),
				"XDG_STATE_HOME="+filepath.Join(env.WorkDir, "state"), "GORACE=atexit_sleep_ms=0", "PATH="+os.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"source": speak("source"),
			"target": speak("target"),
			"redferry": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got, err := 0, ts.Exec(binary, args[1:]...)
				var ended *exec.ExitError
				switch {
				case errors.As(err, &ended):
					got = ended.ExitCode()
				case err != nil:
					ts.Fatalf("%v", err)
				}
				if got != want {
					ts.Fatalf("exit code: got %d, want %d", got, want)
				}
			},
		},
	})
}
