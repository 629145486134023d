package rdbstream

import (
	"bufio"
	"io"
	"math"
	"strconv"
	"strings"
)

// Reader reads one RDB.
type Reader struct {
	w         window
	version   Version
	db        int
	templates []Template        // in their order; only appended to, since states share it
	fields    map[uint64]uint64 // number of fields by the template's id
	keys      uint64            // handed out
	announced uint64            // by RESIZEDB
	names     []byte            // holds a key or name that had to be decoded
	data      []byte            // likewise Data

	code int  // what is being read, for an error's message: the opcode or type, or -1
	key  span // likewise
	err  error
}

// NewReader reads the RDB that begins at br's next byte. It reads exactly up to the RDB's last byte, its CRC, and never further: what
// follows stays in br. br should have a buffer of 64 KiB or more, and must not be read from otherwise until Next has returned an error.
func NewReader(br *bufio.Reader) *Reader {
	return &Reader{w: window{br: br}, code: -1}
}

// Offset is how many bytes of the RDB have been read: up to the end of the last entry, after io.EOF all.
func (r *Reader) Offset() int64 { return r.w.offset() }

// Version is the RDB's version; zero before the first Next.
func (r *Reader) Version() Version { return r.version }

// Next reads the next entry into e, whose slices are valid until the next call. io.EOF is the clean end of an RDB whose CRC agrees, or
// that has none. Any other error is an [*Error]. Errors are final, io.EOF as well; with one, e is not to be used.
func (r *Reader) Next(e *Entry) error {
	if r.err == nil {
		if err := r.next(e); err != nil {
			r.err = r.ended(err)
		}
	}
	return r.err
}

// ended leaves br behind the last byte that was scanned, and says where an error was met.
func (r *Reader) ended(err error) error {
	var key []byte
	if r.key.end > 0 {
		if k, err := text(r.w.captured(), r.key, &r.names); err == nil {
			key = append(key, k[:min(len(k), maxErrorKey)]...)
		}
	}
	r.w.release()
	if err == io.EOF {
		return err
	}
	return &Error{Offset: r.w.offset(), Version: r.version, DB: r.db, Code: r.code, Key: key, Err: err}
}

func (r *Reader) next(e *Entry) error {
	if r.version == (Version{}) {
		if err := r.magic(); err != nil {
			return err
		}
	}
	*e = Entry{Valkey: r.version.Valkey, Idle: -1, Freq: -1}
	r.w.begin()
	e.Offset = r.w.offset()
	var meta span
	attributes := false // some of the next key's were read: expiry, idle time, frequency, metadata
	for {
		at := r.w.at()
		op, err := r.w.byte()
		if err != nil {
			return err
		}
		r.code = int(op)
		if op < firstOpcode {
			return r.readKey(e, op, meta)
		}
		if err := r.checkOpcode(op); err != nil {
			return err
		}
		switch isAttribute := r.isAttribute(op); {
		case isAttribute && op == opKeyMeta:
			err = r.w.keyMeta()
			meta = span{head: at, end: r.w.at()}
		case isAttribute:
			err = r.attribute(e, op)
		case attributes && op == opAux: // KeyDB's mvcc-tstamp, of no use elsewhere
			err = r.w.skipStrings(2)
		case attributes:
			err = &CorruptError{"a key's attributes are followed by no key"}
		default:
			err = r.record(e, op)
			if err != nil || e.Kind != 0 {
				return err
			}
			r.w.begin()
			e.Offset = r.w.offset()
			continue
		}
		if err != nil {
			return err
		}
		attributes = true
	}
}

// magicLen is the length of magic and version.
const magicLen = 9

// magic reads magic and version.
func (r *Reader) magic() error {
	var p [magicLen]byte
	if err := r.w.copy(p[:]); err != nil {
		return err
	}
	v, err := parseMagic(string(p[:]))
	r.version = v
	return err
}

// parseMagic reads a magic with its version. The error is an [*UnknownError].
func parseMagic(s string) (Version, error) {
	digits, redis := strings.CutPrefix(s, "REDIS")
	digits, valkey := strings.CutPrefix(digits, "VALKEY")
	n, err := strconv.ParseUint(digits, 10, 16)
	if len(s) != magicLen || redis == valkey || err != nil {
		return Version{}, &UnknownError{What: "magic", Name: s}
	}
	if valkey && (n < oldestValkey || n > newestValkey) || redis && (n < 1 || n > newestRedis) {
		return Version{}, &UnknownError{What: "version", Name: s, Code: n}
	}
	return Version{Valkey: valkey, Number: int(n)}, nil
}

// checkOpcode refuses what this version of RDB does not have: behind it nothing can be found.
func (r *Reader) checkOpcode(op byte) error {
	k := opcodeInfo(r.version.Valkey, op)
	if k.since == 0 || k.since > r.version.Number {
		return &UnknownError{What: "opcode", Name: k.name, Code: uint64(op)}
	}
	return nil
}

// isAttribute tells the opcodes that speak of the key that follows.
func (r *Reader) isAttribute(op byte) bool {
	switch op {
	case opExpireTimeMs, opExpireTime, opIdle, opFreq:
		return true
	}
	return op == opKeyMeta && !r.version.Valkey
}

// attribute reads what is said of the key that follows.
func (r *Reader) attribute(e *Entry, op byte) error {
	switch op {
	case opExpireTime:
		v, err := r.w.uint64(4)
		if err != nil {
			return err
		}
		e.setExpire(int64(int32(uint32(v))) * 1000)
	case opExpireTimeMs:
		v, err := r.w.uint64(8)
		if err != nil {
			return err
		}
		e.setExpire(int64(v))
	case opIdle:
		v, err := r.w.number()
		if err != nil {
			return err
		}
		if v > math.MaxInt64/1000 {
			return &CorruptError{"idle time of " + strconv.FormatUint(v, 10) + " seconds"}
		}
		e.Idle = int64(v)
	case opFreq:
		v, err := r.w.byte()
		if err != nil {
			return err
		}
		e.Freq = int(v)
	}
	return nil
}

// setExpire takes -1 for none, as servers do that load an RDB (rdb.c, rdbLoadRioWithLoadingCtx).
func (e *Entry) setExpire(ms int64) {
	e.ExpireAt, e.HasExpire = ms, ms != -1
}

// readKey reads a key and its value, behind their type.
func (r *Reader) readKey(e *Entry, typ byte, meta span) error {
	k := typeInfo(r.version.Valkey, typ)
	if k.since == 0 || k.since > r.version.Number {
		return &UnknownError{What: "type", Name: k.name, Code: uint64(typ)}
	}
	key, err := r.w.string()
	if err != nil {
		return err
	}
	r.key = key
	if err := r.value(typ); err != nil {
		return err
	}
	raw := r.w.captured()
	if e.Key, err = text(raw, key, &r.names); err != nil {
		return err
	}
	r.key = span{}
	r.keys++
	if meta.end > 0 {
		e.Meta = raw[meta.head:meta.end]
	}
	e.Kind, e.DB, e.Type, e.Value, e.End = KindKey, r.db, typ, raw[key.end:], r.w.offset()
	return nil
}
