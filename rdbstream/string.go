package rdbstream

import (
	"encoding/binary"
	"strconv"
)

// The encodings of a string that is not stored as it is (rdb.h, RDB_ENC_…).
const (
	encInt8  = 0
	encInt16 = 1
	encInt32 = 2
	encLZF   = 3
)

// lengthSize is how many bytes a length has that begins with byte b, or 0 when none begins so (protocol 2.1).
func lengthSize(b byte) int {
	switch {
	case b>>6 == 1:
		return 2
	case b>>6 != 2:
		return 1
	case b == 0x80:
		return 5
	case b == 0x81:
		return 9
	}
	return 0
}

// parseLength is the length, or a string's encoding in its place, that all of p holds. Lengths are big-endian, as little else in an RDB is.
func parseLength(p []byte) (n uint64, encoded bool) {
	switch len(p) {
	case 1:
		return uint64(p[0] & 0x3f), p[0]>>6 == 3
	case 2:
		return uint64(p[0]&0x3f)<<8 | uint64(p[1]), false
	case 5:
		return uint64(binary.BigEndian.Uint32(p[1:])), false
	}
	return binary.BigEndian.Uint64(p[1:]), false
}

// lengthOrEncoding scans a length, or a string's encoding in its place.
func (w *window) lengthOrEncoding() (n uint64, encoded bool, err error) {
	if w.pos == len(w.buf) {
		if err := w.fill(); err != nil {
			return 0, false, err
		}
	}
	size := lengthSize(w.buf[w.pos])
	if size == 0 {
		return 0, false, &CorruptError{"a length begins with byte " + strconv.Itoa(int(w.buf[w.pos]))}
	}
	if size <= len(w.buf)-w.pos {
		n, encoded = parseLength(w.buf[w.pos : w.pos+size])
		w.pos += size
		return n, encoded, nil
	}
	var p [9]byte
	if err := w.copy(p[:size]); err != nil {
		return 0, false, err
	}
	n, encoded = parseLength(p[:size])
	return n, encoded, nil
}

// number scans a length that may be any 64-bit number.
func (w *window) number() (uint64, error) {
	n, encoded, err := w.lengthOrEncoding()
	if err == nil && encoded {
		err = errEncodedNumber
	}
	return n, err
}

// numbers scans past n numbers.
func (w *window) numbers(n int) error {
	for range n {
		if _, err := w.number(); err != nil {
			return err
		}
	}
	return nil
}

// count scans a length of something that the RDB itself contains.
func (w *window) count() (uint64, error) {
	n, err := w.number()
	if err == nil && n > maxLength {
		err = errTooLong(n)
	}
	return n, err
}

func errTooLong(n uint64) error {
	return &CorruptError{"length of " + strconv.FormatUint(n, 10) + " bytes or elements"}
}

// skipString scans past a string, most of which are short and whole in the window.
func (w *window) skipString() error {
	if w.pos < len(w.buf) {
		if n := int(w.buf[w.pos]); n < 1<<6 && n < len(w.buf)-w.pos {
			w.pos += 1 + n
			return nil
		}
	}
	_, err := w.string()
	return err
}

// skipStrings scans past n strings.
func (w *window) skipStrings(n uint64) error {
	for ; n > 0; n-- {
		if err := w.skipString(); err != nil {
			return err
		}
	}
	return nil
}

// span is a string's place in the capture.
type span struct {
	head, body, end int  // its length or encoding begins at head, its bytes at body
	encoded         bool // its bytes must be decoded
}

// string scans past a string and says where it is.
func (w *window) string() (span, error) {
	s := span{head: w.at()}
	n, encoded, err := w.lengthOrEncoding()
	if err != nil {
		return s, err
	}
	s.encoded = encoded
	if encoded {
		switch n {
		case encInt8, encInt16, encInt32:
			n = 1 << n
		case encLZF:
			if n, err = w.count(); err != nil {
				return s, err
			}
			if _, err = w.count(); err != nil {
				return s, err
			}
		default:
			return s, &UnknownError{What: "string encoding", Code: n}
		}
	}
	if n > maxLength {
		return s, errTooLong(n)
	}
	s.body = w.at()
	err = w.skip(n)
	s.end = w.at()
	return s, err
}

