package rdbstream

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hdt3213/rdb/core"
	"github.com/hdt3213/rdb/model"
)

// said is what two readers of an RDB can agree on.
type said struct {
	What, Name, Data string
	DB               int
	Expire           int64 // ms, 0 for none
	Idle, Freq       int64
	Keys, Expires    uint64
	End              int64
}

// TestAgainstHDT3213 reads the golden files, and HDT3213/rdb's own, which go back to RDB 2, with both.
func TestAgainstHDT3213(t *testing.T) {
	all := goldens(t)
	for name, p := range theirs(t) {
		all["HDT3213 "+name] = p
	}
	for _, magic := range []string{"REDIS0012", "REDIS0015", "VALKEY080"} {
		all[magic] = everything(magic)
	}
	for name, p := range all {
		t.Run(name, func(t *testing.T) {
			want, theirErr := oracle(p)
			switch {
			// protocol 6: "Opcodes: 244 only when magic is VALKEY; returns error for REDIS"
			case bytes.HasPrefix(p, []byte("REDIS")) && theirErr != nil && strings.Contains(theirErr.Error(), "unsupported opcode 244"):
			// protocol 6: "Versions: REDIS 1..12, VALKEY exactly 80"
			case theirErr != nil && name == "REDIS0015":
			// It keeps the sizes of packed nodes only and looks for them by the number of the node (memprofiler), so plain nodes make it panic.
			case theirErr != nil && strings.Contains(theirErr.Error(), "index out of range") && strings.Contains(name, "-list"):
			case theirErr != nil:
				t.Fatalf("HDT3213/rdb: %v", theirErr)
			}
			got, err := ours(p)
			if err != nil {
				t.Fatal(err)
			}
			if theirErr != nil {
				got = got[:len(want)] // what it read before it gave up
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// theirs are the test files of HDT3213/rdb, from the module cache.
func theirs(t *testing.T) map[string][]byte {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/hdt3213/rdb").Output()
	if err != nil {
		t.Fatalf("find HDT3213/rdb: %v", err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "cases", "*.rdb"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no RDBs of HDT3213/rdb: %v", err)
	}
	all := map[string][]byte{}
	for _, path := range paths {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(path)] = p
	}
	return all
}

// kindName is HDT3213/rdb's name of the entry's type.
func kindName(e *Entry) string {
	name := strings.ToLower(TypeName(e.Valkey, e.Type))
	for _, kind := range []string{"string", "list", "set", "zset", "hash", "stream"} {
		if strings.HasPrefix(name, kind) {
			return kind
		}
	}
	return name
}

func ours(p []byte) ([]said, error) {
	all, err := readBytes(p)
	var out []said
	for i := range all {
		e := &all[i]
		s := said{What: e.Kind.String(), Name: string(e.Name), Data: string(e.Data), Idle: -1, Freq: -1, Keys: e.Keys, Expires: e.Expires}
		switch e.Kind {
		case KindModuleAux, KindSlotImport: // which HDT3213/rdb does not hand out
			continue
		case KindKey:
			s.What, s.Name, s.DB, s.Idle, s.Freq, s.End = kindName(e), string(e.Key), e.DB, e.Idle, int64(e.Freq), e.End
			if e.HasExpire && e.ExpireAt > 0 { // protocol 6: "negative/zero expire dropped"
				s.Expire = e.ExpireAt
			}
		case KindResize:
			s.DB = e.DB
		}
		out = append(out, s)
	}
	return out, err
}

func oracle(p []byte) (out []said, err error) {
	dec := core.NewDecoder(bytes.NewReader(p)).WithSpecialOpCode()
	err = dec.Parse(func(o model.RedisObject) bool {
		s := said{Idle: -1, Freq: -1, DB: o.GetDBIndex()}
		switch o := o.(type) {
		case *model.AuxObject:
			s.What, s.Name, s.Data = "aux", o.Key, o.Value
		case *model.FunctionsObject:
			s.What, s.Data = "function", o.FunctionsLua
		case *model.DBSizeObject:
			s.What, s.Keys, s.Expires = "resize", o.KeyCount, o.TTLCount
		default:
			s.What, s.Name, s.End = o.GetType(), o.GetKey(), int64(dec.GetReadCount())
			if at := o.GetExpiration(); at != nil {
				s.Expire = at.UnixNano() / int64(time.Millisecond)
			}
			if info, ok := o.(model.EvictionInfo); ok {
				s.Idle, s.Freq = info.GetIdleTime(), info.GetFreq()
			}
		}
		out = append(out, s)
		return true
	})
	// It hands out KeyDB's AUX inside of a key, too; we take that as the key's.
	out = slices.DeleteFunc(out, func(s said) bool { return s.What == "aux" && s.Name == "mvcc-tstamp" })
	return out, err
}
