package preflight

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/rdbstream"
	"redferry/replica"
)

// usual is what a check gathers where nothing is wrong.
func usual() *facts {
	id := strings.Repeat("a", 40)
	return &facts{
		Config: Config{Name: "default", Spool: true, Expiry: applier.Shift},
		source: source{
			end: end{version: "redis 7.2.4", modules: []string{}, hasSkew: true, watched: no, rights: rights{user: "default"}, info: map[string]string{
				"role": "master", "used_memory": "1000000", "used_memory_rss": "1100000", "total_system_memory": "8000000000", "db0": "keys=10,expires=0",
			}},
			config: map[string]string{"repl-backlog-size": "1048576", "repl-backlog-ttl": "3600", "repl-timeout": "60", "min-replicas-to-write": "0", "repl-diskless-sync": "yes"},
			psync:  yes, rate: 100, risk: replica.Risk{Level: replica.RiskFine, Text: "fine"}, took: time.Second,
			backlog: replica.Backlog{ReplID: id, FirstByte: 1001, HistLen: 1000, MasterOffset: 2000, Active: true},
		},
		target: target{
			end:       end{version: "redis 7.2.4", modules: []string{}, hasSkew: true, watched: no, rights: rights{user: "default"}, info: map[string]string{"used_memory": "1000000", "maxmemory": "0"}},
			databases: map[int]error{0: nil},
		},
		home: home{dir: "/d", free: 1 << 40},
	}
}

// follow makes the target one that holds this migration, up to an offset.
func follow(f *facts, offset int64) {
	f.target.found = applier.Traces{HasRecord: true, Record: checkpoint.Record{Phase: checkpoint.PhaseStream, ReplID: f.source.backlog.ReplID, Offset: offset}}
}

