package preflight

import (
	"fmt"
	"strconv"
	"strings"

	"redferry/rdbstream"
)

// release is a server's version, as far as it decides what it can be given. The zero value is an unknown one.
type release struct {
	valkey       bool
	major, minor int
}

// releaseOf reads what versionOf made.
func releaseOf(version string) (r release, ok bool) {
	server, number, _ := strings.Cut(version, " ")
	parts := strings.SplitN(number+".", ".", 3)
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return release{}, false
	}
	minor, _ := strconv.Atoi(parts[1]) // unstable builds have none that counts
	return release{server == "valkey", major, minor}, true
}

func (r release) String() string {
	server := "redis"
	if r.valkey {
		server = "valkey"
	}
	return fmt.Sprintf("%s %d.%d", server, r.major, r.minor)
}

// since tells whether r is this version or a later one, of its own family.
func (r release) since(major, minor int) bool {
	return r.major > major || r.major == major && r.minor >= minor
}

// rdb is the newest RDB version that a release reads (protocol 2.3).
func (r release) rdb() int {
	if r.valkey {
		if r.since(9, 0) {
			return 80
		}
		return 11
	}
	for _, step := range []struct{ major, minor, rdb int }{
		{8, 10, 15}, {8, 8, 14}, {8, 6, 13}, {7, 4, 12}, {7, 2, 11}, {7, 0, 10}, {5, 0, 9}, {4, 0, 8}, {3, 2, 7},
	} {
		if r.since(step.major, step.minor) {
			return step.rdb
		}
	}
	return 6
}

// takes tells whether RESTORE takes a value of this RDB type, written by a server of the family. Valkey refuses the versions 12 to 79 as foreign, whatever is in them.
func (r release) takes(valkey bool, typ byte) bool {
	need, err := rdbstream.DumpVersion(valkey, typ)
	return err == nil && need <= r.rdb() && (!r.valkey || need < 12 || need >= 80)
}

// takesAll tells whether RESTORE takes whatever a server of this release may hold, modules aside.
func (r release) takesAll(from release) bool {
	if r.valkey != from.valkey && from.rdb() > 11 {
		return false
	}
	return from.rdb() <= r.rdb()
}
