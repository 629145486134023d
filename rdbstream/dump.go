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

// TakeDump is [AppendDump] of a large value that the reader has just read into e, without a copy:
// the memory that it was read into is the payload's, and the caller's from then on. e has no Key and
// no Value then. ok is false, and nothing has changed, where the value is small, or
// has a KEY_META block. The error is that of [DumpVersion].
func (r *Reader) TakeDump(e *Entry) (payload []byte, ok bool, err error) {
	version, err := DumpVersion(e.Valkey, e.Type)
	if err != nil || e.Meta != nil {
		return nil, false, err
	}
	spill := r.w.take()
	if spill == nil {
		return nil, false, nil
	}
	payload = spill[len(spill)-len(e.Value)-1:] // behind the key, which has one byte at least: its length
	payload[0] = e.Type
	e.Key, e.Value = nil, nil
	return seal(payload, 0, version), true, nil
}

// seal ends the payload that begins at dst[begin].
func seal(dst []byte, begin, version int) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(version))
	return binary.LittleEndian.AppendUint64(dst, CRC64(0, dst[begin:]))
}

// dump is the payload of a RESTORE command in its parts.
type dump struct {
	payload []byte
	at      int // where the type is: behind a KEY_META block
	end     int // of the value
	version int
	valkey  bool
}

// parseDump finds the parts. ok is false for what is too short to be a payload.
func parseDump(payload []byte) (d dump, ok bool, err error) {
	d = dump{payload: payload, end: len(payload) - dumpFooter}
	if d.end < 1 {
		return d, false, nil
	}
	d.version = int(binary.LittleEndian.Uint16(payload[d.end:]))
	d.valkey = d.version >= oldestValkey
	if payload[0] == opKeyMeta && d.version >= metaDump && !d.valkey {
		d.at, err = keyMetaSize(payload[:d.end])
	}
	return d, err == nil, err
}

func (d *dump) typ() byte { return d.payload[d.at] }

// stored is the payload's CRC; 0 for none.
func (d *dump) stored() uint64 { return binary.LittleEndian.Uint64(d.payload[d.end+2:]) }

// rewrite appends the payload with another version and, unless f is nil, other expiries of a hash's
// fields. A CRC that is wrong stays an error: a new one would hide it.
func (d *dump) rewrite(dst []byte, version int, f func(ms int64) int64) (out []byte, ok bool, err error) {
	stored := d.stored()
	if computed := CRC64(0, d.payload[:d.end+2]); stored != 0 && stored != computed {
		return dst, false, &CRCError{Stored: stored, Computed: computed}
	}
	begin := len(dst)
	if f == nil {
		return seal(append(dst, d.payload[:d.end]...), begin, version), true, nil
	}
	dst = append(dst, d.payload[:d.at+1]...)
	if dst, err = appendMapped(dst, d.valkey, d.typ(), d.payload[d.at+1:d.end], f); err != nil {
		return dst[:begin], false, err
	}
	return seal(dst, begin, version), true, nil
}

// functionsDump is the first version that knows functions.
const functionsDump = 10

// PortFunctions appends the payload of a FUNCTION RESTORE with the lowest RDB version that knows
// functions, so that any server takes it that has them. ok is false, and nothing appended, when
// there is nothing to change, or the bytes are not such a payload: the target says so.
func PortFunctions(dst, payload []byte) (out []byte, ok bool) {
	d := dump{payload: payload, end: len(payload) - dumpFooter}
	if d.end < 0 || d.end > 0 && payload[0] != opFunction2 {
		return dst, false
	}
	if d.version = int(binary.LittleEndian.Uint16(payload[d.end:])); d.version <= functionsDump {
		return dst, false
	}
	out, ok, err := d.rewrite(dst, functionsDump, nil)
	return out, ok && err == nil
}
