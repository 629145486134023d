package applier

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// Traces are what a target holds of a migration beside its data.
type Traces struct {
	Record    checkpoint.Record
	HasRecord bool
	Unusable  error // why a checkpoint that is there cannot be read; nil otherwise

	Owner    Owner
	HasOwner bool
	Now      time.Time // by the target's clock

	Checkpoint map[string]string // its fields as they stand; empty when there is none
	OwnerKey   map[string]string // likewise
}

// Owner is the process that owns a migration, or did.
type Owner struct {
	Text  string // who it is, for people
	Place string // the lock file that it holds
	Epoch int64
	Lease time.Time // when it counts as dead unless it speaks again, by the target's clock
}

// Alive tells whether the owner's lease has not run out. One that ended in order has given it back.
func (t *Traces) Alive() bool { return t.HasOwner && t.Owner.Lease.After(t.Now) }

// FindTraces asks a target for what it holds of a migration. It changes nothing.
func FindTraces(ctx context.Context, e replica.Endpoint, name string) (Traces, error) {
	client, err := dialTarget(e)
	if err != nil {
		return Traces{}, err
	}
	defer client.Close()
	return findTraces(ctx, client, e, name)
}

func dialTarget(e replica.Endpoint) (rueidis.Client, error) {
	client, err := rueidis.NewClient(e.ClientOption())
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("the target %s does not answer: %w", e, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the target %s: %w", e, replica.AuthStop("target", e, err))
	}
	return client, nil
}

func findTraces(ctx context.Context, c rueidis.Client, e replica.Endpoint, name string) (t Traces, err error) {
	results := c.DoMulti(ctx,
		c.B().Hgetall().Key(checkpoint.Key(name)).Build(),
		c.B().Hgetall().Key(checkpoint.OwnerKey(name)).Build(),
		c.B().Time().Build(),
	)
	for _, r := range results {
		if err := r.Error(); err != nil {
			return t, fmt.Errorf("read the checkpoint in %s: %w", e, replica.AuthStop("target", e, err))
		}
	}
	t.Checkpoint, _ = results[0].AsStrMap()
	t.OwnerKey, _ = results[1].AsStrMap()
	clock, err := results[2].AsStrSlice()
	if err != nil || len(clock) != 2 {
		return t, fmt.Errorf("read the clock of %s: it says %q: %w", e, clock, err)
	}
	t.Now = time.Unix(parseInt(clock[0]), parseInt(clock[1])*1000)
	t.Record, t.HasRecord, t.Unusable = checkpoint.Parse(t.Checkpoint)
	if t.HasOwner = t.OwnerKey["epoch"] != ""; t.HasOwner {
		t.Owner = Owner{
			Text: t.OwnerKey["owner"], Place: t.OwnerKey["place"],
			Epoch: parseInt(t.OwnerKey["epoch"]), Lease: time.UnixMilli(parseInt(t.OwnerKey["lease"])),
		}
	}
	return t, nil
}

// removeScript removes a migration's keys, unless an owner lives: one whose lease has not run out, and whose place is not the caller's, who
// holds its lock. KEYS: owner, checkpoint, fence. ARGV: the caller's place, 1 to remove whoever lives. Replies: 1 and how many keys there were, or 0.
const removeScript = `
local t = redis.call('TIME')
local o = redis.call('HMGET', KEYS[1], 'place', 'lease')
local left = (tonumber(o[2] or '0') or 0) - (t[1] * 1000 + math.floor(t[2] / 1000))
if o[1] and o[1] ~= ARGV[1] and left > 0 and ARGV[2] ~= '1' then return {0, 0} end
return {1, redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])}`

// Remove removes what a target holds of a migration beside its data, and returns what was there. place is [Home.Place] of the caller's lock,
// or empty when it holds none. An owner that lives makes the error a Stop of kind Fenced; with takeover its claim is taken from it first, so
// that it stops writing and ends with this same kind.
func Remove(ctx context.Context, e replica.Endpoint, name, place string, takeover bool) (Traces, error) {
	client, err := dialTarget(e)
	if err != nil {
		return Traces{}, err
	}
	defer client.Close()
	before, err := findTraces(ctx, client, e, name)
	if err != nil {
		return before, err
	}
	if takeover && before.Alive() {
		if err := evict(ctx, client, name); err != nil {
			return before, err
		}
	}
	if takeover || !before.Alive() || before.Owner.Place == place {
		if err := before.putImportModeBack(ctx, client, e); err != nil {
			return before, err
		}
	}
	reply, err := client.Do(ctx, client.B().Eval().Script(removeScript).Numkeys(3).Key(scriptKeys(name)...).
		Arg(place, flag(takeover)).Build()).AsIntSlice()
	if err != nil {
		return before, fmt.Errorf("remove the migration's keys from %s: %w", e, replica.AuthStop("target", e, err))
	}
	if len(reply) != 2 || reply[0] != 1 {
		return before, &replica.Stop{
			Kind:   replica.Fenced,
			Reason: fmt.Sprintf("migration %q is owned by %s, which is alive: its lease runs out in %v by the target's clock", name, before.Owner.Text, before.left()),
			Hint:   "stop that process first; if it is dead, wait until its lease has run out, or give --takeover",
		}
	}
	return before, nil
}

func (t *Traces) left() time.Duration { return t.Owner.Lease.Sub(t.Now).Round(100 * time.Millisecond) }

// evict claims the migration with a lease that is over at once, and gives the owner before it the time to notice: it looks once a second.
// Without this it would find its keys gone, and begin anew where it may.
func evict(ctx context.Context, c rueidis.Client, name string) error {
	reply, err := c.Do(ctx, c.B().Eval().Script(claimScript).Numkeys(3).Key(scriptKeys(name)...).
		Arg("a reset", "", strconv.Itoa(0), flag(true)).Build()).ToArray()
	if err != nil {
		return fmt.Errorf("take the migration from its owner: %w", err)
	}
	if len(reply) == 0 {
		return errors.New("take the migration from its owner: the target gave no reply")
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * renewEvery):
		return nil
	}
}
