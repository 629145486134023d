package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"redferry/replica"
)

// logFlags say how a run shows itself.
type logFlags struct {
	LogFormat string `enum:"auto,console,json" default:"auto" help:"Console on a terminal, JSON elsewhere (${enum})."`
	LogLevel  string `enum:"debug,info,warn,error" default:"info" help:"${enum}."`
}

// screen is what a run shows of itself.
type screen struct {
	log    zerolog.Logger
	status *replica.Status
}

func (f logFlags) screen(s *streams, status *replica.Status) *screen {
	file, ok := s.err.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	var w io.Writer = s.err
	if f.LogFormat == "console" || f.LogFormat == "auto" && terminal {
		w = zerolog.ConsoleWriter{Out: s.err, TimeFormat: time.TimeOnly, NoColor: !terminal}
	}
	sc := &screen{status: status, log: zerolog.New(w).Level(level(f.LogLevel)).With().Timestamp().Logger()}
	status.Observe = func(state replica.State, why string) {
		sc.log.Info().Str("state", string(state)).Msg(why)
	}
	return sc
}

func (s *screen) end(ctx context.Context, err error) {
	if err == nil {
		s.log.Info().Int64("offset", s.status.Checkpointed.Load()).Msg("stopped; everything that was read is in the target")
	}
}
