package rdbstream

// streamID is the size of an entry's ID where it is stored raw: ms and sequence number, 8 bytes each.
const streamID = 16

// stream scans past a stream, of version 1 (5.0), 2 (7.0), 3 (7.2), 4 (8.6) or 5 (8.8).
func (w *window) stream(version int) error {
	if err := w.strings(2); err != nil { // each node of the radix tree: its ID, its listpack
		return err
	}
	header := 3 // length, last ID's ms and seq
	if version >= 2 {
		header += 5 // first ID's ms and seq, maximal deleted ID's ms and seq, entries added
	}
	if err := w.numbers(header); err != nil {
		return err
	}
	groups, err := w.count()
	if err != nil {
		return err
	}
	for ; groups > 0; groups-- {
		if err := w.streamGroup(version); err != nil {
			return err
		}
	}
	if version >= 4 {
		return w.streamProducers()
	}
	return nil
}

func (w *window) streamGroup(version int) error {
	if err := w.skipString(); err != nil { // its name
		return err
	}
	header := 2 // last delivered ID's ms and seq
	if version >= 2 {
		header++ // entries read
	}
	if err := w.numbers(header); err != nil {
		return err
	}
	pending, err := w.count()
	if err != nil {
		return err
	}
	for ; pending > 0; pending-- {
		if err := w.skip(streamID + 8); err != nil { // its ID and delivery time
			return err
		}
		if err := w.numbers(1); err != nil { // delivery count
			return err
		}
	}
	consumers, err := w.count()
	if err != nil {
		return err
	}
	for ; consumers > 0; consumers-- {
		if err := w.streamConsumer(version); err != nil {
			return err
		}
	}
	if version >= 5 {
		return w.streamIDs() // what was given back by XNACK
	}
	return nil
}

func (w *window) streamConsumer(version int) error {
	if err := w.skipString(); err != nil { // its name
		return err
	}
	times := uint64(8) // seen
	if version >= 3 {
		times += 8 // active
	}
	if err := w.skip(times); err != nil {
		return err
	}
	return w.streamIDs() // its pending entries
}

// streamIDs scans past a count and that many IDs.
func (w *window) streamIDs() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	return w.skip(n * streamID)
}

// streamProducers scans past what makes XADD idempotent: by producer, the ids that it used.
func (w *window) streamProducers() error {
	if err := w.numbers(2); err != nil { // how long and how many ids are kept
		return err
	}
	producers, err := w.count()
	if err != nil {
		return err
	}
	for ; producers > 0; producers-- {
		if err := w.skipString(); err != nil { // its id
			return err
		}
		ids, err := w.count()
		if err != nil {
			return err
		}
		for ; ids > 0; ids-- {
			if err := w.skipString(); err != nil {
				return err
			}
			if err := w.numbers(2); err != nil { // the ID of its entry
				return err
			}
		}
	}
	return w.numbers(2) // ids added, duplicates seen
}
