package verify_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
)

// What differs among many keys is found, and nothing else. With LONG=1 they are a million.
func TestFewDifferences(t *testing.T) {
	t.Parallel()
	keys := 100_000
	if os.Getenv("LONG") != "" {
		keys = 1_000_000
	}
	src, dst := twins(t, redistest.Latest(t), func(s *redistest.Server) { fillPlain(t, s, keys) })
	dst.Do(t, "HSET", "hash:77777", "n", "other")
	report := check(t, src, dst, verify.Config{First: 10})
	if want := int64(2 * keys); report.Looked != want {
		t.Errorf("looked at %d keys, want %d", report.Looked, want)
	}
	t.Logf("%d keys of two servers in %v", keys, report.Elapsed)
	wantDifferences(t, report, `value db 0 key "hash:77777", field "n": source "77777", target "other"`)

	dst.Do(t, "SET", "extra", "x")
	dst.Do(t, "EXPIRE", "string:5550", "90000")
	dst.Do(t, "PERSIST", "string:20")
	dst.Do(t, "DEL", "hash:1")
	dst.Do(t, "SET", "hash:2", "x")
	dst.DB(3).Do(t, "SET", "elsewhere", "x")
	src.DB(4).Do(t, "SET", "elsewhere", "x", "PX", "10000000")
	wantDifferences(
		t, check(t, src, dst, verify.Config{First: 10}),
		`value db 0 key "hash:77777", field "n": source "77777", target "other"`,
		`extra db 0 key "extra": source has not, target has it`,
		`ttl db 0 key "string:5550": source 20`,
		`ttl db 0 key "string:20": source 20`,
		`missing db 0 key "hash:1": source has it, target has not`,
		`type db 0 key "hash:2": source hash, target string`,
		`extra db 3 key "elsewhere": source has not, target has it`,
		`missing db 4 key "elsewhere": source has it until 20`,
	)
	listed := check(t, src, dst, verify.Config{Mode: verify.Listed, Keys: []string{"elsewhere", "extra", "nowhere", "string:20", "string:40"}, First: 10})
	wantDifferences(
		t, listed, `extra db 0 key "extra": `, `ttl db 0 key "string:20": `, `extra db 3 key "elsewhere": `, `missing db 4 key "elsewhere": `,
	)
}

