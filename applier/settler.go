package applier

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// Settling is how far the settling of a target is.
type Settling struct {
	Pass     int   // the pass that goes on; 0 before the first
	Keys     int64 // in the target when the pass began
	Volatile int64 // of them, those with an expiry, be it shifted or not
	Looked   int64 // keys that the pass has looked at
	Settled  int64 // keys that were settled, by all passes
	Fields   int64 // fields of hashes, likewise

	found bool          // the pass has found something shifted
	again bool          // a whole pass went before it
	took  time.Duration // that it has gone on for
}

// Left is about how many keys are shifted still.
func (s Settling) Left() int64 {
	if s.again { // the pass looks whether one has slipped through
		return 0
	}
	return int64(float64(s.Volatile) * s.share())
}

// ETA is how long it will take; 0 when that cannot be told yet.
func (s Settling) ETA() time.Duration {
	if s.Looked == 0 {
		return 0
	}
	passes := s.share()
	if s.found {
		passes++ // the last one finds none
	}
	return time.Duration(passes * float64(s.Keys) / float64(s.Looked) * float64(s.took))
}

// share is the part of the keys that the pass has yet to look at.
func (s Settling) share() float64 {
	if s.Looked >= s.Keys {
		return 0
	}
	return 1 - float64(s.Looked)/float64(s.Keys)
}

// idleShare is how much longer than a step the pass keeps off a target that has better to do: it has the twelfth part of the target's time then, and a stream which takes
// all of it goes on with nine tenths of its speed and more. A step that took long because the target stalled says nothing of its speed: hence idleMost.
const (
	idleShare = 11
	idleMost  = 250 * time.Millisecond
)

// settler gives all expiries in a target their form, pass after pass over all its databases, until one has found nothing to do. Its memory does not grow with the target.
type settler struct {
	target replica.Endpoint
	form   split
	once   bool           // one whole pass is enough: what it misses may stay as it is
	near   *near          // takes the keys that are left shifted; nil for nobody
	busy   func() bool    // the target has better to do: see idleShare; nil for never
	report func(Settling) // called by run after each step; nil for nobody

	rewound atomic.Bool

	// The rest belongs to run.
	conn      *conn
	owner     *owner
	history   string // of the server that the cursor is of; empty when there is no pass
	databases []int  // that the pass goes through
	db        int    // the one, of these, at which it is
	cursor    string // where in it
	at        Settling
}

// split is what settling makes of expiries: shifted ones from below on become real, and real ones in [real, below) are shifted. The zero value makes all real.
type split struct{ real, below int64 }

// rewind makes a run that goes on begin its pass anew: a SWAPDB has taken keys to where it was already. It is called once that has been written.
func (s *settler) rewind() { s.rewound.Store(true) }

// run settles until a whole pass has found nothing to do: from then on all in the target has its form, if nothing was written otherwise from run's beginning on. An error leaves
// the pass where it is, and the next run goes on there, unless the target is another server by then. client stays the caller's; o is its claim to the migration:
// once that is void nothing is written any more, and the error is a Stop of kind Fenced, or errLost.
func (s *settler) run(ctx context.Context, client rueidis.Client, o *owner) error {
	defer s.open(client, o)()
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	if now := history(info); now != s.history { // cursors are a server's own
		s.history = now
		s.rewind()
	}
	for {
		if !s.rewound.Load() && s.db < len(s.databases) {
			if err := s.step(ctx); err != nil {
				return err
			}
			continue
		}
		whole := !s.rewound.Swap(false)
		if info, err = s.info(ctx); err != nil {
			s.history = ""
			return err
		}
		there, err := replica.Keyspace(info)
		if err != nil {
			return fmt.Errorf("ask the target what it holds: %w", err)
		}
		if whole && s.done(there) {
			s.history = ""
			return nil
		}
		s.begin(there, whole)
	}
}

// list settles these keys of a database, before a run that looks at all.
func (s *settler) list(ctx context.Context, client rueidis.Client, o *owner, db int, keys []string) error {
	defer s.open(client, o)()
	for part := range slices.Chunk(keys, listStep) {
		if err := s.settle(ctx, settleListScript, db, "0", part...); err != nil {
			return err
		}
		s.tell()
	}
	return nil
}

// listStep is how many keys of a list are settled in one step: some milliseconds' work.
const listStep = 500

func (s *settler) open(client rueidis.Client, o *owner) (end func()) {
	dedicated, release := client.Dedicate() // where a command ends with its context
	s.conn, s.owner = &conn{DedicatedClient: dedicated, release: release}, o
	return s.conn.close
}

// done tells whether a pass that has come to its end was the last: it has found nothing, and nothing has come to where it was not.
func (s *settler) done(there []replica.Database) bool {
	if s.once {
		return !s.rewound.Load()
	}
	appeared := slices.ContainsFunc(there, func(d replica.Database) bool { return !slices.Contains(s.databases, d.Number) })
	return !s.at.found && !appeared && !s.rewound.Load()
}

