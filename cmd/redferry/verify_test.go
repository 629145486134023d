package main

import (
	"encoding/json"
	"strings"
	"testing"

	"redferry/internal/redistest"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	for _, s := range []*redistest.Server{src, dst} {
		s.Do(t, "HSET", "user:1", "name", "Ada", "city", "London")
		s.DB(2).Do(t, "SET", "n", "1")
	}
	args := func(more ...string) []string {
		return append([]string{"verify", "--source", src.URL(), "--target", dst.URL()}, more...)
	}
	p := newProgram(t)
	p.run(t, args()...).expect(t, exitDone, "differences   none", "full: 4 keys looked at")
	p.run(t, args("--mode", "count")...).expect(t, exitDone, "differences   none", "4 keys counted")

	dst.Do(t, "HSET", "user:1", "city", "Paris")
	dst.DB(2).Do(t, "SET", "\xff", "1")
	p.run(t, args()...).expect(t, exitRefused, "differences   1 extra, 1 value", `value db 0 key "user:1", field "city": source "London", target "Paris"`, `extra db 2 key "\xff"`, "differs from the source", "try:")
	p.run(t, args("--mode=sample", "--sample=5", "--rate=1000")...).expect(t, exitRefused, `"user:1"`)
	r := p.run(t, args("--json")...)
	r.expect(t, exitRefused)
	var got verifyJSON
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, r.stdout)
	}
	if got.Equal || got.Total != 2 || got.Kinds["value"] != 1 || len(got.First) != 2 || got.First[0].Key != "user:1" || !strings.Contains(r.stdout, `"key_base64":"/w=="`) {
		t.Errorf("got %s", r.stdout)
	}

	p.run(t, args("--sample", "0")...).expect(t, exitUsage, "--sample")
	p.run(t, args("--mode", "quick")...).expect(t, exitUsage, "--mode must be one of")
	p.run(t, "verify", "--source", src.URL(), "--target", "redis://127.0.0.1:1").expect(t, exitFailed, "connect to the target 127.0.0.1:1")
	p.run(t, "verify", "--source", "redis://u:wrong@"+src.Addr(), "--target", dst.URL()).expect(t, exitUsage, "the source "+src.Addr()+" refuses this user")
	p.run(t, "verify", "--source", src.URL(), "--target", "http://h").expect(t, exitUsage, "--target")
	p.run(t, "verify", "--source", src.URL()).expect(t, exitUsage, "--target")
}
