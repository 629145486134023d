//go:build race

package crash

// raceFlags build the program under test as the tests themselves are built.
var raceFlags = []string{"-race"}
