package replica

import "fmt"

// Position is a place in a replication history: all bytes up to Offset have been taken, and the next write goes into database DB.
//
// Offset counts bytes as the source's master_repl_offset does; PSYNC asks for Offset+1 (protocol 1.2), and only [Link.Sync] adds that 1.
// DB is part of it because a partial resync does not repeat SELECT (protocol 0, fact 2).
type Position struct {
	ReplID string // 40 hexadecimal digits
	Offset int64
	DB     int
}

// IsZero tells a position that was never set: no history at all.
func (p Position) IsZero() bool { return p.ReplID == "" }

// String is for messages: replid:offset and the database.
func (p Position) String() string { return fmt.Sprintf("%s:%d (db %d)", p.ReplID, p.Offset, p.DB) }
