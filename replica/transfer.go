package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// markLen is the length of the random mark behind an RDB whose length the source does not know (R: CONFIG_RUN_ID_SIZE).
const markLen = 40

// markQuiet is how long nothing may come behind that mark. The source says nothing more before it was acknowledged (protocol 0, fact 5), whereas a value that
// holds the mark is followed by the rest of the RDB (T11).
const markQuiet = 100 * time.Millisecond

// What stands right before that mark: the RDB's EOF opcode and its CRC.
const (
	opcodeEOF = 0xff
	opcodeLen = 1
	crcLen    = 8
)

// rdb is an RDB on its way.
type rdb struct {
	left int64  // bytes to come, when the source has said how many
	mark []byte // what follows on the last one, when it has not
	held []byte // of mark: the last bytes read, as long as they may be the end of the RDB and the mark
	end  bool   // the mark was found
}

// Transfer reads the announcement of the RDB that follows +FULLRESYNC, and returns its length in bytes, or -1 when the source does not know it (diskless). It
// waits while the source's BGSAVE runs. [Link.ReadRDB] has the RDB then.
func (l *Link) Transfer(ctx context.Context) (size int64, err error) {
	err = l.interruptible(ctx, func() error {
		line, err := l.line("waiting for the source's BGSAVE")
		if err != nil {
			return err
		}
		size, l.rdb, err = l.announced(line)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("wait for the snapshot of the source %s: %w", l.conf.Endpoint, err)
	}
	return size, nil
}

// announced reads $<length> or $EOF:<mark> (protocol 1.4).
func (l *Link) announced(line string) (size int64, next rdb, err error) {
	if strings.HasPrefix(line, "-") {
		return 0, next, l.refused("PSYNC", line)
	}
	bad := func(reason string) error {
		return &ProtocolError{Offset: -1, Near: near(nil, []byte(line)), Reason: reason}
	}
	what, ok := strings.CutPrefix(line, "$")
	if !ok {
		return 0, next, bad("no length of an RDB")
	}
	if mark, ok := strings.CutPrefix(what, "EOF:"); ok {
		if len(mark) != markLen {
			return 0, next, bad("the mark of an RDB's end is not of 40 bytes")
		}
		return -1, rdb{mark: []byte(mark)}, nil
	}
	size, err = strconv.ParseInt(what, 10, 64)
	if err != nil || size < 0 {
		return 0, next, bad("the length of an RDB is not a number")
	}
	return size, rdb{left: size}, nil
}

// ReadRDB reads the next bytes of the RDB into p, which should have room for 64 KiB or more; io.EOF is its end, and what [Link.Reader] yields from then on is the
// stream. It takes the bytes as they come: whether they are a whole RDB, only who parses them can tell.
func (l *Link) ReadRDB(p []byte) (n int, err error) {
	switch w := &l.rdb; {
	case w.mark != nil:
		n, err = l.readMarked(p)
	case w.left == 0:
		return 0, io.EOF
	default:
		n, err = l.br.Read(p[:min(int64(len(p)), w.left)])
		w.left -= int64(n)
	}
	if err == io.EOF && !l.rdb.end {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// readMarked holds back what may be the RDB's end and the mark behind it.
func (l *Link) readMarked(p []byte) (int, error) {
	const hold = opcodeLen + crcLen + markLen
	w := &l.rdb
	if w.end {
		return 0, io.EOF
	}
	for {
		had := copy(p, w.held)
		n, err := l.br.Read(p[had:])
		n += had
		keep := min(n, hold)
		w.held = append(w.held[:0], p[n-keep:n]...)
		n -= keep
		if keep == hold && w.held[0] == opcodeEOF && bytes.Equal(w.held[hold-markLen:], w.mark) {
			quiet, err := l.quiet()
			if err != nil {
				return n, err
			}
			if quiet {
				w.end = true
				return n + copy(p[n:], w.held[:hold-markLen]), nil
			}
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// quiet tells that nothing comes for markQuiet. A link that ends is quiet.
func (l *Link) quiet() (bool, error) {
	l.in.patience = markQuiet
	_, err := l.br.Peek(1)
	l.in.patience = 0
	switch {
	case errors.Is(err, errInterrupted):
		return false, err
	case err != nil:
		return true, nil
	}
	return false, nil
}
