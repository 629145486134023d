package applier

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"redferry/internal/redistest"
	"redferry/replica"
	"redferry/replica/spool"
)

// words splits a command as one types it: no argument has a space.
func words(text string) [][]byte {
	var args [][]byte
	for _, w := range strings.Fields(text) {
		args = append(args, []byte(w))
	}
	return args
}

// asker is a Sink that only wants to know what the source says of itself.
type asker struct {
	replica.Sink
	heard replica.SourceInfo
}

var errHeard = &replica.Stop{Kind: replica.Failed, Reason: "heard enough"}

func (a *asker) Resume(_ context.Context, src replica.SourceInfo) (replica.Resume, error) {
	a.heard = src
	return replica.Resume{}, errHeard
}

// commandTable is what a run learns of a source's commands.
func commandTable(t *testing.T, s *redistest.Server) map[string]replica.KeySpec {
	t.Helper()
	e, err := replica.ParseEndpoint(s.URL(), replica.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	between, err := spool.Open(spool.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	var a asker
	err = replica.Run(t.Context(), replica.RunConfig{Source: e, Spool: between, Status: &replica.Status{}, Log: zerolog.Nop()}, &a)
	if !errors.Is(err, errHeard) {
		t.Fatalf("ask %s: %v", s.Build.Name, err)
	}
	return a.heard.Commands
}

// streamed are commands as they stand in a replication stream, at least one for every write that has its keys elsewhere than at its first
// argument (protocol 3.4), and what could be mistaken for a key.
var streamed = []string{
	"set k v", "set k redferry:v", "SET k v PXAT 99999999999999", "setrange k 1 v", "append k v", "incr k", "bitfield k SET u8 0 1", "setbit k 1 1",
	"del a", "del a b c", "DEL a a", "unlink a b", "touch a b", "pfcount a b", "mset a 1 b 2", "msetnx a 1 b 2 c 3",
	"msetex 2 a 1 b 2", "msetex 1 a 1 PXAT 99999999999999", "msetex 3 a 1 b 2 c 3 KEEPTTL",
	"rename a b", "renamenx a b", "rpoplpush a b", "lmove a b LEFT RIGHT", "smove a b m", "copy a b", "copy a b DB 3 REPLACE", "move a 3",
	"geosearchstore d s FROMLONLAT 1 2 BYRADIUS 3 m", "zrangestore d s 0 -1",
	"sdiffstore d a", "sdiffstore d a b", "sinterstore d a b c", "sunionstore d a", "pfmerge d", "pfmerge d a b",
	"zunionstore d 1 a", "zunionstore d 2 a b WEIGHTS 1 2 AGGREGATE MAX", "zinterstore d 3 a b c", "ZDIFFSTORE d 2 a b",
	"bitop NOT d a", "bitop AND d a b c",
	"sort a STORE d", "sort a BY nosort GET # LIMIT 0 10 ASC ALPHA STORE d", "sort a store d STORE e", "sort a BY store STORE d", "sort a GET store BY store STORE d",
	"sort a LIMIT 0 5 DESC store store", "sort a",
	"georadius k 1 2 3 m STORE d", "georadius k 1 2 3 m COUNT 5 STOREDIST d", "georadius k 1 2 3 m",
	"georadiusbymember k store 3 m STORE d", "georadiusbymember k m 3 km DESC STOREDIST d",
	"xgroup CREATE k g 0", "xgroup CREATE k g $ MKSTREAM ENTRIESREAD 5", "xgroup SETID k g 5-0", "xgroup DESTROY k g", "xgroup DELCONSUMER k g c", "xgroup CREATECONSUMER k g c",
	"xadd k 1-1 f v", "xadd k MAXLEN = 5 1-1 f v", "xclaim k g c 0 1-1 TIME 5 RETRYCOUNT 2 FORCE JUSTID LASTID 2-0", "xtrim k MINID = 3", "xsetid k 5-0", "xack k g 1-1", "xdel k 1-1",
	"pfdebug GETREG k", "pfadd k a b", "linsert k BEFORE p v", "lpop k 3", "lpush k v", "lset k 0 v", "lrem k 0 v", "ltrim k 0 1", "rpushx k v",
	"hset k f v", "hsetnx k f v", "hdel k f g", "hincrby k f 1", "hpexpireat k 99999999999999 FIELDS 2 f g", "hpersist k FIELDS 1 f", "hsetex k PXAT 99999999999999 FIELDS 1 f v",
	"pexpireat k 99999999999999", "pexpireat k 99999999999999 GT", "persist k", "restore k 0 payload REPLACE ABSTTL", "restore-asking k 0 payload ABSTTL",
	"zadd k 1 m", "zincrby k 1 m", "zrem k m", "zremrangebyscore k 0 1", "zpopmin k 2", "sadd k m", "srem k m n", "getset k v", "incrbyfloat k 1.5",
	"eval script 0 a", "eval script 2 a b c", "evalsha sha 1 a b", "fcall f 2 a b c", "fcall f 0",
	"xackdel k g KEEPREF IDS 1 1-1", "xdelex k KEEPREF IDS 1 1-1", "delex k IFEQ v", "delifeq k v",
	"flushall", "flushdb ASYNC", "swapdb 0 1", "publish channel message", "script LOAD text", "function LOAD text", "function FLUSH", "trimslots RANGES 1 0 5",
}

// keysOf are the arguments at the places that keyPositions gives.
func keysOf(t *testing.T, command string, table map[string]replica.KeySpec) []string {
	t.Helper()
	args := words(command)
	at, ok := keyPositions(args, table)
	if !ok {
		t.Errorf("%s: the places of its keys are not known", command)
	}
	keys := []string{}
	for _, i := range at {
		keys = append(keys, string(args[i]))
	}
	return keys
}

// Where the keys are is what the server itself says, with its table and with the built-in one alone.
func TestKeyPositionsAreTheServers(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, b)
			table := commandTable(t, s)
			compared := 0
			for _, command := range streamed {
				name := strings.ToLower(strings.Fields(command)[0])
				if _, there := table[name]; !there {
					continue // this server does not have it
				}
				want, ok := serverKeys(t, s, command)
				if !ok || name == "pfdebug" && !b.Has70() { // 6.0 tells its keys nowhere
					continue
				}
				compared++
				for source, table := range map[string]map[string]replica.KeySpec{"the source's table": table, "the built-in table": nil} {
					if diff := cmp.Diff(want, keysOf(t, command, table), cmpopts.SortSlices(strings.Compare)); diff != "" {
						t.Errorf("%s, with %s (-server +got):\n%s", command, source, diff)
					}
				}
			}
			if compared < 85 {
				t.Errorf("only %d commands were compared", compared)
			}
		})
	}
}

