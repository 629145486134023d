package replica

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A connection to the target that breaks behind an EXEC takes the replies with it: the checkpoint tells that the writes are there, and nothing tells whether each of them did
// there what it did in the source. The parts of the stream of which that is so are kept in the target's record. Here they are made good: which keys such a part has written is
// read from the spool, for as long as it has that part, and those keys are compared with the source's as soon as the target is in sync.

// LostReplies is what a run needs to make good for replies that were lost.
type LostReplies struct {
	Record ReplyRecord
	// Compare compares these keys in every database of source and target, while both are written to, and tells in how many they differ, with the first of them in words.
	Compare func(ctx context.Context, keys []string) (differ int64, first []string, err error)
}

// ReplyRecord is what a target's record says of replies. It is asked while a run follows the stream, by any goroutine.
type ReplyRecord interface {
	// Unchecked are the parts of the stream that are in the target although the replies to them were lost, but for those that were compared since; oldest first.
	Unchecked() []Range
	// Keys calls add with all keys that a unit writes, whose memory is the unit's. false says that these are not all.
	Keys(u *Unit, add func(key []byte)) (all bool)
	// Compared has the record say that all keys of these parts were compared with the source's, and in how many of them source and target differ. It returns when it does.
	Compared(ctx context.Context, parts []Range, differ int64, first []string) error
	// Suspects are what the target's replies say against it, but for what Cleared has taken back.
	Suspects() Suspects
	// Cleared has the record forget what these suspects were counted for, since the keys were found equal. It returns when it does.
	Cleared(ctx context.Context, s Suspects) error
}

// Suspects are commands of the stream that have found nothing to change in the target. The source sends a command when it has changed something there, so that the two differed then; they may be equal by now, or
// the difference was what the command has taken away: a DEL of a key that only the source had, which has been left by a command that changed something there and failed.
type Suspects struct {
	Counts map[string]int64 // by the command's name
	Keys   []string         // that they were about
	Known  bool             // Keys are all of them, since there were not too many, and all were counted by this process
}

// Range is a part of a replication history: the bytes behind offset From, up to To. Both are ends of units.
type Range struct{ From, To int64 }

// String is for messages.
func (r Range) String() string { return fmt.Sprintf("%d-%d", r.From, r.To) }

const (
	maxLostKeys = 100_000     // that are kept until they can be compared; what writes more is left to a cutover, which compares all there are
	lostAgain   = time.Minute // after which a comparison that could not be made is tried again
)

// lost is what a run knows of lost replies.
type lost struct {
	busy chan struct{} // has one while a goroutine is at it; it guards the rest
	// keys are those that the parts write; nil for a part of which they are not known.
	keys  map[Range]map[string]bool
	again time.Time
}

func newLost() lost { return lost{busy: make(chan struct{}, 1), keys: map[Range]map[string]bool{}} }

