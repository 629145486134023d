package rdbstream

import (
	"errors"
	"fmt"
	"strings"
)

// maxErrorKey is how much of a key an Error carries.
const maxErrorKey = 256

// Error says where in an RDB reading came to its end. All errors of [Reader.Next] but io.EOF are one. Err is io.ErrUnexpectedEOF when
// the RDB was cut off, an [*UnknownError], a [*CorruptError], a [*CRCError], or what the underlying reader returned.
type Error struct {
	Offset  int64   // bytes of the RDB before the place that could not be read
	Version Version // zero when it was not reached
	DB      int
	Code    int    // the opcode or type that was being read, or -1
	Key     []byte // of the value that was being read, or nil; at most 256 bytes of it
	Err     error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "RDB byte %d", e.Offset)
	if e.Version != (Version{}) {
		fmt.Fprintf(&b, " (%s, db %d", e.Version, e.DB)
		if e.Code >= int(firstOpcode) {
			fmt.Fprintf(&b, ", opcode %d %s", e.Code, opcodeInfo(e.Version.Valkey, byte(e.Code)).name)
		} else if e.Code >= 0 {
			fmt.Fprintf(&b, ", type %d %s", e.Code, typeInfo(e.Version.Valkey, byte(e.Code)).name)
		}
		if e.Key != nil {
			fmt.Fprintf(&b, ", key %.60q", e.Key)
		}
		b.WriteByte(')')
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// UnknownError says that the RDB is of a kind that this package cannot read: nothing behind it can be found either.
type UnknownError struct {
	What string // "magic", "version", "opcode", "type", "string encoding" or "module opcode"
	Name string // the magic or version as it stands in the RDB, or the opcode's or type's name in rdb.h where it has one
	Code uint64 // the number, but for a magic
}

func (e *UnknownError) Error() string {
	switch {
	case e.What == "magic":
		return fmt.Sprintf("not an RDB: it begins with %q", e.Name)
	case e.What == "version":
		return fmt.Sprintf("RDB version %s is not supported (newest: %s and %s)",
			e.Name, Version{Number: newestRedis}, Version{Valkey: true, Number: newestValkey})
	case e.Name != "":
		return fmt.Sprintf("%s %d (%s) is not supported here", e.What, e.Code, e.Name)
	}
	return fmt.Sprintf("unknown %s %d", e.What, e.Code)
}

// CorruptError says that the RDB contradicts itself.
type CorruptError struct{ Reason string }

func (e *CorruptError) Error() string { return "corrupt: " + e.Reason }

// CRCError says that the RDB's bytes are not those that were written.
type CRCError struct{ Stored, Computed uint64 }

func (e *CRCError) Error() string {
	return fmt.Sprintf("CRC64 does not agree: %016x is stored, %016x computed", e.Stored, e.Computed)
}

// ErrNotDumpable says that a value refers to other parts of its RDB, so that its bytes alone are no RESTORE payload (HASH_TMPL_…_REF).
var ErrNotDumpable = errors.New("value cannot stand outside its RDB")
