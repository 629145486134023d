package redistest

import (
	"strings"
	"testing"
	"time"
)

// copied fills a server and gives it and a replica that has all of it and was then cut loose.
func copied(t *testing.T, b Build, o FillOptions) (s, replica *Server) {
	t.Helper()
	s = Start(t, b)
	Fill(t, s, o)
	replica = Start(t, b, ReplicaOf(s), Config("replica-read-only no"))
	if !within(patience, func() bool {
		return replica.Info(t, "replication")["master_link_status"] == "up" && replica.Offset(t) == s.Offset(t)
	}) {
		t.Fatalf("the replica does not catch up: %v", replica.Info(t, "replication"))
	}
	replica.Do(t, "REPLICAOF", "NO", "ONE")
	return s, replica
}

func TestFillAndCompareEqual(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		s, replica := copied(t, b, FillOptions{Keys: 1000, Seed: 1, Big: b == Latest(t)})
		begin := time.Now()
		AssertEqual(t, s, replica, CompareOptions{})
		if took := time.Since(begin); took > 5*time.Minute {
			t.Errorf("the comparison took %v", took)
		}
		encodings := map[string]bool{}
		for db := range 16 {
			for _, key := range s.DB(db).DoStrings(t, "KEYS", "*") {
				encodings[s.DB(db).DoString(t, "OBJECT", "ENCODING", key)] = true
			}
		}
		want := []string{"raw", "int", "embstr", "quicklist", "intset", "hashtable", "skiplist", "stream", "listpack"}
		if b.Version < "7" && b.Server == "redis" {
			want[len(want)-1] = "ziplist"
		}
		for _, e := range want {
			if !encodings[e] {
				t.Errorf("no value is encoded as %s: %v", e, encodings)
			}
		}
	})
}

// Two servers that hold the same by different ways: nothing is equal byte for byte.
func TestCompareByMeaningAcrossVersions(t *testing.T) {
	all := Servers(t)
	fill := FillOptions{Keys: 500, Seed: 2, NoTTL: true}
	first := Start(t, all[0])
	Fill(t, first, fill)
	for _, b := range all[1:] {
		t.Run(b.Name, func(t *testing.T) {
			s := Start(t, b, Config("hash-max-ziplist-entries 2", "zset-max-ziplist-entries 2", "set-max-intset-entries 1", "list-max-ziplist-size 3"))
			Fill(t, s, fill)
			AssertEqual(t, first, s, CompareOptions{})
		})
	}
}