// enter waits until no other goroutine is at it, or gives ctx's error; leave is for who has entered.
func (l *lost) enter(ctx context.Context) error {
	select {
	case l.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lost) leave() { <-l.busy }

// makeGood compares what lost replies have left unchecked, whenever the target is in sync.
func (r *run) makeGood(ctx context.Context) error {
	if r.Lost == nil {
		return nil
	}
	return every(ctx, time.Second, func() error {
		if err := r.lost.enter(ctx); err != nil {
			return err
		}
		defer r.lost.leave()
		if r.Status.Base() == InSync && !r.Gate.Paused() && time.Now().After(r.lost.again) {
			return r.compareLost(ctx)
		}
		return r.lostKeys(ctx) // before the spool frees them
	})
}

// recheck compares now what can be compared. Its error is that of ctx: that it cannot be done is only told, for a cutover asks what is left.
func (r *run) recheck(ctx context.Context) error {
	if r.Lost == nil {
		return nil
	}
	if err := r.lost.enter(ctx); err != nil {
		return err
	}
	defer r.lost.leave()
	return r.compareLost(ctx)
}

// compareLost is recheck of a caller that has entered.
func (r *run) compareLost(ctx context.Context) error {
	if err := r.lostKeys(ctx); err != nil {
		return err
	}
	all := map[string]bool{}
	var parts []Range
	for part, keys := range r.lost.keys {
		if keys != nil {
			parts = append(parts, part)
			maps.Copy(all, keys)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	differ, first, err := r.Lost.Compare(ctx, slices.Sorted(maps.Keys(all)))
	if err == nil {
		err = r.Lost.Record.Compared(ctx, parts, differ, first)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.lost.again = time.Now().Add(lostAgain)
		r.Log.Warn().Err(err).Int("keys", len(all)).Msg("cannot compare the keys that lost replies were about; it is tried again, and a cutover compares all keys where nothing has")
	}
	return nil
}

// lostKeys finds out which keys are to be compared, and forgets those that were. Its caller has entered.
func (r *run) lostKeys(ctx context.Context) error {
	parts := r.Lost.Record.Unchecked()
	room := maxLostKeys
	for part, keys := range r.lost.keys {
		if slices.Contains(parts, part) {
			room -= len(keys)
		} else {
			delete(r.lost.keys, part)
		}
	}
	for _, part := range parts {
		if _, known := r.lost.keys[part]; known {
			continue
		}
		keys, err := r.keysOf(ctx, part, room)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.Log.Info().Err(err).Stringer("offsets", part).Msg("replies were lost, and it cannot be told which keys they were about: a cutover compares all there are")
		}
		r.lost.keys[part] = keys
		room -= len(keys)
	}
	return nil
}

// keysOf reads from the spool which keys a part of the stream writes: of no database, since what selected it may lie before the part.
func (r *run) keysOf(ctx context.Context, part Range, most int) (map[string]bool, error) {
	in, err := r.Spool.ReadStream(part.From)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	defer context.AfterFunc(ctx, in.Interrupt)()
	stream := NewStream(bufio.NewReaderSize(in, loadBuffer), Position{Offset: part.From})
	keys := map[string]bool{}
	for stream.Position().Offset < part.To {
		var u Unit
		if err := stream.Next(&u); err != nil {
			return nil, fmt.Errorf("read the spool's stream: %w", err)
		}
		if !r.Lost.Record.Keys(&u, func(key []byte) { keys[string(key)] = true }) {
			return nil, fmt.Errorf("the unit that ends at offset %d does not name all keys that it writes", u.End.Offset)
		}
		if len(keys) > most {
			return nil, fmt.Errorf("it writes more than %d keys", most)
		}
	}
	return keys, nil
}

// compareKnown compares now, for a cutover, what lost replies were about, and the keys that others speak against, where they are known, and clears those. It is an error when these differ. It gives
// the suspects that are left: their keys are not known.
func (r *run) compareKnown(ctx context.Context, force bool) (left Suspects, err error) {
	if err := r.recheck(ctx); err != nil {
		return left, err
	}
	closer := r.Cutover.Closer
	s := closer.Suspects()
	if r.Lost == nil || len(s.Counts) == 0 || !s.Known || force {
		return s, nil
	}
	r.Status.Set(Comparing, fmt.Sprintf("commands have found nothing to change in the target where the source had: their %d keys are compared", len(s.Keys)))
	differ, first, err := r.Lost.Compare(ctx, s.Keys)
	if err != nil {
		return left, fmt.Errorf("compare the keys where commands have found nothing to change: %w", err)
	}
	if differ > 0 {
		return left, &Stop{
			Kind: Refused, Reason: fmt.Sprintf("the target differs from the source in %d of the %d keys where commands have found nothing to change: %s", differ, len(s.Keys), strings.Join(first, "; ")),
			Hint: "see what these keys have on both sides; cutover --force goes on nevertheless",
		}
	}
	err = closer.Cleared(ctx, s)
	return closer.Suspects(), err
}
