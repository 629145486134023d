package preflight

import (
	"slices"
	"strings"
	"testing"

	"redferry/internal/redistest"
	"redferry/replica"
)

// Whatever servers say of themselves, every check comes to a finding.
func FuzzInfo(f *testing.F) {
	f.Add("redis_version:7.2.4\r\ndb0:keys=10,expires=0,subexpiry=1\r\nused_memory:1\r\nused_memory_rss:2\r\nmaxmemory:3\r\n", "3600", "-@all +@write -set +config|get")
	f.Add("valkey_version:9.0\ndb-1:keys\ndb99999999999999999999:keys=1\nlatest_fork_usec:9223372036854775807\nnumber_of_libraries:x", "-1", "+ - +@")
	f.Add("redis_version:.\nused_memory_dataset:-5\nmaxmemory:9223372036854775807\ntotal_system_memory:-1", "9223372036854775807", "")
	f.Fuzz(func(t *testing.T, info, setting, rules string) {
		a := usual()
		a.source.info, a.target.info = replica.ParseInfo(info), replica.ParseInfo(info)
		a.source.version, a.target.version = versionOf(a.source.info), versionOf(a.target.info)
		for name := range a.source.config {
			a.source.config[name] = setting
		}
		permits(rules, map[string][]string{"@write": {"set"}}, "set")
		for _, got := range a.report().Findings {
			if got.Found == "" || strings.Contains(got.Found+got.Fix, "%!") {
				t.Errorf("%+v", got)
			}
		}
	})
}

// What a server answers about a command, its modules, its sentinels and a user is what it says, or unknown.
func FuzzReplies(f *testing.F) {
	f.Add("( ( get :2 ( readonly ) :1 :1 :1 ) )", "( ( name ft ver :1 ) ( name json ) )", "( __sentinel__:hello :3 )", `( flags ( on ) commands "-@all +get" keys ( ~a* ) )`)
	f.Add("( ~ )", "( ( ) ( x ) ~ ( :1 a ) ( name ~ ) )", "( x y )", `( commands +@all keys "~* %R~b" )`)
	f.Add("( ( ) )", "!ERR", "( x ~ )", "( commands ( ) keys :1 )")
	f.Add("( a b )", "~", "( )", "~")
	f.Fuzz(func(t *testing.T, command, modules, channel, user string) {
		reply := redistest.ReplyOf(command)
		list, err := reply.ToArray()
		switch got := known(reply, reply.Error()); {
		case (err != nil || len(list) != 1) != (got == unknown), got == yes && list[0].IsNil():
			t.Errorf("%s: %d", command, got)
		}
		reply = redistest.ReplyOf(modules)
		if list, err := reply.ToArray(); err == nil {
			if names := moduleNames(list); names == nil || len(names) > len(list) {
				t.Errorf("%s: %q", modules, names)
			}
		}
		reply = redistest.ReplyOf(channel)
		if got := listeners(reply, reply.Error()); got != unknown {
			if pair, err := reply.ToArray(); err != nil || len(pair) != 2 {
				t.Errorf("%s: %d", channel, got)
			}
		}
		reply = redistest.ReplyOf(user)
		rules, keys, err := rulesOf(reply, reply.Error())
		if err != nil && (rules != "" || keys != nil) {
			t.Errorf("%s: %q, %q, %v", user, rules, keys, err)
		}
		if permits(rules, nil, "get") && !slices.ContainsFunc(strings.Fields(rules), func(r string) bool { return r[0] == '+' }) {
			t.Errorf("%q permits get", rules)
		}
	})
}
