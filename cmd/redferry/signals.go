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

// signalContext ends at the first SIGTERM, Ctrl-C or SIGHUP, with the signal as its cause. A second one ends the process at once, with exit code 1: the
// target's checkpoint says how far it is, and the same command goes on from there. A terminal that hangs up may say so twice, which counts once; nohup keeps it from being heard at all.
func signalContext() (context.Context, func()) {
	names := map[os.Signal]string{os.Interrupt: "SIGINT", syscall.SIGTERM: "SIGTERM", syscall.SIGHUP: "SIGHUP"}
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case sig := <-signals:
				switch {
				case ctx.Err() == nil:
					cancel(fmt.Errorf("%s %w", names[sig], errSignal))
				case sig != syscall.SIGHUP:
					os.Exit(exitFailed)
				}
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
