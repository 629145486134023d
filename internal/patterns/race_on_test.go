//go:build race

package patterns

// raceFlags build the program under test as the tests themselves are built.
var raceFlags = []string{"-race"}