// begin begins a pass over what is there; again says that it follows a whole one.
func (s *settler) begin(there []replica.Database, again bool) {
	s.db, s.cursor, s.databases = 0, "0", nil
	s.at.Keys, s.at.Volatile = 0, 0
	for _, d := range there {
		s.databases = append(s.databases, d.Number)
		s.at.Keys += d.Keys
		s.at.Volatile += d.Volatile
	}
	s.at.Pass++
	s.at.Looked, s.at.took, s.at.found, s.at.again = 0, 0, false, again
	s.tell()
}

// step settles what comes next in the pass. The cursor moves on once all of it is settled.
func (s *settler) step(ctx context.Context) error {
	began := time.Now()
	if err := s.settle(ctx, settlePageScript, s.databases[s.db], s.cursor); err != nil {
		return err
	}
	if s.cursor == "0" {
		s.db++
	}
	s.at.took += time.Since(began)
	s.tell()
	return nil
}

// settle runs a script that settles what comes at a cursor, or these keys, and then what that has left: the fields of large hashes.
func (s *settler) settle(ctx context.Context, script string, db int, cursor string, keys ...string) error {
	reply, err := s.do(ctx, script, db, cursor, keys...)
	if err != nil {
		return err
	}
	s.count(db, reply)
	large, _ := reply[4].AsStrSlice()
	for _, key := range large {
		if err := s.hash(ctx, db, key); err != nil {
			return err
		}
	}
	s.cursor, _ = reply[0].ToString()
	return nil
}

// hash settles the fields of a large hash, a portion at a time.
func (s *settler) hash(ctx context.Context, db int, key string) error {
	for cursor := "0"; ; {
		reply, err := s.do(ctx, settleHashScript, db, cursor, key)
		if err != nil {
			return err
		}
		s.count(db, reply)
		s.tell()
		if cursor, _ = reply[0].ToString(); cursor == "0" {
			return nil
		}
	}
}

// count takes what a script says that it has done.
func (s *settler) count(db int, reply []rueidis.RedisMessage) {
	looked, k, f := counted(&reply[1]), counted(&reply[2]), counted(&reply[3])
	s.at.Looked += looked
	s.at.Settled += k
	s.at.Fields += f
	s.at.found = s.at.found || k+f > 0 && !s.once
	nearest, _ := reply[5].AsStrSlice()
	for i := 0; i+1 < len(nearest); i += 2 {
		s.near.add(db, nearest[i], parseInt(nearest[i+1]))
	}
}

// counted is a number of things, for people; 0 for what is none.
func counted(reply *rueidis.RedisMessage) int64 {
	n, _ := reply.AsInt64()
	return max(0, n)
}

// settleReplies is how many replies each of the scripts gives.
const settleReplies = 6

// do runs a script of the pass, and then keeps off the target for as long as it has to.
func (s *settler) do(ctx context.Context, script string, db int, cursor string, keys ...string) ([]rueidis.RedisMessage, error) {
	began := time.Now()
	reply, err := s.conn.Do(ctx, s.conn.B().Eval().Script(script).Numkeys(int64(1+len(keys))).Key(checkpoint.OwnerKey(s.owner.name)).Key(keys...).
		Arg(s.form.arguments(s.owner.epoch, db, cursor, s.near.cutoff())...).Build()).ToArray()
	switch {
	case err != nil:
		return nil, fmt.Errorf("settle expiries: %w", replica.AuthStop("target", s.target, err))
	case len(reply) == 1: // the fence
		if epoch, _ := reply[0].ToString(); parseInt(epoch) > s.owner.epoch {
			return nil, s.owner.overtaken(ctx, s.conn)
		}
		return nil, errLost
	case len(reply) != settleReplies:
		return nil, fmt.Errorf("settle expiries: the target gave %d replies for %d", len(reply), settleReplies)
	}
	if s.busy != nil && s.busy() {
		select {
		case <-ctx.Done():
		case <-time.After(min(idleShare*time.Since(began), idleMost)):
		}
	}
	return reply, nil
}

// arguments are the ARGV of settling's scripts.
func (f split) arguments(epoch int64, db int, cursor string, cut int64) []string {
	return []string{
		strconv.FormatInt(f.real, 10), strconv.FormatInt(epoch, 10), strconv.Itoa(db), cursor,
		strconv.FormatInt(f.below, 10), strconv.FormatInt(cut, 10),
	}
}

func (s *settler) tell() {
	if s.report != nil {
		s.report(s.at)
	}
}

func (s *settler) info(ctx context.Context) (map[string]string, error) {
	text, err := s.conn.Do(ctx, s.conn.B().Info().Build()).ToString()
	if err != nil {
		return nil, fmt.Errorf("ask the target what it holds: %w", replica.AuthStop("target", s.target, err))
	}
	return replica.ParseInfo(text), nil
}
