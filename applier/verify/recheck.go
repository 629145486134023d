package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
)

// What differed in a pass may have been written to between the looks at source and target. It is a difference only if a *window* shows it:
//
//  1. the window begins: from here on it is noticed when the source is written to;
//  2. the target gets past the offset that the source has now, or, where no migration tells how far it is, has some time to;
//  3. the keys are compared, in as many pieces and for as long as it takes;
//  4. the window ends: was the source written to?
//
// If not, the target has all that was ever written to the keys, and whatever differs, does. Otherwise the equal ones are equal, and the rest waits for the next round.
// Whether a source was written to, its counters of changes say, for all keys at once; on one that is never idle, WATCH and an EXEC of nothing say it of a few keys.

// findMigration looks whether a migration lies between source and target, and whether it goes on.
func (r *run) findMigration(ctx context.Context) error {
	t, err := applier.FindTraces(ctx, r.Target, r.Name)
	if err != nil {
		return err
	}
	source := r.scanner.source.info
	switch {
	case !t.HasRecord && t.Alive(), t.HasRecord && t.Record.Phase == checkpoint.PhaseSnapshot:
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("migration %q is loading its snapshot into the target %s: there is nothing to compare yet", r.Name, r.Target),
			Hint: "wait until `redferry run` says in_sync, and verify again",
		}
	case t.Unusable != nil:
		r.report.Note = fmt.Sprintf("the checkpoint of migration %q cannot be read (%v): how far the target is was not known", r.Name, t.Unusable)
	case !t.HasRecord || t.Record.Phase != checkpoint.PhaseStream:
	case t.Record.ReplID != source["master_replid"] && t.Record.ReplID != source["master_replid2"]:
		r.report.Note = fmt.Sprintf("the checkpoint of migration %q is of another source's history (%s): how far the target is was not known", r.Name, t.Record.ReplID)
	case t.Alive():
		r.follows = true
	default:
		offset, _ := strconv.ParseInt(source["master_repl_offset"], 10, 64)
		if behind := offset - t.Record.Offset; behind > 0 {
			r.report.Note = fmt.Sprintf("nobody runs migration %q: its target is %d bytes of commands behind the source, whose effects count as differences", r.Name, behind)
		}
	}
	return nil
}

// reach waits until the target has what the source has now.
func (r *run) reach(ctx context.Context) error {
	if !r.follows {
		return wait(ctx, r.Pause)
	}
	source, target := r.scanner.source, r.scanner.target
	info, err := source.infoSection(ctx, "replication")
	if err != nil {
		return err
	}
	id := info["master_replid"]
	want, err := strconv.ParseInt(info["master_repl_offset"], 10, 64)
	if err != nil {
		return fmt.Errorf("read the source's master_repl_offset: %w", err)
	}
	began := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		replies, err := target.do(ctx, 0, target.cmd("HMGET", checkpoint.Key(r.Name), checkpoint.FieldReplID, checkpoint.FieldOffset))
		if err != nil {
			return err
		}
		pair, err := replies[0].AsStrSlice()
		if err != nil || len(pair) != 2 {
			return fmt.Errorf("read the checkpoint of migration %q: %d values: %w", r.Name, len(pair), err)
		}
		at, _ := strconv.ParseInt(pair[1], 10, 64)
		if pair[0] == id && at >= want {
			return nil
		}
		if time.Since(began) > r.Patience {
			return &replica.Stop{
				Kind: replica.Failed, Reason: fmt.Sprintf("after %v the target is at offset %d still, and the source was at %d: differences cannot be told from what is under way", r.Patience, at, want),
				Hint: "see with `redferry status` why the migration does not come further, and verify again when it is in sync",
			}
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

// changes are the source's counters of all that changes its keys.
func (c *conn) changes(ctx context.Context) (text string, err error) {
	replies, err := c.do(ctx, c.db, c.cmd("INFO", "persistence"), c.cmd("INFO", "stats"))
	if err != nil {
		return "", err
	}
	for i, fields := range [][]string{{"rdb_changes_since_last_save", "rdb_last_save_time"}, {"expired_keys", "evicted_keys", "expired_fields", "expired_subkeys"}} {
		section, err := replies[i].ToString()
		if err != nil {
			return "", err
		}
		info := replica.ParseInfo(section)
		for _, f := range fields {
			text += f + "=" + info[f] + " "
		}
	}
	return text, nil
}

// settle looks at all that is suspected again, until it is known to be equal or different, or the rounds or the patience are over.
func (r *run) settle(ctx context.Context) error {
	r.mu.Lock()
	left := make([]Difference, 0, len(r.suspects))
	for p := range r.suspects {
		left = append(left, Difference{DB: p.db, Key: p.key})
	}
	r.mu.Unlock()
	slices.SortFunc(left, func(a, b Difference) int { return cmp.Or(a.DB-b.DB, cmp.Compare(a.Key, b.Key)) })
	end := time.Now().Add(r.Patience) // of what is only about keys that are written to all the time
	for round := 1; round <= r.Rounds && len(left) > 0; round++ {
		size := together(round)
		if round > 1 && r.scanner.source.cluster { // WATCH takes keys of one slot
			size = 1
		}
		var moving []Difference
		for len(left) > 0 && (round == 1 || time.Now().Before(end)) {
			n := 1
			for n < min(size, len(left)) && left[n].DB == left[0].DB {
				n++
			}
			unsure, err := r.window(ctx, left[:n], round > 1)
			if err != nil {
				return err
			}
			moving, left = append(moving, unsure...), left[n:]
			r.mu.Lock()
			r.round = round
			r.mu.Unlock()
			r.tell()
		}
		left = append(moving, left...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.suspects)
	r.round = 0
	for _, d := range left {
		if r.report.Moving++; len(r.report.FirstMoving) < r.First {
			r.report.FirstMoving = append(r.report.FirstMoving, d)
		}
	}
	return nil
}

// together is how many keys share a window: all, as long as the source may be idle, and fewer and fewer where one that is written to keeps the others from being judged.
func together(round int) int {
	switch round {
	case 1:
		return maxSuspects + 2*pageKeys*workers
	case 2:
		return 64
	case 3:
		return 8
	}
	return 1
}

// window looks at keys of one database in a window. It gives those that differed in one in which the source, or one of the keys where they are watched, was written to.
func (r *run) window(ctx context.Context, places []Difference, watch bool) (moving []Difference, err error) {
	w, db := r.scanner, places[0].DB
	keys := make([]string, len(places))
	for i, p := range places {
		keys[i] = p.Key
	}
	if watch {
		if _, err := w.source.do(ctx, db, w.source.dedicated.B().Watch().Key(keys...).Build()); err != nil {
			return nil, err
		}
	}
	before, err := w.source.changes(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.reach(ctx); err != nil {
		return nil, err
	}
	var found []Difference
	for page := range slices.Chunk(keys, r.burst) {
		if err := r.pace(ctx, len(page)); err != nil {
			return nil, err
		}
		more, err := w.compare(ctx, db, page)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	still := false
	if watch {
		replies, err := w.source.do(ctx, db, w.source.cmd("MULTI"), w.source.cmd("EXEC"))
		if err != nil {
			return nil, err
		}
		still = replies[1].Error() == nil // nil when a key was touched
	}
	if !still {
		after, err := w.source.changes(ctx)
		if err != nil {
			return nil, err
		}
		still = before == after
	}
	for _, d := range found {
		if !still && d.Kind != Incomparable { // of which no window tells more
			moving = append(moving, d)
			continue
		}
		if err := r.found(d); err != nil {
			return nil, err
		}
	}
	return moving, nil
}
