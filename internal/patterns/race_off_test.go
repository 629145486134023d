//go:build !race

package patterns

var raceFlags []string
