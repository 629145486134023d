package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"redferry/replica/spool"
)

// RunConfig is what Run needs to know of the source, and when to end.
type RunConfig struct {
	Source        Endpoint
	ListeningPort int          // announced to the source; nothing that speaks Redis may listen there (protocol 1.9)
	PSYNCCommand  string       // the source's name for PSYNC; empty means PSYNC
	AckLiveness   bool         // acknowledge offset 0 instead of the checkpoint, for sources that use WAIT or FAILOVER
	Spool         *spool.Spool // between receiving and applying; Run is its only user meanwhile, and does not close it
	RaiseLimits   bool         // lift the source's client-output-buffer-limit for replicas while a snapshot is sent
	LimitsFile    string       // where is noted that it is lifted; in a directory that outlives the process, and empty for never
	Gate          *Gate        // pauses applying; nil for never
	StopAt        StopAt
	Cutover       *CutoverConfig // nil for a run that cannot be cut over
	Lost          *LostReplies   // nil for a run that only notes which replies were lost
	Status        *Status
	Log           zerolog.Logger
}

// StopAt says when a run is over by itself: when the target has so much, and has settled.
type StopAt struct {
	CaughtUp bool  // all that the source had when the run was in sync for the first time
	Offset   int64 // the unit that reaches this offset; 0 for never
}

// errStopAt ends a run whose StopAt is reached.
var errStopAt = errors.New("stop-at reached")

// Run replicates from the source into the sink until ctx ends, until StopAt is reached, or until it must stop. It returns nil in the
// first two cases, with everything that the sink took durable in the target; otherwise a *[Stop] or [ErrCompleted]. All other errors are waited out.
//
// Two loops run side by side, receiving into the spool and applying from it. Each begins anew after any error of its own, and leaves the other alone.
func Run(ctx context.Context, c RunConfig, sink Sink) error {
	r := &run{RunConfig: c, sink: sink, whole: ctx, asked: make(chan int64, 1), caughtUp: make(chan struct{}), lost: newLost()}
	r.Source.own = &ownConns{}
	r.autoPause = backoff.ExponentialBackOff{InitialInterval: autoAgain, MaxInterval: autoSeldom, Multiplier: 2}
	r.autoPause.Reset()
	r.desk = newDesk(func(resume Resume) bool { return serves(r.Spool, resume, r.granted.Load()) })
	r.Status.Set(Connecting, "asking source and target where they are")
	defer r.Gate.watch(r.Status.Pause)()
	applying, endApplying := context.WithCancel(ctx)
	defer endApplying()
	receiving, endReceiving := context.WithCancel(context.WithoutCancel(ctx))
	received := make(chan error, 1)
	go func() {
		received <- r.again(receiving, OnSource, r.receive)
		endApplying()
	}()
	err := r.again(applying, OnTarget, r.apply)
	endReceiving() // only now: what was applied last is acknowledged still
	if other := <-received; err == nil {
		err = other
	}
	if errors.Is(err, ErrCompleted) {
		err = r.finishLate(ctx, err)
	}
	return err
}

// run is one call of Run.
type run struct {
	RunConfig
	sink  Sink
	desk  *desk
	whole context.Context // Run's own, for what a new attempt must not break off

	asked     chan int64    // the newest offset that a GETACK wants to hear
	durable   atomic.Bool   // what the target's checkpoint says belongs to the history that is received: it may be acknowledged
	caughtUp  chan struct{} // closed when the run is in sync, where that is what it stops at
	inSync    sync.Once     // closes it
	clocks    clocks
	closingUp atomic.Bool // the lag has to be known better than at other times
	granted   atomic.Bool // the spool's snapshot may replace what the target holds: this run has asked for it with the operator's leave

	// Receiving's own.
	denied Position  // that the source, against what its INFO said, could not go on from
	unsure time.Time // since when what is named as the source cannot go on; zero while it can
	cuts   cuts      // of links by the source, because of its buffer limit
	stuck  stuck     // links that continued and brought nothing, because of it
	ended  time.Time // when the last link ended that had come to its stream

	// Applying's own.
	lost       lost
	garbage    int64                      // the offset at which the stream could not be read the last time
	badRDBs    int                        // snapshots in a row that came damaged
	unreadable int                        // attempts in a row that the spool's disk has ended
	closing    *closing                   // a cutover behind its point of no return, which ends the stream; nil for none
	autoAfter  time.Time                  // before which an automatic cutover is not tried again
	autoPause  backoff.ExponentialBackOff // until it is

	lookedAtRefusal bool // whether the source refuses writes because of a cutover that this migration knows nothing of
}

// again repeats one side's attempts until ctx ends or one of them says that the run is over. attempt tells whether it got forward.
func (r *run) again(ctx context.Context, side Side, attempt func(context.Context) (progress bool, err error)) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 100 * time.Millisecond
	pause.MaxInterval = 10 * time.Second
	for {
		progress, err := attempt(ctx)
		var garbage *ProtocolError
		switch {
		case errors.Is(err, ErrCompleted), AsStop(err) != nil:
			return err
		case errors.Is(err, errStopAt), ctx.Err() != nil:
			return nil
		case errors.As(err, &garbage):
			return &Stop{
				Kind: Failed, Reason: fmt.Sprintf("the source %s does not speak the replication protocol here", r.Source), Err: err,
				Hint: "nothing of it was applied; see what is between redferry and the source, and run the same command again",
			}
		case errors.Is(err, errRecalled), errors.Is(err, errReplan), errors.Is(err, errNotCut), errors.Is(err, spool.ErrDropped): // nothing is wrong on this side
			continue
		}
		// What got forward is repeated at once: the backlog ages meanwhile. Others are given time, above all those that cost the source a fork and
		// came to nothing.
		wait := time.Duration(0)
		if progress {
			pause.Reset()
		} else {
			wait = pause.NextBackOff()
		}
		r.Status.Wait(side, err.Error())
		r.Status.Reconnects.Add(1)
		r.Log.Debug().Err(err).Dur("wait", wait).Msg("starting over")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
