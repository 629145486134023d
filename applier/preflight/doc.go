// Package preflight finds out before a migration what would stop it, or harm the source: what `redferry check` shows.
//
// [Run] gathers first and judges then. What both ends say of themselves is asked for once, by the code that a run begins with ([replica.SourceProbe], [applier.Probe]) where a run
// asks the same; each check is a function of what was gathered, and yields one [Finding]. What a server does not permit to know is unknown, and a warning, never an error.
//
// Goroutines: one gathers each end; Run waits for both. Invariants: nothing is changed at either end or on this machine, and nothing is claimed; the time is bounded, and so
// is the number of keys that are looked at; no finding holds a password or a value.
package preflight
