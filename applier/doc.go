// Package applier is the target's side of redferry: it writes a snapshot's entries and a stream's units into a live Redis or Valkey server,
// each exactly once.
//
// [Applier] is the replica's Sink. Entries go through several pipelines at once, as RESTORE of their raw bytes; units go in order, many to a
// MULTI/EXEC, through one connection. Every transaction is fenced: a guard script touches a watched key when the writer's idea of it is out
// of date, and then the EXEC does nothing. The checkpoint is written in the same EXEC as what it covers, so the target alone says how far it is.
// Of a snapshot it says each second up to which byte of the RDB all is in, and what has to be known to read on from there.
//
// Goroutines: one renews the lease, and counts what the target evicts, from the first Resume until Close; Snapshot runs one for each pipeline, and one that starts those, and ends them before it returns;
// Commit and Apply run on their callers'; Commit starts one for each round trip under way, two at most, and waits for both. A connection to
// the target belongs to one goroutine at a time, but for these two.
//
// Invariants: what Checkpointed says is in the target. No transaction commits unless the checkpoint (the fence key, in the snapshot phase)
// is as this process last wrote it. After any doubt the checkpoint is read again; nothing is guessed.
package applier
