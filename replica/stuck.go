package replica

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
)

// A source before 7.0 puts all that a link is to be sent at once into its output buffer: one value, or what its backlog has for a link that continues. Where that is
// more than the hard client-output-buffer-limit for replicas, it closes the link before the first byte of it, and the next one likewise. Later versions share the backlog
// with the buffer, and count no limit below the backlog's size.

// maxStuck is after how many such links in a row a run asks its operator.
const maxStuck = 3

// stuck counts the links in a row that continued and brought nothing, because of the limit. What ends a link otherwise begins anew.
type stuck struct{ links int }

// tooMuch judges whether a source with that limit closes each link that lacks so many bytes. It is nil when it does not. A source's buffers may be filled to nine tenths only.
func (l bufferLimit) tooMuch(missing int64) *cut {
	if l.Hard == 0 || missing <= 0 || float64(missing) < 0.9*float64(l.Hard) {
		return nil
	}
	mb := uint64(2*missing)>>20 + 2
	return &cut{
		text: fmt.Sprintf("the source closes the link before anything comes, because of its client-output-buffer-limit for replicas (%s): "+
			"%s wait there for us, one large value or much in its backlog", l.words(), humanize.IBytes(uint64(missing))),
		hint: fmt.Sprintf("--raise-source-limits lifts the limit until they have arrived; or, on the source, %s",
			setBufferLimit(fmt.Sprintf("%s %dmb %d %d", l.class, mb, l.Soft, l.SoftSeconds))),
	}
}

// raiseForRest lifts the limit for a link that continues, where the last one brought nothing because of it and the operator allows it.
func (w *watched) raiseForRest(ctx context.Context) error {
	if !w.RaiseLimits || w.stuck.links == 0 {
		return nil
	}
	if err := w.limits.raise(ctx); err != nil {
		return err
	}
	w.raised = true
	return nil
}

// explainStuck finds out whether it was for the limit that a link which continued brought nothing, and ended with err. After three such ends in a row the error is a [Stop].
func (w *watched) explainStuck(ctx context.Context, err error) error {
	var cut *cut
	if !decided(ctx, err) && ClosedByPeer(err) {
		cut = w.whyStuck(ctx)
	}
	if cut == nil {
		w.stuck = stuck{}
		return err
	}
	if w.stuck.links++; w.stuck.links >= maxStuck {
		return &Stop{
			Kind: Decide, Reason: fmt.Sprintf("%s; that was the %s time in a row, and the next would end like it", cut.text, humanize.Ordinal(w.stuck.links)),
			Hint: cut.hint,
		}
	}
	return fmt.Errorf("%s: %w", cut.text, err)
}

// shortly is how soon after a link's end the source's limit is thought of as its reason, where the source cannot go on from there.
const shortly = 10 * time.Second

// explainLoss adds to the [Stop] of a source that cannot go on why it may have come to that: a value that neither its buffer for the link nor its backlog has held.
func (w *watched) explainLoss(ctx context.Context, src *source, err error) error {
	stop := AsStop(err)
	if stop == nil || stop.Kind != Decide || time.Since(w.ended) > shortly {
		return err
	}
	if limit, missing := w.behind(ctx, src); limit.tooMuch(missing) != nil {
		more := *stop
		more.Hint += fmt.Sprintf("; first raise the source's repl-backlog-size, and its client-output-buffer-limit for replicas (%s): the source closed the link, it seems, when %s waited there for us",
			limit.words(), humanize.IBytes(uint64(missing)))
		return &more
	}
	return err
}

// behind asks the source how much it has that we have not, and for its limit; 0 where it does not say.
func (w *watched) behind(ctx context.Context, src *source) (limit bufferLimit, missing int64) {
	info, err := src.info(ctx)
	if err != nil {
		return limit, 0
	}
	c := w.Spool.Contents()
	offset, err := strconv.ParseInt(info["master_repl_offset"], 10, 64)
	limit, asking := src.effectiveLimit(ctx, info)
	if errors.Join(err, asking) != nil || info["master_replid"] != c.EndID {
		return limit, 0
	}
	return limit, offset - c.End
}

// whyStuck asks the source; it is nil when the limit does not explain the end, or the source does not answer.
func (w *watched) whyStuck(ctx context.Context) *cut {
	src, err := dialSource(w.server)
	if err != nil {
		return nil
	}
	defer src.close()
	limit, missing := w.behind(ctx, src)
	return limit.tooMuch(missing)
}
