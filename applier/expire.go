package applier

import (
	"strconv"
	"time"

	"redferry/rdbstream"
)

// told is how a command tells an expiry, by the names that SET has for it.
type told uint8

const (
	ex   told = iota // as a span in seconds, from the moment on at which the source got it
	px               // … in ms
	exat             // as a Unix time in seconds
	pxat             // … in ms
)

func (h told) span() bool { return h == ex || h == px }

func (h told) seconds() bool { return h == ex || h == exat }

// expireCommand is how a command that carries an expiry is written anew. The function returns nil for one that is to go on as it is: there is
// nothing to change, or it is not understood, and the target may judge it.
type expireCommand struct {
	told  told // where the name says it, and not an option
	write func(r *rewriter, args [][]byte, how told) [][]byte
}

// expireCommands are all that may carry an expiry, by their names. What becomes of them has a moment in ms, as the servers themselves send it since 7.0.
var expireCommands = newNameTable(map[string]expireCommand{
	"EXPIRE":     {ex, (*rewriter).expire},
	"PEXPIRE":    {px, (*rewriter).expire},
	"EXPIREAT":   {exat, (*rewriter).expire},
	"PEXPIREAT":  {pxat, (*rewriter).expire},
	"HEXPIRE":    {ex, (*rewriter).expireFields},
	"HPEXPIRE":   {px, (*rewriter).expireFields},
	"HEXPIREAT":  {exat, (*rewriter).expireFields},
	"HPEXPIREAT": {pxat, (*rewriter).expireFields},
	"SETEX":      {ex, (*rewriter).setex},
	"PSETEX":     {px, (*rewriter).setex},
	"SET":        {write: (*rewriter).set},
	"GETEX":      {write: (*rewriter).getex},
	"HSETEX":     {write: (*rewriter).hsetex},
	"MSETEX":     {write: (*rewriter).msetex},
	"RESTORE":    {write: (*rewriter).restore},
})

// expireCommandOf looks a command up. A SET of less than five arguments has no room for an expiry, and most have less.
func expireCommandOf(args [][]byte) (c expireCommand, ok bool) {
	if len(args[0]) == len("SET") && len(args) < 5 {
		return c, false
	}
	return expireCommands.find(args[0])
}

// rewriter writes one command after another anew. Its memory, and so what it returns, is good for one command.
type rewriter struct {
	expiries expiries
	when     func() int64 // the moment from which on spans count; nil when nobody knows
	noPXAT   bool         // the target cannot SET with a moment

	then     [][]byte // to go behind what was written; nil for nothing
	compares bool     // it has a condition that looks at the expiries that are there
	near     int64    // the moment that it was given, if that is written shifted; 0 for none

	args    [][]byte
	second  [3][]byte // then's memory
	number  []byte
	payload []byte
}

// copiesExpiry tells the commands whose first key's expiries become another's.
func copiesExpiry(args [][]byte) bool {
	return len(args) > 1 && isOneOf(args[0], "RENAME", "RENAMENX", "COPY", "MOVE")
}

// expire has t's command, of a database, written as expiries are at present.
func (a *Applier) expire(t *translated, c expireCommand, db int, when func() int64) {
	r := &a.rewriter
	r.reset()
	r.expiries, r.when, r.noPXAT = a.expiries, when, a.target.noPXAT
	if args := c.write(r, t.args, c.told); args != nil {
		t.args, t.then = args, r.then
	}
	if r.compares {
		t.form = a.formOf(true)
	}
	if a.near != nil && r.near != 0 && !isOneOf(t.args[0], "MSETEX") { // of which the passes find the keys
		a.near.add(db, string(t.args[1]), r.near)
	}
}

// reset makes ready for the next command. It keeps no hold of the last one's arguments, nor of the memory that a giant one took.
func (r *rewriter) reset() {
	clear(r.args)
	r.args, r.then, r.compares, r.near, r.second = r.args[:0], nil, false, 0, [3][]byte{}
	if cap(r.args) > keepAtMost/24 {
		r.args = nil
	}
	if cap(r.payload) > keepAtMost {
		r.payload = nil
	}
}

// keeps tells that an expiry is written as it came.
func (r *rewriter) keeps(how told) bool { return r.expiries == expiries{} && !how.span() }

