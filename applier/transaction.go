package applier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// pipeline is one round trip: fenced transactions as they go to a DoMulti, none of them over two.
type pipeline struct {
	b    rueidis.Builder
	cmds []rueidis.Completed
	txns []transaction
	db   int // selected at this point
}

// transaction is the place of one fenced transaction's parts in its pipeline.
type transaction struct {
	watch, guard, multi, exec int
	refs                      []int // for each queued command: its sender's mark, which is 0 or more, or one of those below
	last                      int   // the sender's mark for how far this transaction reaches
}

// The marks of commands that are redferry's own.
const (
	refOwn    = -1 // writes one of its keys, or prepares the target
	refSelect = -2 // only chooses the database
)

// begin opens a transaction under a guard.
func (p *pipeline) begin(key, guard string, argv ...string) {
	t := transaction{}
	p.cmds = append(p.cmds, p.b.Select().Index(0).Build())
	t.watch = len(p.cmds)
	p.cmds = append(p.cmds, p.b.Watch().Key(key).Build())
	t.guard = len(p.cmds)
	p.cmds = append(p.cmds, p.b.Eval().Script(guard).Numkeys(1).Key(key).Arg(argv...).Build())
	t.multi = len(p.cmds)
	p.cmds = append(p.cmds, p.b.Multi().Build())
	p.txns, p.db = append(p.txns, t), 0
}

// queue puts a command into the open transaction. ref is its sender's mark, or refOwn.
func (p *pipeline) queue(db int, c rueidis.Completed, ref int) {
	t := &p.txns[len(p.txns)-1]
	if db != p.db {
		p.cmds = append(p.cmds, p.b.Select().Index(int64(db)).Build())
		t.refs = append(t.refs, refSelect)
		p.db = db
	}
	p.cmds = append(p.cmds, c)
	t.refs = append(t.refs, ref)
}

// hset queues an HSET of one of redferry's own keys.
func (p *pipeline) hset(key string, fields []string) {
	p.queue(0, p.b.Arbitrary("HSET", key).Args(fields...).Build(), refOwn)
}

// end closes the open transaction.
func (p *pipeline) end(last int) {
	t := &p.txns[len(p.txns)-1]
	t.exec, t.last = len(p.cmds), last
	p.cmds = append(p.cmds, p.b.Exec().Build())
}

// failure is a command of a transaction that the target refused. ref is the sender's mark.
type failure struct {
	ref int
	err error
}

// verdict is what a transaction's replies say.
type verdict struct {
	committed bool
	unguarded bool      // committed although the guard had not agreed, or its commands ran outside of a transaction
	failed    []failure // committed: commands that failed; not committed: those that were refused for good
	err       error     // not committed: why
}

// errStale is the verdict on a transaction that the fence kept from committing.
var errStale = errors.New("the fence is closed: the guarded key is not as this process left it")

// errBroken is the verdict when the connection failed: what became of the transaction only the checkpoint knows.
var errBroken = errors.New("the connection broke")

// errNoAnswer says that a connection was given up because a round trip took too long. On a slow line a large value takes too long each time.
var errNoAnswer = errors.New("a round trip took longer than --target-timeout; a large value on a slow line needs a longer one")

// errOwnRefused says that the target refuses what redferry itself needs.
var errOwnRefused = errors.New("the target refuses a command that redferry needs")

// judge reads the replies of a transaction. Every one of them is looked at.
func (t *transaction) judge(results []rueidis.RedisResult) verdict {
	for _, r := range results[t.watch-1 : t.exec+1] {
		if err := r.NonRedisError(); err != nil {
			var op *net.OpError // its addresses make each message another one
			if errors.As(err, &op) {
				err = op.Err
			}
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
				err = errNoAnswer
			}
			return verdict{err: fmt.Errorf("%w: %w", errBroken, err)}
		}
	}
	agreed, err := results[t.guard].AsInt64()
	guarded := err == nil && agreed == 1 && results[t.watch].Error() == nil
	if err := results[t.multi].Error(); err != nil {
		return t.judgeBare(results, err)
	}
	replies, err := results[t.exec].ToArray()
	switch {
	case rueidis.IsRedisNil(err):
		return verdict{err: errStale}
	case err != nil:
		return t.judgeAborted(results, err)
	}
	v := verdict{committed: true, unguarded: !guarded}
	if len(replies) != len(t.refs) {
		return verdict{committed: true, unguarded: true} // not possible with a server that keeps the protocol
	}
	for i, r := range replies {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			v.failed = append(v.failed, failure{t.refs[i], err})
			if t.refs[i] < 0 {
				v.unguarded = true // the checkpoint itself was not written
			}
		}
	}
	return v
}

// judgeBare is for a MULTI that was refused: the commands behind it were on their own. They should have met the same refusal.
func (t *transaction) judgeBare(results []rueidis.RedisResult, err error) verdict {
	for i, ref := range t.refs { // a SELECT that went through has done nothing
		if ref != refSelect && results[t.multi+1+i].Error() == nil {
			return verdict{committed: false, unguarded: true, err: err}
		}
	}
	return verdict{err: err}
}

// judgeAborted finds what made an EXEC refuse its transaction: the first command that was not queued, or what EXEC itself says.
func (t *transaction) judgeAborted(results []rueidis.RedisResult, exec error) verdict {
	v := verdict{err: exec}
	for i, ref := range t.refs {
		err := results[t.multi+1+i].Error()
		switch {
		case err == nil:
		case passing(err):
			return verdict{err: err}
		case ref < 0:
			return verdict{err: fmt.Errorf("%w: %w", errOwnRefused, err)}
		default:
			v.failed = append(v.failed, failure{ref, err})
		}
	}
	return v
}

// passingErrors begin the refusals that say "not now": nothing happened, and the same may be sent again.
var passingErrors = []string{
	"OOM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS", "BUSY ", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNKILLABLE", "NOAUTH",
}

// passing tells a refusal that may go away by itself.
func passing(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	text := re.Error()
	for _, prefix := range passingErrors {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// ownStop turns the refusal of a command that redferry itself needs into the Stop that it is.
func (a *Applier) ownStop(err error) error {
	return &replica.Stop{
		Kind: replica.Config, Reason: fmt.Sprintf("the target %s refuses what redferry needs", a.Target), Err: err,
		Hint: "give the user the rights that docs/operations.md lists, also for the keys " + checkpoint.Prefix + "*",
	}
}
