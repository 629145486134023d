package main

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"redferry/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestJudge(t *testing.T) {
	equal := func() result {
		c := counts{keys: 7, expires: 2, databases: 2, functions: 1}
		return result{want: c, got: c, full: 1, partial: 2}
	}
	for _, test := range []struct {
		name   string
		change func(r *result)
		want   string // part of the verdict; empty for equal
	}{
		{"equal", func(*result) {}, ""},
		{"a difference", func(r *result) {
			r.differences = []redistest.Difference{{DB: 3, Key: "k", What: "missing"}}
		}, `db 3 key "k": missing`},
		{"fewer keys", func(r *result) { r.got.keys-- }, "keys:6"},
		{"a TTL lost", func(r *result) { r.got.expires-- }, "expires:1"},
		{"a second full resync", func(r *result) { r.full++ }, "2 full resyncs"},
		{"never resumed", func(r *result) { r.partial = 0 }, "no partial resync"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := equal()
			test.change(&r)
			err := r.judge()
			if test.want == "" {
				if err != nil {
					t.Errorf("verdict %v, want none", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("verdict %v, want one with %q", err, test.want)
			}
		})
	}
}
