package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"redferry/internal/redistest"
)

// hook is what makes a suite wait after each test.
//
//go:embed hook.tcl
var hook string

// suite is the folder of a suite that servers.sh has fetched.
type suite struct{ dir string }

// findSuite gives a build's suite.
func findSuite(build string) (suite, error) {
	root := os.Getenv("REDFERRY_SUITES")
	if root == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return suite{}, err
		}
		root = filepath.Join(cmp.Or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(home, ".cache")), "redferry", "suites")
	}
	s := suite{dir: filepath.Join(root, build)}
	if _, err := os.Stat(filepath.Join(s.dir, "VERSION")); err != nil {
		return suite{}, fmt.Errorf("no suite of %s: %w; run internal/redistest/servers.sh --suites", build, err)
	}
	return s, nil
}

// files are the suite's files of single servers, by name: unit/type/string.
func (s suite) files() ([]string, error) {
	var names []string
	for _, pattern := range []string{"unit/*.tcl", "unit/type/*.tcl"} {
		found, err := filepath.Glob(filepath.Join(s.dir, "tests", pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			name, _ := filepath.Rel(filepath.Join(s.dir, "tests"), path)
			names = append(names, strings.TrimSuffix(filepath.ToSlash(name), ".tcl"))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no files in %s", s.dir)
	}
	slices.Sort(names)
	return names, nil
}

// leftOut says why a file does not run; empty when it does. What cannot run against an external server its suite itself skips, from 7.0 on.
func (s suite) leftOut(file string) string {
	if _, err := os.Stat(filepath.Join(s.dir, "tests", filepath.FromSlash(file)+".tcl")); err != nil {
		return "this suite has no such file"
	}
	switch file {
	case "unit/type/list-common":
		return "it has no tests of its own"
	case "unit/printver":
		return "it has no tests"
	case "unit/auth", "unit/acl", "unit/acl-v2":
		return "it changes who may log in"
	case "unit/shutdown", "unit/oom-score-adj", "unit/tls", "unit/limits":
		return "it needs a server of its own"
	case "unit/cluster", "unit/cluster-scripting":
		return "it needs a cluster"
	case "unit/obuf-limits":
		return "it takes another client for its own"
	case "unit/violations":
		return "it needs some ten GB of memory"
	}
	return ""
}

// marked tells the files that are marked external:skip in part or as a whole and run nevertheless: they want a server that is theirs alone, DEBUG, or its process.
func marked(file string) bool {
	switch file {
	case "unit/type/hash-field-expire", "unit/type/zset", "unit/maxmemory", "unit/other":
		return true
	}
	return false
}

// copyTo makes a suite that can be run in an empty folder: with the hook, and with what it expects of a built server.
func (s suite) copyTo(dir string, b redistest.Build) error {
	tests := filepath.Join(dir, "tests")
	if err := os.CopyFS(tests, os.DirFS(filepath.Join(s.dir, "tests"))); err != nil {
		return fmt.Errorf("copy the suite: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "src"), 0o700); err != nil {
		return err
	}
	for name, program := range map[string]string{"-server": b.Path, "-cli": filepath.Join(filepath.Dir(b.Path), "cli")} {
		if err := os.Symlink(program, filepath.Join(dir, "src", b.Server+name)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(tests, "support", "util.tcl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("hook the suite: %w", err)
	}
	if _, err = f.WriteString(hook); err != nil {
		_ = f.Close()
		return fmt.Errorf("hook the suite: %w", err)
	}
	return f.Close()
}

// outcome is what a suite has said of a file.
type outcome struct {
	ok, skipped int
	failures    []string // the tests that failed
	exception   string   // that ended the file
	last        string   // that it said
}

var said = regexp.MustCompile(`^\[(ok|err|skip|ignore|exception|timeout)\]: (.*)`)

// parse reads a suite's output.
func parse(output string) (o outcome) {
	failing := false
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		o.last = cmp.Or(line, o.last)
		m := said.FindStringSubmatch(line)
		switch {
		case m == nil && failing: // what was expected
			o.failures[len(o.failures)-1] += ": " + line
		case m == nil:
		case m[1] == "ok":
			o.ok++
		case m[1] == "skip", m[1] == "ignore":
			o.skipped++
		case m[1] == "err":
			o.failures = append(o.failures, m[2])
		default:
			o.exception = cmp.Or(o.exception, m[1]+": "+m[2])
		}
		failing = m != nil && m[1] == "err"
	}
	return o
}
