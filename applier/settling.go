package applier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// How settling loses nothing. While the source is in use, a key that the target expires by itself is lost if the source renews it, and the
// renewal is late. So Settle chooses a moment, further away than the rest of the cutover and --ttl-grace together. Only expiries from that
// moment on become real; earlier ones stay shifted. Until the target's clock comes to that moment, the target expires nothing by itself,
// however long it stalls or redferry is away. The record has the moment (RealFrom) before anything real is written, so that the next process
// knows it, too. When the target has all that the source has written, one look at the target's clock tells whether anything can be missing.
//
// Release brings back the rest, when the source's writes are over. A run that goes on instead shifts again what is real: see shiftAgain.

// settleFor is how long settling, and what comes between it and the end of the source's writes, may take at least.
const settleFor = 10 * time.Minute

// Settle implements [replica.Sink].
func (a *Applier) Settle(ctx context.Context, rest time.Duration) error {
	if a.Expiry != Shift {
		return nil
	}
	err := a.settle(ctx, rest)
	if err != nil {
		a.writeExpiries(a.usual(), nil)
	}
	return err
}

func (a *Applier) settle(ctx context.Context, rest time.Duration) error {
	intact, err := a.intact(ctx)
	if err == nil {
		err = a.back.end(ctx, intact) // what may still be lost is shifted first
	}
	if err != nil {
		return err
	}
	rest += a.TTLGrace
	horizon, err := a.horizon(ctx)
	if err != nil {
		return err
	}
	for {
		began, err := a.targetTime(ctx)
		if err != nil {
			return err
		}
		from := began.Add(horizon + rest)
		if err := a.form(ctx, from.UnixMilli(), newNear()); err != nil {
			return err
		}
		ended, err := a.targetTime(ctx)
		if err != nil {
			return err
		}
		took := ended.Sub(began)
		next := max(a.SettleFor, passes*took)
		switch inTime := ended.Add(took + rest).Before(from); { // also for shifting all again
		case inTime && next > horizon/2:
			return nil
		case inTime: // bring back more of them: that is never a risk
		default:
			next = max(next, 2*horizon)
			a.Log.Warn().Dur("took", took).Dur("next", next).Msg("settling took too long for what it has brought back to stay safe: it begins anew, and brings back less")
		}
		horizon = next
	}
}

const (
	passes   = 4    // how many times as long as a pass settling, and what follows, may take
	slowPass = 5000 // keys that a pass looks at in a second, at least, beside a busy stream
)

// horizon is how long settling, and what follows, may take, before a pass has shown how long it does. It is estimated far too long rather than
// too short: to shift again what has come near takes as long as the pass that has made it real.
func (a *Applier) horizon(ctx context.Context) (time.Duration, error) {
	text, err := a.ask(ctx, func(b rueidis.Builder) rueidis.Completed { return b.Info().Section("keyspace").Build() }).ToString()
	var there []replica.Database
	if err == nil {
		there, err = replica.Keyspace(replica.ParseInfo(text))
	}
	if err != nil {
		return 0, fmt.Errorf("ask the target what it holds: %w", replica.AuthStop("target", a.Target, err))
	}
	keys := int64(0)
	for _, d := range there {
		keys += d.Keys
	}
	return max(a.SettleFor, passes*time.Duration(keys)*time.Second/slowPass), nil
}

// Equal implements [replica.Closer].
func (a *Applier) Equal(ctx context.Context) (func(ctx context.Context) error, error) {
	intact, err := a.intact(ctx)
	if err == nil && !intact { // more may be lost until all is shifted again
		err = a.back.end(ctx, false)
	}
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	expired := a.doubts.expired
	a.mu.Unlock()
	parts := a.Unchecked()
	return func(ctx context.Context) error {
		return a.have(ctx, func(r *checkpoint.Record) {
			r.NoteCompared(parts)
			if expired != 0 && r.Expired <= expired {
				r.Expired = 0
			}
			a.Log.Info().Msg("all keys are equal to the source's, whatever was unknown of the target before")
		})
	}, nil
}

// form has all expiries in the target and in the stream shifted that are before a moment, and later ones real. n takes the keys that are left
// shifted; nil for nobody.
func (a *Applier) form(ctx context.Context, below int64, n *near) error {
	was := a.realNow()
	if below < was {
		if err := a.have(ctx, func(r *checkpoint.Record) { r.Expiry, r.RealFrom = checkpoint.Mixed, below }); err != nil {
			return err
		}
	}
	from := a.writeExpiries(expiries{below: below}, n)
	s := &settler{
		target: a.Target, form: split{real: min(was, below), below: below}, once: below <= was, near: n,
		busy: a.writing.Load,
	}
	if below <= was {
		s.report = a.reportSettling()
	}
	for {
		swapped := a.lastSwap()
		if err := replica.Reach(ctx, a, max(from, swapped)); err != nil {
			return err
		}
		if err := s.run(ctx, a.client, a.owner); err != nil {
			return err
		}
		if a.lastSwap() == swapped {
			break
		}
	}
	if below <= was {
		return nil
	}
	if _, err := a.intact(ctx); err != nil { // up to here something real could have been lost
		return err
	}
	return a.have(ctx, func(r *checkpoint.Record) {
		if r.Expiry, r.RealFrom = checkpoint.Mixed, below; below == distant {
			r.Expiry, r.RealFrom = string(Shift), 0
		}
	})
}

// intact tells whether the target has expired nothing by itself that the migration has written. If it may have, the record says so when intact
// returns. Commit must be running.
func (a *Applier) intact(ctx context.Context) (bool, error) {
	if a.Expiry != Shift {
		return true, nil
	}
	now, err := a.targetTime(ctx)
	if err != nil {
		return false, err
	}
	if now.UnixMilli() < a.realNow() {
		return true, nil
	}
	return false, a.have(ctx, func(r *checkpoint.Record) { a.noteExpired(r) })
}

