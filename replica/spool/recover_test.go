package spool

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// filled is a folder with a whole RDB of 3000 bytes and a stream (500, 3500] of A, and from 2500 on of B, all in segments of 1000 and on disk.
func filled(t *testing.T) Config {
	t.Helper()
	c := Config{Dir: filepath.Join(t.TempDir(), "spool"), Place: "here", Segment: 1000}
	s, err := Open(c)
	must(t, err)
	must(t, s.BeginSnapshot(idA, 500, 3000))
	appended(t, s, text(0, 3000))
	must(t, s.EndSnapshot())
	appended(t, s, text(500, 2000))
	must(t, s.Continue(idB))
	appended(t, s, text(2500, 1000))
	must(t, s.Close())
	return c
}

func (c Config) path(name string) string { return filepath.Join(c.Dir, name) }

func segmentName(k kind, first int64) string { return header{kind: k, first: first}.name() }

func truncate(t *testing.T, path string, by int64) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Truncate(path, info.Size()-by))
}

func overwrite(t *testing.T, path string, b []byte, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(b, at)
	must(t, errors.Join(err, f.Close()))
}

// reboot makes the state one of another boot that trusts the stream up to an offset, and the RDB up to a byte.
func reboot(t *testing.T, c Config, rdb, stream int64) {
	t.Helper()
	b, err := os.ReadFile(c.path(stateName))
	must(t, err)
	st, err := decodeState(b)
	must(t, err)
	st.Boot, st.TrustedRDB, st.TrustedStream = "another", rdb, stream
	b, err = st.encode()
	must(t, err)
	must(t, os.WriteFile(c.path(stateName), b, 0o600))
}

func TestRecover(t *testing.T) {
	whole := Contents{Snapshot: true, ID: idA, At: 500, Size: 3000, RDBEnd: 3000, Complete: true, EndID: idB, First: 500, End: 3500}
	streamOnly := Contents{EndID: idB, First: 500, End: 3500}
	upTo := func(c Contents, end int64, id string) Contents {
		c.End, c.EndID = end, id
		return c
	}
	rdbFrom := func(first int64) Contents {
		c := whole
		c.RDBFirst = first
		return c
	}
	for name, test := range map[string]struct {
		damage func(t *testing.T, c Config)
		want   Contents
		found  string
	}{
		"nothing happened": {func(*testing.T, Config) {}, whole, "found an RDB of 3000 bytes and the stream from offset 500 to 3500 of " + idB},
		"torn tail":        {func(t *testing.T, c Config) { truncate(t, c.path(segmentName(kindStream, 2500)), 300) }, upTo(whole, 3200, idB), ""},
		"torn tail, other boot": {func(t *testing.T, c Config) {
			truncate(t, c.path(segmentName(kindStream, 2500)), 300)
			reboot(t, c, 3000, 3500)
		}, upTo(whole, 3200, idB), ""},
		"torn in the middle":        {func(t *testing.T, c Config) { truncate(t, c.path(segmentName(kindStream, 1500)), 1) }, upTo(whole, 2499, idA), "dropped 1000 bytes"},
		"missing in the middle":     {func(t *testing.T, c Config) { must(t, os.Remove(c.path(segmentName(kindStream, 1500)))) }, upTo(whole, 1500, idA), "dropped 1000 bytes"},
		"missing at the front":      {func(t *testing.T, c Config) { must(t, os.Remove(c.path(segmentName(kindStream, 500)))) }, Contents{EndID: idB, First: 1500, End: 3500}, ""},
		"no stream":                 {func(t *testing.T, c Config) { glob(t, c.path("stream-*"), os.Remove) }, upTo(whole, 500, idA), ""},
		"the times lost":            {func(t *testing.T, c Config) { glob(t, c.path("time-*"), os.Remove) }, whole, ""},
		"RDB missing in the middle": {func(t *testing.T, c Config) { must(t, os.Remove(c.path(segmentName(kindRDB, 1000)))) }, rdbFrom(2000), ""},
		"RDB missing at the front":  {func(t *testing.T, c Config) { must(t, os.Remove(c.path(segmentName(kindRDB, 0)))) }, rdbFrom(1000), "from byte 1000 on"},
		"RDB missing at the end":    {func(t *testing.T, c Config) { must(t, os.Remove(c.path(segmentName(kindRDB, 2000)))) }, streamOnly, ""},
		"RDB torn":                  {func(t *testing.T, c Config) { truncate(t, c.path(segmentName(kindRDB, 2000)), 1) }, streamOnly, ""},
		"power cut":                 {func(t *testing.T, c Config) { reboot(t, c, 3000, 3500) }, whole, ""},
		"power cut before the sync": {func(t *testing.T, c Config) { reboot(t, c, 2999, 2600) }, upTo(streamOnly, 2600, idB), "dropped 3900 bytes"},
		"power cut before the link": {func(t *testing.T, c Config) { reboot(t, c, 3000, 2400) }, upTo(whole, 2400, idA), ""},
		"power cut, garbage": {func(t *testing.T, c Config) {
			reboot(t, c, 3000, 2600)
			overwrite(t, c.path(segmentName(kindStream, 2500)), make([]byte, 900), headerSize+100)
		}, upTo(whole, 2600, idB), ""},
		"no state":        {func(t *testing.T, c Config) { must(t, os.Remove(c.path(stateName))) }, Contents{}, "there is no state"},
		"a garbled state": {func(t *testing.T, c Config) { overwrite(t, c.path(stateName), []byte("x"), 90) }, Contents{}, "its state is garbled"},
		"an empty state":  {func(t *testing.T, c Config) { must(t, os.Truncate(c.path(stateName), 0)) }, Contents{}, "its state is garbled"},
		"copied and moved back": {func(t *testing.T, c Config) {
			run(t, "cp", "-a", c.Dir, c.Dir+"2")
			must(t, os.RemoveAll(c.Dir))
			run(t, "mv", c.Dir+"2", c.Dir)
		}, Contents{}, "copied or moved"},
		"a segment of another spool": {func(t *testing.T, c Config) { foreignSegment(t, c) }, upTo(whole, 2500, idB), ""},
		"an empty file":              {func(t *testing.T, c Config) { must(t, os.WriteFile(c.path(segmentName(kindStream, 3500)), nil, 0o600)) }, whole, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := filled(t)
			test.damage(t, c)
			s := opened(t, c)
			if got := s.Contents(); got != test.want || !strings.Contains(s.Found(), test.found) {
				t.Fatalf("got  %+v\nwant %+v\n%s", got, test.want, s.Found())
			}
			if test.want.EndID == "" {
				must(t, s.BeginStream(idC, 0))
				left, err := os.ReadDir(c.Dir)
				left = slices.DeleteFunc(left, func(f os.DirEntry) bool { return f.Name() == stateTemp }) // that the state is being written to
				if err != nil || len(left) != 3 {
					t.Fatalf("%v is left, %v", left, err)
				}
				return
			}
			if test.want.Snapshot {
				r, err := s.ReadSnapshot(test.want.RDBFirst)
				must(t, err)
				defer r.Close()
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text(test.want.RDBFirst, 3000-test.want.RDBFirst)) {
					t.Fatalf("the RDB differs, %v", err)
				}
			}
			appended(t, s, text(test.want.End, 1234))
			if !bytes.Equal(streamBytes(t, s, test.want.First, test.want.End+1234), text(test.want.First, test.want.End+1234-test.want.First)) {
				t.Fatal("the stream differs")
			}
		})
	}
}

