package rdbstream

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
)

const (
	// maxFieldExpiry is larger than any expiry that Redis takes for a field, and stands for none in a header (ebuckets.h, EB_EXPIRE_TIME_INVALID).
	maxFieldExpiry = 1 << 48
	// noExpiry is how Valkey says that a field has none.
	noExpiry = -1
)

var (
	errFieldExpiry = &CorruptError{"a field's expiry is no moment"}
	errHashEnd     = &CorruptError{"a hash does not end where it should"}
)

// HasFieldExpiries tells the types of a hash whose fields may have expiries of their own: Redis' HASH_METADATA and HASH_LISTPACK_EX, Valkey's
// HASH_2. The types of Redis 7.4's release candidates (…_PRE_GA), which no released server writes, are not among them. valkey is [Entry.Valkey].
func HasFieldExpiries(valkey bool, typ byte) bool {
	if valkey {
		return typ == TypeValkeyHash2
	}
	return typ == TypeHashMetadata || typ == TypeHashListpackEx
}

// AppendDumpMapped is [AppendDump] with each hash field's expiry ms, a Unix time in ms, replaced by f(ms); fields without one stay so. It is AppendDump
// itself where f is nil or the type has no field expiries; else the payload may be larger than [DumpSize] says.
//
// f must give a moment that the server takes, from 1 to 2^48-1 for Redis, and depend on ms alone: it is called more than once for a field, in any order.
// The error is that of [DumpVersion], a [*CorruptError] or an [*UnknownError]; then nothing is appended.
func AppendDumpMapped(dst []byte, e *Entry, f func(ms int64) int64) ([]byte, error) {
	version, err := DumpVersion(e.Valkey, e.Type)
	if err != nil {
		return dst, err
	}
	if e.Meta != nil {
		version = max(version, metaDump)
	}
	begin := len(dst)
	dst = append(dst, e.Meta...)
	dst = append(dst, e.Type)
	if f == nil || !HasFieldExpiries(e.Valkey, e.Type) {
		dst = append(dst, e.Value...)
	} else if dst, err = appendMapped(dst, e.Valkey, e.Type, e.Value, f); err != nil {
		return dst[:begin], err
	}
	return seal(dst, begin, version), nil
}

// MapDump does to the payload of a RESTORE command what [AppendDumpMapped] does to an Entry's: it appends the payload, with each hash field's expiry
// replaced by f(ms), to dst, with which it must not overlap. ok is false, and nothing appended, when the payload is to be taken as it is, because f is
// nil or the type has no field expiries. That allocates nothing and reads no more than the type, so the bytes may be no payload at all: the target says so.
//
// The RDB version stays, and so does a KEY_META block before the type. A CRC of 0, which is none (Redis >= 8.4), becomes a real one. The error is a
// [*CorruptError], a [*CRCError], or an [*UnknownError] where a KEY_META block or a string is of an unknown kind, so that nobody can tell what expires
// behind it; then nothing is appended.
func MapDump(dst, payload []byte, f func(ms int64) int64) (out []byte, ok bool, err error) {
	if f == nil {
		return dst, false, nil
	}
	p, ok, err := parseDump(payload)
	if !ok || err != nil || !HasFieldExpiries(p.valkey, p.typ()) {
		return dst, false, err
	}
	return p.rewrite(dst, p.version, f)
}

// PortDump is [MapDump] for another server: the payload gets the lowest RDB version that knows its
// type, as [AppendDump] gives it, and a CRC where it has none. ok is false, and nothing appended,
// when there is nothing to change, or the bytes are no payload: the target says so. The error is as
// MapDump's.
func PortDump(dst, payload []byte, f func(ms int64) int64) (out []byte, ok bool, err error) {
	p, ok, err := parseDump(payload)
	if !ok || err != nil {
		return dst, false, err
	}
	version, err := DumpVersion(p.valkey, p.typ())
	if err != nil {
		return dst, false, nil //nolint:nilerr // what is not known here the target may know
	}
	if p.at > 0 {
		version = max(version, metaDump)
	}
	maps := f != nil && HasFieldExpiries(p.valkey, p.typ())
	if version >= p.version && p.stored() != 0 && !maps {
		return dst, false, nil
	}
	if !maps {
		f = nil
	}
	return p.rewrite(dst, min(version, p.version), f)
}

// keyMetaSize is the size of the KEY_META block, its opcode included, that body begins with; at least a byte follows.
func keyMetaSize(body []byte) (int, error) {
	w := window{br: bufio.NewReader(bytes.NewReader(body[1:]))}
	err := w.keyMeta()
	size := 1 + int(w.offset())
	if errors.Is(err, io.ErrUnexpectedEOF) || err == nil && size == len(body) {
		err = &CorruptError{"a payload ends in its metadata"}
	}
	return size, err
}

// appendMapped appends a value of a type that HasFieldExpiries. It makes room for the footer, too, so that a large value is not copied again.
func appendMapped(dst []byte, valkey bool, typ byte, value []byte, f func(ms int64) int64) ([]byte, error) {
	switch {
	case valkey:
		return appendHash2(dst, value, f)
	case typ == TypeHashMetadata:
		return appendHashMetadata(dst, value, f)
	}
	return appendHashListpackEx(dst, value, f)
}

