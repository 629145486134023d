package replica

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// watched is one link's snapshot with an eye on the source's buffer for it (limits.go): the risk before, the limit lifted meanwhile if the operator wants that, and the
// reason afterwards when the source has cut the link.
type watched struct {
	*run
	server Endpoint
	limits limits

	info  map[string]string // of the source, before it began
	facts bufferFacts
	mark  *transferMark // nil unless a snapshot is under way, or what was written during it has not all arrived

	raised bool // the limit is lifted for a link that continues, until what it begins with has arrived
}

// worthMeasuring is how long an RDB must take before the source's write rate is measured for it: what is written in less fits into any buffer.
const worthMeasuring = 5 * time.Second

// prepare is called before a full resync is asked for. Its error is a [Stop] when the operator wants the limit lifted and the source forbids it.
func (w *watched) prepare(ctx context.Context, src *source) (err error) {
	if w.RaiseLimits {
		if err := w.limits.raise(ctx); err != nil {
			return err
		}
	}
	if w.info, err = src.info(ctx); err != nil {
		return err
	}
	rate := -1.0
	if took, _ := transferTime(w.info); took < worthMeasuring {
		rate = 0
	}
	if w.facts, err = src.bufferFacts(ctx, w.info, rate); err != nil { // the snapshot does not depend on it
		w.Log.Debug().Err(err).Msg("the risk of a full buffer at the source is not known")
		return nil
	}
	switch risk := w.facts.risk(); risk.Level {
	case RiskLikely, RiskCertain:
		w.Log.Warn().Str("hint", risk.Hint).Msg(risk.Text)
	default:
		w.Log.Debug().Msg(risk.Text)
	}
	return nil
}

// began is called at +FULLRESYNC.
func (w *watched) began(at Position) {
	mark := markTransfer(w.info, w.facts, at)
	w.mark = &mark
}

// seen is called with what has arrived and what the source has written, once the RDB is complete: when all that had waited has come, the snapshot is over.
func (w *watched) seen(ctx context.Context, received, sourceOffset int64) {
	if (w.mark != nil || w.raised) && w.limits.drained(received, sourceOffset) {
		w.mark, w.raised = nil, false
		_ = w.cuts.count(nil) // counts anew, which is no error
		w.putBack(ctx)
	}
}

// putBack puts the limit back, also one that an earlier process has left lifted.
func (w *watched) putBack(ctx context.Context) {
	if w.LimitsFile == "" {
		return
	}
	if err := w.limits.restore(ctx); err != nil {
		w.Log.Warn().Msg(err.Error())
	}
}

// decided tells whether it is known why a link ended with err.
func decided(ctx context.Context, err error) bool {
	return ctx.Err() != nil || AsStop(err) != nil || errors.Is(err, errStopAt) || errors.Is(err, errReplan)
}

// explain finds out whether it was for the limit that a snapshot's link ended with err. After two such ends the error is a [Stop].
func (w *watched) explain(ctx context.Context, err error) error {
	if w.mark == nil || decided(ctx, err) {
		return err
	}
	end := linkEnd{when: time.Now(), received: max(w.Spool.Contents().End, w.mark.at.Offset), rdb: w.Status.SnapshotReceived.Load(), rdbSize: w.Status.SnapshotSize.Load()}
	src, dialing := dialSource(w.server) // the first one is closed, to let go of whoever asked it
	if dialing != nil {
		return err
	}
	defer src.close()
	cut, asking := src.whyCut(ctx, *w.mark, end)
	if asking != nil {
		return err
	}
	if stop := w.cuts.count(cut); stop != nil {
		return stop
	}
	if cut == nil {
		return err
	}
	w.Log.Warn().Str("hint", cut.hint).Msg(cut.text)
	return fmt.Errorf("%s: %w", cut.text, err)
}