func glob(t *testing.T, pattern string, do func(string) error) {
	t.Helper()
	names, err := filepath.Glob(pattern)
	must(t, err)
	for _, name := range names {
		must(t, do(name))
	}
}

func run(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// foreignSegment replaces the last segment by one that is like it, of another spool.
func foreignSegment(t *testing.T, c Config) {
	t.Helper()
	name := segmentName(kindStream, 2500)
	b, err := os.ReadFile(filled(t).path(name))
	must(t, err)
	must(t, os.WriteFile(c.path(name), b, 0o600))
}

func TestFilledByTheSameBootOnly(t *testing.T) {
	c := filled(t)
	s := opened(t, c)
	must(t, s.BeginSnapshot(idC, 0, 100))
	appended(t, s, text(0, 99))
	must(t, s.Close())
	if s := opened(t, c); s.Contents() != (Contents{}) || !strings.Contains(s.Found(), "its RDB had not arrived whole") {
		t.Fatalf("%+v, %s", s.Contents(), s.Found())
	}
}

func TestForeignFiles(t *testing.T) {
	c := filled(t)
	foreign := map[string]string{
		"notes":                             "mine",
		"stream-1":                          "mine",
		"rdb-00000000000000000000.bak":      "mine",
		segmentName(kindStream, 3500):       "mine, although it is called so",
		segmentName(kindRDB, 5000):          strings.Repeat("mine and long", 100),
		segmentName(kindTime, 123) + ".tmp": "",
	}
	for name, text := range foreign {
		must(t, os.WriteFile(c.path(name), []byte(text), 0o600))
	}
	s := opened(t, c)
	if got := s.Contents().End; got != 3500 {
		t.Fatalf("believed up to %d", got)
	}
	err := s.Append(t.Context(), text(3500, 10), at)
	if !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), segmentName(kindStream, 3500)) {
		t.Fatalf("a foreign file in the way: %v", err)
	}
	must(t, os.Rename(c.path(segmentName(kindStream, 3500)), c.path("moved")))
	delete(foreign, segmentName(kindStream, 3500))
	appended(t, s, text(3500, 10))
	must(t, s.BeginStream(idC, 7))
	must(t, s.Close())
	must(t, Remove(c.Dir))
	for name, text := range foreign {
		if got, err := os.ReadFile(c.path(name)); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		must(t, os.Remove(c.path(name)))
	}
	must(t, os.Remove(c.path("moved")))
	must(t, Remove(c.Dir))
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the folder is still there: %v", err)
	}
	must(t, Remove(c.Dir))
}

