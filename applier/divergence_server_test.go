package applier_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// A target that has what the source has changes something with every command: on every build, under all that the load writes, and with what it does not.
func TestNoDivergenceOnACleanRun(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b)
			load(t, f.src, redistest.LoadOptions{Seed: 91, Writers: 2, Commands: 8000, SwapDB: true, Flush: true, TTL: true})
			before := f.src.Offset(t)
			for _, line := range effective(b) {
				say(t, f.src, line.before...)
				say(t, f.src, line.command)
				if after := f.src.Offset(t); after == before {
					t.Errorf("%s: the source has not sent it", line.command)
				} else {
					before = after
				}
			}
			if b.HasFieldTTL() { // what servers send in vain
				say(t, f.src, "HSET e:last f 1 g 1", "HPEXPIRE e:last 1 FIELDS 2 f g", "HSET e:past f 1 g 1", "HPEXPIRE e:past 0 FIELDS 2 f none",
					"HSET e:some f 1", "HPEXPIRE e:some 99999999 FIELDS 2 f none", "HPERSIST e:some FIELDS 2 f none")
				eventually(t, "the last fields of a hash expire", func() bool { return f.src.DoInt(t, "EXISTS", "e:last") == 0 })
			}
			f.equal(t)
			if got := f.status.Divergence.Load(); got != 0 {
				t.Errorf("divergence: %s", *f.status.DivergenceKinds.Load())
			}
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			if got := mustRecord(t, f.dst).Divergence; len(got) != 0 {
				t.Errorf("divergence in the checkpoint: %s", got)
			}
		})
	}
}

// What the replies to a transaction say of the target is known as soon as its offset is: a cutover asks right behind it.
func TestDoubtsComeWithTheOffset(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Latest(t))
	f.src.Do(t, "SET", "victim", "x")
	eventually(t, "it is there", func() bool { return f.dst.DoInt(t, "DEL", "victim") == 1 })
	f.src.Do(t, "DEL", "victim")
	if err := replica.Reach(t.Context(), f.sink, f.src.Offset(t)); err != nil {
		t.Fatal(err)
	}
	if why, _ := f.sink.Doubts(); len(why) != 1 || !strings.Contains(why[0], "found nothing to change") {
		t.Errorf("got %q", why)
	}
}

// line is a command that changes something, once the lines before it are done, and how it is counted where the target has not got what they wrote.
type line struct {
	command string
	counted string // a command's name
	before  []string
}

// effective are commands of every kind that is counted, each with keys of its own, "e:" and a name.
func effective(b redistest.Build) []line {
	later := "99999999999999"
	lines := []line{
		{"PEXPIREAT e:a " + later, "PEXPIREAT", []string{"SET e:a 1"}},
		{"PERSIST e:b", "PERSIST", []string{"SET e:b 1", "PEXPIREAT e:b " + later}},
		{"RENAMENX e:c e:c2", "", []string{"SET e:c 1"}}, // the target refuses it: no such key
		{"MOVE e:d 3", "MOVE", []string{"SET e:d 1"}},
		{"LREM e:e 0 x", "LREM", []string{"RPUSH e:e x y x"}},
		{"LINSERT e:f BEFORE x y", "LINSERT", []string{"RPUSH e:f x"}},
		{"LPUSHX e:g y", "LPUSHX", []string{"RPUSH e:g x"}},
		{"RPUSHX e:h y", "RPUSHX", []string{"RPUSH e:h x"}},
		{"LPOP e:i", "LPOP", []string{"RPUSH e:i x y"}},
		{"RPOP e:j", "RPOP", []string{"RPUSH e:j x y"}},
		{"RPOPLPUSH e:k e:k2", "RPOPLPUSH", []string{"RPUSH e:k x y"}},
		{"SREM e:l x z", "SREM", []string{"SADD e:l x y"}},
		{"SPOP e:m", "SREM", []string{"SADD e:m x y"}},
		{"SMOVE e:n e:n2 x", "SMOVE", []string{"SADD e:n x y"}},
		{"ZREM e:o x", "ZREM", []string{"ZADD e:o 1 x 2 y"}},
		{"ZREMRANGEBYSCORE e:p 1 1", "ZREMRANGEBYSCORE", []string{"ZADD e:p 1 x 2 y"}},
		{"ZREMRANGEBYRANK e:q 0 0", "ZREMRANGEBYRANK", []string{"ZADD e:q 1 x 2 y"}},
		{"ZREMRANGEBYLEX e:r [x [x", "ZREMRANGEBYLEX", []string{"ZADD e:r 0 x 0 y"}},
		{"ZPOPMIN e:s", "ZPOPMIN", []string{"ZADD e:s 1 x 2 y"}},
		{"ZPOPMAX e:t 1", "ZPOPMAX", []string{"ZADD e:t 1 x 2 y"}},
		{"XDEL e:u 1-1", "XDEL", []string{"XADD e:u 1-1 a b", "XADD e:u 2-1 a b"}},
		{"XTRIM e:v MAXLEN = 1", "XTRIM", []string{"XADD e:v 1-1 a b", "XADD e:v 2-1 a b"}},
		{"XACK e:w g 1-1", "XACK", []string{"XGROUP CREATE e:w g 0 MKSTREAM", "XADD e:w 1-1 a b", "XREADGROUP GROUP g c STREAMS e:w >"}},
		{"DEL e:x e:x2", "DEL", []string{"SET e:x 1"}},
		{"UNLINK e:y", "UNLINK", []string{"SET e:y 1"}},
		{"SET e:z 2 XX", "SET", []string{"SET e:z 1"}},
	}
	if b.Name == "redis-6.0" {
		return lines
	}
	lines = append(lines, line{"LMOVE e:A e:A2 LEFT RIGHT", "LMOVE", []string{"RPUSH e:A x y"}}, line{"COPY e:B e:B2", "COPY", []string{"SET e:B 1"}},
		line{"BLMPOP 1 1 e:C LEFT", "LPOP", []string{"RPUSH e:C x y"}})
	if b.HasFieldTTL() {
		lines = append(lines, line{"HPEXPIRE e:D 99999999 FIELDS 1 f", "HPEXPIREAT", []string{"HSET e:D f 1 g 1"}},
			line{"HPERSIST e:E FIELDS 1 f", "HPERSIST", []string{"HSET e:E f 1 g 1", "HPEXPIRE e:E 99999999 FIELDS 1 f"}})
	}
	return lines
}

