package rdbstream

import (
	"io"
	"math"
	"strconv"
)

// record reads what is not a key's, behind its opcode. Where it is nothing to hand out, e.Kind stays 0.
func (r *Reader) record(e *Entry, op byte) error {
	switch op {
	case opEOF:
		return r.end()
	case opSelectDB:
		db, err := r.w.number()
		if err != nil {
			return err
		}
		if db > math.MaxInt32 {
			return &CorruptError{"database " + strconv.FormatUint(db, 10)}
		}
		r.db = int(db)
		return nil
	case opSlotInfo: // slot, keys, expires: a hint for sizing, which Redis gives in cluster mode
		return r.w.numbers(3)
	case opHashTemplate:
		return r.hashTemplate()
	}
	err := r.handOut(e, op)
	e.DB, e.End = r.db, r.w.offset()
	return err
}

// handOut reads a record that becomes an entry.
func (r *Reader) handOut(e *Entry, op byte) (err error) {
	switch op {
	case opAux:
		e.Kind = KindAux
		return r.named(e, true)
	case opFunction2:
		e.Kind = KindFunction
		return r.named(e, false)
	case opResizeDB:
		e.Kind = KindResize
		if e.Keys, err = r.w.number(); err == nil {
			e.Expires, err = r.w.number()
		}
		r.announced += e.Keys
		return err
	case opModuleAux:
		e.Kind = KindModuleAux
		return r.moduleAux(e)
	case opSlotImport:
		e.Kind = KindSlotImport
		return r.slotImport(e)
	}
	return &UnknownError{What: "opcode", Name: opcodeInfo(r.version.Valkey, op).name, Code: uint64(op)}
}

// named reads a string, or a name and a string.
func (r *Reader) named(e *Entry, name bool) error {
	var n, d span
	var err error
	if name {
		if n, err = r.w.string(); err != nil {
			return err
		}
	}
	if d, err = r.w.string(); err != nil {
		return err
	}
	raw := r.w.captured()
	if name {
		if e.Name, err = text(raw, n, &r.names); err != nil {
			return err
		}
	}
	e.Data, err = text(raw, d, &r.data)
	return err
}

// moduleAux reads a module's own data: the module type's id, then when it is to be loaded (behind UINT), then data like a value's.
func (r *Reader) moduleAux(e *Entry) error {
	body := r.w.at()
	id, err := r.w.number()
	if err != nil {
		return err
	}
	if err := r.w.numbers(2); err != nil {
		return err
	}
	if err := r.w.moduleData(); err != nil {
		return err
	}
	name := moduleName(id)
	r.names = append(r.names[:0], name[:]...)
	e.Name, e.Data = r.names, r.w.captured()[body:]
	return nil
}

// slotImport reads Valkey's account of slots that it is importing: the job's name, then ranges of slots.
func (r *Reader) slotImport(e *Entry) error {
	body := r.w.at()
	job, err := r.w.string()
	if err != nil {
		return err
	}
	n, err := r.w.count()
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		if err := r.w.numbers(2); err != nil {
			return err
		}
	}
	raw := r.w.captured()
	e.Data = raw[body:]
	e.Name, err = text(raw, job, &r.names)
	return err
}

// end reads the CRC behind the EOF opcode. 0 says that none was computed (rdbchecksum no).
func (r *Reader) end() error {
	if r.version.Number >= firstWithCRC {
		r.w.sum()
		computed := r.w.crc
		stored, err := r.w.uint64(8)
		if err != nil {
			return err
		}
		if stored != 0 && stored != computed {
			return &CRCError{Stored: stored, Computed: computed}
		}
	}
	return io.EOF
}
