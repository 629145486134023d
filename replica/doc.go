// Package replica is the source's side of redferry: it pretends to be a replica of a live Redis or Valkey server.
//
// [Link] speaks the handshake, PSYNC and REPLCONF ACK. [Stream] turns the replication stream into [Unit]s and counts every byte of it.
// [Run] ties a source to a [Sink] by two loops with the spool between them. Receiving puts what the source sends into the spool, as fast as it comes and
// whatever the target does. Applying asks the sink where it is and hands on from there what the spool has: the snapshot when there has to be one, then
// units for ever. Each loop begins anew after any error of its own, and a new beginning runs the very same steps as a start.
//
// Goroutines: Run starts one for receiving, which has up to five at a time below it; applying has up to eight below it. Run returns only when all
// have ended. Link and Stream start none.
//
// Invariant, within one replication history: acked ≤ checkpointed ≤ taken ≤ received ≤ the source's master_repl_offset.
package replica
