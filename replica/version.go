package replica

import (
	"strconv"
	"strings"
)

// VersionAtLeast tells whether a server's version, as its INFO says it, is this one or a later one. What cannot be read counts as 0.
func VersionAtLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version+"..", ".", 3)
	gotMajor, _ := strconv.Atoi(parts[0])
	gotMinor, _ := strconv.Atoi(parts[1])
	return gotMajor > major || gotMajor == major && gotMinor >= minor
}
