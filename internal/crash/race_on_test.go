//go:build race

package crash

// raceFlags build the program under test as the tests themselves are built.
var raceFlags = []string{"-race"}

// mostMemory is what a redferry of this build may have in kB: some 75 MB as a rule; 200 MB when its batches are as large as they get, since the target was slow to answer when it was connected to; 300 MB with the stream in memory.
const mostMemory = 256 << 10
