package applier

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// leaseTime is how long an owner counts as alive after its last word, by the target's own clock.
const leaseTime = 10 * time.Second

// renewEvery is how often it speaks.
const renewEvery = time.Second

// owner is this process's claim to the migration: the epoch under which it writes, and the lease that shows others that it lives.
type owner struct {
	name  string
	epoch int64
	text  string // who we are, for people
	place string // which lock file is ours, for processes

	mu    sync.Mutex
	lease int64  // when it runs out, in ms by the target's clock, as last written
	fence string // the fence key's value, as last seen
	lost  error  // why the claim is void, once it is

	gone chan struct{} // closed when the claim is void
	stop context.CancelFunc
	done chan struct{}
}

func newOwner(name, text, place string) *owner {
	return &owner{name: name, text: text, place: place, gone: make(chan struct{}), done: make(chan struct{})}
}

// claimScript takes the migration for a new epoch, unless somebody else holds a lease. The epoch grows with the target's clock, so that it
// is higher than any before even when the owner key was lost in between.
//
// KEYS: owner, checkpoint, fence. ARGV: text, place, lease in ms, 1 to take over an owner that lives.
var claimScript = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local o = redis.call('HMGET', KEYS[1], 'place', 'lease', 'epoch', 'owner')
local left = (tonumber(o[2] or '0') or 0) - now
if o[1] and o[1] ~= ARGV[2] and left > 0 and ARGV[4] ~= '1' then
  return {0, o[4] or '', string.format('%.0f', left), o[2]}
end
local before = tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') or 0
local epoch = math.max(now, (tonumber(o[3] or '0') or 0) + 1, before + 1)
local e, l = string.format('%.0f', epoch), string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'place', ARGV[2], 'epoch', e, 'lease', l)
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[3], e .. ':0')
if redis.call('HEXISTS', KEYS[2], 'format') == 1 then redis.call('HSET', KEYS[2], 'epoch', e) end
return {1, e, l, o[4] or ''}`

// renewScript prolongs the lease of an epoch that still stands. Replies: the new end of the lease, 0 when there is no owner, or minus the
// epoch of another one. A later epoch of our own place is no owner: we hold its lock file, so whoever claimed it is dead, and the claim only arrived
// late. A lease of 0 gives it back; nothing is left of an owner that never wrote a checkpoint.
// KEYS: owner, checkpoint, fence. ARGV: epoch, lease in ms, place.
var renewScript = `
local e = redis.call('HGET', KEYS[1], 'epoch')
if not e then return '0' end
if e ~= ARGV[1] then
  if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'place') == ARGV[3] then return '0' end
  return '-' .. e
end
if ARGV[2] == '0' and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[1], KEYS[3])
  return '1'
