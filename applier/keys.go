package applier

import (
	"strconv"
	"strings"

	"redferry/replica"
)

// numkeysAt are the commands that count their keys in an argument of their own, by the place of that number (protocol 3.4).
var numkeysAt = map[string]int{
	"eval": 2, "evalsha": 2, "fcall": 2, "zunionstore": 2, "zinterstore": 2, "zdiffstore": 2, "msetex": 1,
}

// builtin is where commands have their keys when the source does not tell, for all that have them elsewhere than at 1 only.
var builtin = map[string]replica.KeySpec{
	"del": {First: 1, Last: -1, Step: 1}, "unlink": {First: 1, Last: -1, Step: 1}, "touch": {First: 1, Last: -1, Step: 1}, "pfcount": {First: 1, Last: -1, Step: 1},
	"mset": {First: 1, Last: -1, Step: 2}, "msetnx": {First: 1, Last: -1, Step: 2},
	"rename": {First: 1, Last: 2, Step: 1}, "renamenx": {First: 1, Last: 2, Step: 1}, "rpoplpush": {First: 1, Last: 2, Step: 1},
	"lmove": {First: 1, Last: 2, Step: 1}, "smove": {First: 1, Last: 2, Step: 1}, "copy": {First: 1, Last: 2, Step: 1},
	"geosearchstore": {First: 1, Last: 2, Step: 1}, "zrangestore": {First: 1, Last: 2, Step: 1},
	"sdiffstore": {First: 1, Last: -1, Step: 1}, "sinterstore": {First: 1, Last: -1, Step: 1}, "sunionstore": {First: 1, Last: -1, Step: 1},
	"pfmerge": {First: 1, Last: -1, Step: 1}, "bitop": {First: 2, Last: -1, Step: 1},
	"xgroup": {First: 2, Last: 2, Step: 1}, "pfdebug": {First: 2, Last: 2, Step: 1},
	"flushall": {}, "flushdb": {}, "swapdb": {}, "function": {}, "script": {}, "publish": {}, "spublish": {}, "trimslots": {}, "sflush": {}, "cluster": {},
}

// keyPositions tells which arguments of a command are keys. ok is false when that is not known: a command that neither the source nor the
// built-in table has, or one whose keys only its own code can find.
func keyPositions(args [][]byte, table map[string]replica.KeySpec) (at []int, ok bool) {
	name := strings.ToLower(string(args[0]))
	if n, counted := numkeysAt[name]; counted {
		return countedKeys(args, name, n)
	}
	switch name {
	case "sort":
		return storeKeys(args, 2), true
	case "georadius":
		return storeKeys(args, 6), true
	case "georadiusbymember":
		return storeKeys(args, 5), true
	}
	spec, known := builtin[name]
	if !known {
		if spec, known = table[name]; table == nil {
			spec, known = replica.KeySpec{First: 1, Last: 1, Step: 1}, true // all that Redis itself has, but for those above
		}
	}
	if !known || spec.Movable {
		return nil, false
	}
	if spec.First <= 0 || spec.Step <= 0 {
		return nil, true
	}
	last := spec.Last
	if last < 0 {
		last += len(args)
	}
	last = min(last, len(args)-1)
	for i := spec.First; i <= last; i += spec.Step {
		at = append(at, i)
		if spec.Step > last-i { // also where the sum would overflow
			break
		}
	}
	return at, true
}

func countedKeys(args [][]byte, name string, n int) (at []int, ok bool) {
	if len(args) <= n {
		return nil, false
	}
	count, err := strconv.Atoi(string(args[n]))
	if err != nil || count < 0 {
		return nil, false
	}
	step := 1
	switch name {
	case "msetex":
		step = 2
	case "zunionstore", "zinterstore", "zdiffstore":
		at = append(at, 1)
	}
	for i := n + 1; count > 0 && i < len(args); i, count = i+step, count-1 {
		at = append(at, i)
	}
	return at, count == 0
}

// storeKeys are the keys of commands that read the first and may STORE into another: the last one named, at options or behind. An option's
// own argument may be called anything, STORE as well.
func storeKeys(args [][]byte, options int) []int {
	if len(args) < 2 {
		return nil
	}
	at := []int{1}
	for i := options; i < len(args)-1; i++ {
		switch strings.ToLower(string(args[i])) {
		case "by", "get":
			i++
		case "limit":
			i += 2
		case "store", "storedist":
			i++
			at = append(at[:1], i)
		}
	}
	return at
}
