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
	return a.have(ctx, func(r *checkpoint.Record) {
		left := checkpoint.Divergence{} // a new one: copies of the record share theirs
		for kind, n := range r.Divergence {
			if n -= s.Counts[kind]; n > 0 {
				left[kind] = n
			}
		}
		r.Divergence = left
		a.showDivergence()
		a.mu.Lock()
		defer a.mu.Unlock()
		since := maps.Clone(left) // counted while they were compared, by this process: their keys are still here
		delete(since, checkpoint.LostReply)
		if a.suspects.counts = since; len(since) == 0 {
			a.suspects = suspects{}
		}
		a.Log.Info().Interface("commands", s.Counts).
			Msg("some commands had found nothing to change in the target where the source had; what they were about is equal")
	})
}
