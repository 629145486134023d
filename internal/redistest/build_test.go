package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorder is a TB that remembers how a helper ended the test.
type recorder struct {
	TB
	ended string
}

func (r *recorder) Fatalf(format string, args ...any) { r.end("fail", format, args) }
func (r *recorder) Skipf(format string, args ...any)  { r.end("skip", format, args) }

func (r *recorder) end(how, format string, args []any) {
	r.ended = how + ": " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestServers(t *testing.T) {
	tests := []struct {
		name  string
		there []string
		env   string // that is set to what CI would
		want  []string
		ended string
	}{
		{name: "some, on a developer's machine", there: []string{"valkey-9", "redis-6.0"}, want: []string{"redis-6.0", "valkey-9"}},
		{name: "some, in CI", there: []string{"redis-6.0", "redis-7.0", "valkey-9"}, env: "CI=true", ended: "fail: servers missing: redis-8.0, valkey-8.1;"},
		{name: "some, with all asked for", there: []string{"redis-6.0"}, env: "REDFERRY_ALL_SERVERS=1", ended: "fail: servers missing: redis-7.0,"},
		{name: "all, in CI", there: names(), env: "CI=true", want: names()},
		{name: "none", ended: "skip: no server"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("REDFERRY_SERVERS", dir)
			t.Setenv("PATH", dir) // no server there
			t.Setenv("CI", "")
			t.Setenv("REDFERRY_ALL_SERVERS", "")
			if name, value, ok := strings.Cut(tt.env, "="); ok {
				t.Setenv(name, value)
			}
			for _, name := range tt.there {
				if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name, "VERSION"), []byte("7.0.15\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "redis-7.0.unfinished"), 0o700); err != nil {
				t.Fatal(err)
			}
			r := &recorder{TB: t}
			var got []string
			done := make(chan struct{})
			go func() {
				defer close(done)
				for _, b := range Servers(r) {
					got = append(got, b.Name)
				}
			}()
			<-done
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("builds (-want +got):\n%s", diff)
			}
			if !strings.HasPrefix(r.ended, tt.ended) || tt.ended == "" && r.ended != "" {
				t.Errorf("it ended with %q, want %q", r.ended, tt.ended)
			}
		})
	}
}

func TestBuildAtLeast(t *testing.T) {
	tests := []struct {
		build        Build
		server       string
		major, minor int
		want         bool
	}{
		{Build{Server: "redis", Version: "7.0.15"}, "redis", 7, 0, true},
		{Build{Server: "redis", Version: "7.0.15"}, "redis", 7, 2, false},
		{Build{Server: "redis", Version: "6.2.1"}, "redis", 7, 0, false},
		{Build{Server: "redis", Version: "10.1.0"}, "redis", 7, 4, true},
		{Build{Server: "valkey", Version: "9.1.2"}, "redis", 7, 0, false},
		{Build{Server: "valkey", Version: "9.1.2"}, "valkey", 9, 1, true},
	}
	for _, tt := range tests {
		if got := tt.build.AtLeast(tt.server, tt.major, tt.minor); got != tt.want {
			t.Errorf("%s %s at least %s %d.%d: %v, want %v", tt.build.Server, tt.build.Version, tt.server, tt.major, tt.minor, got, tt.want)
		}
	}
}