func TestJudging(t *testing.T) {
	stop := &replica.Stop{Kind: replica.Decide, Reason: "no", Hint: "do"}
	tests := map[string]struct {
		change func(f *facts)
		want   map[string]string // "level words" by ID; all others are ok
	}{
		"usual":     {func(*facts) {}, nil},
		"both away": {func(f *facts) { f.source.err, f.target.err = errors.New("x"), stop }, map[string]string{"source-reached": "block --source", "target-reached": "block do"}},
		"INFO forbidden": {func(f *facts) {
			f.source.blind, f.source.info, f.source.version, f.source.rate, f.source.took, f.source.backless = true, nil, "", -1, 0, errors.New("x")
		}, map[string]string{"source-reached": "warn +info", "pair": "warn told", "source-kind": "warn told", "source-role": "warn told", "versions": "warn told", "types": "warn told", "databases": "warn told", "large-values": "warn told", "target-memory": "warn told", "fork": "warn told", "backlog": "warn told", "duration": "warn told"}},
		"CONFIG forbidden": {func(f *facts) { f.source.config = nil; f.source.risk = replica.Risk{Text: "x", Hint: "y"} }, map[string]string{"sync-method": "warn told", "replica-buffer": "warn told", "backlog": "warn told", "backlog-ttl": "warn told", "repl-timeout": "warn told", "min-replicas": "warn told"}},
		"only INFO tells": {func(f *facts) {
			delete(f.source.config, "repl-backlog-size")
			f.source.info["repl_backlog_size"] = "1048576"
		}, nil},
		"COMMAND forbidden":    {func(f *facts) { f.source.psync = unknown }, map[string]string{"psync": "warn +command"}},
		"no PSYNC":             {func(f *facts) { f.source.psync = no }, map[string]string{"psync": "block undo rename-command"}},
		"no such name":         {func(f *facts) { f.source.psync, f.PSYNCCommand = no, "X" }, map[string]string{"psync": "block leave out --psync-command"}},
		"another name":         {func(f *facts) { f.PSYNCCommand = "X" }, map[string]string{"psync": "warn has a command X"}},
		"usual name, given":    {func(f *facts) { f.PSYNCCommand = "psync" }, nil},
		"loading":              {func(f *facts) { f.source.refusal = errors.New("the source is loading its dataset") }, map[string]string{"source-kind": "warn loading"}},
		"shards":               {func(f *facts) { f.source.refusal = stop }, map[string]string{"source-kind": "block no"}},
		"a loop":               {func(f *facts) { f.target.loops = stop }, map[string]string{"pair": "block no"}},
		"a replica, in touch":  {func(f *facts) { f.source.info["role"], f.source.info["master_link_status"] = "slave", "up" }, nil},
		"a replica, orphaned":  {func(f *facts) { f.source.info["role"], f.source.info["master_link_status"] = "slave", "down" }, map[string]string{"source-role": "warn lost it"}},
		"read only":            {func(f *facts) { f.target.readOnly = stop }, map[string]string{"target-role": "block do"}},
		"failing over":         {func(f *facts) { f.target.readOnly = errors.New("a replica") }, map[string]string{"target-role": "warn a replica"}},
		"no database":          {func(f *facts) { f.target.databases[3] = stop }, map[string]string{"databases": "block no"}},
		"completed":            {func(f *facts) { f.target.data = replica.ErrCompleted }, map[string]string{"target-data": "warn reset"}},
		"the checkpoint":       {func(f *facts) { follow(f, 1500) }, nil},
		"too old a checkpoint": {func(f *facts) { follow(f, 500) }, map[string]string{"resume": "warn --on-full-resync"}},
		"that may be loaded":   {func(f *facts) { follow(f, 500); f.OnFullResync = applier.Merge }, nil},
		"nobody knows":         {func(f *facts) { follow(f, 1500); f.source.backless = errors.New("x") }, map[string]string{"resume": "warn told"}},
		"no buffer needed": {func(f *facts) {
			follow(f, 1500)
			f.source.risk = replica.Risk{Level: replica.RiskCertain, Text: "x", Hint: "y"}
		}, nil},
		"a small buffer":         {func(f *facts) { f.source.risk = replica.Risk{Level: replica.RiskLikely, Text: "x", Hint: "y"} }, map[string]string{"replica-buffer": "warn y"}},
		"too small a buffer":     {func(f *facts) { f.source.risk = replica.Risk{Level: replica.RiskCertain, Text: "x", Hint: "y"} }, map[string]string{"replica-buffer": "block y"}},
		"which is lifted":        {func(f *facts) { f.source.risk.Level = replica.RiskCertain; f.RaiseLimits = true }, nil},
		"the backlog just lasts": {func(f *facts) { f.source.rate = 1048576 / 600 }, nil},
		"it does not":            {func(f *facts) { f.source.rate = 1048576 / 590 }, map[string]string{"backlog": "warn CONFIG SET repl-backlog-size 7mb"}},
		"nothing is written":     {func(f *facts) { f.source.rate = 0 }, nil},
		"a short ttl":            {func(f *facts) { f.source.config["repl-backlog-ttl"] = "599" }, map[string]string{"backlog-ttl": "warn repl-backlog-ttl"}},
		"a ttl of none":          {func(f *facts) { f.source.config["repl-backlog-ttl"] = "0" }, nil},
		"with other replicas":    {func(f *facts) { f.source.config["repl-backlog-ttl"] = "1"; f.source.info["connected_slaves"] = "1" }, nil},
		"a short timeout":        {func(f *facts) { f.source.config["repl-timeout"] = "14" }, map[string]string{"repl-timeout": "warn CONFIG SET repl-timeout 60"}},
		"replicas needed":        {func(f *facts) { f.source.config["min-replicas-to-write"] = "2" }, map[string]string{"min-replicas": "warn CONFIG SET min-replicas-to-write 3"}},
		"refused by another":     {func(f *facts) { f.source.config["min-replicas-to-write"] = "1000000" }, map[string]string{"min-replicas": "warn with the --name and --target of that migration"}},
		"refused by a cutover half way": {func(f *facts) {
			f.source.config["min-replicas-to-write"], f.target.found.Record.Refusal = "1000000", "{}"
		}, map[string]string{"min-replicas": "warn redferry run finishes it"}},
		"a disk RDB":         {func(f *facts) { f.source.config["repl-diskless-sync"] = "no" }, nil},
		"BGSAVE fails":       {func(f *facts) { f.source.info["rdb_last_bgsave_status"] = "err" }, map[string]string{"sync-method": "warn BGSAVE"}},
		"most of the memory": {func(f *facts) { f.source.info["used_memory_rss"] = "4100000000" }, map[string]string{"fork": "warn 3.8 GiB of its machine's 7.5 GiB"}},
		"a slow fork":        {func(f *facts) { f.source.info["latest_fork_usec"] = "600000" }, map[string]string{"fork": "warn stopped it for 600ms"}},
		"here, enough": {func(f *facts) {
			f.source.machine = &machine{available: 1 << 30, overcommit: 0}
			f.source.info["total_system_memory"] = "1"
		}, nil},
		"here, too little":    {func(f *facts) { f.source.machine = &machine{available: 1000, overcommit: 1} }, map[string]string{"fork": "warn 1000 B available"}},
		"here, and heuristic": {func(f *facts) { f.source.machine = &machine{available: 1000, overcommit: 0} }, map[string]string{"fork": "warn sysctl vm.overcommit_memory=1"}},
		"here, no overcommit": {func(f *facts) { f.source.machine = &machine{available: 1 << 40, overcommit: 2} }, map[string]string{"fork": "warn sysctl"}},
		"here, not told":      {func(f *facts) { f.source.machine = &machine{available: -1, overcommit: -1} }, nil},
		"sentinels":           {func(f *facts) { f.source.watched = yes }, map[string]string{"source-sentinel": "warn redis+sentinel"}},
		"sentinels, named":    {func(f *facts) { f.source.watched, f.Source.Hosts = yes, []string{"a", "b"} }, nil},
		"sentinels, both sides": {func(f *facts) {
			f.source.watched, f.Source.Hosts, f.target.watched, f.Target.Hosts = yes, []string{"a", "b"}, yes, []string{"c", "d"}
		}, map[string]string{"sentinels": "warn different names"}},
		"sentinels, not told":   {func(f *facts) { f.source.watched = unknown }, map[string]string{"source-sentinel": "warn +pubsub|numsub"}},
		"clocks":                {func(f *facts) { f.source.skew = 1001 * time.Millisecond }, map[string]string{"clocks": "warn the source's clock is 1s ahead of the target's"}},
		"clocks, other way":     {func(f *facts) { f.source.skew, f.target.skew = -time.Minute, time.Minute }, map[string]string{"clocks": "warn the target's clock is 2m0s ahead of the source's"}},
		"clocks, both off":      {func(f *facts) { f.source.skew, f.target.skew = time.Hour, time.Hour }, nil},
		"no clock":              {func(f *facts) { f.target.hasSkew = false }, map[string]string{"clocks": "warn +time"}},
		"maxmemory, enough":     {func(f *facts) { f.target.info["maxmemory"] = "2300000" }, nil},
		"maxmemory, hardly":     {func(f *facts) { f.target.info["maxmemory"] = "2100000" }, map[string]string{"target-memory": "warn CONFIG SET maxmemory"}},
		"maxmemory, too little": {func(f *facts) { f.target.info["maxmemory"] = "1790000" }, map[string]string{"target-memory": "block CONFIG SET maxmemory 3mb"}},
		"maxmemory, emptied":    {func(f *facts) { f.target.info["maxmemory"], f.OnNotEmpty = "1300000", applier.Flush }, nil},
		"maxmemory, all there":  {func(f *facts) { f.target.info["maxmemory"] = "1"; follow(f, 1500) }, nil},
		"a small machine":       {func(f *facts) { f.target.info["total_system_memory"] = "100" }, map[string]string{"target-memory": "block machine's memory"}},
		"eviction":              {func(f *facts) { f.target.policy = "allkeys-lru" }, map[string]string{"eviction": "warn noeviction"}},
		"no module list":        {func(f *facts) { f.source.modules = nil }, map[string]string{"modules": "warn on the source"}},
		"nor at the other end":  {func(f *facts) { f.source.modules, f.target.modules = nil, nil }, map[string]string{"modules": "warn on both"}},
		"no list of the target": {func(f *facts) { f.source.modules, f.target.modules = []string{"m"}, nil }, map[string]string{"modules": "warn on the target"}},
		"a module":              {func(f *facts) { f.source.modules = []string{"m"} }, map[string]string{"modules": "warn the source has m"}},
		"Valkey's Lua":          {func(f *facts) { f.source.modules = []string{"lua"} }, nil},
		"a module's value": {func(f *facts) {
			f.source.modules = []string{"m"}
			f.source.sample.types = map[byte]typed{rdbstream.TypeModule2: {1, "k"}}
		}, map[string]string{"modules": "block as key k"}},
		"the same module":  {func(f *facts) { f.source.modules, f.target.modules = []string{"m"}, []string{"n", "m"} }, nil},
		"no sample":        {func(f *facts) { f.source.sample.err = errors.New("NOPERM") }, map[string]string{"large-values": "warn +scan"}},
		"older, no sample": {func(f *facts) { f.source.sample.err = errors.New("NOPERM"); f.target.version = "redis 7.0.1" }, map[string]string{"large-values": "warn", "versions": "warn", "types": "warn told"}},
		"far too old":      {func(f *facts) { f.target.version = "redis 4.0.1" }, map[string]string{"versions": "block ABSTTL", "types": "warn"}},
		"untested":         {func(f *facts) { f.source.version, f.target.version = "redis 5.0.1", "redis 5.0.1" }, map[string]string{"versions": "warn tested"}},
		"a functions' library": {func(f *facts) {
			f.source.info["number_of_libraries"] = "2"
			f.source.version, f.target.version = "redis 7.0.1", "redis 6.2.1"
		}, map[string]string{"versions": "warn", "types": "warn", "functions": "block 2 function"}},
		"a full disk":           {func(f *facts) { f.home.free = 20_000_000 }, map[string]string{"spool": "block --spool=off"}},
		"a full disk, unused":   {func(f *facts) { f.home.free, f.Spool = 20_000_000, false }, nil},
		"a smaller disk":        {func(f *facts) { f.source.info["used_memory"], f.home.free = "90000000", 100_000_000 }, map[string]string{"spool": "warn --spool-max"}},
		"a small share":         {func(f *facts) { f.source.info["used_memory"], f.SpoolMax = "90000000", 20_000_000 }, map[string]string{"spool": "warn --spool-max"}},
		"a disk that says none": {func(f *facts) { f.home.free = -1 }, map[string]string{"spool": "warn told"}},
		"no --dir":              {func(f *facts) { f.home.writable = errors.New("read-only") }, map[string]string{"spool": "block another --dir"}},
		"missing rights":        {func(f *facts) { f.source.rights.missing = []need{wished("time"), needed("psync")} }, map[string]string{"source-rights": "block ACL SETUSER default +time +psync on the source"}},
		"a missing wish":        {func(f *facts) { f.target.rights.missing = []need{wished("config|get")} }, map[string]string{"target-rights": "warn ACL SETUSER default +config|get on the target"}},
		"missing keys":          {func(f *facts) { f.target.rights.missing, f.target.rights.keys = []need{needed("set")}, []string{"set"} }, map[string]string{"target-rights": "block ACL SETUSER default ~* &* on the target"}},
		"rights not told":       {func(f *facts) { f.target.rights.untold = errors.New("NOPERM") }, map[string]string{"target-rights": "warn told"}},
		"import":                {func(f *facts) { f.Expiry, f.target.expiry = applier.Import, stop }, map[string]string{"expiry": "block do"}},
		"import, possible":      {func(f *facts) { f.Expiry = applier.Import }, nil},
		"owned": {func(f *facts) {
			f.target.found = applier.Traces{HasOwner: true, Now: time.Unix(100, 0), Owner: applier.Owner{Text: "pid 1", Lease: time.Unix(108, 0)}}
		}, map[string]string{"owner": "block pid 1, whose lease runs for another 8s"}},
		"owned no more": {func(f *facts) {
			f.target.found = applier.Traces{HasOwner: true, Now: time.Unix(109, 0), Owner: applier.Owner{Text: "pid 1", Lease: time.Unix(108, 0)}}
		}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := usual()
			tt.change(f)
			seen := 0
			for _, got := range f.report().Findings {
				level, words, _ := strings.Cut(tt.want[got.ID], " ")
				if level == "" {
					level = string(OK)
				} else {
					seen++
				}
				if string(got.Level) != level || !strings.Contains(got.Found+" "+got.Why+" "+got.Fix, words) {
					t.Errorf("%s: got %+v, want %s %q", got.ID, got, level, words)
				}
				if (got.Level == OK) != (got.Fix == "") {
					t.Errorf("a way out is for what is not ok, and only for that: %+v", got)
				}
			}
			if seen != len(tt.want) {
				t.Errorf("%d of the %d findings are there", seen, len(tt.want))
			}
		})
	}
}