func TestNewerVersion(t *testing.T) {
	for _, name := range []string{stateName, segmentName(kindRDB, 1000)} {
		t.Run(name, func(t *testing.T) {
			c := filled(t)
			b, err := os.ReadFile(c.path(name))
			must(t, err)
			must(t, os.WriteFile(c.path(name), bytes.Replace(b, []byte(magic+" 1 "), []byte(magic+" 2 "), 1), 0o600))
			_, err = Open(c)
			if err == nil || !strings.Contains(err.Error(), "format 2") || !strings.Contains(err.Error(), "redferry reset") {
				t.Fatal(err)
			}
			names, err := os.ReadDir(c.Dir)
			if err != nil || len(names) != 10 {
				t.Fatalf("%v, %v", names, err)
			}
			must(t, Remove(c.Dir))
			if s := opened(t, c); s.Found() != "" {
				t.Fatal(s.Found())
			}
		})
	}
}

func TestPlace(t *testing.T) {
	c := filled(t)
	c.Place = "there"
	if s := opened(t, c); s.Contents() != (Contents{}) {
		t.Fatal("believed another machine's files")
	}
	copied := filled(t)
	c = Config{Dir: copied.Dir + "2", Place: copied.Place}
	run(t, "cp", "-a", copied.Dir, c.Dir)
	if s := opened(t, c); s.Contents() != (Contents{}) || !strings.Contains(s.Found(), "copied") {
		t.Fatalf("believed a copy: %s", s.Found())
	}
	if s := opened(t, copied); s.Contents().End != 3500 {
		t.Fatal("did not believe the original")
	}
}

func TestModes(t *testing.T) {
	c := filled(t)
	info, err := os.Stat(c.Dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v", info.Mode())
	}
	glob(t, c.path("*"), func(name string) error {
		info, err := os.Stat(name)
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v", name, info.Mode())
		}
		return err
	})
}

func FuzzState(f *testing.F) {
	good, err := state{Place: "here", description: description{Generation: "g", Links: []link{{idA, 5}, {idB, 9}}}, TrustedStream: 10}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(magic + " 1 state 00000000\n{}"))
	f.Add([]byte(magic + " 7 state 00000000\n{}"))
	f.Add(bytes.Replace(good, []byte(`"From`), []byte(`"from`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := st.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(again); err != nil {
			t.Fatalf("%q became %q: %v", b, again, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	good := header{kindStream, "g", 1234}.encode()
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("1234"), []byte("-234"), 1))
	f.Add(bytes.Replace(good, []byte(" 1 "), []byte(" 2 "), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err == nil && !bytes.Equal(h.encode(), b[:headerSize]) {
			t.Fatalf("%q became %q", b, h.encode())
		}
	})
}

func FuzzMarks(f *testing.F) {
	f.Add(make([]byte, 40), int64(0), int64(100))
	f.Fuzz(func(t *testing.T, b []byte, first, end int64) {
		last := first
		for _, m := range decodeMarks(b, first, end) {
			if m.offset <= last || m.offset > end {
				t.Fatalf("offset %d after %d, of (%d, %d]", m.offset, last, first, end)
			}
			last = m.offset
		}
	})
}

// TestTrustIsNotInherited: what is written anew where bytes were lost is not trusted by what the state said of the lost ones.
func TestTrustIsNotInherited(t *testing.T) {
	d := newFakeDisk()
	c := Config{Segment: 16, Max: 1000}
	s, err := open(c, d.process(), "boot 1")
	must(t, err)
	must(t, s.BeginStream(idA, 0))
	appended(t, s, text(0, 20))
	must(t, s.tend())
	must(t, d.process().remove(segmentName(kindStream, 16)))
	s, err = open(c, d.process(), "boot 1")
	must(t, err)
	appended(t, s, text(16, 4))
	d.powerCut(func(n int) int { return min(3, n-1) }, true) // zeros where nothing was synced
	s, err = open(c, d.process(), "boot 2")
	must(t, err)
	if got := s.Contents().End; got != 16 {
		t.Fatalf("believes the stream up to %d", got)
	}
}
