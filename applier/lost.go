package applier

import (
	"context"
	"strings"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

var _ replica.ReplyRecord = (*Applier)(nil)

// comparison is what Compared has to tell Commit, whose the record is.
type comparison struct {
	parts   []replica.Range
	expired int64 // of all keys: the record's Expired when it began; 0 otherwise
	differ  int64
	first   []string
	noted   chan struct{} // closed when the record says so
}

// Unchecked implements [replica.ReplyRecord].
func (a *Applier) Unchecked() []replica.Range {
	a.mu.Lock()
	rec := checkpoint.Record{Unchecked: a.doubts.lost}
	a.mu.Unlock()
	return rec.Ranges()
}

// Keys implements [replica.ReplyRecord].
func (a *Applier) Keys(u *replica.Unit, add func(key []byte)) (all bool) {
	for _, cmd := range u.Cmds {
		if len(cmd.Args) == 0 {
			return false
		}
		args := a.unrenamed(cmd.Args)
		switch strings.ToUpper(string(args[0])) {
		case "PUBLISH", "SPUBLISH", "SCRIPT":
			continue
		case "EVAL", "EVALSHA", "FCALL": // a script may write keys that it was not given
			return false
		}
		at, known := keyPositions(args, a.keys)
		if !known || len(at) == 0 { // as of FLUSHALL, SWAPDB and FUNCTION
			return false
		}
		for _, i := range at {
			if !checkpoint.Reserved(args[i]) {
				add(args[i])
			}
		}
	}
	return true
}

// Compared implements [replica.ReplyRecord].
func (a *Applier) Compared(ctx context.Context, parts []replica.Range, differ int64, first []string) error {
	return a.tellCompared(ctx, comparison{parts: parts, differ: differ, first: first})
}

func (a *Applier) tellCompared(ctx context.Context, c comparison) error {
	c.noted = make(chan struct{})
	a.mu.Lock()
	a.compared = append(a.compared, c)
	a.mu.Unlock()
	wake(a.queue.asked)
	select {
	case <-c.noted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// noteCompared takes what was compared into the record. It is for Commit, which stores it.
func (a *Applier) noteCompared() {
	a.mu.Lock()
	compared := a.compared
	a.compared = nil
	a.mu.Unlock()
	for _, c := range compared {
		a.rec.NoteCompared(c.parts)
		if c.expired != 0 && a.rec.Expired <= c.expired {
			a.rec.Expired = 0
		}
		a.changes++
		if c.expired != 0 {
			a.Log.Info().Msg("all keys are equal to the source's, also those that the target may have expired by itself")
		} else if c.differ > 0 {
			a.rec.NoteDivergence(checkpoint.LostReply, c.differ)
			a.showDivergence()
			a.Log.Warn().Int64("count", c.differ).Strs("first", c.first).Msg("replies to some writes were lost, and the keys that they were about differ from the source's")
		} else {
			a.Log.Info().Int("parts", len(c.parts)).Msg("replies to some writes were lost; the keys that they were about are equal to the source's")
		}
		a.setCheckpointed()
		close(c.noted)
	}
}