// moment is what is written for an expiry, in ms. ok is false when it is not a number, or one that no moment has.
func (r *rewriter) moment(arg []byte, how told, shift int64) (digits []byte, ok bool) {
	ms, err := strconv.ParseInt(string(arg), 10, 64)
	if err != nil {
		return nil, false
	}
	// What is too far away wraps round, as it does in the sources that send it (Redis 6.0): they
	// take it for over, and will say so.
	if how.seconds() {
		ms *= 1000
	}
	if how.span() {
		ms += r.now()
	}
	ms = max(1, ms) // 0 and what is before it are no moments to SET and RESTORE
	if ms < r.expiries.below {
		r.near = ms
	}
	r.number = strconv.AppendInt(r.number[:0], r.expiries.moment(ms, shift), 10)
	return r.number, true
}

func (r *rewriter) now() int64 {
	if r.when == nil {
		return time.Now().UnixMilli()
	}
	return r.when()
}

var (
	nameSet        = []byte("SET")
	namePexpireat  = []byte("PEXPIREAT")
	nameHpexpireat = []byte("HPEXPIREAT")
	optionPXAT     = []byte("PXAT")
	optionAbsTTL   = []byte("ABSTTL")
)

// expire is for EXPIRE key expiry [condition…]. What the source has sent has met its condition.
func (r *rewriter) expire(args [][]byte, how told) [][]byte {
	if len(args) < 3 || r.keeps(how) {
		return nil
	}
	for _, arg := range args[3:] {
		if !isOneOf(arg, "NX", "XX", "GT", "LT") {
			return nil
		}
	}
	return r.pexpireat(args[1], args[2], how)
}

func (r *rewriter) pexpireat(key, expiry []byte, how told) [][]byte {
	ms, ok := r.moment(expiry, how, keyShift)
	if !ok {
		return nil
	}
	r.args = append(r.args, namePexpireat, key, ms)
	return r.args
}

// expireFields is for HEXPIRE key expiry [condition] FIELDS n field… The condition stays: Valkey sends it with all fields, also those that have not met it.
func (r *rewriter) expireFields(args [][]byte, how told) [][]byte {
	if len(args) < 5 {
		return nil
	}
	if r.compares = !isOneOf(args[3], "FIELDS"); r.compares && r.expiries.below > 0 {
		r.expiries.below = distant // shifted, and compared with what is shifted: see formOf
	}
	if r.keeps(how) {
		return nil
	}
	ms, ok := r.moment(args[2], how, fieldShift)
	if !ok {
		return nil
	}
	r.args = append(r.args, args...)
	r.args[0], r.args[2] = nameHpexpireat, ms
	return r.args
}

// setex is for SETEX key expiry value.
func (r *rewriter) setex(args [][]byte, how told) [][]byte {
	if len(args) != 4 {
		return nil
	}
	return r.put(args[1], args[3], args[2], how)
}

// set is for SET key value option… Its conditions have been met, and GET's reply nobody reads.
func (r *rewriter) set(args [][]byte, _ told) [][]byte {
	at, how, ok := findExpiry(args, 3, func(option [][]byte) int {
		switch {
		case isOneOf(option[0], "NX", "XX", "GET"):
			return 1
		case isOneOf(option[0], "IFEQ", "IFNE", "IFDEQ", "IFDNE"):
			return 2
		}
		return 0
	})
	if !ok {
		return r.setAnyway(args)
	}
	if r.keeps(how) && !r.noPXAT {
		return nil
	}
	return r.put(args[1], args[2], args[at], how)
}

// put writes a SET with an expiry. A target that cannot do that gets two commands, of one unit.
func (r *rewriter) put(key, value, expiry []byte, how told) [][]byte {
	ms, ok := r.moment(expiry, how, keyShift)
	if !ok {
		return nil
	}
	r.args = append(r.args, nameSet, key, value)
	if r.noPXAT {
		r.then = append(r.second[:0], namePexpireat, key, ms)
		return r.args
	}
	r.args = append(r.args, optionPXAT, ms)
	return r.args
}

// getex is for GETEX key option expiry. It changes no more than the expiry, so it can be what sources make of it.
func (r *rewriter) getex(args [][]byte, _ told) [][]byte {
	if len(args) != 4 {
		return nil
	}
	how, ok := expiryOption(args[2])
	if !ok || r.keeps(how) {
		return nil
	}
	return r.pexpireat(args[1], args[3], how)
}

