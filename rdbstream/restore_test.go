package rdbstream

import (
	"strings"
	"testing"

	"redferry/internal/redistest"
)

// newestDump is the newest footer that the build's RESTORE takes of its own kind (protocol 2.5).
func newestDump(t *testing.T, b redistest.Build) int {
	t.Helper()
	switch {
	case b.AtLeast("valkey", 9, 0):
		return 80
	case b.AtLeast("redis", 7, 4):
		return 12
	case b.AtLeast("redis", 7, 2), b.Server == "valkey":
		return 11
	case b.AtLeast("redis", 7, 0):
		return 10
	}
	return 9
}

// A payload says the lowest version that knows its type, so every server takes it that knows the type, whichever wrote the RDB; and
// one that does not know the type refuses it.
func TestRestoreElsewhere(t *testing.T) {
	builds := redistest.Servers(t)
	targets := make([]*redistest.Server, len(builds))
	for i, b := range builds {
		targets[i] = redistest.Start(t, b)
	}
	for _, from := range builds {
		all := keyspace{}
		db := 0 // one for each keyspace
		for _, ks := range keyspaces(from) {
			if len(ks.config) == 0 && ks.name != "databases" && ks.name != "function" {
				all.cmds = append(all.cmds, cmd("SELECT %d", db))
				all.cmds = append(all.cmds, ks.cmds...)
				db++
			}
		}
		all.cmds = append(all.cmds, cmd("SELECT 0"))
		source, p := saved(t, from, all)
		entries, err := readBytes(p)
		if err != nil {
			t.Fatal(err)
		}
		for i, to := range builds {
			t.Run(from.Name+" to "+to.Name, func(t *testing.T) {
				targets[i].Do(t, "FLUSHALL")
				restoreAll(t, source, targets[i], entries)
			})
		}
		source.Kill()
	}
}

func restoreAll(t *testing.T, source, target *redistest.Server, entries []Entry) {
	t.Helper()
	limit := newestDump(t, target.Build)
	taken := 0
	for _, e := range entries {
		if e.Kind != KindKey {
			continue
		}
		payload, err := AppendDump(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		version, err := DumpVersion(e.Valkey, e.Type)
		if err != nil {
			t.Fatal(err)
		}
		knows := version <= limit && (target.Build.Server != "valkey" || version < 12 || version > 79)
		key, from, to := string(e.Key), source.DB(e.DB), target.DB(e.DB)
		err = to.TryDo("RESTORE", key, "0", string(payload), "REPLACE")
		switch {
		case knows && err != nil:
			t.Errorf("%q, %s, footer %d: %v", key, TypeName(e.Valkey, e.Type), version, err)
		case !knows && err == nil:
			t.Errorf("%q, %s, footer %d: taken, should be too new", key, TypeName(e.Valkey, e.Type), version)
		case !knows && !strings.Contains(err.Error(), "version or checksum") && !strings.Contains(err.Error(), "Bad data format"):
			t.Errorf("%q, %s: refused for another reason: %v", key, TypeName(e.Valkey, e.Type), err)
		case knows:
			taken++
			if got, want := digest(t, to, key), digest(t, from, key); got != want {
				t.Errorf("%q, %s: digest %s, was %s", key, TypeName(e.Valkey, e.Type), got, want)
			}
		}
	}
	if taken == 0 {
		t.Error("nothing was taken")
	}
}
