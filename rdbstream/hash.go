package rdbstream

// hash2 is Valkey's hash with expiries: fields and values, each pair with its expiry in ms, 8 bytes.
func (w *window) hash2() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		if err := w.skipStrings(2); err != nil {
			return err
		}
		if err := w.skip(8); err != nil {
			return err
		}
	}
	return nil
}

// hashMetadata is Redis' hash with expiries: each pair behind its expiry. Since 7.4.0 these are relative to the earliest one, at the beginning.
func (w *window) hashMetadata(earliest bool) error {
	if earliest {
		if err := w.skip(8); err != nil {
			return err
		}
	}
	n, err := w.count()
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		if err := w.numbers(1); err != nil {
			return err
		}
		if err := w.skipStrings(2); err != nil {
			return err
		}
	}
	return nil
}

// hashListpackEx: the earliest expiry, 8 bytes, and a listpack of field, value, expiry.
func (w *window) hashListpackEx() error {
	if err := w.skip(8); err != nil {
		return err
	}
	return w.skipString()
}

// hashTmplLP: the field names, and a listpack of the values.
func (w *window) hashTmplLP() error {
	if err := w.strings(1); err != nil {
		return err
	}
	return w.skipString()
}

// hashTmplArrayRef: a template's id, and as many values as that template has fields.
func (r *Reader) hashTmplArrayRef() error {
	id, err := r.w.number()
	if err != nil {
		return err
	}
	fields, ok := r.fields[id]
	if !ok {
		return &CorruptError{"a hash refers to a template that was not there"}
	}
	return r.w.skipStrings(fields)
}

// hashTemplate takes in a HASH_TEMPLATE record (Redis 8.10): an id, and field names, the number of which hashTmplArrayRef needs.
func (r *Reader) hashTemplate() error {
	id, err := r.w.number()
	if err != nil {
		return err
	}
	fields, err := r.w.count()
	if err != nil {
		return err
	}
	if err := r.w.skipStrings(fields); err != nil {
		return err
	}
	r.keep(Template{ID: id, Fields: fields})
	return nil
}

// keep takes in a template.
func (r *Reader) keep(t Template) {
	if r.fields == nil {
		r.fields = make(map[uint64]uint64)
	}
	r.templates = append(r.templates, t)
	r.fields[t.ID] = t.Fields
}