// noteExpired has a record say that the target may have expired keys by itself, up to now.
func (a *Applier) noteExpired(r *checkpoint.Record) {
	if r.Expired == 0 {
		a.Log.Warn().Int64("offset", r.Offset).
			Msg("the target may have expired keys by itself that the source has renewed since: a cutover compares all keys before it goes on")
	}
	r.Expired = max(1, r.Offset)
}

// Intact implements [replica.Closer].
func (a *Applier) Intact(ctx context.Context) error {
	_, err := a.intact(ctx)
	return err
}

// targetTime is the target's clock.
func (a *Applier) targetTime(ctx context.Context) (time.Time, error) {
	reply, err := a.ask(ctx, func(b rueidis.Builder) rueidis.Completed { return b.Time().Build() }).AsStrSlice()
	now := time.Time{}
	if err == nil {
		now, err = clockTime(reply)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the target for its time: %w", replica.AuthStop("target", a.Target, err))
	}
	return now, nil
}

// ask gives the target a command that changes nothing. A connection that has been idle may have been closed since, and every
// one is when a target was restarted: then another is opened.
func (a *Applier) ask(ctx context.Context, build func(b rueidis.Builder) rueidis.Completed) (r rueidis.RedisResult) {
	for range 3 {
		if r = a.client.Do(ctx, build(a.client.B())); r.NonRedisError() == nil || ctx.Err() != nil {
			break
		}
	}
	return r
}

func (a *Applier) realNow() int64 {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	return a.real
}

func (a *Applier) lastSwap() int64 {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	return a.swapped
}

// reportSettling shows how far a settler is, and adds what it has brought back to what others have.
func (a *Applier) reportSettling() func(Settling) {
	before := a.Status.Settled.Load()
	return func(s Settling) {
		a.Status.SettleSeen.Store(s.Looked)
		a.Status.SettleTotal.Store(s.Keys)
		a.Status.Settled.Store(before + s.Settled + s.Fields)
	}
}

// note is something that Commit, whose the record is, is to have it say.
type note struct {
	write  func(r *checkpoint.Record)
	change int64         // by which the record says so; 0 before
	stored chan struct{} // closed when the target's does
}

// have has the record say something, and returns when the target's does. Commit must be running, or begin.
func (a *Applier) have(ctx context.Context, write func(r *checkpoint.Record)) error {
	n := &note{write: write, stored: make(chan struct{})}
	a.queue.mu.Lock()
	a.notes = append(a.notes, n)
	a.queue.mu.Unlock()
	wake(a.queue.asked)
	select {
	case <-n.stored:
		return nil
	case <-ctx.Done():
		a.queue.mu.Lock() // one that Commit has not taken it takes no more
		defer a.queue.mu.Unlock()
		a.notes = slices.DeleteFunc(a.notes, func(o *note) bool { return o == n && n.change == 0 })
		return ctx.Err()
	}
}

// takeNotes is Commit's side of have.
func (a *Applier) takeNotes() {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	if len(a.notes) == 0 {
		return
	}
	for _, n := range a.notes {
		if n.change == 0 {
			n.write(&a.rec)
			a.changes++
			n.change = a.changes
		}
	}
	a.real, a.expires = realFrom(&a.rec), a.expires || a.rec.Expired != 0
	a.setCheckpointed() // who has asked for the note asks for the doubts next
	a.notes = slices.DeleteFunc(a.notes, func(n *note) bool {
		if a.written < n.change {
			return false
		}
		close(n.stored)
		return true
	})
}

// shifting is what a Commit does first where a target was settled: all is shifted again, beside the stream.
type shifting struct {
	ctx  context.Context // ended when Settle has something better to do
	stop context.CancelFunc
	done chan struct{} // closed when it is over
}

func newShifting() *shifting {
	s := &shifting{done: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// end waits for its end, or, if it may be left undone, ends it.
func (s *shifting) end(ctx context.Context, undone bool) error {
	if undone {
		s.stop()
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// shiftAgain shifts what an earlier Settle or Release has brought back, until ctx ends or Settle wants it otherwise.
func (a *Applier) shiftAgain(ctx context.Context) {
	defer close(a.back.done)
	if a.Expiry != Shift || a.realNow() >= distant {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.back.ctx, cancel)()
	a.Log.Info().Msg("the target was settled, in part at least: its expiries are shifted again, beside the stream")
	for pause := newPause(); ; {
		err := a.form(ctx, distant, nil)
		if err == nil {
			a.Log.Info().Msg("all expiries in the target are shifted again")
			return
		}
		if replica.AsStop(err) != nil { // of which Commit hears, too
			return
		}
		if !errors.Is(err, context.Canceled) {
			a.Log.Debug().Err(err).Msg("cannot shift the target's expiries again yet")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// formKey gives one key its form, within a transaction. The zero value leaves it as it is.
type formKey split

// arguments are formScript's ARGV.
func (f formKey) arguments() []string { return split(f).arguments(0, 0, "0", 0) }

// formOf is what has to be done to the key of a command that takes expiries elsewhere, or compares them, before it. Of keys that are taken
// elsewhere the pass would lose sight while it shifts. The queue's lock is held.
func (a *Applier) formOf(compares bool) formKey {
	below := a.expiries.below
	if compares {
		below = distant // the command is written so
	}
	if a.Expiry != Shift || a.real >= below {
		return formKey{}
	}
	return formKey{real: a.real, below: below}
}
