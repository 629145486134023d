package rdbstream

// The opcodes between which a module's data describes itself (rdb.h, RDB_MODULE_OPCODE_…).
const (
	moduleEOF    = 0
	moduleSInt   = 1
	moduleUInt   = 2
	moduleFloat  = 3
	moduleDouble = 4
	moduleString = 5
)

// moduleData scans past a module's data, up to and with its EOF.
func (w *window) moduleData() error {
	for {
		op, err := w.number()
		if err != nil {
			return err
		}
		switch op {
		case moduleEOF:
			return nil
		case moduleSInt, moduleUInt:
			err = w.numbers(1)
		case moduleFloat:
			err = w.skip(4)
		case moduleDouble:
			err = w.skip(8)
		case moduleString:
			err = w.skipString()
		default:
			err = &UnknownError{What: "module opcode", Code: op}
		}
		if err != nil {
			return err
		}
	}
}

// keyMeta scans past a KEY_META block behind its opcode: what modules attached to the key, each with 4 bytes of class.
func (w *window) keyMeta() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		if err := w.skip(4); err != nil {
			return err
		}
		if err := w.moduleData(); err != nil {
			return err
		}
	}
	return nil
}

// moduleName is a module type's name: nine characters of 6 bits, above 10 bits of its encoding's version (module.c, moduleTypeNameByID).
func moduleName(id uint64) [9]byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var name [9]byte
	id >>= 10
	for i := len(name) - 1; i >= 0; i-- {
		name[i] = alphabet[id&63]
		id >>= 6
	}
	return name
}

// Module is the module type's name of a TypeModule2 value, and the version of its encoding; ok is false for other entries.
func (e *Entry) Module() (name string, version int, ok bool) {
	if e.Kind != KindKey || e.Type != TypeModule2 {
		return "", 0, false
	}
	id, _, _, err := cutLength(e.Value)
	if err != nil {
		return "", 0, false
	}
	n := moduleName(id)
	return string(n[:]), int(id & 1023), true
}
