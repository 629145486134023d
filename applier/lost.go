package applier

import (
	"context"
	"strings"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

var _ replica.ReplyRecord = (*Applier)(nil)

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
	return a.have(ctx, func(r *checkpoint.Record) {
		r.NoteCompared(parts)
		if differ == 0 {
			a.Log.Info().Int("parts", len(parts)).
				Msg("replies to some writes were lost; the keys that they were about are equal to the source's")
			return
		}
		r.NoteDivergence(checkpoint.LostReply, differ)
		a.showDivergence()
		a.Log.Warn().Int64("count", differ).Strs("first", first).
			Msg("replies to some writes were lost, and the keys that they were about differ from the source's")
	})
}
