package applier

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"redferry/replica"
)

// A source sends a command only when it has changed something there. So a reply that says "nothing was changed" cannot come from a target that has
// the source's data: these replies are counted, command by command, as the divergence. It is a count and not a stop. Only such commands are looked
// at of which the source is known to send none in vain; for some it does, and these are not here:
//
//   - HDEL: Redis sends one for each field that is given a past expiry, whether the field is there or not.
//   - HPEXPIREAT and HPERSIST: Valkey sends all fields that the client named. One of them at least was there.
//   - HSETNX and HSETEX FNX: Valkey leaves expired fields out when it copies a hash, and whoever does not expire them by itself has them in the copy.
//   - DEL and UNLINK behind the HDEL of a hash's last field, in one unit: Valkey sends both when the last fields expire.

// expect is what is known of the reply to a command.
type expect uint8

const (
	anything    expect = iota
	aboveZero          // an integer above 0
	notNil             // anything but nil
	notEmpty           // an array of something
	oneEffected        // an array of integers, of which one at least is above 0
	mayFail            // anything, and errors of a script as well
)

// expected is what the target, with the source's data, must reply to args: what u's i-th command has become. expires says that the target may expire keys
// by itself; then the source's own removal of them finds nothing.
func expected(u *replica.Unit, i int, args [][]byte, expires bool) expect {
	var upper [len("ZREMRANGEBYSCORE")]byte // the longest one
	name := args[0]
	if len(name) > len(upper) {
		return anything
	}
	for j, c := range name {
		upper[j] = c &^ 0x20 // only letters become letters
	}
	switch string(upper[:len(name)]) {
	case "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "PERSIST", "RENAMENX", "COPY", "MOVE", "SETNX", "MSETNX",
		"LREM", "LINSERT", "LPUSHX", "RPUSHX", "SADD", "SREM", "SMOVE", "ZREM", "ZREMRANGEBYLEX", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE",
		"XACK", "XDEL", "XTRIM", "PFADD":
		return aboveZero
	case "DEL", "UNLINK":
		if !expires && len(args) == len(u.Cmds[i].Args) && !emptied(u, i) { // else a key of redferry's own may have been what the source had
			return aboveZero
		}
	case "SET":
		if len(args) == 4 && (bytes.EqualFold(args[3], []byte("NX")) || bytes.EqualFold(args[3], []byte("XX"))) {
			return notNil
		}
	case "LPOP", "RPOP", "LMOVE", "RPOPLPUSH":
		return notNil
	case "ZPOPMIN", "ZPOPMAX":
		return notEmpty
	case "HPEXPIREAT", "HPERSIST":
		return oneEffected
	case "EVAL", "EVALSHA":
		return mayFail
	}
	return anything
}

// emptied tells that u's i-th command, a DEL or UNLINK, comes right behind an HDEL of the same key.
func emptied(u *replica.Unit, i int) bool {
	if i == 0 {
		return false
	}
	before, now := u.Cmds[i-1], u.Cmds[i]
	return len(now.Args) == 2 && len(before.Args) > 2 && before.DB == now.DB && bytes.EqualFold(before.Args[0], []byte("HDEL")) && bytes.Equal(before.Args[1], now.Args[1])
}

// met tells whether a reply is as expected. An error is: it is dealt with as a refused write.
func (e expect) met(reply *rueidis.RedisMessage) bool {
	if reply.Error() != nil && !reply.IsNil() {
		return true
	}
	switch e {
	case aboveZero:
		n, err := reply.AsInt64()
		return err != nil || n > 0
	case notNil:
		return !reply.IsNil()
	case notEmpty:
		list, err := reply.ToArray()
		return err == nil && len(list) > 0
	case oneEffected:
		list, _ := reply.ToArray()
		for i := range list {
			if n, err := list[i].AsInt64(); err == nil && n > 0 {
				return true
			}
		}
		return false
	}
	return true
}

// Of each command so many keys are named in the log, and so much of each.
const (
	divergentKeys   = 5
	divergentKeyLen = 100
)

// countDivergence looks at the replies of a committed transaction.
func (a *Applier) countDivergence(b *batch, t *transaction, results []rueidis.RedisResult) {
	replies, err := results[t.exec].ToArray()
	if err != nil { // not possible where judge has found a committed one
		return
	}
	before := a.changes
	for i, ref := range t.refs {
		if ref < 0 {
			continue
		}
		if want := b.cmds[ref].expect; want != anything && !want.met(&replies[i]) {
			a.noteDivergence(b, ref)
		}
	}
	if a.changes != before {
		a.showDivergence()
	}
}

// noteDivergence counts a command whose reply was not as expected, and says so: of the 1st, the 10th, the 100th of its kind.
func (a *Applier) noteDivergence(b *batch, cmd int) {
	kind, where := "", ""
	n := 0
	var args [][]byte
	b.arguments(cmd, func(arg []byte) {
		args = append(args, arg)
		switch n++; n {
		case 1:
			kind = strings.ToUpper(string(arg))
		case 2:
			where = fmt.Sprintf("%q in database %d", arg[:min(len(arg), divergentKeyLen)], b.cmds[cmd].db)
		}
	})
	count := a.rec.NoteDivergence(kind, 1)
	a.suspect(kind, args)
	a.changes++
	if count == 1 { // those of an earlier snapshot are gone
		delete(a.divergent, kind)
	}
	if keys := a.divergent[kind]; len(keys) < divergentKeys && !slices.Contains(keys, where) {
		a.divergent[kind] = append(keys, where)
	}
	if !powerOfTen(count) {
		return
	}
	a.Log.Warn().Str("command", kind).Int64("count", count).Strs("keys", a.divergent[kind]).Int64("offset", b.units[b.unitOf(cmd)].end.Offset).
		Msg("the target has found nothing to change where the source has: they differ")
}

// showDivergence tells everybody else.
func (a *Applier) showDivergence() {
	kinds := a.rec.Divergence.String()
	a.Status.DivergenceKinds.Store(&kinds)
	a.Status.Divergence.Store(a.rec.Divergence.Total())
}

func powerOfTen(n int64) bool {
	for n > 1 && n%10 == 0 {
		n /= 10
	}
	return n == 1
}
