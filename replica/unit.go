package replica

// Giant is the size of a value or a unit, in bytes, from which on it is alone in memory: nothing behind
// it is read until it is applied, and then its memory is collected. Left to itself the collector waits
// until as much again is in use.
const Giant = 16 << 20

// Unit is what is applied as a whole or not at all: one command, or one whole MULTI…EXEC. A position between two units is safe to resume
// from; one inside a unit does not exist for a sink.
//
// Its memory belongs to the [Stream] that filled it and is valid until the next call of Next, but for
// Own.
type Unit struct {
	// Cmds are the commands to write, without what only steers the stream: SELECT, MULTI, EXEC, PING and REPLCONF are consumed. Empty
	// for a unit that only moves the offset.
	Cmds []Command
	// Start is the offset before the unit's first byte, in End's history.
	Start int64
	// End is the position behind the unit's last byte.
	End Position
	// GetAck says that the source asked for an acknowledgement: it wants to hear an offset of End or beyond, as soon as it is durable.
	GetAck bool
	// Own says that the bytes of the commands' arguments lie in memory that the stream does not use
	// again: whoever keeps them need not copy them. It is so for large units only.
	Own bool
	// When tells at what time the unit was received, a Unix time in ms by the source's clock: what an expiry that is told as a span counts
	// from. nil when nobody knows.
	When func() (ms int64)
}

// Command is one command of a unit: its arguments, the name first, as the source sent them, and the database it is for.
type Command struct {
	Args [][]byte
	DB   int
}
