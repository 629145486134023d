package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
)

// announcedVersion makes Valkey 9.1 and later send an RDB version that carries the TTLs of hash fields; without one it sends RDB 11, and
// fails the whole sync when there is such a TTL (protocol 0, fact 8). Redis answers an error, which is ignored.
const announcedVersion = "9.0.0"

// handshake is what a real replica says before PSYNC, in the same order (protocol 1.1). It leaves no reply unread: PSYNC is refused
// with pending output.
func (l *Link) handshake() error {
	if err := l.ping(); err != nil {
		return err
	}
	if err := l.auth(); err != nil {
		return err
	}
	return l.replconf(
		[2]string{"listening-port", strconv.Itoa(l.conf.ListeningPort)},
		[2]string{"capa", "eof"},
		[2]string{"capa", "psync2"},
		[2]string{"version", announcedVersion},
	)
}

// ping asks whether the source is able to talk. A refusal for want of a password or a permission is an answer too, as for a real replica.
func (l *Link) ping() error {
	reply, err := l.call("PING")
	if err != nil && l.conf.Endpoint.TLS == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		return fmt.Errorf("%w (is it a TLS port? then write rediss://)", err)
	}
	if err != nil {
		return err
	}
	switch code(reply) {
	case "NOAUTH":
		if l.conf.Endpoint.Username == "" && l.conf.Endpoint.Password == "" {
			return l.refused("PING", reply)
		}
		return nil
	case "NOPERM":
		return nil
	}
	if strings.HasPrefix(reply, "+") || strings.HasPrefix(reply, "-ERR operation not permitted") {
		return nil
	}
	return l.refused("PING", reply)
}

func (l *Link) auth() error {
	e := l.conf.Endpoint
	var reply string
	var err error
	switch {
	case e.Username != "":
		reply, err = l.call("AUTH", e.Username, e.Password)
	case e.Password != "":
		reply, err = l.call("AUTH", e.Password)
	default:
		return nil
	}
	if err != nil || strings.HasPrefix(reply, "+") {
		return err
	}
	return l.refused("AUTH", reply)
}

// replconf sends each option as a command of its own, because a source stops at the first option that it does not know, and the rest of
// that command is lost. An -ERR says only that: the option is not known.
func (l *Link) replconf(options ...[2]string) error {
	err := l.write("send REPLCONF", func(b []byte) []byte {
		for _, o := range options {
			b = appendCommand(b, "REPLCONF", o[0], o[1])
		}
		return b
	})
	if err != nil {
		return err
	}
	for range options {
		reply, err := l.reply()
		if err != nil {
			return fmt.Errorf("read the reply to REPLCONF: %w", err)
		}
		if !strings.HasPrefix(reply, "+") && (code(reply) != "ERR" || unknownCommand(reply)) {
			return l.refused("REPLCONF", reply)
		}
	}
	return nil
}

// SyncReply is a source's answer to PSYNC.
type SyncReply struct {
	// Full says that the source sends a snapshot, which replaces everything; otherwise the stream goes on from where we asked.
	Full bool
	// At is the position that what follows begins behind. After a partial resync its ReplID may be a new one, when the source has been
	// promoted: the history up to here is the same. After a full one its DB is 0, until the RDB's repl-stream-db says otherwise.
	At Position
}

// Sync asks the source to go on behind from, or for a full resync when from is zero. It waits, for hours if need be, while the source
// shows that it is alive. Errors without a [Stop] are worth another try: the source is loading, has lost its own primary, or cannot fork.
func (l *Link) Sync(ctx context.Context, from Position) (SyncReply, error) {
	var r SyncReply
	err := l.interruptible(ctx, func() (err error) {
		r, err = l.sync(from)
		return err
	})
	if err != nil {
		return SyncReply{}, fmt.Errorf("synchronise with the source %s: %w", l.conf.Endpoint, TLSStop("source", l.conf.Endpoint, err))
	}
	return r, nil
}

