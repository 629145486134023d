// Package spool is the disk between receiving and applying: one writer appends what a source sends, at line rate, and readers follow the
// tail at once, through the page cache. It holds at most one snapshot (the RDB of one full resync) and the replication stream behind it, or
// a stream alone.
//
// It is a cache. All that is in it can be asked of the source again, so what is doubtful is dropped and never believed: a state that is
// missing or garbled, another place than the one written down, an RDB that had not arrived whole, bytes behind a gap, bytes that a power
// cut may have taken.
//
// The bytes are in segments, raw behind a short header, each named by what it holds and its first byte: rdb-…0, rdb-…67108864, stream-…1234. The
// times of a segment of the stream are in time-…, beside it. What no segment can tell (which full resync, which replication IDs, which machine
// and boot, up to where all is on disk) is in one small file, the state. Each Begin draws a new generation, which is in the state and in every
// segment: a file of another one is nobody's.
//
// A process that is killed leaves its files whole, as the page cache has them: in the same boot they are believed up to their size. After a
// power cut they are believed up to the ends that the state trusts, and the state is written after the fsync of what it trusts. Bytes with another
// meaning than before (another replication ID, a stream that was cut back) are appended only once the state that says so is on disk.
//
// Goroutines: [Open] starts one, which each second fsyncs what came, writes the state, frees what was kept long enough and looks at the
// free space; [Spool.Close] ends it. Append and Read never wait for an fsync.
package spool
