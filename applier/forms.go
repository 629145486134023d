package applier

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"redferry/rdbstream"
)

// A source sends some commands in a form that a replica takes and a client may not say, or that
// does something else when a client says it. Others are about the source itself, and not about its
// data. This file writes the first ones anew and drops the second. docs/internals/propagation.md
// lists them all.

// form is how a command goes to the target. It gets and returns what translate has so far, by
// value, so that nothing of it needs memory of its own. drop is true for what does not go there. An
// error says why no target can take the command.
type form func(a *Applier, t translated, at spot) (out translated, drop bool, err error)

// spot is where in the stream a command is.
type spot struct {
	db  int
	end int64 // the offset behind its unit
}

var forms = newNameTable(map[string]form{
	"CLUSTER":        clusterForm,
	"COPY":           otherDatabaseForm,
	"EVAL":           scriptForm,
	"EVALSHA":        scriptForm,
	"FLUSHALL":       flushForm,
	"FLUSHDB":        flushForm,
	"FUNCTION":       functionForm,
	"MOVE":           otherDatabaseForm,
	"PUBLISH":        publishForm,
	"RESTORE-ASKING": restoreAskingForm,
	"SCRIPT":         scriptCacheForm,
	"SPUBLISH":       publishForm,
	"SWAPDB":         swapForm,
	"XADD":           xaddForm,
	"XTRIM":          xtrimForm,
})

var (
	nameEval        = []byte("EVAL")
	nameRestore     = []byte("RESTORE")
	nameXidmprecord = []byte("XIDMPRECORD")
	async           = []byte("ASYNC")
	helloChannel    = []byte("__sentinel__:hello")
)

var errFlushSlot = errors.New("the command removes all keys of a slot of a cluster, and the target has no slots: " +
	"delete these keys on the target, then leave the command out")

// clusterForm drops what is about slots, which the target has of its own. FLUSHSLOT (Valkey 9) is
// about keys, too: dropped, they would stay in the target.
func clusterForm(_ *Applier, t translated, _ spot) (translated, bool, error) {
	if len(t.args) > 1 && isOneOf(t.args[1], "FLUSHSLOT") {
		return t, false, errFlushSlot
	}
	return t, true, nil
}

func otherDatabaseForm(_ *Applier, t translated, _ spot) (translated, bool, error) {
	t.needs[0] = otherDatabase(t.args)
	return t, false, nil
}

// flushForm frees the memory in the background, whatever the source's client wrote: a synchronous
// one would hold up the target.
func flushForm(_ *Applier, t translated, at spot) (translated, bool, error) {
	ours := at.db == 0 || len(t.args[0]) == len("FLUSHALL")
	t.args = [][]byte{t.args[0], async}
	if ours {
		t.effect = flushes
	}
	return t, false, nil
}

func swapForm(a *Applier, t translated, at spot) (translated, bool, error) {
	a.swapped = at.end
	if len(t.args) != 3 {
		return t, false, fmt.Errorf("SWAPDB with %d arguments", len(t.args)-1)
	}
	one, err1 := strconv.Atoi(string(t.args[1]))
	two, err2 := strconv.Atoi(string(t.args[2]))
	if err1 != nil || err2 != nil {
		return t, false, fmt.Errorf("SWAPDB %q %q", t.args[1], t.args[2])
	}
	t.needs = [2]int{one, two}
	if (one == 0) != (two == 0) {
		t.effect = swaps
	}
	return t, false, nil
}

// publishForm leaves out what sentinels tell each other of the source: the target's own sentinels
// would take the source for their primary.
func publishForm(a *Applier, t translated, _ spot) (translated, bool, error) {
	return t, a.DropPublish || len(t.args) > 1 && bytes.Equal(t.args[1], helloChannel), nil
}

// restoreAskingForm is for a key that was migrated to a node of a cluster: the target has it
// without asking.
func restoreAskingForm(_ *Applier, t translated, _ spot) (translated, bool, error) {
	t.args = append([][]byte{nameRestore}, t.args[1:]...)
	return t, false, nil
}

// functionForm gives the payload of FUNCTION RESTORE the RDB version that all servers with
// functions take.
func functionForm(_ *Applier, t translated, _ spot) (translated, bool, error) {
	if len(t.args) > 2 && isOneOf(t.args[1], "RESTORE") {
		if payload, ok := rdbstream.PortFunctions(nil, t.args[2]); ok {
			t.args = append([][]byte{t.args[0], t.args[1], payload}, t.args[3:]...)
		}
	}
	return t, false, nil
}

// xaddForm takes out of XADD's options what only a primary may say:
//
//   - LIMIT. The source has trimmed with "~" and says what came of it with "=", and leaves LIMIT
//     where the client had written it.
//   - All trimming but the last one, which Redis 6.0 lets a client say more than once, and obeys.
//   - IDMP and IDMPAUTO, beside the ID that they led to (Redis 8.6). IDMP's pair is recorded in a
//     command of its own, where the target has that.
func xaddForm(a *Applier, t translated, _ spot) (translated, bool, error) {
	if len(t.args) < 5 || !startsOption(t.args[2]) { // most begin with the ID
		return t, false, nil
	}
	o, id := parseTrim(t.args)
	if len(t.args)-id < 3 || !o.illegal() {
		return t, false, nil
	}
	r := &a.forms
	r.reset()
	r.args = append(append(r.args, t.args[:2]...), o.trim...)
	if o.noMkStream != nil {
		r.args = append(r.args, o.noMkStream)
	}
	r.args = append(append(r.args, o.policy...), t.args[id:]...)
	if len(o.idmp) == 2 && a.target.idmp {
		r.second = append(r.second, nameXidmprecord, t.args[1], o.idmp[0], o.idmp[1], t.args[id])
		t.then = r.second
	}
	t.args = r.args
	return t, false, nil
}

