package rdbstream

import "encoding/binary"

// A listpack (listpack.c) is its size in 4 bytes, the number of its elements in 2, the elements, and one byte for its end. An element is its
// encoding with its data, and behind it, to be read backwards, the length of that.
const (
	listpackHeader  = 6
	listpackEnd     = 0xff
	listpackUnknown = 1<<16 - 1 // so many elements or more: they have to be counted
	// maxListpack is the size to which servers let a listpack grow (LISTPACK_MAX_SAFETY_LIMIT).
	maxListpack = 1 << 30

	// The encodings that are known by the whole first byte.
	listpackStr32 = 0xf0
	listpackInt16 = 0xf1
	listpackInt24 = 0xf2
	listpackInt32 = 0xf3
	listpackInt64 = 0xf4
)

var errListpack = &CorruptError{"a listpack contradicts itself"}

// listpackElements are the bytes of a listpack's elements and its end, and their number, which is listpackUnknown for that many or more.
func listpackElements(lp []byte) (elements []byte, n int, err error) {
	if len(lp) <= listpackHeader || len(lp) > maxListpack || binary.LittleEndian.Uint32(lp) != uint32(len(lp)) || lp[len(lp)-1] != listpackEnd {
		return nil, 0, errListpack
	}
	return lp[listpackHeader:], int(binary.LittleEndian.Uint16(lp[4:])), nil
}

// cutElement parts the first element, with the length behind it, from what follows: at least the listpack's end.
func cutElement(p []byte) (element, rest []byte, err error) {
	size := elementSize(p)
	size += backLength(size)
	if size >= uint64(len(p)) {
		return nil, nil, errListpack
	}
	return p[:size], p[size:], nil
}

// elementSize is how many bytes the encoding and the data of the element have that p begins with, or more than p has when none begins so.
func elementSize(p []byte) uint64 {
	none := uint64(len(p)) + 1
	if len(p) == 0 {
		return none
	}
	switch b := p[0]; {
	case b < 0x80: // 7 bits of a number
		return 1
	case b < 0xc0: // 6 bits of a string's length
		return 1 + uint64(b&0x3f)
	case b < 0xe0: // 13 bits of a number
		return 2
	case b < 0xf0: // 12 bits of a string's length
		if len(p) < 2 {
			return none
		}
		return 2 + uint64(b&0xf)<<8 + uint64(p[1])
	case b == listpackStr32:
		if len(p) < 5 {
			return none
		}
		return 5 + uint64(binary.LittleEndian.Uint32(p[1:]))
	case b == listpackInt16:
		return 3
	case b == listpackInt24:
		return 4
	case b == listpackInt32:
		return 5
	case b == listpackInt64:
		return 9
	}
	return none
}

// backLength is how many bytes the length of an element has that is of this size. The limits are the server's own (lpEncodeBacklenBytes): above
// the first they are one less than they could be.
func backLength(size uint64) uint64 {
	switch {
	case size < 1<<7:
		return 1
	case size < 1<<14-1:
		return 2
	case size < 1<<21-1:
		return 3
	case size < 1<<28-1:
		return 4
	}
	return 5
}

// elementInt is the number that an element of cutElement is; ok is false for a string.
func elementInt(element []byte) (n int64, ok bool) {
	switch b := element[0]; {
	case b < 0x80:
		return int64(b), true
	case b >= 0xc0 && b < 0xe0:
		return int64(int16(uint16(b)<<11|uint16(element[1])<<3) >> 3), true
	case b == listpackInt16:
		return int64(int16(binary.LittleEndian.Uint16(element[1:]))), true
	case b == listpackInt24:
		return int64(int32(binary.LittleEndian.Uint32(element)) >> 8), true // the encoding's byte is shifted out
	case b == listpackInt32:
		return int64(int32(binary.LittleEndian.Uint32(element[1:]))), true
	case b == listpackInt64:
		return int64(binary.LittleEndian.Uint64(element[1:])), true
	}
	return 0, false
}

// appendMoment appends an element for 0, or for a Unix time in ms, in 8 bytes: servers need as many for one later than January 1970.
func appendMoment(dst []byte, ms int64) []byte {
	if ms == 0 {
		return append(dst, 0, 1)
	}
	dst = binary.LittleEndian.AppendUint64(append(dst, listpackInt64), uint64(ms))
	return append(dst, 9)
}

// momentSize is how many bytes appendMoment appends.
func momentSize(ms int64) int {
	if ms == 0 {
		return 2
	}
	return 10
}
