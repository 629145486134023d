package applier

import (
	"context"
	"maps"
	"slices"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// maxSuspects is how many keys are kept that replies speak against. Where there are more, a cutover compares all there are.
const maxSuspects = 10_000

// suspects are the keys behind the record's divergence, as far as this process has counted it. Their Applier's mu guards them.
type suspects struct {
	keys   map[string]bool
	counts checkpoint.Divergence // what keys account for, by command
	lost   bool                  // some keys are not among them
}

// cleared is what Cleared has to tell Commit, whose the record is.
type cleared struct {
	counts map[string]int64
	noted  chan struct{} // closed when the record says so
}

// suspect keeps the keys of a command that was counted.
func (a *Applier) suspect(kind string, args [][]byte) {
	at, known := keyPositions(a.unrenamed(args), a.keys)
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.suspects
	if s.keys == nil {
		s.keys, s.counts = map[string]bool{}, checkpoint.Divergence{}
	}
	s.counts[kind]++
	s.lost = s.lost || !known || len(at) == 0
	for _, i := range at {
		if checkpoint.Reserved(args[i]) || s.keys[string(args[i])] {
			continue
		}
		if len(s.keys) == maxSuspects {
			s.lost = true
			break
		}
		s.keys[string(args[i])] = true
	}
}

// Suspects implements [replica.ReplyRecord].
func (a *Applier) Suspects() replica.Suspects {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := maps.Clone(a.doubts.kinds)
	delete(counts, checkpoint.LostReply)
	return replica.Suspects{
		Counts: counts, Keys: slices.Sorted(maps.Keys(a.suspects.keys)), Known: !a.suspects.lost && maps.Equal(counts, a.suspects.counts),
	}
}

// Cleared implements [replica.ReplyRecord].
func (a *Applier) Cleared(ctx context.Context, s replica.Suspects) error {
	if len(s.Counts) == 0 {
		return nil
	}
	c := cleared{s.Counts, make(chan struct{})}
	a.mu.Lock()
	a.clear = append(a.clear, c)
	a.mu.Unlock()
	wake(a.queue.asked)
	select {
	case <-c.noted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// noteCleared takes what was cleared out of the record. It is for Commit, which stores it.
func (a *Applier) noteCleared() {
	a.mu.Lock()
	clear := a.clear
	a.clear = nil
	a.mu.Unlock()
	for _, c := range clear {
		left := checkpoint.Divergence{} // a new one: copies of the record share theirs
		for kind, n := range a.rec.Divergence {
			if n -= c.counts[kind]; n > 0 {
				left[kind] = n
			}
		}
		a.rec.Divergence = left
		a.changes++
		a.showDivergence()
		a.setCheckpointed()
		a.mu.Lock()
		since := maps.Clone(left) // counted while they were compared, by this process: their keys are still here
		delete(since, checkpoint.LostReply)
		if a.suspects.counts = since; len(since) == 0 {
			a.suspects = suspects{}
		}
		a.mu.Unlock()
		a.Log.Info().Interface("commands", c.counts).Msg("some commands had found nothing to change in the target where the source had; what they were about is equal")
		close(c.noted)
	}
}