// serverKeys asks the server for a command's keys. Not all of them can tell: 6.0 checks the number of arguments of newer forms, and later
// ones get PFMERGE of nothing wrong.
func serverKeys(t *testing.T, s *redistest.Server, command string) (keys []string, ok bool) {
	t.Helper()
	results, err := s.Pipeline(append([]string{"COMMAND", "GETKEYS"}, strings.Fields(command)...))
	if err != nil {
		t.Fatal(err)
	}
	keys, err = results[0].AsStrSlice()
	if err == nil {
		return keys, true
	}
	if _, refused := rueidis.IsRedisErr(err); !refused {
		t.Fatal(err)
	}
	return []string{}, strings.Contains(err.Error(), "no key arguments")
}

func TestKeyPositions(t *testing.T) {
	table := map[string]replica.KeySpec{
		"json.mset": {First: 1, Last: -1, Step: 3}, "ft.create": {}, "graph.do": {First: 1, Last: 1, Step: 1, Movable: true},
		"tail.cmd": {First: 2, Last: -2, Step: 1}, "bad.step": {First: 1, Last: 3}, "del": {First: 5, Last: 5, Step: 1},
	}
	tests := []struct {
		name, command string
		table         map[string]replica.KeySpec
		want          []int
		unknown       bool
	}{
		{"a module's command, by the table", "json.mset a $ 1 b $ 2", table, []int{1, 4}, false},
		{"its name in capitals", "JSON.MSET a $ 1", table, []int{1}, false},
		{"the last but one", "tail.cmd x a b y", table, []int{2, 3}, false},
		{"without keys, by the table", "ft.create redferry:i", table, nil, false},
		{"a table without a step", "bad.step a b c", table, nil, false},
		{"movable keys", "graph.do a", table, nil, true},
		{"not in the table", "cf.add a b", table, nil, true},
		{"without a table", "cf.add a b", nil, []int{1}, false},
		{"the built-in one is believed first", "del a b", table, []int{1, 2}, false},
		{"a name alone", "persist", nil, nil, false},
		{"fewer arguments than keys", "rename a", nil, []int{1}, false},
		{"MSET of half a pair", "mset a 1 b", nil, []int{1, 3}, false},
		{"no count of keys", "eval script", nil, nil, true},
		{"a count that is none", "fcall f x a", nil, nil, true},
		{"a negative count", "eval script -1 a", nil, nil, true},
		{"more keys than arguments", "evalsha sha 3 a b", nil, []int{3, 4}, true},
		{"a count for pairs", "msetex 2 a 1 b", nil, []int{2, 4}, false},
		{"more pairs than arguments", "msetex 3 a 1 b 2", nil, []int{2, 4}, true},
		{"GEORADIUS with both destinations: the last wins", "georadius k 1 2 3 m STORE d STOREDIST e", nil, []int{1, 9}, false},
		{"STORE without a destination", "sort a ALPHA STORE", nil, []int{1}, false},
		{"SORT alone", "sort", nil, nil, false},
		{"LIMIT at the end", "sort a LIMIT", nil, []int{1}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := keyPositions(words(test.command), test.table)
			if ok == test.unknown {
				t.Errorf("known: got %v", ok)
			}
			if diff := cmp.Diff(test.want, got); diff != "" && ok {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the arguments are, the places are inside the command, each once and not its name.
func FuzzKeyPositions(f *testing.F) {
	for _, command := range streamed {
		f.Add(command, 1, -1, 1)
	}
	f.Add("sort", 1, 1, 1)
	f.Add("x a b c", 1, -1, math.MaxInt)
	f.Add("x a b c", math.MinInt, math.MaxInt, 2)
	f.Fuzz(func(t *testing.T, command string, first, last, step int) {
		args := words(command)
		if len(args) == 0 {
			return
		}
		for _, table := range []map[string]replica.KeySpec{nil, {"x": {First: 1, Last: -1, Step: 1}}, {"x": {First: first, Last: last, Step: step}}} {
			at, _ := keyPositions(args, table)
			seen := map[int]bool{}
			for _, i := range at {
				if i < 1 || i >= len(args) || seen[i] {
					t.Errorf("%q: place %d of %v", args, i, at)
				}
				seen[i] = true
			}
		}
	})
}

// COMMAND tells a renamed command by its usual name, which is the one that translate looks up.
func TestCommandTableHasUsualNames(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			table := commandTable(t, redistest.Start(t, b, redistest.Config("rename-command INCR add1")))
			want := replica.KeySpec{First: 1, Last: 1, Step: 1}
			if got, ok := table["incr"]; !ok || got != want {
				t.Errorf("incr: got %+v, %v, want %+v", got, ok, want)
			}
			if _, ok := table["add1"]; ok {
				t.Error("the table has the new name")
			}
		})
	}
}
