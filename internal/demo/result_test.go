package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"redferry/internal/leaks"
	"redferry/internal/redistest"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func TestJudge(t *testing.T) {
	began := time.Now()
	equal := func() result {
		c := counts{keys: 7, expires: 2, databases: 2, functions: 1}
		return result{source: c, target: c, full: 1, partial: 2, seen: []redistest.Sight{{Acked: 5, Last: began}, {Acked: 3, Last: began}}, got: []int64{5, 3}}
	}
	cut := func() result {
		r := equal()
		r.cutOver, r.refusal = true, errors.New("NOREPLICAS Not enough good replicas to write.")
		for i := range r.seen {
			r.seen[i].Refused, r.seen[i].Said = began.Add(100*time.Millisecond), []string{r.refusal.Error()}
		}
		return r
	}
	for _, test := range []struct {
		name   string
		of     func() result
		change func(r *result)
		want   string // part of the verdict; empty for none
	}{
		{"equal", equal, func(*result) {}, ""},
		{"a difference", equal, func(r *result) {
			r.differences = []redistest.Difference{{DB: 3, Key: "k", What: "missing"}}
		}, `db 3 key "k": missing`},
		{"fewer keys", equal, func(r *result) { r.target.keys-- }, "keys:6"},
		{"a TTL lost", equal, func(r *result) { r.target.expires-- }, "expires:1"},
		{"a second full resync", equal, func(r *result) { r.full++ }, "2 full resyncs"},
		{"never resumed", equal, func(r *result) { r.partial = 0 }, "no partial resync"},
		{"a write lost", equal, func(r *result) { r.got[1]-- }, "client 1: 3 writes were acknowledged, and the target has 2"},
		{"a write done twice", equal, func(r *result) { r.got[0]++ }, "client 0: 5 writes were acknowledged, and the target has 6"},
		{"a client that could not write", equal, func(r *result) { r.seen[0].Acked, r.got[0] = 0, 0 }, "client 0: no write was acknowledged"},
		{"refused without a cutover", equal, func(r *result) { r.seen[1].Refused, r.seen[1].Said = began, []string{"OOM"} }, `client 1: was told "OOM"`},
		{"a connection lost", equal, func(r *result) { r.seen[1].Lost = errors.New("EOF") }, "client 1: lost its connection: EOF"},

		{"cut over", cut, func(*result) {}, ""},
		{"cut over, a write lost", cut, func(r *result) { r.got[1]-- }, "client 1: 3 writes were acknowledged, and the target has 2"},
		{"the source goes on", cut, func(r *result) { r.refusal = nil }, "the source takes writes after the cutover"},
		{"the source is away", cut, func(r *result) { r.refusal = errors.New("connection refused") }, "after the cutover the source says connection refused"},
		{"a client never refused", cut, func(r *result) { r.seen[0].Refused = time.Time{} }, "client 0: the source did not refuse"},
		{"another refusal", cut, func(r *result) { r.seen[0].Said = []string{"READONLY"} }, `client 0: was told "READONLY"`},
		{"a write let through later", cut, func(r *result) { r.seen[1].Late = 2 }, "client 1: the source took 2 writes after"},
		{"stopped for long", cut, func(r *result) { r.seen[1].Refused = began.Add(6 * time.Second) }, "client 1: its writes were stopped for 6s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := test.of()
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

func TestSum(t *testing.T) {
	began := time.Now()
	seen := []redistest.Sight{{Acked: 5, Last: began, Refused: began.Add(2)}, {Acked: 3, Last: began, Refused: began.Add(7)}}
	if acked, stopped := sum(seen); acked != 8 || stopped != 7 {
		t.Errorf("in sum %d writes and %v", acked, stopped)
	}
}

func TestCanCutOver(t *testing.T) {
	for version, want := range map[string]bool{
		"redis 6.0.16": false, "redis 6.2.6": false, "redis 6.2.7": true, "redis 6.2.14": true, "redis 7.0.15": true, "redis 10.0.1": true, "valkey 8.1.1": true, "redis ": false,
	} {
		server, number, _ := strings.Cut(version, " ")
		if got := canCutOver(redistest.Build{Server: server, Version: number}); got != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}

func TestPage(t *testing.T) {
	var b strings.Builder
	p := &page{w: &b}
	write := func(pieces ...string) {
		for _, s := range pieces {
			if n, err := p.Write([]byte(s)); n != len(s) || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
		}
	}
	write("in ", "sync\nsettling: 1%", " of 5\nsettling: 17% of 5\nsettling: 99% of 5\n\nkeys 1\nkeys 2\nsettling: 3% of 5\n")
	p.close()
	write("more\n")
	if want := "     in sync\n     settling: 1% of 5\n\n     keys 1\n     keys 2\n     settling: 3% of 5\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	if got, want := remarks("     ok     a   b\n     warn   c\n         why: ok \n\n     1 ok, 1 warn\n"), "     warn   c\n         why: ok \n\n     1 ok, 1 warn\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEnviron(t *testing.T) {
	if got := environ([]string{"PATH=/bin", "REDFERRY_SOURCE=redis://other", "HOME=/"}); strings.Join(got, " ") != "PATH=/bin HOME=/" {
		t.Errorf("got %q", got)
	}
}
