package preflight

import (
	"strings"
	"testing"

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