// Who takes keys away behind redferry's back is told which commands have missed them, and where, also by a later run; and the run goes on.
func TestDivergenceIsCounted(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			f := follow(t, b, func(m *migration) { m.apply.KeepGoing = true })
			want := checkpoint.Divergence{}
			var gone []string
			for _, line := range effective(b) {
				say(t, f.src, line.before...)
				key := strings.Fields(line.command)[1]
				if line.counted == "LPOP" && !strings.HasPrefix(line.command, "LPOP") {
					key = strings.Fields(line.command)[3]
				}
				if line.counted != "" {
					want[line.counted]++
				}
				gone = append(gone, key)
			}
			f.through(t)
			f.dst.Do(t, append([]string{"DEL"}, gone...)...)
			for _, line := range effective(b) {
				say(t, f.src, line.command)
			}
			// These are there although they should not be.
			f.dst.Do(t, "MSET", "e:set", "1", "e:setnx", "1", "e:msetnx", "1")
			f.dst.Do(t, "SADD", "e:sadd", "x")
			f.dst.Do(t, "PFADD", "e:pfadd", "x")
			say(t, f.src, "SET e:set 1 NX", "SETNX e:setnx 1", "MSETNX e:msetnx 1 e:other 1", "SADD e:sadd x", "PFADD e:pfadd x")
			for _, name := range []string{"SET", "SETNX", "MSETNX", "SADD", "PFADD"} {
				want[name]++
			}
			f.through(t)
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, mustRecord(t, f.dst).Divergence); diff != "" {
				t.Errorf("divergence (-want +got):\n%s", diff)
			}
			for _, text := range []string{`"command":"PERSIST","count":1,"keys":["\"e:b\" in database 0"]`, `"command":"MOVE","count":1,"keys":["\"e:d\" in database 0"]`} {
				if f.said(text) != 1 {
					t.Errorf("the log does not have %s:\n%s", text, f.lines("count"))
				}
			}

			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			if got := f.status.Divergence.Load(); got != want.Total() {
				t.Errorf("after a restart: got %d, want %d", got, want.Total())
			}
			say(t, f.src, "SADD e:more x")
			f.through(t)
			f.dst.Do(t, "SREM", "e:more", "x")
			say(t, f.src, "SREM e:more x")
			f.through(t)
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			want["SREM"]++
			if diff := cmp.Diff(want, mustRecord(t, f.dst).Divergence); diff != "" {
				t.Errorf("divergence of both runs (-want +got):\n%s", diff)
			}

			// A new snapshot brings both sides together.
			f.m.apply.OnFullResync = "flush"
			f.src.Do(t, "DEBUG", "CHANGE-REPL-ID")
			f.running = f.m.start(t)
			f.until(t, replica.InSync, "")
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			if got := mustRecord(t, f.dst).Divergence; len(got) != 0 {
				t.Errorf("after another snapshot: got %s", got)
			}
		})
	}
}

// However many there are: all are counted, few are logged, with the beginnings of the first keys, and the counts of a fast stream arrive in the checkpoint.
func TestManyDivergences(t *testing.T) {
	t.Parallel()
	const times = 20_000
	f := follow(t, redistest.Latest(t), func(*migration) {})
	set, del, renew := []string{"MSET"}, []string{"DEL"}, make([]string, times)
	for i := range 9 {
		key := strconv.Itoa(i) + strings.Repeat("k", 150)
		set, del = append(set, key, "1"), append(del, key)
	}
	for i := range renew {
		renew[i] = "PEXPIREAT " + del[1+i%9] + " 99999999999999"
	}
	f.src.Do(t, set...)
	f.through(t)
	f.dst.Do(t, del...)
	say(t, f.src, renew...)
	f.through(t)
	if err := f.end(); err != nil {
		t.Fatal(err)
	}
	if got := mustRecord(t, f.dst).Divergence.String(); got != "PEXPIREAT="+strconv.Itoa(times) {
		t.Errorf("got %q, want %d of PEXPIREAT", got, times)
	}
	lines := f.lines(`"command":"PEXPIREAT"`)
	if len(lines) != 5 { // the 1st, 10th, 100th, 1,000th, 10,000th
		t.Errorf("got %d lines in the log, want 5", len(lines))
	}
	last := lines[len(lines)-1]
	if !strings.Contains(last, `"count":10000,`) || strings.Count(last, "in database 0") != 5 || strings.Count(last, "k") > 5*100+20 || !strings.Contains(last, "kk") {
		t.Errorf("the last line: %s", last)
	}
}
