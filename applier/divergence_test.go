package applier

import (
	"context"
	"strings"
	"testing"

	"redferry/replica"
)

func said(lines ...string) *replica.Unit {
	u := &replica.Unit{}
	for _, line := range lines {
		u.Cmds = append(u.Cmds, replica.Command{Args: words(line)})
	}
	return u
}

func TestExpected(t *testing.T) {
	tests := []struct {
		name     string
		unit     []string // the last one is looked at
		becomes  string   // when it was changed on its way
		db       int      // of the one before
		want     expect
		unmanned expect // while the target may expire keys by itself
	}{
		{name: "in any case", unit: []string{"pExpireAt k 5"}, want: aboveZero, unmanned: aboveZero},
		{name: "the longest name", unit: []string{"ZREMRANGEBYSCORE k 0 1"}, want: aboveZero, unmanned: aboveZero},
		{name: "a longer one", unit: []string{"ZREMRANGEBYSCOREX k 0 1"}},
		{name: "one that begins alike", unit: []string{"PERSISTENT k"}},
		{name: "what it has become counts", unit: []string{"SETNX k v"}, becomes: "SET k v"},
		{name: "a write that may change nothing", unit: []string{"HSET k f v"}},
		{name: "HDEL is sent in vain", unit: []string{"HDEL k f"}},
		{name: "a pop", unit: []string{"LPOP k 3"}, want: notNil, unmanned: notNil},
		{name: "a pop by score", unit: []string{"zpopmin k"}, want: notEmpty, unmanned: notEmpty},
		{name: "fields", unit: []string{"HPEXPIREAT k 5 FIELDS 1 f"}, want: oneEffected, unmanned: oneEffected},

		{name: "SET", unit: []string{"SET k v"}},
		{name: "SET NX", unit: []string{"SET k v nx"}, want: notNil, unmanned: notNil},
		{name: "SET XX", unit: []string{"SET k v XX"}, want: notNil, unmanned: notNil},
		{name: "SET GET replies with the old value, or nil", unit: []string{"SET k v GET"}},
		{name: "SET NX GET", unit: []string{"SET k v NX GET"}},
		{name: "SET PXAT", unit: []string{"SET k v PXAT 5"}},

		{name: "DEL", unit: []string{"DEL k"}, want: aboveZero},
		{name: "UNLINK of several", unit: []string{"unlink k l m"}, want: aboveZero},
		{name: "DEL of which our key was taken out", unit: []string{"DEL redferry:x k"}, becomes: "DEL k"},
		{name: "the last fields of a hash expire", unit: []string{"HDEL k f g", "UNLINK k"}},
		{name: "and another hash's", unit: []string{"HDEL k f", "DEL k", "HDEL l f", "DEL l"}},
		{name: "HDEL of another key", unit: []string{"HDEL l f", "DEL k"}, want: aboveZero},
		{name: "HDEL in another database", unit: []string{"HDEL k f", "DEL k"}, db: 3, want: aboveZero},
		{name: "HDEL before another command", unit: []string{"HDEL k f", "SET l 1", "DEL k"}, want: aboveZero},
		{name: "HDEL, then DEL of several", unit: []string{"HDEL k f", "DEL k l"}, want: aboveZero},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, last := said(tt.unit...), len(tt.unit)-1
			if tt.db > 0 {
				u.Cmds[last-1].DB = tt.db
			}
			now := u.Cmds[last].Args
			if tt.becomes != "" {
				now = words(tt.becomes)
			}
			for expires, want := range map[bool]expect{false: tt.want, true: tt.unmanned} {
				if got := expected(u, last, now, expires); got != want {
					t.Errorf("target expires keys %v: got %d, want %d", expires, got, want)
				}
			}
		})
	}
}

func TestExpectedDoesNotAllocate(t *testing.T) {
	u := said("HDEL k f", "UNLINK k", "set k v XX", "hpexpireat k 5 FIELDS 1 f", "ZREMRANGEBYSCORE k 0 1", "MODULE.COMMAND.WITH.A.NAME k")
	if got := testing.AllocsPerRun(100, func() {
		for i := range u.Cmds {
			expected(u, i, u.Cmds[i].Args, false)
		}
	}); got != 0 {
		t.Errorf("got %v allocations", got)
	}
}

// Every kind of reply that servers give, and some that they do not, to every expectation.
func TestMet(t *testing.T) {
	unmet := map[string][]expect{
		":1": {}, ":0": {aboveZero}, ":-1": {aboveZero}, "+OK": {}, "$-1": {notNil, notEmpty, oneEffected}, "_": {notNil, notEmpty, oneEffected},
		"*-1": {notNil, notEmpty, oneEffected}, "*0": {notEmpty, oneEffected}, "$1\r\nx": {}, "$0\r\n": {},
		"*1\r\n:1": {}, "*2\r\n:-2\r\n:2": {}, "*2\r\n:-2\r\n:0": {oneEffected}, "*1\r\n$1\r\nx": {oneEffected}, "-WRONGTYPE no": {}, "-ERR no such key": {},
	}
	// What a command that expects one thing is never answered with is not told apart.
	sensible := map[expect]string{aboveZero: ":+", notNil: "$_*", notEmpty: "*_", oneEffected: "*_"}
	var replies []string
	for reply := range unmet {
		replies = append(replies, reply)
	}
	c := answering(t, replies...)
	for _, reply := range replies {
		m, _ := c.Do(context.Background(), c.B().Ping().Build()).ToMessage()
		for _, e := range []expect{anything, aboveZero, notNil, notEmpty, oneEffected} {
			if e != anything && reply[0] != '-' && !strings.Contains(sensible[e], reply[:1]) {
				continue
			}
			want := true
			for _, u := range unmet[reply] {
				want = want && u != e
			}
			if got := e.met(&m); got != want {
				t.Errorf("%q to one that expects %d: got %v, want %v", reply, e, got, want)
			}
		}
	}
}

func TestPowerOfTen(t *testing.T) {
	for n, want := range map[int64]bool{1: true, 2: false, 9: false, 10: true, 20: false, 99: false, 100: true, 1000: true, 1001: false, 5000: false} {
		if got := powerOfTen(n); got != want {
			t.Errorf("%d: got %v", n, got)
		}
	}
}

func BenchmarkExpected(b *testing.B) {
	u := said("SET key value", "INCR key", "PEXPIREAT key 1795319569880", "HSET key field value", "DEL key")
	for b.Loop() {
		for i := range u.Cmds {
			expected(u, i, u.Cmds[i].Args, false)
		}
	}
}
