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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := dialTarget(e.Until(ctx))
	if err != nil {
		return Traces{}, causeOf(ctx, err)
	}
	defer client.Close()
	t, err := findTraces(ctx, client, e, name)
	return t, causeOf(ctx, err)
}

// causeOf is why ctx ended, where that has made err: a connection that was closed says nothing.
func causeOf(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
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
	now, err := results[2].AsStrSlice()
	if err == nil {
		t.Now, err = clockTime(now)
	}
	if err != nil {
		return t, fmt.Errorf("read the clock of %s: %w", e, err)
	}
	record, _ := results[0].AsStrMap()
	owner, _ := results[1].AsStrMap()
	t.read(record, owner)
	return t, nil
}

// read takes the fields of the migration's keys in.
func (t *Traces) read(record, owner map[string]string) {
	t.Checkpoint, t.OwnerKey = record, owner
	t.Record, t.HasRecord, t.Unusable = checkpoint.Parse(t.Checkpoint)
	if t.HasOwner = t.OwnerKey["epoch"] != ""; t.HasOwner {
		t.Owner = Owner{
			Text: t.OwnerKey["owner"], Place: t.OwnerKey["place"],
			Epoch: parseInt(t.OwnerKey["epoch"]), Lease: time.UnixMilli(parseInt(t.OwnerKey["lease"])),
		}
	}
}

// clockTime reads the reply to TIME.
func clockTime(reply []string) (time.Time, error) {
	if len(reply) != 2 {
		return time.Time{}, fmt.Errorf("TIME gives %d texts", len(reply))
	}
	seconds, err := strconv.ParseInt(reply[0], 10, 64)
	micros, bad := strconv.ParseInt(reply[1], 10, 64)
	if errors.Join(err, bad) != nil || seconds < 0 || micros < 0 || micros >= 1e6 {
		return time.Time{}, fmt.Errorf("TIME gives %.40q", reply)
	}
	return time.Unix(seconds, micros*1000), nil
}

// None tells that the target holds nothing of the migration.
func (t *Traces) None() bool { return len(t.Checkpoint) == 0 && len(t.OwnerKey) == 0 }

// Unfinished tells that the source refuses writes because of a cutover that has not come to its end: the record alone says how the
// source was before.
func (t *Traces) Unfinished() bool {
	return t.Record.Refusal != "" && t.Record.Phase != checkpoint.PhaseCompleted
}

// Reset ends a migration for good: it settles what is shifted in the target, and then removes the migration's own keys. In this order, so that one that broke off can
// be run again. From BeginReset to Close it owns the migration, as a run does; a process that takes it over makes Settle and Remove fail with a Stop of kind Fenced.
type Reset struct {
	Before Traces // what was there

	target replica.Endpoint
	client rueidis.Client
	owner  *owner // nil when there is nothing to reset
}

// BeginReset looks for what a target holds of a migration, and claims it. place is [Home.Place] of the caller's lock, or empty when it holds none. An owner that lives
// makes the error a Stop of kind Fenced; with takeover it is given the time to notice that it was replaced: it stops writing and ends with this same kind. Where
// Before is None or Unfinished, nothing is claimed, and Settle and Remove do nothing. The caller closes the Reset.
func BeginReset(ctx context.Context, e replica.Endpoint, name, place string, takeover bool) (*Reset, error) {
	client, err := dialTarget(e)
	if err != nil {
		return nil, err
	}
	r := &Reset{target: e, client: client}
	if r.Before, err = findTraces(ctx, client, e, name); err == nil && !r.Before.None() && !r.Before.Unfinished() {
		r.owner, err = claimBeside(ctx, client, e, &r.Before, name, "a reset", place, takeover)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// claimBeside claims a migration for a command that is no run. what names the command to whoever asks for the owner.
func claimBeside(
	ctx context.Context, client rueidis.Client, e replica.Endpoint, before *Traces, name, what, place string, takeover bool,
) (*owner, error) {
	c, err := claimFor(ctx, client, e, name, what, place, takeover)
	if err != nil {
		return nil, fmt.Errorf("claim the migration in %s: %w", e, err)
	}
	if !c.won {
		left := time.Duration(parseInt(c.left)) * time.Millisecond
		return nil, &replica.Stop{
			Kind:   replica.Fenced,
			Reason: fmt.Sprintf("migration %q is owned by %s, which is alive: its lease runs out in %v by the target's clock", name, c.who, left.Round(100*time.Millisecond)),
			Hint:   "stop that process first; if it is dead, wait until its lease has run out, or give --takeover",
		}
	}
	o := newOwner(name, what, place)
	o.epoch, o.lease = c.epoch, c.lease
	o.hold(e, nil)
	if !before.Alive() || before.Owner.Place == place {
		return o, nil
	}
	// It looks once a second who the owner is. If it found its keys gone first, it would begin anew where it may.
	select {
	case <-ctx.Done():
		o.release()
		return nil, ctx.Err()
	case <-time.After(2 * renewEvery):
		return o, nil
	}
}

// Settle writes the expiries that are shifted in the target as the source has them: from then on the target expires by itself. report, which may be nil, is told after
// each step, many times a second, how far it is; the Settling that is returned is the last, also beside an error. A migration that a cutover has completed is settled, unless its run has ended before it was.
func (r *Reset) Settle(ctx context.Context, report func(Settling)) (Settling, error) {
	if r.owner == nil || r.Before.Record.Phase == checkpoint.PhaseCompleted && r.Before.Record.Expiry != checkpoint.Mixed {
		return Settling{}, nil
	}
	s := &settler{target: r.target, report: report}
	err := s.run(ctx, r.client, r.owner)
	return s.at, err
}

// removeScript removes a migration's keys as long as it is the caller's. KEYS: owner, checkpoint, fence. ARGV: epoch. Replies the epoch of another one, or 0.
const removeScript = `
local e = redis.call('HGET', KEYS[1], 'epoch')
if e ~= ARGV[1] then return e or '-1' end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return '0'`

// Remove removes the migration's keys from the target, and ends its import mode.
func (r *Reset) Remove(ctx context.Context) error {
	if r.owner == nil {
		return nil
	}
	if err := r.Before.putImportModeBack(ctx, r.client, r.target); err != nil {
		return err
	}
	return r.owner.change(ctx, r.client, r.target, "remove the migration's keys from "+r.target.String(), removeScript)
}

// Close gives the migration back, unless it was removed, and closes the connections.
func (r *Reset) Close() {
	if r.owner != nil {
		r.owner.release()
	}
	r.client.Close()
}
