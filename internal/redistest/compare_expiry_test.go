package redistest

import (
	"strconv"
	"testing"
	"time"
)

// Some moments in Unix ms, and the shifts as numbers, so that a change of the constants shows.
const (
	in2096  = 4_000_000_000_000
	in2527  = 17_592_186_044_416 // 2^44: from here on nothing is shifted
	shift   = 4_503_599_627_370_496
	fshift  = 35_184_372_088_832
	endless = -1
)

func TestCompareExpiryTimes(t *testing.T) {
	tests := []struct {
		name      string
		want, got int64 // endless for none
		field     bool  // of a hash field, not of a key
		o         CompareOptions
		what      string // of the difference
		old       bool   // holds before 7.0, too, where times are told to the second
	}{
		{name: "shifted", want: in2096, got: shift + in2096, old: true},
		{name: "shifted, a little off", want: in2096, got: shift + in2096 - 40},
		{name: "shifted, and another moment", want: in2096, got: shift + in2096 + 3000, what: "TTL at 4000000003000 (shifted), want at 4000000000000"},
		{name: "shifted, and late", want: in2096, got: shift + in2096 + 900, what: "TTL at"},
		{name: "shifted like a field", want: in2096, got: fshift + in2096, what: "TTL at", old: true},
		{name: "shifted, and none", want: endless, got: shift + in2096, what: "TTL at", old: true},
		{name: "none, and there is one", want: in2096, got: endless, what: "TTL none", old: true},
		{name: "late", want: in2096, got: in2096 + 100, what: "TTL at"},
		{name: "far too late", want: in2096, got: in2096 + 4000, what: "TTL at", old: true},
		{name: "a little late", want: in2096, got: in2096 + 40},
		{name: "a little early", want: in2096, got: in2096 - 40},
		{name: "early", want: in2096, got: in2096 - 100, what: "TTL at"},
		{name: "the last moment that is shifted", want: in2527 - 1, got: shift + in2527 - 1},
		{name: "distant", want: in2527, got: in2527, old: true},
		{name: "distant, and shifted", want: in2527, got: shift + in2527, what: "TTL at", old: true},
		{name: "distant, and late", want: in2527, got: in2527 + 1000, what: "TTL at"},
		{name: "an original like a shifted one", want: shift + in2096, got: shift + in2527, old: true},
		{name: "an original like a shifted one, as it is", want: shift + in2096, got: shift + in2096, what: "TTL at", old: true},
		{name: "settled", want: in2096, got: in2096, o: CompareOptions{Settled: true}, old: true},
		{name: "settled, and shifted", want: in2096, got: shift + in2096, o: CompareOptions{Settled: true}, what: "shifted, the first of 1 keys and 0 hash fields", old: true},
		{name: "settled, and distant", want: in2527, got: in2527, o: CompareOptions{Settled: true}, old: true},
		{name: "nothing is looked at", want: in2096, got: endless, o: CompareOptions{Settled: true, IgnoreTTL: true}, old: true},

		{name: "shifted field", want: in2096, got: fshift + in2096, field: true},
		{name: "shifted field, and another moment", want: in2096, got: fshift + in2096 + 60, field: true, what: "field TTL of"},
		{name: "field, late", want: in2096, got: in2096 + 100, field: true, what: "field TTL of"},
		{name: "field, early", want: in2096, got: in2096 - 100, field: true, what: "field TTL of"},
		{name: "field, lost", want: in2096, got: endless, field: true, what: "field TTL of"},
		{name: "distant field", want: in2527, got: in2527, field: true},
		{name: "distant field, and shifted", want: in2527, got: fshift + in2527, field: true, what: "field TTL of"},
		{name: "an original field like a shifted one", want: fshift + in2096, got: fshift + in2527, field: true},
		{name: "an original field like a shifted one, as it is", want: fshift + in2096, got: fshift + in2096, field: true, what: "field TTL of"},
		{name: "settled field", want: in2096, got: in2096, field: true, o: CompareOptions{Settled: true}},
		{name: "settled, and a shifted field", want: in2096, got: fshift + in2096, field: true, o: CompareOptions{Settled: true}, what: "shifted, the first of 0 keys and 1 hash fields"},
	}
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		want, got := Start(t, b), Start(t, b)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if tt.field && !b.HasFieldTTL() || !tt.old && !b.Has70() {
					t.Skip("not known to this version")
				}
				for s, ms := range map[*Server]int64{want: tt.want, got: tt.got} {
					s.Do(t, "FLUSHALL")
					s.Do(t, "HSET", "k", "f", "1", "g", "2")
					at := strconv.FormatInt(ms, 10)
					switch {
					case ms == endless:
					case tt.field:
						s.Do(t, "HPEXPIREAT", "k", at, "FIELDS", "1", "f")
					default:
						s.Do(t, "PEXPIREAT", "k", at)
					}
				}
				oneDifference(t, Compare(t, want, got, tt.o), 0, tt.what)
			})
		}
	})
}

