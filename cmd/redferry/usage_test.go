package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The environment is read for every command; what else may be wrong with a command line is in testdata/script/usage.txtar.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  string
		args []string
		want []string
	}{
		"bad duration":  {"REDFERRY_TARGET_TIMEOUT=soon", []string{"run", "--source", "redis://h", "--target", "redis://h"}, []string{"REDFERRY_TARGET_TIMEOUT", "duration"}},
		"misspelt":      {"REDFERRY_SORCE=redis://h", []string{"run", "--target", "redis://h"}, []string{"REDFERRY_SORCE", "did you mean REDFERRY_SOURCE?"}},
		"someone's own": {"REDFERRY_SERVICE_HOST=10.0.0.1", []string{"inspect", "/does/not/exist"}, []string{"warning: the environment has REDFERRY_SERVICE_HOST"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			newProgram(t, tt.env).run(t, tt.args...).expect(t, exitUsage, tt.want...)
		})
	}
}

// Whatever is wrong with a URL or a command line: no part of the password is said.
func TestPasswordIsNeverPrinted(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3tw0rd"
	for name, url := range map[string]string{
		"slash":           "redis://user:" + secret + "/x@127.0.0.1:1",
		"slash and port":  "redis://user:1/" + secret + "@127.0.0.1:1",
		"hash":            "redis://:" + secret + "#x@127.0.0.1:1",
		"question":        "redis://:1?" + secret + "@127.0.0.1:1",
		"percent":         "redis://:%zz" + secret + "@127.0.0.1:1",
		"space":           "redis://:a " + secret + "@127.0.0.1:1",
		"two ats":         "redis://:" + secret + "@" + secret + "@127.0.0.1:1",
		"sentinel":        "redis+sentinel://:" + secret + "@127.0.0.1:1/x",
		"several hosts":   "redis://:" + secret + "@127.0.0.1:1,127.0.0.1:2",
		"twice":           "redis://:" + secret + "@127.0.0.1:1,:" + secret + "@127.0.0.1:2",
		"master's name":   "redis+sentinel://:1/" + secret + "@127.0.0.1:1/x",
		"database":        "redis://:" + secret + "@127.0.0.1:1/3",
		"bad port":        "redis://:" + secret + "@127.0.0.1:port",
		"nobody's server": "redis://:" + secret + "@127.0.0.1:1",
	} {
		t.Run(name, func(t *testing.T) {
			for _, args := range [][]string{
				{"status", "--target", url}, {"status", "--target=" + url}, {"status", url}, {"run", "--source", url}, {"--target", url}, {"status", "--name", url, "--target", "redis://h"},
			} {
				r := newProgram(t).run(t, args...)
				if text := r.stdout + r.stderr; strings.Contains(text, secret) || text == "" || r.code == 0 {
					t.Errorf("%s: code %d: %s", args[0], r.code, text)
				}
			}
			r := newProgram(t, "REDFERRY_TARGET="+url).run(t, "status")
			if strings.Contains(r.stdout+r.stderr, secret) {
				t.Errorf("from the environment: %s", r.stderr)
			}
		})
	}
}

func TestWithoutSecrets(t *testing.T) {
	tests := map[string]struct {
		args, rest []string
		moved      map[string]string
	}{
		"none":            {[]string{"redferry", "run", "--source", "redis://h"}, []string{"redferry", "run", "--source", "redis://h"}, map[string]string{}},
		"two words":       {[]string{"r", "run", "--source", "redis://:p@h", "--name", "x"}, []string{"r", "run", "--name", "x"}, map[string]string{"REDFERRY_SOURCE": "redis://:p@h"}},
		"one word":        {[]string{"r", "--target=redis://u:p@h", "run"}, []string{"r", "run"}, map[string]string{"REDFERRY_TARGET": "redis://u:p@h"}},
		"both":            {[]string{"r", "--target=a@b", "--source", "c@d"}, []string{"r"}, map[string]string{"REDFERRY_TARGET": "a@b", "REDFERRY_SOURCE": "c@d"}},
		"= in password":   {[]string{"r", "--source=redis://:a=b@h"}, []string{"r"}, map[string]string{"REDFERRY_SOURCE": "redis://:a=b@h"}},
		"the last counts": {[]string{"r", "--source", "redis://:p@h", "--source=redis://i"}, []string{"r"}, map[string]string{"REDFERRY_SOURCE": "redis://i"}},
		"no value":        {[]string{"r", "run", "--source"}, []string{"r", "run", "--source"}, map[string]string{}},
		"behind --":       {[]string{"r", "inspect", "--", "--source=a@b"}, []string{"r", "inspect", "--", "--source=a@b"}, map[string]string{}},
		"another flag":    {[]string{"r", "--name", "a@b"}, []string{"r", "--name", "a@b"}, map[string]string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rest, moved := withoutSecrets(tt.args)
			if diff := cmp.Diff(tt.rest, rest); diff != "" {
				t.Errorf("rest (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.moved, moved); diff != "" {
				t.Errorf("moved (-want +got):\n%s", diff)
			}
		})
	}
}

// The variables of secretFlags are those that the flags really have, and every flag has one of its own.
func TestEveryFlagHasItsVariable(t *testing.T) {
	parser, err := newParser(context.Background(), &cli{}, &streams{out: io.Discard, err: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	want := secretFlags()
	flags := map[string]string{}
	for _, f := range allFlags(parser.Model) {
		if f.Name == "help" {
			continue
		}
		if len(f.Envs) != 1 || f.Envs[0] != envPrefix+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")) {
			t.Errorf("--%s: got the variables %q", f.Name, f.Envs)
		}
		flags["--"+f.Name] = f.Envs[0]
	}
	for name, env := range want {
		if flags[name] != env {
			t.Errorf("%s: got the variable %q, want %q", name, flags[name], env)
		}
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"dial redis://u:p@h:1: refused":   "dial redis://***@h:1: refused",
		"a rediss://:a/b@c@h b":           "a rediss://***@h b",
		"x redis://:a b@h\ny a@b":         "x redis://***@h\ny a@b",
		"redis://h:1 and nothing to hide": "redis://h:1 and nothing to hide",
		"mail me@example.org":             "mail me@example.org",
	} {
		if got := redact(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"REDFERRY_SOURCE", "REDFERRY_DIR", "REDFERRY_TARGET_TLS_CA", "source", "dir"}
	for text, want := range map[string]string{
		"REDFERRY_SORCE": "REDFERRY_SOURCE", "REDFERRY_SOURCES": "REDFERRY_SOURCE", "REDFERRY_DIRS": "REDFERRY_DIR",
		"REDFERRY_BIN": "", "REDFERRY_SERVERS": "", "REDFERRY_SERVICE_HOST": "", "soruce": "source", "dri": "", "": "",
	} {
		if got := nearest(text, words); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
