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

var (
	reservedPrefix = []byte(checkpoint.Prefix)
	async          = []byte("ASYNC")
)

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
	switch name := t.args[0]; len(name) {
	case 4:
		if bytes.EqualFold(name, []byte("MOVE")) || bytes.EqualFold(name, []byte("COPY")) {
			t.needs[0] = otherDatabase(t.args)
		}
	case 6: // the lengths spare most commands the comparisons
		if bytes.EqualFold(name, []byte("SWAPDB")) {
			a.swapped = u.End.Offset
			return t.swap()
		}
		if bytes.EqualFold(name, []byte("SCRIPT")) {
			return t, true, nil // scripts reach a replica by their effects, never by their text
		}
	case 7:
		if bytes.EqualFold(name, []byte("FLUSHDB")) {
			return t.flush(cmd.DB == 0), false, nil
		}
		if bytes.EqualFold(name, []byte("PUBLISH")) || bytes.EqualFold(name, []byte("CLUSTER")) {
			return t, a.DropPublish || name[0]|0x20 == 'c', nil
		}
		if bytes.EqualFold(name, []byte("PFCOUNT")) {
			return t, true, nil // it only refreshed a cached count
		}
	case 8:
		if bytes.EqualFold(name, []byte("FLUSHALL")) {
			return t.flush(true), false, nil
		}
		if bytes.EqualFold(name, []byte("SPUBLISH")) {
			return t, a.DropPublish, nil
		}
	case 14:
		if bytes.EqualFold(name, []byte("RESTORE-ASKING")) {
			t.args = slices.Clone(t.args)
			t.args[0] = []byte("RESTORE")
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

// flush frees the memory in the background, whatever the source's client wrote: a synchronous one would hold up the target.
func (t translated) flush(ours bool) translated {
	t.args = [][]byte{t.args[0], async}
	if ours {
		t.effect = flushes
	}
	return t
}

func (t translated) swap() (translated, bool, error) {
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