// What a source hides is still there on a target whose expiry times are shifted, and what has just died on one side dies on the other one soon.
func TestCompareWhileKeysExpire(t *testing.T) {
	now := time.Now().UnixMilli()
	ago := func(shift int64) string { return strconv.FormatInt(now+shift-3_600_000, 10) }
	hash := []string{"HSET", "k", "f", "1", "g", "2"}
	tests := []struct {
		name      string
		want, got [][]string
		do        []string // on got, while they are compared: what the source has sent
		what      string
		fields    bool
	}{
		{name: "expired, and still shifted", got: [][]string{{"SET", "k", "v"}, {"PEXPIREAT", "k", ago(shift)}}, do: []string{"DEL", "k"}},
		{
			name: "hidden by the source, and still shifted", want: [][]string{{"SET", "k", "v"}, {"PEXPIRE", "k", "1"}},
			got: [][]string{{"SET", "k", "v"}, {"PEXPIREAT", "k", ago(shift)}}, do: []string{"DEL", "k"},
		},
		{name: "never deleted", got: [][]string{{"SET", "k", "v"}, {"PEXPIREAT", "k", ago(shift)}}, what: "extra"},
		{name: "expired, and all but", got: [][]string{{"SET", "k", "v", "PX", "60"}}},
		{name: "expired, and late", got: [][]string{{"SET", "k", "v", "PX", "30000"}}, what: "extra"},
		{name: "expired, and immortal", got: [][]string{{"SET", "k", "v"}}, what: "extra"},
		{name: "died early", want: [][]string{{"SET", "k", "v"}, {"PEXPIRE", "k", "30000"}}, what: "missing"},
		{
			name: "a field hidden by the source", fields: true, want: [][]string{hash, {"HPEXPIRE", "k", "1", "FIELDS", "1", "f"}},
			got: [][]string{hash, {"HPEXPIREAT", "k", ago(fshift), "FIELDS", "1", "f"}}, do: []string{"HDEL", "k", "f"},
		},
		{
			name: "a hash of which no field is left", fields: true, want: [][]string{hash, {"HPEXPIRE", "k", "1", "FIELDS", "2", "f", "g"}},
			got: [][]string{hash, {"HPEXPIREAT", "k", ago(fshift), "FIELDS", "2", "f", "g"}}, do: []string{"DEL", "k"},
		},
		{
			name: "a field never deleted", fields: true, want: [][]string{{"HSET", "k", "g", "2"}},
			got: [][]string{hash, {"HPEXPIREAT", "k", ago(fshift), "FIELDS", "1", "f"}}, what: "value of the hash",
		},
		{name: "an immortal field", fields: true, want: [][]string{{"HSET", "k", "g", "2"}}, got: [][]string{hash}, what: "value of the hash"},
		{
			name: "a field died early", fields: true, want: [][]string{hash, {"HPEXPIRE", "k", "30000", "FIELDS", "1", "f"}},
			got: [][]string{{"HSET", "k", "g", "2"}}, what: "value of the hash",
		},
		{
			name: "another value beside a hidden field", fields: true, want: [][]string{hash, {"HPEXPIRE", "k", "1", "FIELDS", "1", "f"}},
			got: [][]string{hash, {"HPEXPIREAT", "k", ago(fshift), "FIELDS", "1", "f"}, {"HSET", "k", "g", "3"}}, what: "value of the hash",
		},
	}
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		want, got := Start(t, b), Start(t, b)
		want.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if tt.fields && !b.HasFieldTTL() {
					t.Skip("not known to this version")
				}
				for s, cmds := range map[*Server][][]string{want: tt.want, got: tt.got} {
					s.Do(t, "FLUSHALL")
					for _, cmd := range cmds {
						s.Do(t, cmd...)
					}
				}
				time.Sleep(5 * time.Millisecond) // what expires after one has; a look would delete it
				done := make(chan struct{})
				if tt.do != nil {
					timer := time.AfterFunc(200*time.Millisecond, func() {
						defer close(done)
						if err := got.TryDo(tt.do...); err != nil {
							t.Error(err)
						}
					})
					defer func() {
						if !timer.Stop() {
							<-done
						}
					}()
				}
				c := newComparison(want, got, CompareOptions{TTLTolerance: 50 * time.Millisecond})
				c.patience = 2 * time.Second
				if tt.do != nil {
					c.patience = patience
				}
				found, err := c.run()
				if err != nil {
					t.Fatal(err)
				}
				oneDifference(t, found, 0, tt.what)
			})
		}
	})
}

// A key may expire after its type was read.
func TestValuesOfKeysThatAreGone(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		s := Start(t, b)
		var keys []keyPair
		for _, kind := range []string{"string", "list", "set", "zset", "hash", "stream"} {
			keys = append(keys, keyPair{name: kind, want: record{kind: kind}})
		}
		found, err := values(s.Database, keys, streamView{})
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range found {
			if !v.gone {
				t.Errorf("the %s is %q, want it gone", keys[i].name, v.lines)
			}
		}
	})
}
