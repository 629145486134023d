package applier

import (
	"context"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

var _ replica.RefusalRecord = (*Undo)(nil)

// Undo is a claim to a migration whose cutover is undone while no run is at it. From BeginUndo to Close no process can make
// the target the one to write to: each would have to claim the migration first. A cutover that has come to its end is not
// claimed; nobody writes there any more.
type Undo struct {
	Before Traces // what was there

	target replica.Endpoint
	client rueidis.Client
	owner  *owner // nil when there is nothing to claim
	text   string // that the record has now
}

// BeginUndo claims a migration in its target. place and takeover are as for [BeginReset]. The caller closes the Undo.
func BeginUndo(ctx context.Context, e replica.Endpoint, name, place string, takeover bool) (*Undo, error) {
	client, err := dialTarget(e)
	if err != nil {
		return nil, err
	}
	u := &Undo{target: e, client: client}
	u.Before, err = findTraces(ctx, client, e, name)
	rec := &u.Before.Record
	if u.text = rec.Refusal; err == nil && u.Before.HasRecord && rec.Phase != checkpoint.PhaseCompleted {
		u.owner, err = claimBeside(ctx, client, e, &u.Before, name, "the undoing of a cutover", place, takeover)
		if err == nil { // a run may have come to the end of the cutover just before
			u.Before, err = findTraces(ctx, client, e, name)
			u.text = rec.Refusal
		}
		if err == nil && rec.Phase == checkpoint.PhaseCompleted {
			err = &replica.Stop{
				Kind: replica.Decide, Reason: "it is too late: the cutover has just come to its end, and the target is the one to write to",
				Hint: "the same command again opens the source nevertheless; what is written there then does not come into the target",
			}
		}
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// Refusal implements [replica.RefusalRecord].
func (u *Undo) Refusal() string { return u.text }

// noteScript changes what a record says of the source, as long as the migration is the caller's. KEYS: owner, checkpoint, fence.
// ARGV: epoch, or 0 for a completed one; the text. Replies the epoch of another owner, or 0.
const noteScript = `
if ARGV[1] ~= '0' then
  local e = redis.call('HGET', KEYS[1], 'epoch')
  if e ~= ARGV[1] then return e or '-1' end
end
if redis.call('HEXISTS', KEYS[2], 'format') == 1 then redis.call('HSET', KEYS[2], 'refusal', ARGV[2]) end
return '0'`

// NoteRefusal implements [replica.RefusalRecord].
func (u *Undo) NoteRefusal(ctx context.Context, text string) error {
	if !u.Before.HasRecord {
		return nil
	}
	o := u.owner
	if o == nil { // nobody writes to a completed one
		o = newOwner(u.Before.Record.Name, "", "")
	}
	if err := o.change(ctx, u.client, u.target, "change the checkpoint in "+u.target.String(), noteScript, text); err != nil {
		return err
	}
	u.text = text
	return nil
}

// Close gives the migration back, and closes the connections.
func (u *Undo) Close() {
	if u.owner != nil {
		u.owner.release()
	}
	u.client.Close()
}
