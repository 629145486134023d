package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"redferry/applier"
	"redferry/replica"
	"redferry/replica/admin"
)

// A size, a duration and a place to stop are within their bounds, or refused with what was given.
func FuzzAmounts(f *testing.F) {
	for _, text := range []string{"500MB", "1.5GiB", "16EB", "9223372036854775807", "-1", "1e30GB", "5s", "-5s", "9999999h", "caught-up", "0", "12345", "NaN", "∞"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quotes := func(err error) bool {
			return (strings.Contains(text, "%") || !strings.Contains(err.Error(), "%!")) && (text == "" || len(text) > 30 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) || strings.Contains(err.Error(), text))
		}
		var size byteSize
		if err := size.UnmarshalText([]byte(text)); err != nil && !quotes(err) || err == nil && size < 0 || err != nil && size != 0 {
			t.Errorf("%q: %d, %v", text, size, err)
		}
		if d, err := admin.DurationText(text); err != nil && !quotes(err) || d < 0 || err != nil && d != 0 {
			t.Errorf("%q: %v, %v", text, d, err)
		}
		at, err := parseStopAt(text)
		if stop := replica.AsStop(err); err != nil && (stop == nil || stop.Kind != replica.Config || !quotes(err) || at != (replica.StopAt{})) || at.Offset < 0 || at.CaughtUp && at.Offset != 0 {
			t.Errorf("%q: %+v, %v", text, at, err)
		}
	})
}

// An order for a cutover is one that can be carried out, and reads the same again, or it is refused.
func FuzzCutoverOrder(f *testing.F) {
	f.Add(`{"timeout":30000000000,"force":true,"source_writes":"stopped","source_after":"open","source_clients":"kick","verify":"full"}`)
	f.Add(`{"timeout":-1}`)
	f.Add(`{"verify":"x"}`)
	f.Add(`{} {}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseOrder([]string{text})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "ERR ") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if o.Timeout <= 0 {
			t.Errorf("%q: %+v", text, o)
		}
		again, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := parseOrder(strings.Fields(string(again))); err != nil || second != o {
			t.Errorf("%q becomes %+v, and %q %+v: %v", text, o, again, second, err)
		}
	})
}

// What a run, a checkpoint and a cutover say of themselves is shown whatever it is.
func FuzzShown(f *testing.F) {
	text, err := json.Marshal(admin.Report{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, int64(1_700_000_000_000))
	f.Add([]byte(`{"state":"settling","phase":"settling","left_seconds":8e9,"snapshot":{"size_bytes":-1,"percent":1e308},"rate":{"source_bytes":-1e300},"backlog":{"size_bytes":-9,"spare_bytes":-8}}`), int64(-1))
	f.Add([]byte(`{"offset":-9223372036854775808,"stopped_seconds":1e300,"source_clients":-5,"ended_clients":9223372036854775807}`), int64(0))
	f.Fuzz(func(t *testing.T, text []byte, now int64) {
		var out bytes.Buffer
		var r admin.Report
		if json.Unmarshal(text, &r) == nil {
			if err := printRun(&out, &r); err != nil {
				t.Fatal(err)
			}
		}
		var c cutoverResult
		if json.Unmarshal(text, &c) == nil {
			out.WriteString(c.clients())
		}
		tr := applier.Traces{Now: time.UnixMilli(now)}
		if json.Unmarshal(text, &tr.Record) == nil {
			if err := printStatus(&out, "h:1", &tr); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(out.String(), "%!") && !bytes.ContainsAny(text, `%\`) {
			t.Errorf("%q is shown as %q", text, out.String())
		}
	})
}

// Whatever the arguments are: no password stays in them, and nothing else is taken away.
func FuzzWithoutSecrets(f *testing.F) {
	f.Add("run\x00--source\x00redis://u:secret@h\x00--target=redis://h:1\x00--name\x00x")
	f.Add("run\x00--source=a@b\x00--source\x00c\x00--admin-password=p")
	f.Add("status\x00--target\x00--target\x00x@y\x00--\x00--source=q@r")
	f.Add("--admin-password")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\x00")
		rest, moved := withoutSecrets(slices.Clone(args))
		if len(moved) == 0 && !slices.Equal(rest, args) {
			t.Errorf("%q becomes %q", args, rest)
		}
		for _, g := range findSecrets(rest) {
			if strings.Contains(g.value, "@") || g.env == secretFlags()[adminPassword] {
				t.Errorf("%q becomes %q, with %q", args, rest, g.value)
			}
		}
		at := 0
		for _, word := range rest { // in their order
			found := slices.Index(args[at:], word)
			if found < 0 {
				t.Fatalf("%q becomes %q", args, rest)
			}
			at += found + 1
		}
		if again, more := withoutSecrets(slices.Clone(rest)); len(more) != 0 || !slices.Equal(again, rest) {
			t.Errorf("%q becomes %q, and then %q", args, rest, again)
		}
	})
}
