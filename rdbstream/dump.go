package rdbstream

import (
	"encoding/binary"
	"fmt"
)

const (
	// oldestDump is the oldest version that a payload is given: the types before it are loaded by all servers that know RESTORE.
	oldestDump = 6
	// metaDump is the first version whose payloads may begin with a KEY_META block.
	metaDump = 13
	// dumpFooter is how many bytes the RDB version and the CRC have, a payload's end.
	dumpFooter = 2 + 8
)

// DumpVersion is the RDB version that a RESTORE payload with a value of this type needs: the lowest one that knows the type, so that all
// servers take it that can, whatever server wrote it (protocol 2.5). valkey is [Entry.Valkey]. The error is [ErrNotDumpable] or an
// [*UnknownError].
func DumpVersion(valkey bool, typ byte) (int, error) {
	k := typeInfo(valkey, typ)
	if k.since == 0 {
		return 0, &UnknownError{What: "type", Name: k.name, Code: uint64(typ)}
	}
	if typ == TypeHashTmplLPRef || typ == TypeHashTmplArrayRef {
		return 0, fmt.Errorf("type %d (%s): %w", typ, k.name, ErrNotDumpable)
	}
	return max(k.since, oldestDump), nil
}

// DumpSize is how many bytes AppendDump appends for e.
func DumpSize(e *Entry) int { return len(e.Meta) + 1 + len(e.Value) + dumpFooter }

// AppendDump appends the payload that RESTORE takes for the key e, what DUMP would return but for the version, which is the lowest
// possible: KEY_META block, type, value, RDB version (2 bytes), CRC64 (8 bytes). The error is that of [DumpVersion]; then nothing is appended.
func AppendDump(dst []byte, e *Entry) ([]byte, error) { return AppendDumpMapped(dst, e, nil) }

// seal ends the payload that begins at dst[begin].
func seal(dst []byte, begin, version int) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(version))
	return binary.LittleEndian.AppendUint64(dst, CRC64(0, dst[begin:]))
}