// wantDifferences fails the test unless each difference begins with another one of these.
func wantDifferences(t *testing.T, r verify.Report, want ...string) {
	t.Helper()
	left := slices.Clone(r.First)
	for _, w := range want {
		i := slices.IndexFunc(left, func(d verify.Difference) bool { return strings.HasPrefix(d.String(), w) })
		if i < 0 {
			t.Errorf("not found: %s", w)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, d := range left {
		t.Errorf("unexpected: %v", d)
	}
	if r.Total() != int64(len(want)) || r.Moving > 0 {
		t.Errorf("%d differences and %d moving, want %d", r.Total(), r.Moving, len(want))
	}
}

// A difference in one element of a value of each type is found, whatever the value's size; the report says which.
func TestValues(t *testing.T) {
	t.Parallel()
	tests := []struct {
		fill   func(t *testing.T, s *redistest.Server, key string, n int)
		change string // of the target; KEY is the key
		small  string // what the report says, and …
		large  string // where that is something else
	}{
		{fillString, "SETRANGE KEY 3 X", `source "texttext`, "from byte 3 on: source "},
		{fillList, "LSET KEY 7 X", `element 7: source "element-7", target "X"`, ""},
		{fillList, "RPUSH KEY X", `element 20: source ends after 20, target "X"`, `element 8000: source ends after 8000, target "X"`},
		{fillList, "RPOP KEY", `element 19: source "element-19", target ends after 19`, `element 7999: source "element-7999", target ends after 7999`},
		{fillSet, "SADD KEY X", `member "X": source has not, target has it`, ""},
		{fillSet, "SREM KEY element-3", `member "element-3": source has it, target has not`, ""},
		{fillZset, "ZADD KEY 3.25 element-3", `score of member "element-3": source 3, target 3.25`, ""},
		{fillZset, "ZADD KEY 3 X", `score of member "X": source has not, target 3`, ""},
		{fillHash, "HDEL KEY element-3", `field "element-3": source "v", target has not`, ""},
		{fillHash, "HSET KEY element-3 X", `field "element-3": source "v", target "X"`, ""},
		{fillHash, "HSET KEY X X", `field "X": source has not, target "X"`, ""},
		{fillStream, "XADD KEY 99999999-1 n X", `entry 99999999-1: source none, target 99999999-1 ["n" "X"]`, ""},
		{fillStream, "XDEL KEY 5-1", `entry 5-1: source 5-1 ["n" "5"], target `, ""},
		{fillStream, "XSETID KEY 99999999-1", `last-generated-id: source `, ""},
		{fillStream, "XGROUP CREATE KEY other 0", `group "other": source has not, target has it`, ""},
		{fillStream, "XGROUP DESTROY KEY group", `group "group": source has it, target has not`, ""},
		{fillStream, "XACK KEY group 3-1", `group "group" pending: source `, ""},
		{fillStream, "XGROUP SETID KEY group 3-1", `group "group" last-delivered-id: source `, ""},
		{fillStream, "XCLAIM KEY group thief 0 3-1 JUSTID", `group "group" consumer "consumer" pending: source `, ""},
		{fillStream, "XCLAIM KEY group consumer 0 3-1", `group "group" pending element 2 from -: source "3-1 of \"consumer\", delivered 1 times"`, ""},
	}
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := twins(t, b, func(s *redistest.Server) {
				for i, tt := range tests {
					tt.fill(t, s, fmt.Sprintf("small:%d", i), 20)
					tt.fill(t, s, fmt.Sprintf("large:%d", i), 8000)
				}
			})
			wantEqual(t, check(t, src, dst, verify.Config{}))
			var want []string
			for i, tt := range tests {
				for _, size := range []string{"small", "large"} {
					key, says := fmt.Sprintf("%s:%d", size, i), tt.small
					if size == "large" && tt.large != "" {
						says = tt.large
					}
					dst.Do(t, strings.Fields(strings.ReplaceAll(tt.change, "KEY", key))...)
					sep := ": "
					if !strings.HasPrefix(says, "source") {
						sep = ", "
					}
					want = append(want, fmt.Sprintf("value db 0 key %q%s%s", key, sep, says))
				}
			}
			wantDifferences(t, check(t, src, dst, verify.Config{First: 100}), want...)
		})
	}
}

// many runs a command with n elements more.
func many(t *testing.T, s *redistest.Server, n int, element func(i int) []string, cmd ...string) {
	t.Helper()
	for i := range n {
		cmd = append(cmd, element(i)...)
	}
	s.Do(t, cmd...)
}

func fillString(t *testing.T, s *redistest.Server, key string, n int) {
	s.Do(t, "SET", key, strings.Repeat("text", n*n/40+n)) // 6.4 MB when large
}

func fillList(t *testing.T, s *redistest.Server, key string, n int) {
	many(t, s, n, func(i int) []string { return []string{fmt.Sprint("element-", i)} }, "RPUSH", key)
}

func fillSet(t *testing.T, s *redistest.Server, key string, n int) {
	many(t, s, n, func(i int) []string { return []string{fmt.Sprint("element-", i)} }, "SADD", key)
}

func fillZset(t *testing.T, s *redistest.Server, key string, n int) {
	many(t, s, n, func(i int) []string { return []string{fmt.Sprint(i), fmt.Sprint("element-", i)} }, "ZADD", key)
}

func fillHash(t *testing.T, s *redistest.Server, key string, n int) {
	many(t, s, n, func(i int) []string { return []string{fmt.Sprint("element-", i), "v"} }, "HSET", key)
}

func fillStream(t *testing.T, s *redistest.Server, key string, n int) {
	var cmds [][]string
	for i := range n {
		cmds = append(cmds, []string{"XADD", key, fmt.Sprintf("%d-1", i+1), "n", fmt.Sprint(i + 1)})
	}
	cmds = append(cmds, []string{"XGROUP", "CREATE", key, "group", "0"}, []string{"XREADGROUP", "GROUP", "group", "consumer", "COUNT", fmt.Sprint(n / 2), "STREAMS", key, ">"})
	if _, err := s.Pipeline(cmds...); err != nil {
		t.Fatal(err)
	}
}

