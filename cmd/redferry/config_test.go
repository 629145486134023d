package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// parse parses a command line of run, with a configuration file.
func parse(t *testing.T, file string, args ...string) (*cli, *streams, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "redferry.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	c, s := &cli{}, &streams{out: io.Discard, err: io.Discard}
	parser, err := newParser(context.Background(), c, s)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(append([]string{"run", "--config", path}, args...))
	return c, s, err
}

const bothEnds = "source: redis://a\ntarget: redis://b\n"

func TestConfigValues(t *testing.T) {
	c, _, err := parse(t, `# a comment
source: "redis://:p%40ss@a:1"
target: redis://b # and another
name: 1.10
publish: false
takeover: yes
target-timeout: 90s
snapshot-pipelines: 5
stop-at: 123456
dir: |
  /var/lib/x
renamed-command: {MYSET: SET, MYDEL: DEL}
source-tls-ca: ca.pem
`)
	if err != nil {
		t.Fatal(err)
	}
	r := c.Run
	for name, ok := range map[string]bool{
		"source":             r.Source == "redis://:p%40ss@a:1",
		"target":             r.Target == "redis://b",
		"name":               r.Name == "1.10",
		"publish":            !r.Publish,
		"takeover":           r.Takeover,
		"target-timeout":     r.TargetTimeout == 90*time.Second,
		"snapshot-pipelines": r.SnapshotPipelines == 5,
		"stop-at":            r.StopAt == "123456",
		"dir":                r.Dir == "/var/lib/x",
		"renamed-command":    r.RenamedCommand["MYSET"] == "SET" && r.RenamedCommand["MYDEL"] == "DEL",
		"source-tls-ca":      r.SourceTLS.CA == "ca.pem",
		"default":            r.OnError == "stop",
	} {
		if !ok {
			t.Errorf("%s is not as the file says: %+v", name, r)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		file string
		want []string
	}{
		"unknown key":         {bothEnds + "colour: red\n", []string{"line 3", `"colour"`}},
		"nearly a key":        {bothEnds + "on-eror: stop\n", []string{"line 3", `"on-eror"`, `"on-error"`}},
		"underscore":          {bothEnds + "on_error: stop\n", []string{`did you mean "on-error"`}},
		"itself":              {bothEnds + "config: x\n", []string{`"config"`}},
		"twice":               {bothEnds + "source: x\n", []string{"source"}},
		"no duration":         {bothEnds + "target-timeout: 90\n", []string{"--target-timeout", "line 3", "duration"}},
		"no bool":             {bothEnds + "publish: maybe\n", []string{"--publish", "line 3", "maybe"}},
		"no number":           {bothEnds + "snapshot-pipelines: many\n", []string{"--snapshot-pipelines", "line 3", "many"}},
		"no choice":           {bothEnds + "on-error: ignore\n", []string{"--on-error", "line 3", "stop,continue"}},
		"a mapping":           {bothEnds + "name: {a: b}\n", []string{"--name", "line 3", "mapping"}},
		"a list":              {bothEnds + "name: [a]\n", []string{"line 3"}},
		"empty value":         {bothEnds + "name:\n", []string{"line 3", "name"}},
		"a mapping in one":    {bothEnds + "renamed-command: {a: {b: c}}\n", []string{"line 3"}},
		"not a mapping":       {"- a\n", []string{"line 1"}},
		"no YAML":             {"source: [\n", []string{"line"}},
		"no YAML, a password": {"target: \"redis://:s3cret@h\n", []string{"YAML"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(t, tt.file)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to name %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("it has the password: %q", err)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	file := bothEnds + "name: from-file\ntarget-timeout: 10s\n"
	t.Run("the file", func(t *testing.T) {
		if c, _, err := parse(t, file); err != nil || c.Run.Name != "from-file" {
			t.Errorf("got %q, %v", c.Run.Name, err)
		}
	})
	t.Run("a variable before the file", func(t *testing.T) {
		t.Setenv("REDFERRY_NAME", "from-env")
		if c, _, err := parse(t, file); err != nil || c.Run.Name != "from-env" || c.Run.TargetTimeout != 10*time.Second {
			t.Errorf("got %q, %v, %v", c.Run.Name, c.Run.TargetTimeout, err)
		}
	})
	t.Run("a flag before both", func(t *testing.T) {
		t.Setenv("REDFERRY_NAME", "from-env")
		if c, _, err := parse(t, file, "--name", "from-flag"); err != nil || c.Run.Name != "from-flag" {
			t.Errorf("got %q, %v", c.Run.Name, err)
		}
	})
	t.Run("the file by a variable", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(path, []byte("target: redis://127.0.0.1:1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		newProgram(t, "REDFERRY_CONFIG="+path).run(t, "status").expect(t, exitFailed, "127.0.0.1:1")
	})
}

func TestReadablePassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	for name, tt := range map[string]struct {
		text string
		mode os.FileMode
		want bool
	}{
		"readable, with a password":    {"target: redis://:p@127.0.0.1:1\n", 0o644, true},
		"private, with a password":     {"target: redis://:p@127.0.0.1:1\n", 0o640, false},
		"readable, without a password": {"target: redis://127.0.0.1:1\n", 0o644, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			r := newProgram(t).run(t, "status", "--config", path)
			if got := strings.Contains(r.stderr, "chmod 600"); got != tt.want {
				t.Errorf("got a warning %v, want %v: %s", got, tt.want, r.stderr)
			}
		})
	}
}

// Whatever a file holds: an error or settings, never a panic.
func FuzzLoadConfig(f *testing.F) {
	f.Add(bothEnds)
	f.Add("a: {b: c, d: &x e}\n---\n? [k]\n: *x\n<<: y\n!!tag z: |\n  q\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := loadConfig(strings.NewReader(text))
		if (c == nil) == (err == nil) {
			t.Errorf("got %v and %v", c, err)
		}
	})
}