// sync sends exactly two arguments: a third would order the source to step down in our favour (R: replication.c syncCommand, FAILOVER).
func (l *Link) sync(from Position) (SyncReply, error) {
	id, next := "?", "-1"
	if !from.IsZero() {
		id, next = from.ReplID, strconv.FormatInt(from.Offset+1, 10)
	}
	if err := l.command(l.conf.PSYNCCommand, id, next); err != nil {
		return SyncReply{}, err
	}
	line, err := l.line("waiting for the source to start its BGSAVE")
	if err != nil {
		return SyncReply{}, fmt.Errorf("read the reply to PSYNC: %w", err)
	}
	if strings.HasPrefix(line, "-") {
		return SyncReply{}, l.refused("PSYNC", line)
	}
	if strings.HasPrefix(line, "$") && !strings.EqualFold(l.conf.PSYNCCommand, "PSYNC") {
		return SyncReply{}, l.takenForSYNC()
	}
	return parseSyncReply(line, from)
}

func parseSyncReply(line string, from Position) (SyncReply, error) {
	bad := func(reason string) (SyncReply, error) {
		return SyncReply{}, &ProtocolError{Offset: -1, Near: near(nil, []byte(line)), Reason: reason}
	}
	f := strings.Fields(line)
	if len(f) == 0 {
		return bad("an empty reply to PSYNC")
	}
	switch f[0] {
	case "+FULLRESYNC":
		if len(f) != 3 || !validReplID(f[1]) {
			return bad("+FULLRESYNC without a replication ID and an offset")
		}
		offset, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil || offset < 0 {
			return bad("+FULLRESYNC with an offset that is none")
		}
		return SyncReply{Full: true, At: Position{ReplID: f[1], Offset: offset}}, nil
	case "+CONTINUE":
		if from.IsZero() {
			return bad("+CONTINUE, but a full resync was asked for")
		}
		at := from
		switch { // without an ID it is still ours (a source before 4.0)
		case len(f) == 2 && validReplID(f[1]):
			at.ReplID = f[1]
		case len(f) != 1:
			return bad("+CONTINUE with a replication ID that is none")
		}
		return SyncReply{At: at}, nil
	}
	return bad("an unknown reply to PSYNC")
}

// takenForSYNC is the end of a PSYNC under another name where the server compares the name that it was called by (R: replication.c
// syncCommand): it has begun an old SYNC, which knows neither history nor offset.
func (l *Link) takenForSYNC() error {
	return &Stop{
		Kind:   Config,
		Reason: fmt.Sprintf("the source takes %s for SYNC, which cannot be resumed", l.conf.PSYNCCommand),
		Hint:   "undo rename-command PSYNC on the source: servers do not know PSYNC under another name; --psync-command is for services that do",
	}
}

func validReplID(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return len(id) == 40
}

// call sends one command and reads its reply, which is a line: + or - and the rest. When it cannot be sent the read fails, too, and has more
// to tell: what the source said before it hung up (-DENIED, an alert of TLS).
func (l *Link) call(args ...string) (string, error) {
	_ = l.command(args...)
	reply, err := l.reply()
	if err != nil {
		return "", fmt.Errorf("read the reply to %s: %w", args[0], err)
	}
	return reply, nil
}

// reply reads a status or an error.
func (l *Link) reply() (string, error) {
	line, err := l.line("")
	if err != nil {
		return "", err
	}
	if line[0] != '+' && line[0] != '-' {
		return "", &Stop{
			Kind:   Config,
			Reason: fmt.Sprintf("what listens at %s does not speak the Redis protocol", l.conf.Endpoint),
			Hint:   "check host, port and scheme of the source's URL (rediss:// for TLS)",
			Err:    &ProtocolError{Offset: -1, Near: near(nil, []byte(line)), Reason: "neither a status nor an error"},
		}
	}
	return line, nil
}

// line reads up to the next newline and skips lines that are empty: the source sends one a second while it is busy (protocol 1.4).
// waiting is what to report then; "" where no wait is expected. The line is not empty.
func (l *Link) line(waiting string) (string, error) {
	for {
		b, err := l.br.ReadSlice('\n')
		if err != nil {
			return "", l.lineError(b, err)
		}
		s := strings.TrimSuffix(string(b[:len(b)-1]), "\r")
		if s != "" {
			return s, nil
		}
		if waiting != "" {
			l.conf.OnWait(waiting)
			waiting = ""
		}
	}
}