// text is the decoded string at s in raw: a part of raw where it is stored as it is, else of scratch, which is grown as needed.
func text(raw []byte, s span, scratch *[]byte) ([]byte, error) {
	if !s.encoded {
		return raw[s.body:s.end], nil
	}
	if cap(*scratch) > keepSpill {
		*scratch = nil
	}
	out, err := AppendString((*scratch)[:0], raw[s.head:s.end])
	*scratch = out
	return out, err
}

// AppendString decodes the one string that raw is, such as the [Entry.Value] of a TypeString, and appends it to dst. The error is a
// [*CorruptError] or an [*UnknownError].
func AppendString(dst, raw []byte) ([]byte, error) {
	n, encoded, rest, err := cutLength(raw)
	if err != nil {
		return dst, err
	}
	if !encoded {
		if n != uint64(len(rest)) {
			return dst, errStringLength
		}
		return append(dst, rest...), nil
	}
	switch {
	case n == encLZF:
		return appendCompressed(dst, rest)
	case n > encLZF:
		return dst, &UnknownError{What: "string encoding", Code: n}
	case len(rest) != 1<<n:
		return dst, errStringLength
	}
	var i int64
	switch n {
	case encInt8:
		i = int64(int8(rest[0]))
	case encInt16:
		i = int64(int16(binary.LittleEndian.Uint16(rest)))
	case encInt32:
		i = int64(int32(binary.LittleEndian.Uint32(rest)))
	}
	return strconv.AppendInt(dst, i, 10), nil
}

// appendCompressed decodes what follows encLZF: the compressed length, the plain one, the compressed bytes.
func appendCompressed(dst, p []byte) ([]byte, error) {
	packed, _, p, err := cutLength(p)
	if err != nil {
		return dst, err
	}
	size, _, p, err := cutLength(p)
	if err != nil {
		return dst, err
	}
	if packed != uint64(len(p)) {
		return dst, errStringLength
	}
	return appendLZF(dst, p, size)
}

// cutLength parses the length, or the encoding, at the beginning of p; rest is what follows it.
func cutLength(p []byte) (n uint64, encoded bool, rest []byte, err error) {
	if len(p) == 0 {
		return 0, false, nil, errStringLength
	}
	size := lengthSize(p[0])
	if size == 0 || size > len(p) {
		return 0, false, nil, errStringLength
	}
	n, encoded = parseLength(p[:size])
	return n, encoded, p[size:], nil
}

// cutNumber parses the length at the beginning of p, which may be any 64-bit number; rest is what follows it.
func cutNumber(p []byte) (n uint64, rest []byte, err error) {
	n, encoded, rest, err := cutLength(p)
	if err == nil && encoded {
		err = errEncodedNumber
	}
	return n, rest, err
}

// appendNumber appends a number in its shortest form, for cutNumber.
func appendNumber(dst []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(dst, byte(n))
	case n < 1<<14:
		return append(dst, 0x40|byte(n>>8), byte(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, 0x80), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0x81), n)
}

// cutPair parts the two strings at the beginning of p, as they stand there, from what follows.
func cutPair(p []byte) (pair, rest []byte, err error) {
	rest = p
	for range 2 {
		if rest, err = afterString(rest); err != nil {
			return nil, nil, err
		}
	}
	return p[:len(p)-len(rest)], rest, nil
}

// afterString is what follows the string that p begins with.
func afterString(p []byte) ([]byte, error) {
	n, encoded, p, err := cutLength(p)
	if err != nil {
		return nil, err
	}
	if encoded {
		switch n {
		case encInt8, encInt16, encInt32:
			n = 1 << n
		case encLZF:
			if n, p, err = cutNumber(p); err != nil {
				return nil, err
			}
			if _, p, err = cutNumber(p); err != nil {
				return nil, err
			}
		default:
			return nil, &UnknownError{What: "string encoding", Code: n}
		}
	}
	if n > uint64(len(p)) {
		return nil, errStringLength
	}
	return p[n:], nil
}

// plain is the one string that raw is: a part of raw where it is stored as it is, else new. The error is that of [AppendString].
func plain(raw []byte) ([]byte, error) {
	if n, encoded, rest, err := cutLength(raw); err == nil && !encoded && n == uint64(len(rest)) {
		return rest, nil
	}
	return AppendString(nil, raw)
}

var (
	errStringLength  = &CorruptError{"a string is not as long as it says"}
	errEncodedNumber = &CorruptError{"a string's encoding stands where a number should"}
)