func TestTakes(t *testing.T) {
	six, seven, eight := release{major: 6, minor: 2}, release{major: 7}, release{major: 8}
	valkey8, valkey9 := release{valkey: true, major: 8, minor: 1}, release{valkey: true, major: 9}
	for _, tt := range []struct {
		to, from release
		typ      byte
		want     bool
	}{
		{six, seven, rdbstream.TypeListQuicklist, true},
		{six, seven, rdbstream.TypeListQuicklist2, false},
		{seven, eight, rdbstream.TypeListQuicklist2, true},
		{seven, eight, rdbstream.TypeSetListpack, false},
		{eight, eight, rdbstream.TypeHashListpackEx, true},
		{eight, seven, rdbstream.TypeStreamListpacks4, false},
		{valkey8, eight, rdbstream.TypeSetListpack, true},
		{valkey8, eight, rdbstream.TypeHashListpackEx, false},
		{valkey9, eight, rdbstream.TypeHashListpackEx, false},
		{valkey9, valkey9, rdbstream.TypeValkeyHash2, true},
		{valkey8, valkey9, rdbstream.TypeValkeyHash2, false},
		{eight, valkey9, rdbstream.TypeValkeyHash2, false},
		{eight, eight, 99, false},
	} {
		if got := tt.to.takes(tt.from.valkey, tt.typ); got != tt.want {
			t.Errorf("%v takes type %d of %v: got %v", tt.to, tt.typ, tt.from, got)
		}
	}
}

