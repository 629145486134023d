package replica

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// group is an errgroup whose members can also end it without an error.
type group struct {
	*errgroup.Group
	cancel context.CancelFunc
}

func newGroup(ctx context.Context) (*group, context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	return &group{Group: g, cancel: cancel}, ctx
}

// stop ends the others' context.
func (g *group) stop() { g.cancel() }

// Wait waits for all members; the group's context ends with it.
func (g *group) Wait() error {
	defer g.cancel()
	return g.Group.Wait()
}

// every calls f once an interval until ctx ends or f fails.
func every(ctx context.Context, interval time.Duration, f func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := f(); err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
	}
}
