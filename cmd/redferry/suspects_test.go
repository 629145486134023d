package main

import (
	"fmt"
	"testing"

	"redferry/internal/redistest"
)

// What commands have found nothing to change in is compared before a cutover refuses: equal keys are no reason to, different ones are named.
func TestCutoverComparesWhatItSuspects(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	reached := func() {
		t.Helper()
		source.Do(t, "INCR", "mark")
		wait(t, "it has all", func() bool { return target.DoString(t, "GET", "mark") == source.DoString(t, "GET", "mark") })
	}
	for i := range 20 { // gone from the target behind redferry's back, and then from the source
		source.Do(t, "SET", fmt.Sprintf("gone:%d", i), "x")
	}
	source.Do(t, "SADD", "set", "a")
	reached()
	for i := range 20 {
		target.Do(t, "DEL", fmt.Sprintf("gone:%d", i))
		source.Do(t, "DEL", fmt.Sprintf("gone:%d", i))
	}
	target.Do(t, "SADD", "set", "b", "c")
	source.Do(t, "SADD", "set", "b")
	reached()
	wait(t, "they are counted", func() bool { return target.DoString(t, "HGET", "redferry:default", "divergence") == "DEL=20 SADD=1" })
	p.run(t, "cutover").expect(t, exitRefused, "differs from the source in 1 of the 21 keys", "set")
	target.Do(t, "SREM", "set", "c")
	source.Do(t, "SET", "still", "open")
	p.run(t, "cutover").expect(t, exitDone, "cut over")
	run.wait(t).expect(t, exitDone, "what they were about is equal")
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{Settled: true})
}

// What an earlier process has counted is known by number alone: a cutover compares all keys then.
func TestCutoverComparesAllWhereSuspectsAreNotKnown(t *testing.T) {
	t.Parallel()
	source, target := pair(t)
	p := newProgram(t)
	run := p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	source.Do(t, "SET", "gone", "x")
	wait(t, "it is there", func() bool { return target.DoInt(t, "DEL", "gone") == 1 })
	source.Do(t, "DEL", "gone")
	wait(t, "it is counted", func() bool { return target.DoString(t, "HGET", "redferry:default", "divergence") == "DEL=1" })
	run.Kill()
	run = p.start(t, with(ends(source, target))...)
	run.until(t, "in_sync")
	target.Do(t, "SET", "other", "x")
	p.run(t, "cutover").expect(t, exitRefused, "the target differs from the source: 1 extra", "other")
	target.Do(t, "DEL", "other")
	p.run(t, "cutover").expect(t, exitDone, "cut over")
	run.wait(t).expect(t, exitDone, "what they were about is equal")
	redistest.AssertEqual(t, source, target, redistest.CompareOptions{Settled: true})
}
