package applier

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// What the target says of a claim, of its owner and of its clock is believed only where it can be true.
func FuzzOwnerReplies(f *testing.F) {
	f.Add("( :1 1700000000000 1700000010000 ~ )", "( ( 1700000000000 1700000000000:0 ) )", "( 1700000000 999999 )")
	f.Add("( :0 somebody 1234 1700000010000 )", "~", "( :1 :2 )")
	f.Add("( :1 -5 9 ~ )", `( ( "" "" ) )`, "( 9223372036854775807 -1 )")
	f.Add("( :1 )", "( ( 9223372036854775808 x ) )", "( x y )")
	f.Add("!ERR", "( !NOPERM )", "( 1 )")
	f.Fuzz(func(t *testing.T, claim, admission, clock string) {
		if list, err := replyList(claim); err == nil {
			c, err := parseClaim(list)
			if err == nil && c.won && (c.epoch <= 0 || c.lease <= 0) || err != nil && c != (claimReply{}) {
				t.Errorf("%s: %+v, %v", claim, c, err)
			}
		}
		exec := redistest.ReplyOf(admission)
		epoch, fence, err := parseAdmission(exec, exec.Error())
		if epoch < 0 || err != nil && (epoch != 0 || fence != "") {
			t.Errorf("%s: %d, %q, %v", admission, epoch, fence, err)
		}
		when := redistest.ReplyOf(clock)
		if words, err := when.AsStrSlice(); err == nil {
			now, err := clockTime(words)
			if err == nil && (now.Before(time.Unix(0, 0)) || strconv.FormatInt(now.Unix(), 10) != strings.TrimLeft(words[0], "+0") && now.Unix() != 0) || err != nil && !now.IsZero() {
				t.Errorf("%s: %v, %v", clock, now, err)
			}
		}
	})
}

// replyList is a reply that is an array.
func replyList(text string) ([]rueidis.RedisMessage, error) {
	reply := redistest.ReplyOf(text)
	return reply.ToArray()
}

// What a target holds of a migration is read whatever it is: an owner who is alive has a lease that is not over, and a record is one that can be written again.
func FuzzTraces(f *testing.F) {
	record := checkpoint.Record{Name: "m", Epoch: 5, Phase: checkpoint.PhaseStream, ReplID: strings.Repeat("a", 40), Offset: 7, Checked: 7}
	f.Add(strings.Join(record.Fields(), " "), "epoch 5 lease 1700000000000 owner somebody place here", int64(1_600_000_000_000))
	f.Add("format x", "epoch x lease y", int64(0))
	f.Add("", "lease 9223372036854775807 epoch -1", int64(-1))
	f.Fuzz(func(t *testing.T, record, owner string, now int64) {
		tr := Traces{Now: time.UnixMilli(now)}
		tr.read(pairsOf(record), pairsOf(owner))
		switch {
		case tr.Alive() && (!tr.HasOwner || !tr.Owner.Lease.After(tr.Now)):
			t.Errorf("alive: %+v", tr)
		case tr.HasOwner != (tr.OwnerKey["epoch"] != ""), tr.None() != (len(tr.Checkpoint) == 0 && len(tr.OwnerKey) == 0):
			t.Errorf("%+v", tr)
		case tr.HasRecord && tr.Unusable != nil:
			t.Errorf("a record and %v", tr.Unusable)
		case tr.HasRecord:
			fields, again := tr.Record.Fields(), map[string]string{}
			for i := 0; i+1 < len(fields); i += 2 {
				again[fields[i]] = fields[i+1]
			}
			if second, ok, err := checkpoint.Parse(again); !ok || err != nil || !cmp.Equal(second, tr.Record) {
				t.Errorf("%+v becomes %+v: %v, %v", tr.Record, second, ok, err)
			}
		}
	})
}

// pairsOf is names and values, between spaces.
func pairsOf(text string) map[string]string {
	m, words := map[string]string{}, strings.Split(text, " ")
	for i := 0; i+1 < len(words); i += 2 {
		m[words[i]] = words[i+1]
	}
	return m
}

