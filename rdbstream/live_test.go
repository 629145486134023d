package rdbstream

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

var update = flag.Bool("update", false, "write testdata anew, from the servers of this machine")

// saved fills a new server with the keyspace and reads the RDB that it saves.
func saved(t *testing.T, b redistest.Build, ks keyspace) (*redistest.Server, []byte) {
	t.Helper()
	s := redistest.Start(t, b, redistest.Config(ks.config...))
	if clustered(s) {
		slots := cmd("CLUSTER ADDSLOTS")
		for i := range 16384 {
			slots = append(slots, strconv.Itoa(i))
		}
		s.Do(t, slots...)
		deadline := time.Now().Add(time.Minute)
		for !strings.Contains(s.DoString(t, "CLUSTER", "INFO"), "cluster_state:ok") {
			if time.Now().After(deadline) {
				t.Fatal("the cluster does not come up")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	replies, err := s.Pipeline(ks.cmds...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range replies {
		if err := r.Error(); err != nil {
			t.Fatalf("%.100q: %v", ks.cmds[i], err)
		}
	}
	s.Do(t, "SAVE")
	p, err := os.ReadFile(filepath.Join(s.Dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// shape tells what is new in an RDB compared with another server's of the same keyspace: its magic's family, its types and opcodes.
func shape(t *testing.T, name string, p []byte) string {
	t.Helper()
	all, err := readBytes(p)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	seen := map[string]bool{}
	s := name + strconv.FormatBool(bytes.HasPrefix(p, []byte("VALKEY")))
	if bytes.Contains(p, []byte{opSelectDB, 0, opResizeDB, 2, 1, opSlotInfo}) { // is no entry
		s += " slot-info"
	}
	for _, e := range all {
		if e.Kind == KindAux && string(e.Name) != "slot-info" {
			continue
		}
		if what := fmt.Sprintf(" %s-%d", e.Kind, e.Type); !seen[what] {
			seen[what] = true
			s += what
		}
	}
	return s
}

// TestGolden makes every keyspace on every server; with -update it keeps the first RDB of each shape.
func TestGolden(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server for each encoding")
	}
	seen := map[string]bool{}
	for _, b := range redistest.Servers(t) {
		for _, ks := range keyspaces(b) {
			t.Run(b.Name+"/"+ks.name, func(t *testing.T) {
				s, p := saved(t, b, ks)
				compareWithServer(t, s, p)
				if sh := shape(t, ks.name, p); *update && !seen[sh] {
					seen[sh] = true
					if err := os.WriteFile(filepath.Join("testdata", b.Name+"-"+ks.name+".rdb"), p, 0o644); err != nil {
						t.Error(err)
					}
				}
				s.Kill()
			})
		}
	}
}

// compareWithServer checks each key of an RDB against the server that saved it, by DUMP, PEXPIRETIME and the number of keys, and
// restores it under another name: the server's DUMP of that must be the same again.
func compareWithServer(t *testing.T, s *redistest.Server, p []byte) {
	t.Helper()
	all, err := readBytes(p)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[int]int64{}
	for _, e := range all {
		if e.Kind != KindKey {
			continue
		}
		keys[e.DB]++
		db, key := s.DB(e.DB), string(e.Key)
		payload, err := AppendDump(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := len(payload), DumpSize(&e); got != want {
			t.Errorf("%q: DumpSize says %d, it is %d", key, want, got)
		}
		dump := db.DoString(t, "DUMP", key)
		if got, want := payload[:len(payload)-10], dump[:len(dump)-10]; string(got) != want {
			t.Errorf("%q: payload\n%.300q, DUMP\n%.300q", key, got, want)
		}
		if at := int64(payload[len(payload)-10]) | int64(payload[len(payload)-9])<<8; at > int64(dump[len(dump)-10])|int64(dump[len(dump)-9])<<8 {
			t.Errorf("%q: payload says RDB %d, the server's own is older", key, at)
		}
		ttl := int64(0)
		if e.HasExpire {
			ttl = e.ExpireAt
		}
		if s.Build.Has70() {
			if got := db.DoInt(t, "PEXPIRETIME", key); e.HasExpire != (got >= 0) || e.HasExpire && got != e.ExpireAt {
				t.Errorf("%q: expires at %d (%v), server says %d", key, e.ExpireAt, e.HasExpire, got)
			}
		}
		copied := "copy of {" + key + "}"
		if key == "" || bytes.ContainsAny(e.Key, "{}") {
			copied = key + "2"
		}
		if clustered(s) && copied != "copy of {"+key+"}" {
			continue
		}
		db.Do(t, "RESTORE", copied, strconv.FormatInt(ttl, 10), string(payload), "ABSTTL")
		// A hash table is dumped in the order of a table of its own.
		if got := db.DoString(t, "DUMP", copied); got != dump && (len(got) != len(dump) || digest(t, db, copied) != digest(t, db, key)) {
			t.Errorf("%q: restored, DUMP is\n%.300q, was\n%.300q", key, got, dump)
		}
	}
	for db, n := range keys {
		if got := s.DB(db).DoInt(t, "DBSIZE"); got != 2*n {
			t.Errorf("database %d: RDB has %d keys, server %d with their copies", db, n, got)
		}
	}
}

func digest(t *testing.T, db *redistest.Database, key string) string {
	t.Helper()
	return db.DoStrings(t, "DEBUG", "DIGEST-VALUE", key)[0]
}

func clustered(s *redistest.Server) bool { return s.TryDo("CLUSTER", "INFO") == nil }