// The same data is equal whatever the encodings, in every pair of servers that a migration supports, with shifted expiries and with settled ones.
func TestEqualAcrossServers(t *testing.T) {
	t.Parallel()
	builds := redistest.Servers(t)
	for i, from := range builds {
		for _, to := range builds {
			if !canMove(from, to) {
				continue
			}
			t.Run(from.Name+" to "+to.Name, func(t *testing.T) {
				t.Parallel()
				src := redistest.Start(t, from)
				// Some commands' names are of before 7.0, and known since.
				dst := redistest.Start(t, to, redistest.Config(
					"hash-max-ziplist-entries 2", "zset-max-ziplist-entries 2", "set-max-intset-entries 2", "list-max-ziplist-size 3", "list-compress-depth 1",
					"stream-node-max-entries 7", "rdbcompression no"))
				redistest.Fill(t, src, redistest.FillOptions{Keys: 600, Seed: uint64(i), Databases: 4})
				stop := migrate(t, src, dst, false)
				report := check(t, src, dst, verify.Config{Name: "test"})
				wantEqual(t, report)
				if report.Shifted == 0 {
					t.Error("no expiry was shifted")
				}
				stop()
				dst.Do(t, "DEL", "redferry:test:owner") // no need to wait for the lease
				migrate(t, src, dst, true)
				report = check(t, src, dst, verify.Config{Name: "test"})
				wantEqual(t, report)
				if report.Shifted > 0 {
					t.Errorf("%d expiries are shifted", report.Shifted)
				}
				for _, mode := range []verify.Mode{verify.Count, verify.Sample} {
					wantEqual(t, check(t, src, dst, verify.Config{Name: "test", Mode: mode, Sample: 200}))
				}
			})
		}
	}
}

// canMove tells whether a server can RESTORE all that another one has.
func canMove(from, to redistest.Build) bool {
	switch {
	case from == to:
		return true
	case from.HasFieldTTL(), from.Server == "valkey" && to.Server == "redis":
		return false
	}
	return from.Has70() == to.Has70() || to.Has70()
}

// A key that one side has noticed to have expired, and the other has not, is no difference. One that expires too early or never is.
func TestExpiredIsNoDifference(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			now := time.Now().UnixMilli()
			shifted := func(ms int64) string { return fmt.Sprint(ms + 1<<52) }
			// The source has deleted these already; the target's are shifted, or are over within the tolerance.
			dst.Do(t, "SET", "expired", "v")
			dst.Do(t, "PEXPIREAT", "expired", shifted(now-1000))
			dst.Do(t, "SET", "put off", "v", "PX", "1500")
			if b.HasFieldTTL() {
				for s, ms := range map[*redistest.Server]int64{src: 0, dst: now - 1000 + 1<<45} {
					s.Do(t, "HSET", "hash", "f", "v", "g", "v")
					if s.Do(t, "HPEXPIREAT", "hash", fmt.Sprint(now+100_000), "FIELDS", "1", "g"); s == dst {
						s.Do(t, "HPEXPIREAT", "hash", fmt.Sprint(ms), "FIELDS", "1", "f")
					} else {
						s.Do(t, "HDEL", "hash", "f")
					}
				}
			}
			tolerant := verify.Config{TTLTolerance: 2 * time.Second}
			wantEqual(t, check(t, src, dst, tolerant))
			dst.Do(t, "SET", "too long", "v", "PX", "60000")
			dst.Do(t, "SET", "for ever", "v")
			want := []string{`extra db 0 key "too long": source has not, target has it until 20`, `extra db 0 key "for ever": source has not, target has it`}
			if b.HasFieldTTL() {
				dst.Do(t, "HPEXPIREAT", "hash", fmt.Sprint(now+50_000), "FIELDS", "1", "g")
				want = append(want, `ttl db 0 key "hash", field "g": source 20`)
			}
			wantDifferences(t, check(t, src, dst, tolerant), want...)
		})
	}
}
