// Package rdbstream reads an RDB, the snapshot that Redis and Valkey write, from a stream of bytes, one entry at a time.
//
// A [Reader] finds where each key's value begins and ends and hands out its raw bytes: the value is
// not decoded, because the body of a RESTORE payload is exactly the body in the RDB. [AppendDump]
// makes that payload. Only what must be understood is decoded: keys, AUX fields and function
// libraries. The one thing in a value that may have to be another on the target are the expiries of
// a hash's fields: [AppendDumpMapped] replaces them on the way into the payload, [MapDump] in a
// payload that is there already. [PortDump] makes one fit for other servers.
//
// It is the hot path of a snapshot. Entries that lie whole in the bufio.Reader's buffer are handed out in place; only what straddles two
// fillings of it is copied. The CRC is computed over whole fillings. In the steady state nothing is allocated.
//
// Memory is bounded by one entry: a key and its value are held whole, however large they are. Buffers grow only as bytes really arrive,
// so that a corrupt length costs nothing, and those above 1 MiB are dropped again when the next entries do not need them.
//
// A snapshot that broke off is gone on with: [Reader.State] is all that has to be known of the bytes before an entry's end, it fits in a line of
// text, and [NewReaderAt] reads on behind it.
//
// Invariants: a Reader takes from the bufio.Reader exactly the bytes of the RDB, from its magic to its CRC, and none that follows.
// io.EOF is returned only for a whole RDB whose CRC agrees; until then nothing that was read is certain. Entries are contiguous in order:
// each one's Offset is at or behind the End of the one before. The package starts no goroutines; a Reader is for one goroutine at a time.
package rdbstream
