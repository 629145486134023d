package replica

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// markLen is the length of the random mark behind an RDB whose length the source does not know (R: CONFIG_RUN_ID_SIZE).
const markLen = 40

// Transfer is an RDB on its way.
type Transfer struct {
	Size int64 // bytes, or -1 when the source does not know (diskless)
	// Reader yields the RDB and, behind it, what belongs to the link: it has to be parsed up to its last byte and not beyond. It is
	// [Link.Reader].
	Reader *bufio.Reader
}

// transferEnd is how to tell that a transfer has ended where it should.
type transferEnd struct {
	underway bool
	end      int64  // the link's bytes read, when size is known
	mark     []byte // what must follow, when it is not
}

// Transfer reads the announcement of the RDB that follows +FULLRESYNC. It waits while the source's BGSAVE runs.
func (l *Link) Transfer(ctx context.Context) (Transfer, error) {
	t := Transfer{Size: -1, Reader: l.br}
	err := l.interruptible(ctx, func() error {
		line, err := l.line("waiting for the source's BGSAVE")
		if err != nil {
			return err
		}
		t.Size, l.rdb, err = l.announced(line)
		return err
	})
	if err != nil {
		return Transfer{}, fmt.Errorf("wait for the snapshot of the source %s: %w", l.conf.Endpoint, err)
	}
	return t, nil
}

// announced reads $<length> or $EOF:<mark> (protocol 1.4).
func (l *Link) announced(line string) (size int64, end transferEnd, err error) {
	if strings.HasPrefix(line, "-") {
		return 0, end, l.refused("PSYNC", line)
	}
	bad := func(reason string) error {
		return &ProtocolError{Offset: -1, Near: near(nil, []byte(line)), Reason: reason}
	}
	what, ok := strings.CutPrefix(line, "$")
	if !ok {
		return 0, end, bad("no length of an RDB")
	}
	if mark, ok := strings.CutPrefix(what, "EOF:"); ok {
		if len(mark) != markLen {
			return 0, end, bad("the mark of an RDB's end is not of 40 bytes")
		}
		return -1, transferEnd{underway: true, mark: []byte(mark)}, nil
	}
	size, err = strconv.ParseInt(what, 10, 64)
	if err != nil || size < 0 {
		return 0, end, bad("the length of an RDB is not a number")
	}
	return size, transferEnd{underway: true, end: l.consumed() + size}, nil
}

// consumed counts the bytes that have been taken out of the link's reader.
func (l *Link) consumed() int64 { return l.in.n - int64(l.br.Buffered()) }

// EndTransfer checks, when the RDB was parsed to its end, that the source sees the end there too: exactly the announced bytes were
// read, or the announced mark follows, which it takes. Otherwise the snapshot is corrupt, and the error a [ProtocolError].
//
// The end is found by parsing, never by looking for the mark: values may hold it (T11).
func (l *Link) EndTransfer() error {
	if !l.rdb.underway {
		return errors.New("end of a transfer that was not begun")
	}
	want := l.rdb
	l.rdb = transferEnd{}
	if want.mark == nil {
		if over := l.consumed() - want.end; over != 0 {
			return &ProtocolError{Offset: -1, Reason: fmt.Sprintf("the RDB ends %d bytes off its announced length", over)}
		}
		return nil
	}
	got := make([]byte, markLen)
	if n, err := io.ReadFull(l.br, got); err != nil {
		return fmt.Errorf("read the mark behind the RDB, %d of %d bytes: %w", n, markLen, err)
	}
	if !bytes.Equal(got, want.mark) {
		return &ProtocolError{Offset: -1, Near: got, Reason: "the RDB is not followed by its announced mark"}
	}
	return nil
}
