package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// errSignal is the cause of a context that a signal has ended.
var errSignal = errors.New("received")

// signalContext ends at the first SIGTERM or Ctrl-C, with the signal as its cause. A second one ends the process at once, with exit code 1: the
// target's checkpoint says how far it is, and the same command goes on from there.
func signalContext() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case sig := <-signals:
				if n > 0 {
					os.Exit(exitFailed)
				}
				name := "SIGTERM"
				if sig == os.Interrupt {
					name = "SIGINT"
				}
				cancel(fmt.Errorf("%s %w", name, errSignal))
			case <-end:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(end)
		<-ended
		cancel(nil)
	}
}