// Of CLIENT LIST only connections of this migration are taken, of earlier epochs.
func FuzzConnectionsBefore(f *testing.F) {
	f.Add("id=3 addr=127.0.0.1:1 name=redferry:m:5 flags=N\nid=4 name=redferry:m:7\nid=5 name=redferry:m\nid=6 name=redferry:mm:1\n", int64(7))
	f.Add("id=x name=redferry:m:1\nname=redferry:m:1\nid=-1 name=redferry:m:-9\nid=8 name=redferry:m:x", int64(1))
	f.Fuzz(func(t *testing.T, list string, epoch int64) {
		ids := connectionsBefore(list, "m", epoch)
		for _, id := range ids {
			line := slices.ContainsFunc(slices.Collect(strings.Lines(list)), func(line string) bool {
				words := strings.Fields(line)
				return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "name="+clientName("m")+":") }) &&
					slices.ContainsFunc(words, func(w string) bool {
						n, err := strconv.ParseInt(strings.TrimPrefix(w, "id="), 10, 64)
						return strings.HasPrefix(w, "id=") && err == nil && n == id
					})
			})
			if id <= 0 || !line {
				t.Errorf("%q: connection %d", list, id)
			}
		}
	})
}

// What a target says of itself makes one that is refused by name, or one whose limits are numbers.
func FuzzTargetInfo(f *testing.F) {
	f.Add("run_id:x\nrole:master\nmaster_replid:a\nredis_version:7.2.4\nmaxmemory:100\nmaxmemory_policy:allkeys-lfu\n")
	f.Add("role:slave\nmaster_host:h\nmaster_port:1\ncluster_enabled:1\nvalkey_version:9.0.1\nredis_version:7.2.4\n")
	f.Add("redis_version:.\nvalkey_version:-1.99999999999999999999")
	f.Fuzz(func(t *testing.T, text string) {
		info := replica.ParseInfo(text)
		var tg target
		tg.read(info)
		e := replica.Endpoint{Addr: "h:1"}
		err := tg.refuse(replica.SourceInfo{Addr: "s:1", RunID: "x", ReplID: "a"}, e, true)
		refused := tg.role != "master" || tg.cluster || tg.runID == "x" || tg.replID == "a"
		if (err != nil) != refused {
			t.Errorf("%q: %v", text, err)
		}
		if tg.hasImportMode && info["valkey_version"] == "" || tg.eviction != "" && info["maxmemory"] == "0" {
			t.Errorf("%q: %+v", text, tg)
		}
	})
}

// A reply to a command of the stream, and to a script that settles, is judged whatever it is.
func FuzzStreamReplies(f *testing.F) {
	f.Add(":1", "( 7 :10 :2 :3 ( large ) ( a 100 b 200 ) )")
	f.Add("( :-2 ~ :1 )", "( ~ ~ ~ ~ ~ ( a ) )")
	f.Add("~", "( :1 !ERR :-9223372036854775808 x ( ) ( ( ) x ) )")
	f.Add("!WRONGTYPE", "( )")
	f.Fuzz(func(t *testing.T, reply, settled string) {
		m := redistest.ReplyOf(reply)
		for e := anything; e <= mayFail; e++ {
			met := e.met(&m)
			switch {
			case m.Error() != nil && !m.IsNil() && !met, (e == anything || e == mayFail) && !met: // refusals are another's to judge
				t.Errorf("%s is not what %d expects", reply, e)
			case e == notNil && met == m.IsNil():
				t.Errorf("nil %v, met %v", m.IsNil(), met)
			}
		}
		list, err := replyList(settled)
		if err != nil || len(list) != settleReplies {
			return
		}
		s := &settler{near: newNear()}
		s.count(0, list)
		if s.at.Looked < 0 || s.at.Settled < 0 || s.at.Fields < 0 {
			t.Errorf("%s: %+v", settled, s.at)
		}
		for _, run := range s.near.nearest() {
			if run.db != 0 || len(run.keys) == 0 {
				t.Errorf("%s: %+v", settled, run)
			}
		}
	})
}
