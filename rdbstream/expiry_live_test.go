package rdbstream

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"

	"github.com/google/go-cmp/cmp"
)

// volatileHashes are hashes of some fields with expiries, one of them far away, and some without; those whose name begins with small are small
// enough for a listpack.
func volatileHashes() (names []string, ks keyspace) {
	soon := time.Now().Add(time.Hour).UnixMilli()
	expire := func(key, field string, at int64) {
		ks.cmds = append(ks.cmds, cmd("HPEXPIREAT %s %d FIELDS 1 %s", key, at, field))
	}
	ks.config = []string{"hash-max-listpack-value 70000", "sanitize-dump-payload yes"} // the server itself looks whether all is in order

	ks.cmds = append(ks.cmds, cmd("HSET small none 1 b -2 c %s far 70000 d -5000000000 none2 v e f", strings.Repeat("compressible", 20)))
	expire("small", "b", soon)
	expire("small", "c", soon+2)
	expire("small", "d", soon+1)
	expire("small", "e", soon+1)
	expire("small", "far", far+7)
	for i := range 40 { // with ties, once they are past
		ks.cmds = append(ks.cmds, cmd("HSET small tie%d %d", i, i))
		expire("small", fmt.Sprintf("tie%d", i), soon+int64(1000*i+i%3))
	}

	// At these sizes the encoding of a string, or of the length behind it, becomes longer.
	for i, n := range []int{62, 63, 64, 125, 126, 4095, 4096, 16377, 16378, 16379, 66000} {
		field := "f" + strconv.Itoa(i)
		ks.cmds = append(ks.cmds, []string{"HSET", "small-wide", field, string(randomBytes(n))})
		expire("small-wide", field, soon-int64(i))
	}

	for _, name := range []string{"large", "large-far"} {
		ks.cmds = append(ks.cmds, repeated("HSET "+name, 600, func(i int) string { return fmt.Sprintf("f%d %d", i, i*i*i) }))
		for i := range 200 {
			expire(name, fmt.Sprintf("f%d", 3*i), soon+int64(i*i))
		}
	}
	expire("large-far", "f1", far+7)
	return []string{"small", "small-wide", "large", "large-far"}, ks
}

// fieldsOf asks the server what a hash says: the fields in its own order.
func fieldsOf(t *testing.T, s *redistest.Server, key string) []hashField {
	t.Helper()
	flat := s.DoStrings(t, "HGETALL", key)
	ask := []string{"HPEXPIRETIME", key, "FIELDS", strconv.Itoa(len(flat) / 2)}
	var fields []hashField
	for i := 0; i < len(flat); i += 2 {
		fields = append(fields, hashField{Name: flat[i], Value: flat[i+1]})
		ask = append(ask, flat[i])
	}
	m := s.Do(t, ask...)
	at, err := m.AsIntSlice()
	if err != nil || len(at) != len(fields) {
		t.Fatalf("%.100q: %v, %v", ask, at, err)
	}
	for i := range fields {
		fields[i].At = at[i]
	}
	return fields
}

// byName is what is said of each field, for hashes that have no order.
func byName(fields []hashField) map[string]hashField {
	m := make(map[string]hashField, len(fields))
	for _, field := range fields {
		m[field.Name] = field
	}
	return m
}

// What a server has dumped, or saved, it takes mapped, and then says of every field what it said before, but for the expiry.
func TestMapLive(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		if !b.HasFieldTTL() {
			continue
		}
		names, ks := volatileHashes()
		s, rdb := saved(t, b, ks)
		entries, err := readBytes(rdb)
		if err != nil {
			t.Fatal(err)
		}
		inRDB := map[string]*Entry{}
		for i, e := range entries {
			inRDB[string(e.Key)] = &entries[i]
		}
		for _, name := range names {
			t.Run(b.Name+"/"+name, func(t *testing.T) {
				e := inRDB[name]
				if small := !e.Valkey && strings.HasPrefix(name, "small"); !HasFieldExpiries(e.Valkey, e.Type) || small != (!e.Valkey && e.Type == TypeHashListpackEx) {
					t.Fatalf("saved as %s", TypeName(e.Valkey, e.Type))
				}
				payload, ok, err := MapDump(nil, []byte(s.DoString(t, "DUMP", name)), shifted)
				if !ok || err != nil {
					t.Fatal(ok, err)
				}
				restoreMapped(t, s, name, e, payload, shifted)
				if payload, err = AppendDumpMapped(payload[:0], e, shifted); err != nil {
					t.Fatal(err)
				}
				restoreMapped(t, s, name, e, payload, shifted)

				// What has already expired is there again.
				past := func(ms int64) int64 { return 1 + ms%1000 }
				if payload, err = AppendDumpMapped(nil, e, past); err != nil {
					t.Fatal(err)
				}
				if payload, ok, err = MapDump(nil, payload, shifted); !ok || err != nil {
					t.Fatal(ok, err)
				}
				restoreMapped(t, s, name, e, payload, func(ms int64) int64 { return shifted(past(ms)) })
			})
		}
		s.Kill()
	}
}

// restoreMapped restores the payload, which is e, the key name, mapped by f, and compares.
func restoreMapped(t *testing.T, s *redistest.Server, name string, e *Entry, payload []byte, f func(int64) int64) {
	t.Helper()
	const restored = "mapped"
	s.Do(t, "RESTORE", restored, "0", string(payload), "REPLACE")
	want := mapped(fieldsOf(t, s, name), e.Valkey, e.Type, f)
	got := fieldsOf(t, s, restored)
	if diff := cmp.Diff(byName(want), byName(got)); diff != "" {
		t.Error(diff)
	}
	if e.Type == TypeHashListpackEx {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("their order: %s", diff)
		}
	}
	if got, want := s.DoString(t, "OBJECT", "ENCODING", restored), s.DoString(t, "OBJECT", "ENCODING", name); got != want {
		t.Errorf("is %s, was %s", got, want)
	}
}
