package applier

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// fits makes sure, before anything is sent, of what the target could not refuse properly: a database that it does not have, and an
// argument that is longer than it reads, or more arguments than that (it would close the connection on it, again and again).
func (a *Applier) fits(ctx context.Context, b *batch, from, to int) error {
	first, last := b.span(from, to)
	for i := first; i < last; i++ {
		c := &b.cmds[i]
		if c.skip {
			continue
		}
		for _, db := range [...]int{c.db, c.needs[0], c.needs[1]} {
			if err := a.probe(ctx, db); err != nil {
				return err
			}
		}
		if c.expect == mayFail {
			if err := a.hasScript(ctx, b, i); err != nil {
				return err
			}
		}
		h := heavy{what: "it"}
		b.arguments(i, func(arg []byte) { h.add(len(arg)) })
		if c.unfit != nil {
			return a.refuseCommands(b, []failure{{i, c.unfit}})
		}
		if h.longest > a.target.maxBulk {
			return a.refuseCommands(b, []failure{{i, overBulk("an argument has", h.longest, a.target.maxBulk)}})
		}
		if h.args > oldArguments && !a.target.since(7, 0) {
			return a.refuseCommands(b, []failure{{i, &largeError{
				why:  fmt.Sprintf("%s, and a server before 7.0 takes %s arguments", &h, humanize.Comma(oldArguments)),
				mend: "migrate to a target of version 7.0 or later",
			}}})
		}
	}
	return nil
}

// refused turns the verdict on a transaction that did nothing into what to do: wait, start over, or stop.
func (a *Applier) refused(b *batch, v verdict) error {
	if errors.Is(v.err, errOwnRefused) {
		return a.ownStop(v.err)
	}
	if errors.Is(v.err, errBroken) || errors.Is(v.err, errStale) {
		return v.err
	}
	a.careful = time.Now().Add(carefulFor)
	if len(v.failed) > 0 {
		return a.refuseCommands(b, v.failed)
	}
	return v.err
}

// refuseCommands deals with commands that the target will not take, before anything of their transaction was done. By default the run
// stops in front of them, so that nothing is skipped; with KeepGoing they are left out and kept.
func (a *Applier) refuseCommands(b *batch, failed []failure) error {
	if !a.KeepGoing {
		f := failed[0]
		return &replica.Stop{
			Kind: replica.Refused, Err: f.err,
			Reason: fmt.Sprintf("the target cannot take %s, in the unit that ends at offset %d", b.describe(f.ref), b.units[b.unitOf(f.ref)].end.Offset),
			Hint:   "nothing of that unit, or after it, was applied: " + mend(f.err, "mend the cause") + ", and run the same command again, or leave the write out with --on-error=continue",
		}
	}
	for _, f := range failed {
		b.cmds[f.ref].skip = true
		if err := a.reject(b, f); err != nil {
			return err
		}
	}
	return errAgain
}

// rejectFailed keeps commands that failed in a transaction that committed: each of them is a divergence.
func (a *Applier) rejectFailed(ctx context.Context, b *batch, failed []failure) error {
	if failed = failedThere(b, failed, &a.Log); len(failed) == 0 {
		return nil
	}
	for _, f := range failed {
		if err := a.reject(b, f); err != nil {
			return err
		}
	}
	if a.KeepGoing {
		return nil
	}
	f := failed[0]
	return a.keepCounts(ctx, &replica.Stop{
		Kind: replica.Refused, Err: f.err,
		Reason: fmt.Sprintf("the target refused %d writes; the first is %s, in the unit that ends at offset %d", len(failed), b.describe(f.ref), b.units[b.unitOf(f.ref)].end.Offset),
		Hint:   "they are in " + a.Home.RejectedPath() + "; --on-error=continue goes on without them",
	})
}

// reject writes a refused command to the file of refused commands and counts it.
func (a *Applier) reject(b *batch, f failure) error {
	offset := b.units[b.unitOf(f.ref)].end.Offset
	var args [][]byte
	b.arguments(f.ref, func(arg []byte) { args = append(args, arg) })
	return a.keep(b.cmds[f.ref].db, args, fmt.Sprintf("offset %d", offset), b.describe(f.ref), f.err)
}

// keep puts a refused command into the file of refused commands and counts it. where and what are for messages.
func (a *Applier) keep(db int, args [][]byte, where, what string, reply error) error {
	if err := a.Home.Reject(db, args, fmt.Sprintf("%s: %v", where, reply)); err != nil {
		return &replica.Stop{Kind: replica.Failed, Reason: "cannot keep a write that the target refused", Err: err}
	}
	a.rec.Rejected++
	a.changes++
	a.Status.Rejected.Add(1)
	a.Log.Warn().Str("where", where).Str("command", what).AnErr("reply", reply).Msg("the target refused a write")
	return nil
}

func (b *batch) unitOf(cmd int) int {
	return sort.Search(len(b.units)-1, func(i int) bool { return cmd < b.units[i].cmds })
}

// diverge records that the fence did not hold. No run goes on after that without the operator.
func (a *Applier) diverge(ctx context.Context, v verdict) error {
	a.rec.Diverged++
	return a.keepCounts(ctx, &replica.Stop{
		Kind: replica.Refused, Err: v.err,
		Reason: "a transaction took effect although its guard had not agreed: the target may differ from the source",
		Hint:   "compare both sides; then go on with --on-error=continue, or load the target again: `redferry reset`, then run with --on-target-not-empty=flush",
	})
}

// keepCounts stores the counts of the record at once, since no later transaction will, and returns stop. It is fenced as the snapshot is, by the fence key. A target
// that refuses it is asked again until ctx ends, and for some seconds when it has ended already.
func (a *Applier) keepCounts(ctx context.Context, stop *replica.Stop) error {
	s := session{a: a}
	defer s.close()
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = lasting(ctx)
		defer cancel()
	}
	_, err := s.run(ctx, func(p *pipeline) {
		p.hset(checkpoint.Key(a.Name), []string{
			checkpoint.FieldRejected, strconv.FormatInt(a.rec.Rejected, 10), checkpoint.FieldDiverged, strconv.FormatInt(a.rec.Diverged, 10),
			checkpoint.FieldDivergence, a.rec.Divergence.String(),
		})
	})
	if err != nil {
		stop.Err = errors.Join(stop.Err, fmt.Errorf("and the checkpoint does not say so: %w", err))
	}
	return stop
}