// xtrimForm is the same for XTRIM, which has nothing behind its options.
func xtrimForm(a *Applier, t translated, _ spot) (translated, bool, error) {
	o, end := parseTrim(t.args)
	if end != len(t.args) || !o.illegal() {
		return t, false, nil
	}
	r := &a.forms
	r.reset()
	r.args = append(append(append(r.args, t.args[:2]...), o.trim...), o.policy...)
	t.args = r.args
	return t, false, nil
}

// startsOption tells an option of XADD from an ID.
func startsOption(arg []byte) bool { return len(arg) > 0 && arg[0]|0x20 >= 'a' && arg[0]|0x20 <= 'z' }

// trimOptions are the options of XADD and XTRIM. They share the command's memory.
type trimOptions struct {
	trim       [][]byte // MAXLEN or MINID, with = and threshold; the last ones
	trims      int
	policy     [][]byte // KEEPREF, DELREF or ACKED (Redis 8.2)
	noMkStream []byte
	idmp       [][]byte // IDMP's producer and ID, IDMPAUTO's producer
	limit      bool
}

// illegal tells that a client may not say so. LIMIT beside "~" is what a client may say: such a
// command is not one that a source sends.
func (o *trimOptions) illegal() bool {
	if len(o.trim) > 1 && string(o.trim[1]) == "~" {
		return false
	}
	return o.limit || o.trims > 1 || o.idmp != nil
}

// parseTrim reads the options behind the key, and tells where they end: at XADD's ID. What it does
// not know ends them, too.
func parseTrim(args [][]byte) (o trimOptions, end int) {
	i := 2
	for i < len(args) {
		left := len(args) - i - 1
		switch arg := args[i]; {
		case isOneOf(arg, "MAXLEN", "MINID") && left > 0:
			n := 2
			if left > 1 && (string(args[i+1]) == "=" || string(args[i+1]) == "~") {
				n = 3
			}
			o.trim = args[i : i+n]
			o.trims++
			i += n
		case isOneOf(arg, "LIMIT") && left > 0:
			o.limit = true
			i += 2
		case isOneOf(arg, "NOMKSTREAM"):
			o.noMkStream = arg
			i++
		case isOneOf(arg, "KEEPREF", "DELREF", "ACKED"):
			o.policy = args[i : i+1]
			i++
		case isOneOf(arg, "IDMP") && left > 1:
			o.idmp = args[i+1 : i+3]
			i += 3
		case isOneOf(arg, "IDMPAUTO") && left > 0:
			o.idmp = args[i+1 : i+2]
			i += 2
		default:
			return o, i
		}
	}
	return o, i
}

// formMemory is what a form is written into. It is good for one command.
type formMemory struct{ args, second [][]byte }

// reset keeps no hold of the last command's arguments, nor of the memory that a giant one took.
func (m *formMemory) reset() {
	clear(m.args)
	clear(m.second)
	m.args, m.second = m.args[:0], m.second[:0]
	if cap(m.args) > keepAtMost/24 {
		m.args = nil
	}
}

// setAnyway is for SET key value option… without an expiry. A condition on the old value, which not
// all servers know, has been met: the command goes without it.
func (r *rewriter) setAnyway(args [][]byte) [][]byte {
	r.args = append(r.args, args[:3]...)
	for i := 3; i < len(args); i++ {
		switch {
		case isOneOf(args[i], "NX", "XX", "GET", "KEEPTTL"):
			r.args = append(r.args, args[i])
		case isOneOf(args[i], "IFEQ", "IFNE", "IFDEQ", "IFDNE") && i+1 < len(args):
			i++
		default:
			return nil
		}
	}
	if len(r.args) == len(args) {
		return nil
	}
	return r.args
}

// setsOf are the SETs that make an MSETEX, for a target that does not know it; nil for any other
// command. Its condition has been met.
func (a *Applier) setsOf(args [][]byte) (sets [][][]byte) {
	if a.target.msetex || len(args) < 4 || !isOneOf(args[0], "MSETEX") {
		return nil
	}
	end := 1 + pairs(args[1:])
	if end > len(args) {
		return nil
	}
	var options [][]byte
	for i := end; i < len(args); i++ {
		_, expires := expiryOption(args[i])
		switch {
		case isOneOf(args[i], "NX", "XX"):
		case isOneOf(args[i], "KEEPTTL"):
			options = args[i : i+1]
		case expires && i+1 < len(args):
			options = args[i : i+2]
			i++
		default:
			return nil
		}
	}
	for i := 2; i < end; i += 2 {
		sets = append(sets, append([][]byte{nameSet, args[i], args[i+1]}, options...))
	}
	return sets
}