// hsetex is for HSETEX key option… FIELDS n field value…
func (r *rewriter) hsetex(args [][]byte, _ told) [][]byte {
	at, how, ok := findExpiry(args, 2, func(option [][]byte) int {
		switch {
		case isOneOf(option[0], "FNX", "FXX", "NX", "XX"):
			return 1
		case isOneOf(option[0], "FIELDS"):
			return 1 + pairs(option[1:])
		}
		return 0
	})
	if !ok {
		return nil
	}
	return r.replace(args, at, how, fieldShift)
}

// msetex is for MSETEX n key value… option…
func (r *rewriter) msetex(args [][]byte, _ told) [][]byte {
	at, how, ok := findExpiry(args, 1+pairs(args[1:]), func(option [][]byte) int {
		if isOneOf(option[0], "NX", "XX") {
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return r.replace(args, at, how, keyShift)
}

// replace writes a command with another expiry, and all else as it is.
func (r *rewriter) replace(args [][]byte, at int, how told, shift int64) [][]byte {
	if r.keeps(how) {
		return nil
	}
	ms, ok := r.moment(args[at], how, shift)
	if !ok {
		return nil
	}
	r.args = append(r.args, args...)
	r.args[at-1], r.args[at] = optionPXAT, ms
	return r.args
}

// restore is for RESTORE key expiry payload option…; 0 is no expiry. A hash has those of its fields in the payload. One that is damaged goes as it
// is: the target will refuse it.
func (r *rewriter) restore(args [][]byte, _ told) [][]byte {
	if len(args) < 4 {
		return nil
	}
	how := px
	for i := 4; i < len(args); i++ {
		switch {
		case isOneOf(args[i], "REPLACE"):
		case isOneOf(args[i], "ABSTTL"):
			how = pxat
		case isOneOf(args[i], "IDLETIME", "FREQ"):
			i++
		default:
			return nil
		}
	}
	r.args = append(r.args, args...)
	if string(args[2]) != "0" && !r.keeps(how) {
		ms, ok := r.moment(args[2], how, keyShift)
		if !ok {
			return nil
		}
		r.args[2] = ms
		if how == px {
			r.args = append(r.args, optionAbsTTL)
		}
	}
	var field func(ms int64) int64
	if r.expiries != (expiries{}) {
		field = r.expiries.field
	}
	if payload, ok, err := rdbstream.PortDump(r.payload[:0], args[3], field); ok && err == nil {
		r.args[3], r.payload = payload, payload
	}
	return r.args
}

// findExpiry finds the expiry among the options of a command, which begin at i. width tells how many of the arguments the first one, another option,
// takes up; 0 when it is none. ok is false when there is no expiry, more than one, or an option that nobody knows.
func findExpiry(args [][]byte, i int, width func(option [][]byte) int) (at int, how told, ok bool) {
	for i < len(args) {
		if h, is := expiryOption(args[i]); is {
			if ok || i+1 == len(args) {
				return 0, 0, false
			}
			at, how, ok = i+1, h, true
			i += 2
			continue
		}
		n := width(args[i:])
		if n == 0 || n > len(args)-i {
			return 0, 0, false
		}
		i += n
	}
	return at, how, ok
}

// expiryOption tells which of them an option is.
func expiryOption(arg []byte) (how told, ok bool) {
	switch {
	case isOneOf(arg, "PXAT"):
		return pxat, true
	case isOneOf(arg, "EX"):
		return ex, true
	case isOneOf(arg, "PX"):
		return px, true
	case isOneOf(arg, "EXAT"):
		return exat, true
	}
	return 0, false
}

// pairs is how many arguments a number of pairs, and they, take: more than there are when it is no number, or there are less.
func pairs(args [][]byte) int {
	if len(args) == 0 {
		return 1
	}
	n, err := strconv.Atoi(string(args[0]))
	if err != nil || n < 0 || n > len(args)/2 {
		return len(args) + 1
	}
	return 1 + 2*n
}

// isOneOf tells whether an argument is one of these names, in whatever case. The names are letters only, in upper case.
func isOneOf(arg []byte, names ...string) bool {
	for _, name := range names {
		if len(arg) != len(name) {
			continue
		}
		i := 0
		for i < len(name) && arg[i]&^0x20 == name[i] {
			i++
		}
		if i == len(name) {
			return true
		}
	}
	return false
}
