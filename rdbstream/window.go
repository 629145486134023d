package rdbstream

import (
	"bufio"
	"encoding/binary"
	"io"
	"runtime/debug"
)

const (
	// keepSpill is the size up to which the spill is kept for entries to come.
	keepSpill = 1 << 20
	// spillStep is how far the spill is at most grown ahead of the bytes that arrive, or growBy times what it has, where as much is to come.
	spillStep = 1 << 20
	growBy    = 7
	// pieceSize is that of the pieces in which a value of unknown length is captured: no two copies of it are needed while it grows.
	pieceSize = 8 << 20
	// giveBack is after how many of them memory is given back.
	giveBack = 4
	// spillRead is read at once into the spill; it stays in the CPU's cache for the CRC.
	spillRead = 256 << 10
	// maxLength bounds lengths and counts: no RDB is that large, and sums of a few of them do not overflow.
	maxLength = 1 << 48
)

// window scans what a bufio.Reader has buffered, in place, and captures the bytes of the current entry.
//
// The captured bytes begin at buf[mark]; those of the fillings before it, if the entry began there, are in spill.
type window struct {
	br     *bufio.Reader
	buf    []byte // peeked from br, to be discarded there when all of it is scanned
	pos    int    // the next byte of buf to scan
	mark   int
	spill  []byte
	full   [][]byte // before the spill: pieces of a value of unknown length, to be put together at its end
	inFull int      // bytes of these
	base   int64    // bytes of the RDB before buf[0]
	crc    uint64   // of those bytes, and of buf up to summed
	summed int
}

// offset is the number of the RDB's bytes that are scanned.
func (w *window) offset() int64 { return w.base + int64(w.pos) }

// begin starts a new capture at the next byte. A spill that the capture before this one had little use for is dropped.
func (w *window) begin() {
	if cap(w.spill) > keepSpill && len(w.spill) < cap(w.spill)/8 {
		w.spill = nil
	}
	w.mark, w.spill = w.pos, w.spill[:0]
	w.full, w.inFull = nil, 0
}

// at is the place of the next byte in the capture.
func (w *window) at() int { return w.inFull + len(w.spill) + w.pos - w.mark }

// captured are the bytes since begin; valid until the next begin or fill.
func (w *window) captured() []byte {
	if len(w.spill) == 0 && len(w.full) == 0 {
		return w.buf[w.mark:w.pos]
	}
	w.join()
	w.grow(w.pos - w.mark)
	w.spill = append(w.spill, w.buf[w.mark:w.pos]...)
	w.mark = w.pos
	return w.spill
}

// join puts the pieces together, with room for what is in the window. Their memory is given back on
// the way, so that there are never two copies of all.
func (w *window) join() {
	if len(w.full) == 0 {
		return
	}
	whole := make([]byte, 0, w.at()+dumpFooter)
	for i, piece := range w.full {
		whole = append(whole, piece...)
		w.full[i] = nil
		if i%giveBack == giveBack-1 {
			debug.FreeOSMemory()
		}
	}
	w.spill = append(whole, w.spill...)
	w.full, w.inFull = nil, 0
}

// grow makes room for n more bytes in the spill, and for what [Reader.TakeDump] appends to it. It
// doubles, up to the size of a piece; then it begins another one, unless n is most of what is to come.
func (w *window) grow(n int) {
	have := len(w.spill)
	need := have + n + dumpFooter
	switch {
	case n == 0 || need <= cap(w.spill):
	case have >= pieceSize && n <= pieceSize:
		w.full, w.inFull = append(w.full, w.spill), w.inFull+have
		w.spill = make([]byte, 0, pieceSize+dumpFooter)
	default:
		w.spill = append(make([]byte, 0, max(need, min(2*have, pieceSize))), w.spill...)
	}
}

// take gives the spill away if all that is captured lies in it, and is large; else nil.
func (w *window) take() (spill []byte) {
	if w.mark < w.pos || len(w.spill) < keepSpill {
		return nil
	}
	spill, w.spill = w.spill, nil
	return spill
}

// release takes what is scanned out of br; what was peeked beyond it stays there.
func (w *window) release() {
	_, _ = w.br.Discard(w.pos) // cannot fail: so many bytes are buffered
	w.grow(w.pos - w.mark)
	w.spill = append(w.spill, w.buf[w.mark:w.pos]...)
	w.sum()
	w.base += int64(w.pos)
	w.buf, w.pos, w.mark, w.summed = nil, 0, 0, 0
}

// sum brings the CRC up to what is scanned. It is called for whole windows, and in between only where somebody asks for the CRC.
func (w *window) sum() {
	w.crc = CRC64(w.crc, w.buf[w.summed:w.pos])
	w.summed = w.pos
}

// fill replaces the window, all of which is scanned, by the next one, of at least one byte. It reads from the underlying reader only when
// br is empty, and so never waits for more than the byte that is needed.
func (w *window) fill() error {
	w.release()
	if _, err := w.br.Peek(1); err != nil {
		return cut(err)
	}
	buf, err := w.br.Peek(w.br.Buffered())
	w.buf = buf
	return err
}

// cut turns an end of the stream in the midst of an RDB into what it is.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// skip scans n bytes.
func (w *window) skip(n uint64) error {
	if n <= uint64(len(w.buf)-w.pos) {
		w.pos += int(n)
		return nil
	}
	return w.skipFar(n)
}

func (w *window) skipFar(n uint64) error {
	for {
		rest := uint64(len(w.buf) - w.pos)
		if n <= rest {
			w.pos += int(n)
			return nil
		}
		n -= rest
		w.pos = len(w.buf)
		var err error
		if n >= uint64(w.br.Size()) {
			n, err = 0, w.readFar(n)
		} else {
			err = w.fill()
		}
		if err != nil {
			return err
		}
	}
}

// readFar scans n bytes that would fill br's buffer more than once: straight into the spill.
func (w *window) readFar(n uint64) error {
	w.release()
	for n > 0 {
		if have := len(w.spill); have+dumpFooter >= cap(w.spill) {
			w.grow(int(min(n, uint64(max(growBy*have, spillStep)))))
		}
		have := len(w.spill)
		chunk := w.spill[have : have+int(min(n, spillRead, uint64(cap(w.spill)-have)))]
		got, err := io.ReadFull(w.br, chunk)
		w.spill = w.spill[:have+got]
		w.crc = CRC64(w.crc, chunk[:got])
		w.base += int64(got)
		n -= uint64(got)
		if err != nil {
			return cut(err)
		}
	}
	return nil
}

// byte scans one byte.
func (w *window) byte() (byte, error) {
	if w.pos == len(w.buf) {
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	b := w.buf[w.pos]
	w.pos++
	return b, nil
}

// copy scans as many bytes as p has, into it.
func (w *window) copy(p []byte) error {
	for len(p) > 0 {
		if w.pos == len(w.buf) {
			if err := w.fill(); err != nil {
				return err
			}
		}
		n := copy(p, w.buf[w.pos:])
		w.pos += n
		p = p[n:]
	}
	return nil
}

// uint64 scans a little-endian number of n bytes, at most 8.
func (w *window) uint64(n int) (uint64, error) {
	var p [8]byte
	err := w.copy(p[:n])
	return binary.LittleEndian.Uint64(p[:]), err
}
