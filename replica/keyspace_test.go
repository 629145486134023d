package replica

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKeyspace(t *testing.T) {
	for _, test := range []struct {
		name  string
		info  map[string]string
		want  []Database
		fails bool
	}{
		{"none", map[string]string{"redis_version": "8.0.2"}, nil, false},
		{"Redis 6.0", map[string]string{"db0": "keys=12,expires=3,avg_ttl=0"}, []Database{{0, 12, 3, 0}}, false},
		{"in order", map[string]string{"db15": "keys=1,expires=0,avg_ttl=0,subexpiry=0", "db2": "keys=7,expires=7,avg_ttl=9,subexpiry=4"}, []Database{{2, 7, 7, 4}, {15, 1, 0, 0}}, false},
		{"Valkey 9", map[string]string{"db0": "keys=5,expires=1,avg_ttl=0,keys_with_volatile_items=2"}, []Database{{0, 5, 1, 2}}, false},
		{"another field", map[string]string{"dbx": "y", "db": "keys=1"}, nil, false},
		{"no number", map[string]string{"db0": "keys=many,expires=0", "db1": "keys=1,expires=0"}, []Database{{1, 1, 0, 0}}, true},
		{"no keys", map[string]string{"db0": "expires=0"}, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Keyspace(test.info)
			if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.fails {
				t.Errorf("%v (-want +got)\n%s", err, diff)
			}
		})
	}
}

func TestVersionAtLeast(t *testing.T) {
	for _, test := range []struct {
		version string
		want    bool // at least 7.2
	}{
		{"7.2.4", true}, {"7.2", true}, {"7.4.0", true}, {"8.0.2", true}, {"10.0.0", true}, {"7.0.15", false}, {"6.2.14", false}, {"7", false}, {"", false}, {"unstable", false}, {"255.255.255", true},
	} {
		if got := VersionAtLeast(test.version, 7, 2); got != test.want {
			t.Errorf("%q: %v, want %v", test.version, got, test.want)
		}
	}
}
