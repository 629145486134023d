//go:build !race

package crash

// raceFlags build the program under test as the tests themselves are built.
var raceFlags []string

// mostMemory is what a redferry of this build may have in kB: of which its batches take a third at most.
const mostMemory = 112 << 10
