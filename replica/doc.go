// Package replica is the source's side of redferry: it pretends to be a replica of a live Redis or Valkey server.
//
// [Link] speaks the handshake, PSYNC and REPLCONF ACK. [Stream] turns the replication stream into [Unit]s and counts every byte of it.
// [Run] is the loop that ties a source to a [Sink]: ask the sink for its position, ask the source for what comes after it, hand on the
// snapshot when there has to be one, then hand on units for ever. A reconnect runs the very same steps as a start.
//
// Goroutines: Run starts one that reads units, one that commits them (the sink's own loop), one that acknowledges and one that watches the
// source's offset, and returns only when all four have ended. Link and Stream start none.
//
// Invariant, within one replication history: acked ≤ checkpointed ≤ sent ≤ received ≤ the source's master_repl_offset.
package replica
