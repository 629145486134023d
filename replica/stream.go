package replica

import (
	"bufio"
	"io"
	"runtime"
	"strconv"
	"strings"

	"github.com/tidwall/redcon"
)

// Stream cuts a replication stream into [Unit]s and counts every byte of it. It is used by one goroutine and starts none.
//
// Small commands are parsed where they lie in the reader's buffer; nothing is allocated for them. A transaction is copied together, and
// a command larger than the reader's buffer gets memory of its own, which is given up with its unit.
type Stream struct {
	br *bufio.Reader
	at Position // behind the last unit
	// err is what ended the stream. It stays: behind an error, nobody knows whether a transaction is open.
	err error

	taken int64 // bytes of the present unit so far
	text  arena[byte]
	args  arena[[]byte]
	cmds  []Command
}

// keepUnit is the size of a unit, in bytes, up to which its memory is kept for the next.
const keepUnit = 256 << 10

// NewStream reads the stream that begins behind from. br needs a buffer that most commands fit into.
func NewStream(br *bufio.Reader, from Position) *Stream { return &Stream{br: br, at: from} }

// Position is behind the last unit: a place to resume from.
func (s *Stream) Position() Position { return s.at }

// Next reads one unit into u: a command, a whole transaction, or what only moves the offset. u and all in it is valid until the next call.
//
// io.EOF means that the stream ended between two units, [io.ErrUnexpectedEOF] inside one; a [ProtocolError] that it cannot be trusted
// any more. After an error u is empty, and so is every later one, with the same error; only io.EOF may be tried again.
func (s *Stream) Next(u *Unit) error {
	*u = Unit{Start: s.at.Offset}
	if s.err != nil {
		return s.err
	}
	err := s.next(u)
	if err != nil {
		*u = Unit{Start: s.at.Offset}
		if err != io.EOF {
			s.err = err
		}
	}
	return err
}

func (s *Stream) next(u *Unit) error {
	s.release()
	db := s.at.DB
	own := true
	for tx := false; ; {
		f, err := s.frame()
		if err != nil {
			return err
		}
		var args [][]byte
		word := nothing
		if f.args > 0 {
			if tx && !f.own {
				f.bytes = append(s.text.take(len(f.bytes)), f.bytes...)
			}
			if args, err = s.parse(f); err != nil {
				return err
			}
			word = steering(args[0])
		}
		switch word {
		case write:
			s.cmds = append(s.cmds, Command{Args: args, DB: db})
			own = own && (f.own || tx)
		case replconf:
			u.GetAck = u.GetAck || len(args) > 1 && strings.EqualFold(string(args[1]), "GETACK")
		case selectDB: // inside a transaction, too, it lasts beyond it (protocol 3.1)
			if db, err = s.database(args, f); err != nil {
				return err
			}
		case multi:
			if tx {
				return s.bad("MULTI inside MULTI", f)
			}
			tx = true
		case exec:
			if !tx {
				return s.bad("EXEC without MULTI", f)
			}
			tx = false
		case discard: // the source streams only what it has done (protocol 3.1)
			return s.bad("DISCARD in a replication stream", f)
		}
		if !tx {
			break
		}
	}
	s.at.Offset += s.taken
	s.at.DB = db
	u.Cmds, u.End, u.Own = s.cmds, s.at, own && s.taken > keepUnit
	return nil
}

// release takes back the memory of the last unit, and gives up what a large one has left behind.
func (s *Stream) release() {
	if s.taken > keepUnit {
		s.text, s.args, s.cmds = arena[byte]{}, arena[[]byte]{}, nil
	}
	if s.taken >= Giant {
		runtime.GC()
	}
	s.text.reset()
	s.args.reset()
	s.cmds = s.cmds[:0]
	s.taken = 0
}

// parse splits a frame into arguments, which point into it.
func (s *Stream) parse(f frame) ([][]byte, error) {
	complete, args, _, left, err := redcon.ReadNextCommand(f.bytes, s.args.take(f.args))
	if err != nil || !complete || len(left) > 0 || len(args) != f.args {
		return nil, s.bad("a command that does not parse", f)
	}
	return args, nil
}

func (s *Stream) database(args [][]byte, f frame) (int, error) {
	if len(args) != 2 {
		return 0, s.bad("SELECT without a database", f)
	}
	db, err := strconv.Atoi(string(args[1]))
	if err != nil || db < 0 {
		return 0, s.bad("SELECT of something that is no database", f)
	}
	return db, nil
}

// bad is the error of a frame that is well-formed but cannot stand here.
func (s *Stream) bad(reason string, f frame) error {
	return &ProtocolError{Offset: s.at.Offset + s.taken - int64(len(f.bytes)) + 1, Near: near(nil, f.bytes), Reason: reason}
}

// verb is what a command does to the stream itself.
type verb uint8

const (
	write   verb = iota // nothing: it is for the target
	nothing             // it is consumed: PING, and the newline between commands
	replconf
	selectDB
	multi
	exec
	discard
)

// steering knows the commands that are not for the target. A source that is itself a replica passes on what it got: names in any case.
func steering(name []byte) verb {
	is := func(upper string) bool { return strings.EqualFold(string(name), upper) }
	switch len(name) {
	case 4:
		if is("PING") {
			return nothing
		} else if is("EXEC") {
			return exec
		}
	case 5:
		if is("MULTI") {
			return multi
		}
	case 6:
		if is("SELECT") {
			return selectDB
		}
	case 7:
		if is("DISCARD") {
			return discard
		}
	case 8:
		if is("REPLCONF") {
			return replconf
		}
	}
	return write
}
