package replica

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// notPaused is an error when somebody else has paused the source: a pause knows no owner, and to end ours would end his. One that will be over soon is waited for; it may be
// of a process of ours that has died. Servers tell since Valkey 8.1; of others nothing is known.
func (w *sourceWrites) notPaused(ctx context.Context) error {
	for most := time.Now().Add(pauseSpan); ; {
		info, err := w.src.info(ctx)
		if err != nil {
			return err
		}
		why, left := pausedFor(info)
		if why == "" {
			return nil
		}
		over := time.Now().Add(left)
		if over.After(most) {
			return &Stop{
				Kind: Decide, Reason: fmt.Sprintf("the source %s is paused already, by %s, for another %v: a cutover would end that, too", w.server, why, left),
				Hint: "wait until that is over, or CLIENT UNPAUSE on the source; or, when it is what stops the writes, --source-writes=stopped",
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(over)):
		}
	}
}

// pausedFor reads of INFO why a source is paused, and for how long still; "" for one that is not. A time that cannot be read is as long as any.
func pausedFor(info map[string]string) (why string, left time.Duration) {
	if why = info["paused_reason"]; why == "" || why == "none" {
		return "", 0
	}
	const longest = 100 * 365 * 24 * time.Hour
	ms, err := strconv.ParseInt(info["paused_timeout_milliseconds"], 10, 64)
	if err != nil || ms > longest.Milliseconds() {
		return why, longest
	}
	return why, time.Duration(max(0, ms)+1) * time.Millisecond
}

// pauseFor pauses the source's writes once.
func (w *sourceWrites) pauseFor(ctx context.Context, span time.Duration) error {
	err := forbidden(w.src.client.Do(ctx, w.src.client.B().ClientPause().Timeout(span.Milliseconds()).Write().Build()).Error())
	if errors.Is(err, errForbidden) {
		return &Stop{
			Kind: Decide, Reason: fmt.Sprintf("the source %s does not let its writes be paused", w.server), Err: err,
			Hint: "ACL SETUSER <user> +client|pause +client|unpause on the source; or stop its clients yourself, and say so with --source-writes=stopped",
		}
	}
	if err != nil {
		return fmt.Errorf("pause the writes of the source %s: %w", w.server, err)
	}
	return nil
}

// pause stops the source's writes until unpause, close, or most is over, and renews that meanwhile: a process that dies leaves a source that goes on after pauseSpan.
func (w *sourceWrites) pause(ctx context.Context, most time.Duration) error {
	end := time.Now().Add(most)
	if err := w.extend(ctx, end); err != nil {
		return err
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop, w.ended = stop, make(chan struct{})
	go func() {
		defer close(w.ended)
		_ = every(renewing, pauseRenew, func() error {
			_ = w.extend(renewing, end) // the next one may succeed; until tells
			return nil
		})
	}()
	return nil
}

// extend pauses for another pauseSpan, and not beyond end. The server never makes a pause shorter.
func (w *sourceWrites) extend(ctx context.Context, end time.Time) error {
	span := min(pauseSpan, time.Until(end))
	if span <= 0 {
		return nil
	}
	asked := time.Now()
	if err := w.pauseFor(ctx, span); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = asked.Add(span)
	return nil
}

// stillPaused is an error when the source may have taken writes since pause: this process stood still for too long, or the source did not answer.
func (w *sourceWrites) stillPaused() error {
	if w.stop == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if left := time.Until(w.until); left < pauseSpan/4 {
		return fmt.Errorf("the pause of the source's writes could not be renewed in time: %v are left of it", left)
	}
	return nil
}

// pausedUntil is when the pause ends unless it is renewed.
func (w *sourceWrites) pausedUntil() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.until
}

func (w *sourceWrites) endRenewing() {
	if w.stop != nil {
		w.stop()
		<-w.ended
		w.stop = nil
	}
}

// unpause lets the source's clients go on. An error is no matter: the pause ends by itself.
func (w *sourceWrites) unpause() {
	if w.stop == nil {
		return
	}
	w.endRenewing()
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	_ = w.src.client.Do(ctx, w.src.client.B().ClientUnpause().Build()).Error()
}

// release lets the clients go on that wait at a source which refuses writes: each is looked at anew, so that a plain write is
// refused, and a script waits again. There is no moment between the end of one pause and the beginning of the next. An error is
// no matter: they go on waiting.
func (w *sourceWrites) release(ctx context.Context) {
	note, err := w.notes.read()
	if err != nil || note == nil || !note.Paused || !note.of(w) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	w.endRenewing()
	if refuses, err := w.refuses(ctx); err != nil || !refuses { // it was opened since: to pause it would stop its clients for good
		return
	}
	b := w.src.client.B()
	_ = w.atOnce(ctx, []rueidis.Completed{b.ClientUnpause().Build(), w.pauseForGood()})
}

// pauseForGood pauses the source's writes until somebody ends that.
func (w *sourceWrites) pauseForGood() rueidis.Completed {
	return w.src.client.B().ClientPause().Timeout(forGood.Milliseconds()).Write().Build()
}
