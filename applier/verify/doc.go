// Package verify compares a source with a target, both ways: which keys are missing, extra, of another type, of another value, or expire at another time.
//
// A first pass goes over all keys: pipelined SCAN of the source, and of each key size, expiry and DUMP from both sides. Equal bytes are equal; unequal ones are compared by meaning,
// with commands, because encodings, the order in hash tables and the RDB version do not matter. A second pass goes over the target's keys and asks the source whether it
// has them. What differs is only suspected then: either side may have been written to in between. So it is looked at again, for some rounds, in a window in which the source
// is known to have stood still, at an offset that the target has passed: see recheck.go. Only what differs there is a difference.
//
// Nothing is written to either side: WATCH, and an EXEC of nothing, tell whether a key was written to.
//
// Goroutines: each pass runs one that scans and some that compare, and waits for them; a worker runs one more for the time of a round trip, so that both servers work at
// the same time. A connection belongs to one worker. Run's callers need none.
//
// Invariants: memory does not grow with the keyspace, with the number of differences, or with the size of a value, only with that of its largest element: a value over
// smallValue is never asked for whole.
package verify
