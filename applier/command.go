package applier

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// RenameMap gives the usual names of commands that the source has under other ones (rename-command), both in upper case.
type RenameMap map[string]string

// effect is what a command does to our own keys in database 0, which must not be lost.
type effect uint8

const (
	none    effect = iota
	flushes        // removes them: they are written again behind it
	swaps          // moves them to another database: they are removed there and written again
)

// translated is a command of the stream as it goes to the target. The slices are good until the next one is translated.
type translated struct {
	args   [][]byte
	then   [][]byte // another command, to go right behind it; nil when there is none
	effect effect
	needs  [2]int  // databases beside its own that it needs; those of a SWAPDB
	form   formKey // what its first key is given before it, for it copies or compares the expiries that are there
}

var reservedPrefix = []byte(checkpoint.Prefix)

// translate makes a command of u fit for the target. drop is true for what is not forwarded. It runs under the queue's lock.
func (a *Applier) translate(u *replica.Unit, cmd replica.Command) (t translated, drop bool, err error) {
	t.args = cmd.Args
	if len(t.args) == 0 || len(t.args[0]) == 0 {
		return t, false, errors.New("a command without a name")
	}
	t.args = a.unrenamed(t.args)
	if slices.ContainsFunc(t.args[1:], func(arg []byte) bool { return bytes.HasPrefix(arg, reservedPrefix) }) {
		if t.args, err = withoutReserved(t.args, a.keys); err != nil || t.args == nil {
			return t, true, err
		}
	}
	if f, ok := forms.find(t.args[0]); ok {
		if t, drop, err = f(a, t, spot{cmd.DB, u.End.Offset}); drop || err != nil {
			return t, drop, err
		}
	}
	if c, ok := expireCommandOf(t.args); ok {
		a.expire(&t, c, cmd.DB, u.When)
	} else if a.real < a.expiries.below && copiesExpiry(t.args) {
		t.form = a.formOf(false)
	}
	return t, false, nil
}

// unrenamed is a command under the name that it has where nobody has renamed it.
func (a *Applier) unrenamed(args [][]byte) [][]byte {
	if len(a.Rename) > 0 {
		if usual, ok := a.Rename[strings.ToUpper(string(args[0]))]; ok {
			args = slices.Clone(args)
			args[0] = []byte(usual)
		}
	}
	return args
}

// otherDatabase is where MOVE key db, or COPY source destination DB db, writes to; 0, which every target has, when that is nowhere else.
func otherDatabase(args [][]byte) int {
	var number []byte
	if bytes.EqualFold(args[0], []byte("MOVE")) && len(args) == 3 {
		number = args[2]
	}
	for i := 3; i < len(args)-1; i++ { // behind the keys, which may have any name
		if bytes.EqualFold(args[i], []byte("DB")) {
			number = args[i+1]
		}
	}
	db, _ := strconv.Atoi(string(number)) // the source has done it: it is a number
	return max(0, db)
}

// withoutReserved takes keys of redferry's own out of a command: they are never copied from a source. It returns nil when nothing is left.
func withoutReserved(args [][]byte, table map[string]replica.KeySpec) ([][]byte, error) {
	keys, known := keyPositions(args, table)
	if !known {
		return nil, fmt.Errorf("%s has an argument that begins with %q, and whether it is a key is not known", args[0], checkpoint.Prefix)
	}
	reserved := slices.DeleteFunc(slices.Clone(keys), func(i int) bool { return !checkpoint.Reserved(args[i]) })
	switch {
	case len(reserved) == 0:
		return args, nil
	case len(reserved) == len(keys):
		return nil, nil
	}
	step := 1
	switch strings.ToLower(string(args[0])) {
	case "del", "unlink":
	case "mset", "msetnx":
		step = 2
	default:
		return nil, fmt.Errorf("%s mixes keys that begin with %q, which are redferry's own, with others", args[0], checkpoint.Prefix)
	}
	rest := [][]byte{args[0]}
	for i := 1; i+step <= len(args); i += step {
		if !slices.Contains(reserved, i) {
			rest = append(rest, args[i:i+step]...)
		}
	}
	return rest, nil
}