// appendHash2: expiries of 8 bytes behind their fields, changed where they stand.
func appendHash2(dst, value []byte, f func(ms int64) int64) ([]byte, error) {
	begin := len(dst)
	dst = append(slices.Grow(dst, len(value)+dumpFooter), value...)
	n, p, err := cutNumber(dst[begin:])
	for ; err == nil && n > 0; n-- {
		if _, p, err = cutPair(p); err != nil {
			break
		}
		if len(p) < 8 {
			return dst, errHashEnd
		}
		switch ms := int64(binary.LittleEndian.Uint64(p)); {
		case ms >= 0:
			binary.LittleEndian.PutUint64(p, uint64(f(ms)))
		case ms != noExpiry:
			return dst, errFieldExpiry
		}
		p = p[8:]
	}
	if err == nil && len(p) > 0 {
		err = errHashEnd
	}
	return dst, err
}

// appendHashMetadata: the expiries are relative to the earliest, so that nothing but that changes when f moves all of them alike. Else they are
// written anew.
func appendHashMetadata(dst, value []byte, f func(ms int64) int64) ([]byte, error) {
	volatile, alike := 0, true
	var difference int64
	earliest := int64(math.MaxInt64)
	err := eachField(value, func(ms int64, _ []byte) {
		if ms == 0 {
			return
		}
		to := f(ms)
		if volatile == 0 {
			difference = to - ms
		}
		alike = alike && to-ms == difference
		earliest = min(earliest, to)
		volatile++
	})
	if err != nil {
		return dst, err
	}
	header := int64(binary.LittleEndian.Uint64(value)) + difference
	if alike && header >= 0 {
		dst = slices.Grow(dst, len(value)+dumpFooter)
		return append(binary.LittleEndian.AppendUint64(dst, uint64(header)), value[8:]...), nil
	}
	dst = slices.Grow(dst, len(value)+8*volatile+dumpFooter) // a number of one byte may become one of nine
	dst = binary.LittleEndian.AppendUint64(dst, uint64(earliest))
	n, _, _ := cutNumber(value[8:])
	dst = appendNumber(dst, n)
	err = eachField(value, func(ms int64, pair []byte) {
		if ms != 0 {
			ms = f(ms) - earliest + 1
		}
		dst = append(appendNumber(dst, uint64(ms)), pair...)
	})
	return dst, err
}

// eachField visits the fields of a HASH_METADATA: ms is a field's expiry, 0 for none, pair its name and value as they stand there.
func eachField(value []byte, visit func(ms int64, pair []byte)) error {
	if len(value) < 8 {
		return errHashEnd
	}
	earliest := binary.LittleEndian.Uint64(value)
	if earliest > maxFieldExpiry {
		return errFieldExpiry
	}
	n, p, err := cutNumber(value[8:])
	for ; err == nil && n > 0; n-- {
		var ms uint64
		if ms, p, err = cutNumber(p); err != nil {
			return err
		}
		if ms > 0 {
			ms = min(ms, 2*maxFieldExpiry) + earliest - 1 // cannot overflow
			if ms == 0 || ms > maxFieldExpiry {
				return errFieldExpiry
			}
		}
		var pair []byte
		if pair, p, err = cutPair(p); err == nil {
			visit(int64(ms), pair)
		}
	}
	if err == nil && len(p) > 0 {
		err = errHashEnd
	}
	return err
}

// volatileField is a field of a HASH_LISTPACK_EX.
type volatileField struct {
	pair []byte // two elements, its name and value
	ms   int64  // its expiry, 0 for none
}

// appendHashListpackEx: a listpack of name, value and expiry of the fields, in the order of the expiries, those without at the end: the server looks
// no further than to the first that is not due.
func appendHashListpackEx(dst, value []byte, f func(ms int64) int64) ([]byte, error) {
	if len(value) < 8 {
		return dst, errHashEnd
	}
	lp, err := plain(value[8:])
	if err != nil {
		return dst, err
	}
	fields, err := listpackFields(lp)
	if err != nil {
		return dst, err
	}
	size := listpackHeader + 1
	for i := range fields {
		if ms := &fields[i].ms; *ms != 0 {
			*ms = f(*ms)
		}
		size += len(fields[i].pair) + momentSize(fields[i].ms)
	}
	slices.SortStableFunc(fields, func(a, b volatileField) int {
		return cmp.Compare(uint64(a.ms-1), uint64(b.ms-1)) // 0 becomes the largest
	})
	earliest := binary.LittleEndian.Uint64(value)
	if len(fields) > 0 && fields[0].ms != 0 {
		earliest = uint64(fields[0].ms)
	}
	dst = slices.Grow(dst, 8+9+size+dumpFooter)
	dst = binary.LittleEndian.AppendUint64(dst, earliest)
	dst = appendNumber(dst, uint64(size))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(size)) // fits: what has at most 1 GiB does not become four times as large
	dst = binary.LittleEndian.AppendUint16(dst, uint16(min(3*len(fields), listpackUnknown)))
	for _, field := range fields {
		dst = appendMoment(append(dst, field.pair...), field.ms)
	}
	return append(dst, listpackEnd), nil
}

// listpackFields are the fields in a HASH_LISTPACK_EX's listpack, whose bytes they share.
func listpackFields(lp []byte) ([]volatileField, error) {
	p, n, err := listpackElements(lp)
	if err != nil {
		return nil, err
	}
	fields := make([]volatileField, 0, min(n, len(lp)/2)/3) // an element has two bytes or more
	for len(p) > 1 {
		var expiry []byte
		pair := p
		for range 2 {
			if _, p, err = cutElement(p); err != nil {
				return nil, err
			}
		}
		pair = pair[:len(pair)-len(p)]
		if expiry, p, err = cutElement(p); err != nil {
			return nil, err
		}
		ms, ok := elementInt(expiry)
		if !ok || ms < 0 || ms > maxFieldExpiry {
			return nil, errFieldExpiry
		}
		fields = append(fields, volatileField{pair, ms})
	}
	if n < listpackUnknown && n != 3*len(fields) {
		return nil, errListpack
	}
	return fields, nil
}
