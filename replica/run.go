package replica

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"
)

// RunConfig is what Run needs to know of the source, and when to end.
type RunConfig struct {
	Source        Endpoint
	ListeningPort int    // announced to the source; nothing that speaks Redis may listen there (protocol 1.9)
	PSYNCCommand  string // the source's name for PSYNC; empty means PSYNC
	AckLiveness   bool   // acknowledge offset 0 instead of the checkpoint, for sources that use WAIT or FAILOVER
	StopAt        StopAt
	Status        *Status
	Log           zerolog.Logger
}

// StopAt says when a run is over by itself.
type StopAt struct {
	CaughtUp bool  // once the target has all that the source had when the run was in sync for the first time
	Offset   int64 // once the unit that reaches this offset is in the target; 0 for never
}

// errStopAt ends an attempt whose StopAt is reached.
var errStopAt = errors.New("stop-at reached")

// Run replicates from the source into the sink until ctx ends, until StopAt is reached, or until it must stop. It returns nil in the
// first two cases, with everything that was read durable in the target; otherwise a *[Stop] or [ErrCompleted]. All other errors are waited out.
func Run(ctx context.Context, c RunConfig, sink Sink) error {
	r := &run{RunConfig: c, sink: sink}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 100 * time.Millisecond
	pause.MaxInterval = 10 * time.Second
	for {
		r.begun = notBegun
		err := r.attempt(ctx)
		switch {
		case errors.Is(err, errStopAt), ctx.Err() != nil && AsStop(err) == nil:
			return nil
		case errors.Is(err, ErrCompleted), AsStop(err) != nil:
			return err
		}
		var garbage *ProtocolError
		if errors.As(err, &garbage) {
			return &Stop{
				Kind: Failed, Reason: fmt.Sprintf("the source %s does not speak the replication protocol here", c.Source), Err: err,
				Hint: "nothing of it was applied; see what is between redferry and the source, and run the same command again",
			}
		}
		// An attempt that brought the target forward is repeated at once: the backlog ages meanwhile. Others are given time, above all those
		// that cost the source a fork and came to nothing.
		wait := time.Duration(0)
		if have, _ := sink.Checkpointed(); have > r.begun {
			pause.Reset()
		} else {
			wait = pause.NextBackOff()
		}
		c.Status.Wait(err.Error())
		c.Status.Reconnects.Add(1)
		c.Log.Debug().Err(err).Dur("wait", wait).Msg("starting over")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// run is one call of Run.
type run struct {
	RunConfig
	sink  Sink
	begun int64 // what was checkpointed when this attempt had its Resume
}

const notBegun = math.MaxInt64

// attempt goes through all the steps from nothing to a broken link. It never returns nil.
func (r *run) attempt(ctx context.Context) error {
	r.Status.Set(Connecting, "asking source and target where they are")
	src, err := dialSource(r.Source)
	if err != nil {
		return err
	}
	defer src.close()
	info, err := src.info(ctx)
	if err != nil {
		return err
	}
	if src.blind && r.StopAt.CaughtUp {
		return &Stop{
			Kind: Config, Reason: fmt.Sprintf("the source %s does not permit INFO, so that nobody can tell when the target is caught up", r.Source),
			Hint: "ACL SETUSER <user> +info on the source, or --stop-at with an offset",
		}
	}
	si, err := src.describe(ctx, r.Source, info)
	if err != nil {
		return err
	}
	resume, err := r.sink.Resume(ctx, si)
	if err != nil {
		return err
	}
	r.begun, _ = r.sink.Checkpointed()
	from, err := r.choose(ctx, src, resume)
	if err != nil {
		return err
	}

	link, err := Dial(ctx, LinkConfig{
		Endpoint: r.Source, ListeningPort: r.ListeningPort, PSYNCCommand: r.PSYNCCommand,
		ReadTimeout: src.readTimeout(ctx), OnWait: r.Status.Wait,
	})
	if err != nil {
		return err
	}
	defer link.Close()
	if from.IsZero() {
		r.Status.Set(Loading, "asking the source for its RDB")
	}
	reply, err := link.Sync(ctx, from)
	if err != nil {
		return err
	}
	r.Status.Go()
	at, news := reply.At, reply.At.ReplID != from.ReplID
	if reply.Full {
		news = false
		if resume.FullResync != nil {
			return r.refuse(resume, from, "it answered PSYNC with a full resync")
		}
		if at, err = r.snapshot(ctx, link, reply.At); err != nil {
			return err
		}
	}
	return r.stream(ctx, src, link, at, news)
}

// choose decides before PSYNC where to go on, so that a source is never made to fork for what the operator did not allow.
func (r *run) choose(ctx context.Context, src *source, resume Resume) (Position, error) {
	why := "there is no position to go on from"
	if !resume.From.IsZero() {
		if src.blind {
			r.Log.Warn().Msg("the source does not permit INFO: whether its backlog still has the checkpoint shows only at PSYNC")
			return resume.From, nil
		}
		info, err := src.info(ctx) // anew: the checkpoint may be younger than what the source said before
		if err != nil {
			return Position{}, err
		}
		b, err := ParseBacklog(info)
		if err != nil {
			return Position{}, err
		}
		var ok bool
		if ok, why = b.Has(resume.From); ok {
			return resume.From, nil
		}
		if info["role"] == "slave" && info["master_link_status"] == "down" {
			return Position{}, errors.New("the source is a replica that has lost its own primary")
		}
	}
	if resume.FullResync != nil {
		return Position{}, r.refuse(resume, resume.From, why)
	}
	r.Log.Info().Str("why", why).Msg("asking for a full resync")
	return Position{}, nil
}

// refuse is the end of a run that would need a full resync which the operator has not allowed.
func (r *run) refuse(resume Resume, from Position, why string) error {
	if from.IsZero() {
		return resume.FullResync
	}
	stop := resume.FullResync
	return &Stop{
		Kind: stop.Kind, Hint: stop.Hint,
		Reason: fmt.Sprintf("the source %s cannot continue from the checkpoint %s: %s; %s", r.Source, from, why, stop.Reason),
	}
}

// snapshot hands the RDB of a full resync to the sink and keeps the source's patience meanwhile.
func (r *run) snapshot(ctx context.Context, link *Link, at Position) (Position, error) {
	r.Status.FullResyncs.Add(1)
	transfer, err := link.Transfer(ctx)
	if err != nil {
		return Position{}, err
	}
	r.Status.Go()
	r.Status.SnapshotSize.Store(transfer.Size)
	r.Status.Set(Loading, fmt.Sprintf("full resync at offset %d of %s", at.Offset, at.ReplID))

	unblock := context.AfterFunc(ctx, func() { link.Close() })
	defer unblock()
	g, gctx := newGroup(ctx)
	g.Go(func() error {
		defer g.stop()
		var err error
		at, err = r.sink.Snapshot(gctx, Snapshot{
			At: at, Size: transfer.Size, RDB: transfer.Reader, End: link.EndTransfer, Interrupt: link.Interrupt,
		})
		return err
	})
	g.Go(func() error {
		err := every(gctx, time.Second, link.KeepAlive)
		if err != nil {
			link.Close() // nothing more will come: let go of a read that waits for it
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return Position{}, err
	}
	return at, nil
}

// stream follows the replication stream from at until something ends it. news says that at carries a replication ID that the checkpoint does not have yet.
func (r *run) stream(ctx context.Context, src *source, link *Link, at Position, news bool) error {
	r.Status.Received.Store(at.Offset)
	r.Status.Set(CatchingUp, fmt.Sprintf("from offset %d of %s, in database %d", at.Offset, at.ReplID, at.DB))
	asked := make(chan int64, 1) // the newest offset that a GETACK wants to hear
	g, gctx := newGroup(ctx)
	reading, done := context.WithCancel(context.WithoutCancel(gctx)) // Commit outlives the last Apply: what was read is written
	var committed error
	g.Go(func() error {
		committed = r.sink.Commit(reading)
		return committed
	})
	g.Go(func() error {
		defer done()
		return r.read(gctx, link, at, news, asked)
	})
	g.Go(func() error { return r.acknowledge(gctx, link, asked) })
	g.Go(func() error { return r.watch(gctx, src, at.ReplID) })
	err := g.Wait()
	if AsStop(committed) != nil && AsStop(err) == nil {
		err = committed // found while it drained, after another had ended the group
	}
	_ = r.ack(link) // what the drained target holds, if the source can still hear it
	if ctx.Err() != nil || errors.Is(err, errStopAt) {
		link.Leave()
	}
	return err
}

// read turns the link's bytes into units for the sink.
func (r *run) read(ctx context.Context, link *Link, at Position, news bool, asked chan int64) error {
	defer context.AfterFunc(ctx, link.Interrupt)()
	var u Unit
	if news {
		u.Start, u.End = at.Offset, at
		if err := r.sink.Apply(ctx, &u); err != nil {
			return err
		}
	}
	if r.StopAt.Offset > 0 && at.Offset >= r.StopAt.Offset {
		return r.reach(ctx, at.Offset)
	}
	stream := NewStream(link.Reader(), at)
	for {
		if err := stream.Next(&u); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read the stream of %s: %w", r.Source, err)
		}
		if err := r.sink.Apply(ctx, &u); err != nil {
			return err
		}
		r.Status.Received.Store(u.End.Offset)
		if u.GetAck {
			select { // the newest question replaces one that waits
			case <-asked:
			default:
			}
			asked <- u.End.Offset
		}
		if r.StopAt.Offset > 0 && u.End.Offset >= r.StopAt.Offset {
			return r.reach(ctx, u.End.Offset)
		}
	}
}

// reach waits until the target has everything up to offset; then the run is over.
func (r *run) reach(ctx context.Context, offset int64) error {
	for {
		have, moved := r.sink.Checkpointed()
		if have >= offset {
			return errStopAt
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// acknowledge tells the source each second, and whenever it asks, what is durable in the target.
func (r *run) acknowledge(ctx context.Context, link *Link, asked <-chan int64) error {
	// After a diskless transfer the source sends nothing before it was acknowledged, and it does not hear that before it has seen its own
	// child end: so the first words come more often.
	begin := r.Status.Received.Load()
	tick := time.NewTicker(time.Second / 10)
	defer tick.Stop()
	var wanted int64
	for n := 0; ; n++ {
		if n == 30 || r.Status.Received.Load() != begin {
			tick.Reset(time.Second)
		}
		if err := r.ack(link); err != nil {
			return err
		}
		have, moved := r.sink.Checkpointed()
		if have >= wanted {
			moved = nil // nobody waits for it
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case wanted = <-asked:
		case <-moved:
		}
	}
}

func (r *run) ack(link *Link) error {
	offset, _ := r.sink.Checkpointed()
	if r.AckLiveness {
		offset = 0
	}
	return link.Ack(offset)
}

// watch follows the source's own offset: it is the one that tells in sync from catching up.
//
// In sync means that what the source had at one look is in the target by the next: less than one interval of lag. Of a source that does not
// permit INFO nothing can be said.
func (r *run) watch(ctx context.Context, src *source, replID string) error {
	if src.blind {
		<-ctx.Done()
		return nil
	}
	const often, seldom = 100 * time.Millisecond, time.Second
	defer context.AfterFunc(ctx, src.close)() // a source that is frozen must not hold up the end
	seen := int64(-1)                         // the source's offset at the last look
	late := 0                                 // looks in a row by which that was not reached
	for {
		interval := often
		have, _ := r.sink.Checkpointed()
		switch state, _, _ := r.Status.Now(); {
		case seen < 0:
		case have >= seen:
			late = 0
			if state == CatchingUp {
				r.Status.Set(InSync, fmt.Sprintf("the target has all up to offset %d", seen))
			}
			if r.StopAt.CaughtUp {
				return errStopAt
			}
			interval = seldom
		case state == InSync:
			if late++; late > 20 { // one slow second is not a change of state
				r.Status.Set(CatchingUp, fmt.Sprintf("%d bytes behind the source", seen-have))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		offset, err := src.offset(ctx, replID)
		if err != nil {
			// The link has its own judgement of whether the source lives; without INFO there is only no news of the lag.
			r.Log.Debug().Err(err).Msg("no news of the source's offset")
			continue
		}
		seen = offset
		r.Status.SourceOffset.Store(seen)
	}
}