func TestCompareFindsOneChange(t *testing.T) {
	tests := []struct {
		name  string
		set   [][]string // on both, before; nothing in it depends on the clock
		do    [][]string // on the copy
		db    int
		what  string // of the one difference
		needs func(Build) bool
	}{
		{name: "a changed string", set: [][]string{{"SET", "k", "a"}}, do: [][]string{{"SET", "k", "b"}}, what: "value of the string"},
		{name: "an extra key", do: [][]string{{"SET", "k", "a"}}, db: 9, what: "extra"},
		{name: "a missing key", set: [][]string{{"SET", "k", "a"}}, do: [][]string{{"DEL", "k"}}, db: 9, what: "missing"},
		{name: "a key of ours is no difference", do: [][]string{{"SET", "redferry:default", "a"}}},
		{name: "another type", set: [][]string{{"SET", "k", "1"}}, do: [][]string{{"DEL", "k"}, {"RPUSH", "k", "1"}}, what: "type list, want string"},
		{name: "a TTL too many", set: [][]string{{"SET", "k", "1"}}, do: [][]string{{"EXPIRE", "k", "100"}}, what: "TTL at "},
		{name: "a TTL lost", set: [][]string{{"SET", "k", "1"}, {"PEXPIREAT", "k", "4000000000000"}}, do: [][]string{{"PERSIST", "k"}}, what: "TTL none"},
		{name: "a TTL moved", set: [][]string{{"SET", "k", "1"}, {"PEXPIREAT", "k", "4000000000000"}}, do: [][]string{{"PEXPIREAT", "k", "3999999997000"}}, what: "TTL "},
		{name: "list order", set: [][]string{{"RPUSH", "k", "1", "2"}}, do: [][]string{{"RPOPLPUSH", "k", "k"}}, what: "value of the list: element 0"},
		{name: "a set member", set: [][]string{{"SADD", "k", "1", "x"}}, do: [][]string{{"SREM", "k", "x"}}, what: "value of the set: 1 elements, want 2"},
		{name: "a set in another encoding is equal", set: [][]string{{"SADD", "k", "1"}}, do: [][]string{{"SADD", "k", "x"}, {"SREM", "k", "x"}}},
		{name: "a score", set: [][]string{{"ZADD", "k", "1", "a", "2", "b"}}, do: [][]string{{"ZINCRBY", "k", "0.001", "a"}}, what: "value of the zset"},
		{name: "a hash value", set: [][]string{{"HSET", "k", "f", "1", "g", "2"}}, do: [][]string{{"HINCRBY", "k", "g", "1"}}, what: "value of the hash"},
		{
			name: "a field TTL", set: [][]string{{"HSET", "k", "f", "1", "g", "2"}, {"HPEXPIREAT", "k", "4000000000000", "FIELDS", "1", "f"}},
			do: [][]string{{"HPERSIST", "k", "FIELDS", "1", "f"}}, what: "field TTL", needs: Build.HasFieldTTL,
		},
		{
			name: "an entry of a stream", set: [][]string{{"XADD", "k", "1-1", "a", "1"}, {"XADD", "k", "2-1", "a", "1"}},
			do: [][]string{{"XDEL", "k", "1-1"}}, what: "value of the stream",
		},
		{
			name: "only the last id of a stream", set: [][]string{{"XADD", "k", "1-1", "a", "1"}},
			do: [][]string{{"XSETID", "k", "5-5"}}, what: `value of the stream: element 1 is "last-generated-id`,
		},
		{
			name: "a moved pending entry", set: [][]string{{"XADD", "k", "1-1", "a", "1"}, {"XGROUP", "CREATE", "k", "g", "0"}, {"XCLAIM", "k", "g", "a", "0", "1-1", "FORCE", "TIME", "1700000000000"}},
			do: [][]string{{"XCLAIM", "k", "g", "b", "0", "1-1"}}, what: "value of the stream",
		},
		{
			name: "an acknowledged entry", set: [][]string{{"XADD", "k", "1-1", "a", "1"}, {"XGROUP", "CREATE", "k", "g", "0"}, {"XCLAIM", "k", "g", "a", "0", "1-1", "FORCE", "TIME", "1700000000000"}},
			do: [][]string{{"XACK", "k", "g", "1-1"}}, what: "value of the stream",
		},
		{
			name: "a changed function", set: [][]string{{"FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 1 end)"}},
			do:   [][]string{{"FUNCTION", "LOAD", "REPLACE", "#!lua name=l\nredis.register_function('f', function() return 2 end)"}},
			what: "function library has other code", needs: Build.Has70,
		},
		{
			name: "a function library deleted", set: [][]string{{"FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 1 end)"}},
			do: [][]string{{"FUNCTION", "DELETE", "l"}}, what: "function library missing", needs: Build.Has70,
		},
	}
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		want, got := Start(t, b), Start(t, b)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if tt.needs != nil && !tt.needs(b) {
					t.Skip("not known to this version")
				}
				for _, s := range []*Server{want, got} {
					s.Do(t, "FLUSHALL")
					if b.Has70() {
						s.Do(t, "FUNCTION", "FLUSH")
					}
					for _, cmd := range tt.set {
						s.DB(tt.db).Do(t, cmd...)
					}
				}
				AssertEqual(t, want, got, CompareOptions{})
				for _, cmd := range tt.do {
					got.DB(tt.db).Do(t, cmd...)
				}
				oneDifference(t, Compare(t, want, got, CompareOptions{}), tt.db, tt.what)
			})
		}
	})
}

// oneDifference checks that there is one difference, which begins so; none when what is empty.
func oneDifference(t *testing.T, found []Difference, db int, what string) {
	t.Helper()
	switch {
	case what == "" && len(found) > 0:
		t.Errorf("found %v, want no difference", found)
	case what != "" && (len(found) != 1 || !strings.HasPrefix(found[0].What, what) || found[0].DB != db):
		t.Errorf("found %v, want one in database %d: %s", found, db, what)
	}
}

func TestCompareStopsAtMax(t *testing.T) {
	want, got := Start(t, Latest(t)), Start(t, Latest(t))
	Fill(t, want, FillOptions{Keys: 100})
	if got := len(Compare(t, want, got, CompareOptions{Max: 7})); got != 7 {
		t.Errorf("%d differences, want 7", got)
	}
}
