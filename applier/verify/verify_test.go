package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
)

// One thing that differs among many keys is found, and nothing else.
func TestOneDifference(t *testing.T) {
	t.Parallel()
	src, dst := twins(t, redistest.Latest(t), func(s *redistest.Server) { fillPlain(t, s, 100_000) })
	wantEqual(t, check(t, src, dst, verify.Config{}))
	for name, tt := range map[string]struct {
		change, undo []string
		kind         verify.Kind
		parts        []string
	}{
		"a field": {[]string{"HSET", "hash:77777", "n", "other"}, []string{"HSET", "hash:77777", "n", "77777"}, verify.Value, []string{`db 0 key "hash:77777", field "n": source "77777", target "other"`}},
		"extra":   {[]string{"SET", "extra", "x"}, []string{"DEL", "extra"}, verify.Extra, []string{`key "extra": source has not, target has it`}},
		"a TTL":   {[]string{"EXPIRE", "string:5550", "90000"}, []string{"EXPIRE", "string:5550", "100000"}, verify.TTL, []string{`key "string:5550"`, "source 20"}},
		"no TTL":  {[]string{"PERSIST", "string:20"}, []string{"EXPIRE", "string:20", "100000"}, verify.TTL, []string{`"string:20"`, "target none"}},
		"missing": {[]string{"DEL", "hash:1"}, []string{"HSET", "hash:1", "name", "n1", "n", "1"}, verify.Missing, []string{`"hash:1"`, "target has not"}},
		"type":    {[]string{"SET", "hash:2", "x"}, nil, verify.Type, []string{`"hash:2": source hash, target string`}},
	} {
		t.Run(name, func(t *testing.T) {
			dst.Do(t, tt.change...)
			start := time.Now()
			wantOne(t, check(t, src, dst, verify.Config{TTLTolerance: 30 * time.Second}), tt.kind, tt.parts...)
			t.Log(time.Since(start))
			if tt.undo == nil {
				dst.Do(t, "DEL", "hash:2")
				tt.undo = []string{"HSET", "hash:2", "name", "n2", "n", "2"}
			}
			dst.Do(t, tt.undo...)
		})
	}
}

// A difference in one element of a value of each type is found, whatever the value's size; the report says which.
func TestValues(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := twins(t, b, func(s *redistest.Server) { fillValues(t, s) })
			wantEqual(t, check(t, src, dst, verify.Config{}))
			for _, tt := range []struct {
				key    string
				change []string
				kind   verify.Kind
				part   string
			}{
				{"string", []string{"SETRANGE", "string", "3", "X"}, verify.Value, `source "small", target "smaXl"`},
				{"list", []string{"LSET", "list", "7", "X"}, verify.Value, `element 7: source "element-7", target "X"`},
				{"list", []string{"RPUSH", "list", "X"}, verify.Value, `element 20: source ends after 20, target "X"`},
				{"set", []string{"SADD", "set", "X"}, verify.Value, `member "X": source has not, target has it`},
				{"set", []string{"SREM", "set", "element-3"}, verify.Value, `member "element-3": source has it, target has not`},
				{"zset", []string{"ZADD", "zset", "3.25", "element-3"}, verify.Value, `score of member "element-3": source 3, target 3.25`},
				{"hash", []string{"HDEL", "hash", "element-3"}, verify.Value, `field "element-3": source "v", target has not`},
				{"hash", []string{"HSET", "hash", "element-3", "X"}, verify.Value, `field "element-3": source "v", target "X"`},
				{"stream", []string{"XADD", "stream", "99999999-1", "n", "X"}, verify.Value, `entry 99999999-1: source none`},
				{"stream", []string{"XDEL", "stream", "5-1"}, verify.Value, `entry 5-1: source 5-1 ["n" "5"]`},
				{"stream", []string{"XGROUP", "CREATE", "stream", "other", "0"}, verify.Value, `group "other": source has not, target has it`},
				{"stream", []string{"XACK", "stream", "group", "3-1"}, verify.Value, `group "group" pending`},
				{"stream", []string{"XGROUP", "SETID", "stream", "group", "3-1"}, verify.Value, `group "group" last-delivered-id`},
				{"stream", []string{"XCLAIM", "stream", "group", "thief", "0", "3-1"}, verify.Value, `group "group"`},
			} {
				for _, prefix := range []string{"", "big:"} {
					args := append([]string{}, tt.change...)
					for i := range args {
						if args[i] == tt.key {
							args[i] = prefix + tt.key
						}
					}
					t.Run(prefix+strings.Join(tt.change, " "), func(t *testing.T) {
						dst.Do(t, args...)
						part := tt.part
						if prefix != "" { // the values are others
							part = strings.NewReplacer(`source "small", target "smaXl"`, "from byte 3 on", "element 20: source ends after 20", "element 20000: source ends after 20000").Replace(part)
						}
						wantOne(t, check(t, src, dst, verify.Config{}), tt.kind, fmt.Sprintf("%q", prefix+tt.key), part)
						restore(t, src, dst, prefix+tt.key)
					})
				}
			}
			wantEqual(t, check(t, src, dst, verify.Config{}))
		})
	}
}

// restore gives the target the source's value again.
func restore(t *testing.T, src, dst *redistest.Server, key string) {
	t.Helper()
	dst.Do(t, "RESTORE", key, "0", src.DoString(t, "DUMP", key), "REPLACE")
}

// fillValues writes one small and one large value of each type.
func fillValues(t *testing.T, s *redistest.Server) {
	t.Helper()
	for prefix, n := range map[string]int{"": 20, "big:": 20_000} {
		text := "small"
		if prefix != "" {
			text = strings.Repeat("large. ", 1_000_000)
		}
		s.Do(t, "SET", prefix+"string", text)
		var list, set, zset, hash []string
		var stream [][]string
		for i := range n {
			e := fmt.Sprint("element-", i)
			list, set, zset, hash = append(list, e), append(set, e), append(zset, fmt.Sprint(i), e), append(hash, e, "v")
			stream = append(stream, []string{"XADD", prefix + "stream", fmt.Sprintf("%d-1", i+1), "n", fmt.Sprint(i + 1)})
		}
		s.Do(t, append([]string{"RPUSH", prefix + "list"}, list...)...)
		s.Do(t, append([]string{"SADD", prefix + "set"}, set...)...)
		s.Do(t, append([]string{"ZADD", prefix + "zset"}, zset...)...)
		s.Do(t, append([]string{"HSET", prefix + "hash"}, hash...)...)
		if _, err := s.Pipeline(stream...); err != nil {
			t.Fatal(err)
		}
		s.Do(t, "XGROUP", "CREATE", prefix+"stream", "group", "0")
		s.Do(t, "XREADGROUP", "GROUP", "group", "consumer", "COUNT", fmt.Sprint(n/2), "STREAMS", prefix+"stream", ">")
	}
}
