package rdbstream

// value scans past the body of a value of a type that is known to this RDB (protocol 2.2). What arrives as one string, a ziplist, listpack,
// intset or zipmap, is not looked into.
func (r *Reader) value(typ byte) error {
	w := &r.w
	if r.version.Valkey && typ == TypeValkeyHash2 {
		return w.hash2()
	}
	switch typ {
	case TypeString, TypeHashZipmap, TypeListZiplist, TypeSetIntset, TypeZSetZiplist, TypeHashZiplist,
		TypeHashListpack, TypeZSetListpack, TypeSetListpack, TypeHashListpackExPreGA, TypeHashTmplLPRef:
		return w.skipString()
	case TypeList, TypeSet, TypeListQuicklist:
		return w.strings(1)
	case TypeHash, TypeHashTmplArray:
		return w.strings(2)
	case TypeZSet:
		return w.zset()
	case TypeZSet2:
		return w.zset2()
	case TypeListQuicklist2:
		return w.quicklist2()
	case TypeStreamListpacks:
		return w.stream(1)
	case TypeStreamListpacks2:
		return w.stream(2)
	case TypeStreamListpacks3:
		return w.stream(3)
	case TypeStreamListpacks4:
		return w.stream(4)
	case TypeStreamListpacks5:
		return w.stream(5)
	case TypeModule2:
		if _, err := w.number(); err != nil { // the module type's id
			return err
		}
		return w.moduleData()
	case TypeHashMetadataPreGA:
		return w.hashMetadata(false)
	case TypeHashMetadata:
		return w.hashMetadata(true)
	case TypeHashListpackEx:
		return w.hashListpackEx()
	case TypeArray:
		return w.array()
	case TypeHashTmplLP:
		return w.hashTmplLP()
	case TypeHashTmplArrayRef:
		return r.hashTmplArrayRef()
	}
	return &UnknownError{What: "type", Name: TypeName(r.version.Valkey, typ), Code: uint64(typ)}
}

// strings scans past a count and that many elements of per strings each.
func (w *window) strings(per uint64) error {
	n, err := w.count()
	if err != nil {
		return err
	}
	return w.skipStrings(n * per)
}

// zset: members, each with its score as text behind one byte of length; 253 to 255 are nan, +inf and -inf.
func (w *window) zset() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		if err := w.skipString(); err != nil {
			return err
		}
		size, err := w.byte()
		if err != nil {
			return err
		}
		if size >= 253 {
			continue
		}
		if err := w.skip(uint64(size)); err != nil {
			return err
		}
	}
	return nil
}

// zset2: members, each with its score as a binary double.
func (w *window) zset2() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		if err := w.skipString(); err != nil {
			return err
		}
		if err := w.skip(8); err != nil {
			return err
		}
	}
	return nil
}

// quicklist2: nodes, each with its container (1 a plain element, 2 a listpack) and a string.
func (w *window) quicklist2() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		if _, err := w.number(); err != nil {
			return err
		}
		if err := w.skipString(); err != nil {
			return err
		}
	}
	return nil
}

// The tags of an array's elements.
const (
	arraySDS      = 0
	arrayInt      = 1
	arrayFloat    = 2
	arraySmallStr = 3
)

// array: a flag says that an insert index is there; the elements have an index and a tag each.
func (w *window) array() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	flag, err := w.number()
	if err != nil {
		return err
	}
	if flag != 0 {
		if err := w.numbers(1); err != nil {
			return err
		}
	}
	for ; n > 0; n-- {
		if err := w.numbers(1); err != nil {
			return err
		}
		tag, err := w.number()
		if err != nil {
			return err
		}
		switch tag {
		case arraySDS, arraySmallStr:
			err = w.skipString()
		case arrayInt, arrayFloat:
			err = w.skip(8)
		default:
			err = &CorruptError{"unknown tag of an array's element"}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