end
local t = redis.call('TIME')
local l = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2])
redis.call('HSET', KEYS[1], 'lease', l)
return l`

// scriptKeys are the KEYS of the scripts about owners.
func scriptKeys(name string) []string {
	return []string{checkpoint.OwnerKey(name), checkpoint.Key(name), checkpoint.FenceKey(name)}
}

// claimReply is what a claim has come to: the new epoch and the end of its lease, or else who holds the migration, and how long its lease runs and until when, in ms as
// the target says it.
type claimReply struct {
	won          bool
	epoch, lease int64
	who          string
	left, until  string
}

// claimFor runs the claim script, for an owner who is described by a text and by the place of the lock file that it holds.
func claimFor(ctx context.Context, c rueidis.Client, e replica.Endpoint, name, text, place string, takeover bool) (claimReply, error) {
	reply, err := c.Do(ctx, c.B().Eval().Script(claimScript).Numkeys(3).Key(scriptKeys(name)...).
		Arg(text, place, strconv.FormatInt(leaseTime.Milliseconds(), 10), flag(takeover)).Build()).ToArray()
	if err != nil {
		return claimReply{}, lackStop(e, err)
	}
	return parseClaim(reply)
}

// parseClaim reads what claimScript says.
func parseClaim(reply []rueidis.RedisMessage) (claimReply, error) {
	if len(reply) != 4 {
		return claimReply{}, fmt.Errorf("the target gave %d replies", len(reply))
	}
	won, _ := reply[0].AsInt64()
	words := make([]string, 4)
	for i := 1; i < 4; i++ {
		words[i], _ = reply[i].ToString()
	}
	if won != 1 {
		return claimReply{who: words[1], left: words[2], until: words[3]}, nil
	}
	got := claimReply{won: true, epoch: parseInt(words[1]), lease: parseInt(words[2])}
	if got.epoch <= 0 || got.lease <= 0 {
		return claimReply{}, fmt.Errorf("the target answered epoch %q, lease %q", words[1], words[2])
	}
	return got, nil
}

// lackStop turns the refusal of a command that every transaction needs into the Stop that it is; other errors pass through.
func lackStop(e replica.Endpoint, err error) error {
	if re, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(strings.TrimPrefix(re.Error(), "ERR "), "unknown command") {
		return &replica.Stop{
			Kind: replica.Config, Reason: fmt.Sprintf("the target %s lacks a command that redferry needs", e), Err: err,
			Hint: "take rename-command for it out of the target's configuration, and restart it; `redferry check` names all that are missing",
		}
	}
	return replica.AuthStop("target", e, err)
}

// claim makes this process the owner, or makes sure that it still is.
func (a *Applier) claim(ctx context.Context) error {
	if a.owner != nil {
		err := a.owner.renew(ctx, a.client, leaseTime)
		if !errors.Is(err, errLost) {
			return err
		}
		// The target went back to before our claim, or lost it, or a dead process's claim came late: nobody else has taken the migration, so claim it again.
		a.owner.release()
		a.owner = nil
	}
	o := newOwner(a.Name, a.Home.Owner(), a.Home.Place())
	if err := o.take(ctx, a); err != nil {
		return err
	}
	a.owner = o
	a.endOthers(ctx)
	o.hold(a.Target, a.lookAtEvictions)
	return nil
}

// take runs the claim, and waits for the lease of an owner that may be dead: one that renews it lives.
func (o *owner) take(ctx context.Context, a *Applier) error {
	seen := ""
	for {
		c, err := claimFor(ctx, a.client, a.Target, a.Name, o.text, o.place, a.Takeover)
		if err != nil {
			return fmt.Errorf("claim the migration: %w", err)
		}
		if c.won {
			o.epoch, o.lease = c.epoch, c.lease
			return nil
		}
		if seen != "" && c.until != seen {
			return &replica.Stop{
				Kind: replica.Fenced, Reason: fmt.Sprintf("migration %q is owned by %s, which is alive", a.Name, c.who),
				Hint: "stop that process first, or give --takeover",
			}
		}
		seen = c.until
		a.Status.Wait(replica.OnTarget, fmt.Sprintf("%s held this migration; its lease runs out in %s ms unless it lives", c.who, c.left))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(renewEvery / 2):
		}
	}
}

// endOthers closes the connections of the owner before us: a frozen process that wakes finds its sockets dead. The fence holds without it.
func (a *Applier) endOthers(ctx context.Context) {
	list, err := a.client.Do(ctx, a.client.B().ClientList().Build()).ToString()
	if err != nil {
		a.Log.Debug().Err(err).Msg("cannot look for connections of an earlier owner")
		return
	}
	for _, id := range connectionsBefore(list, a.Name, a.owner.epoch) {
		if err := a.client.Do(ctx, a.client.B().ClientKill().Id(id).Build()).Error(); err != nil {
			a.Log.Debug().Err(err).Msg("cannot end a connection of an earlier owner")
		}
	}
}

// connectionsBefore reads of CLIENT LIST the IDs of a migration's connections whose owner's epoch is below this one.
func connectionsBefore(list, migration string, epoch int64) (ids []int64) {
	ours := clientName(migration) + ":"
	for line := range strings.Lines(list) {
		var id, name string
		for _, field := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(field, "id="); ok {
				id = v
			} else if v, ok := strings.CutPrefix(field, "name="); ok {
				name = v
			}
		}
		text, ok := strings.CutPrefix(name, ours)
		of, bad := strconv.ParseInt(text, 10, 64)
		n, none := strconv.ParseInt(id, 10, 64)
		if ok && bad == nil && none == nil && of < epoch && n > 0 {
			ids = append(ids, n)
		}
	}
	return ids
}

// lookEvery is how often the target is looked at beside that.
const lookEvery = 5 * time.Second

// hold starts the renewing of the lease, on a connection of its own, so that a long write does not cost it. Now and then, while the lease is ours, the same goroutine
// calls look, unless it is nil.
func (o *owner) hold(e replica.Endpoint, look func(context.Context, rueidis.Client)) {
	ctx, cancel := context.WithCancel(context.Background())
	o.stop = cancel
	option := e.ClientOption()
	option.ClientName = o.clientName()
	option.ConnWriteTimeout = leaseTime / 3 // a connection that died must not cost the lease
	go func() {
		defer close(o.done)
		var client rueidis.Client
		defer func() {
			if client != nil {
				// The last word: nobody has to wait for the lease of a process that ended. It may fail; then the lease runs out.
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				_ = o.renew(last, client, 0)
				client.Close()
			}
		}()
		var looked time.Time
		for {
			if client == nil { // the target may be away for long; the lease then runs out, and the epoch still stands
				client, _ = rueidis.NewClient(option)
			}
			if client != nil {
				err := o.renew(ctx, client, leaseTime)
				if replica.AsStop(err) != nil {
					o.loose(err)
					return
				}
				if look != nil && err == nil && time.Since(looked) >= lookEvery {
					looked = time.Now()
					look(ctx, client)
				}
				if err != nil && ctx.Err() == nil { // the target may be another server by now: one that was made a replica keeps its connections
					client.Close()
					client = nil
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(renewEvery):
			}
		}
	}()
}

// renew prolongs the lease. A Stop means that another process has the migration; errLost that the target does not know our claim.
func (o *owner) renew(ctx context.Context, c rueidis.Client, lease time.Duration) error {
	text, err := c.Do(ctx, c.B().Eval().Script(renewScript).Numkeys(3).Key(scriptKeys(o.name)...).
		Arg(strconv.FormatInt(o.epoch, 10), strconv.FormatInt(lease.Milliseconds(), 10), o.place).Build()).ToString()
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	n := parseInt(text)
	switch {
	case n > 0:
		o.mu.Lock()
		defer o.mu.Unlock()
		o.lease = n
		return nil
	case -n > o.epoch:
		return o.fenced()
	}
	return errLost
}

// overtaken says what it means that the target knows a later epoch than ours: another process has the migration; or, where the claim is of our own place, a dead
// one's has arrived late, and ours is to be made again.
func (o *owner) overtaken(ctx context.Context, c rueidis.CoreClient) error {
	place, err := c.Do(ctx, c.B().Hget().Key(checkpoint.OwnerKey(o.name)).Field("place").Build()).ToString()
	switch {
	case err != nil && !rueidis.IsRedisNil(err):
		return fmt.Errorf("ask the target who owns the migration: %w", err)
	case o.place != "" && place == o.place:
		return errLost
	}
	return o.fenced()
}

// change runs a script that changes the migration's own keys as long as the claim stands: KEYS are those of scriptKeys, ARGV is the
// epoch and what is given beside it, and the reply is 0, or the epoch of another owner. doing names the change in errors.
func (o *owner) change(ctx context.Context, c rueidis.CoreClient, e replica.Endpoint, doing, script string, args ...string) error {
	reply, err := c.Do(ctx, c.B().Eval().Script(script).Numkeys(3).Key(scriptKeys(o.name)...).
		Arg(strconv.FormatInt(o.epoch, 10)).Arg(args...).Build()).ToString()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", doing, replica.AuthStop("target", e, err))
	case reply == "0":
		return nil
	case parseInt(reply) > o.epoch:
		return o.fenced()
	}
	return fmt.Errorf("%s: %w", doing, errLost)
}

func (o *owner) fenced() error {
	return &replica.Stop{
		Kind: replica.Fenced, Reason: fmt.Sprintf("another process has taken over migration %q", o.name),
		Hint: "nothing of this process was written after that; leave the migration to the other one",
	}
}

// loose marks the claim as void.
func (o *owner) loose(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost == nil {
		o.lost = err
		close(o.gone)
	}
}

// why is the reason for which the claim is void, after gone is closed.
func (o *owner) why() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost
}

func (o *owner) release() {
	o.stop()
	<-o.done
}

// seen keeps the fence's value; fenceValue gives it back.
func (o *owner) seen(fence string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fence = fence
}

func (o *owner) fenceValue() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fence
}

// fields are the owner key's, for writing it again after a command of the stream has removed or moved it.
func (o *owner) fields() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return []string{"owner", o.text, "place", o.place, "epoch", strconv.FormatInt(o.epoch, 10), "lease", strconv.FormatInt(o.lease, 10)}
}

// clientName begins the names of all of a migration's connections.
func clientName(name string) string { return "redferry:" + name }

func (o *owner) clientName() string { return fmt.Sprintf("%s:%d", clientName(o.name), o.epoch) }

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func parseInt(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