func TestReleases(t *testing.T) {
	for version, want := range map[string]int{
		"redis 3.0.7": 6, "redis 3.2.0": 7, "redis 4.0.14": 8, "redis 5.0.0": 9, "redis 6.2.14": 9, "redis 7.0.15": 10, "redis 7.2.4": 11, "redis 7.4.0": 12, "redis 8.0.2": 12,
		"redis 8.4.0": 12, "redis 8.6.1": 13, "redis 8.8.0": 14, "redis 8.10.0": 15, "redis 9.0": 15, "valkey 7.2.5": 11, "valkey 8.1.1": 11, "valkey 9.0.0": 80, "valkey 9.1.2": 80,
	} {
		r, ok := releaseOf(version)
		if !ok || r.rdb() != want {
			t.Errorf("%s: got RDB %d, want %d", version, r.rdb(), want)
		}
	}
	for _, version := range []string{"", "redis", "redis x.y"} {
		if _, ok := releaseOf(version); ok {
			t.Errorf("%q is a version", version)
		}
	}
}

func TestPermits(t *testing.T) {
	categories := map[string][]string{"@write": {"set", "restore"}, "@dangerous": {"restore", "config|get", "config|set"}}
	for _, tt := range []struct {
		rules, right string
		want         bool
	}{
		{"+@all", "restore", true},
		{"-@all", "restore", false},
		{"-@all +@write", "restore", true},
		{"-@all +@write -@dangerous", "restore", false},
		{"-@all +@write -@dangerous +restore", "restore", true},
		{"+@all -restore", "restore", false},
		{"+@all -restore", "set", true},
		{"-@all +config|get", "config|get", true},
		{"-@all +config|get", "config|set", false},
		{"-@all +config", "config|set", true},
		{"+@all -@dangerous", "config|set", false},
		{"", "set", false},
	} {
		if got := permits(tt.rules, categories, tt.right); got != tt.want {
			t.Errorf("%q permits %s: got %v", tt.rules, tt.right, got)
		}
	}
}

// The manual lists the checks, all of them, in their order.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## What does check look at?\n")
	if !ok {
		t.Fatal("the manual has no section on check")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)`").FindAllStringSubmatch(section, -1) {
		listed = append(listed, row[1])
	}
	if diff := cmp.Diff(IDs(), listed); diff != "" {
		t.Errorf("the checks and the manual's (-have +listed):\n%s", diff)
	}
}

func TestHere(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "192.0.2.1:1": false, "example.org:1": false} {
		if got := here(replica.Endpoint{Network: "tcp", Addr: addr}); got != want {
			t.Errorf("%s: got %v", addr, got)
		}
	}
	if !here(replica.Endpoint{Network: "unix", Addr: "/s"}) {
		t.Error("a socket is elsewhere")
	}
}
