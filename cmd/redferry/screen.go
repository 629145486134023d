package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"
	"golang.org/x/term"

	"redferry/replica"
	"redferry/replica/admin"
)

// screenFlags say how a run shows itself.
type screenFlags struct {
	LogFormat   string        `enum:"auto,console,json" default:"auto" help:"Console with a progress bar on a terminal, JSON elsewhere (${enum})."`
	LogLevel    string        `enum:"debug,info,warn,error" default:"info" help:"${enum}."`
	LogInterval time.Duration `default:"5s" help:"How often progress is logged where there is no terminal; 0 for never."`
}

// screen is what a run shows of itself: its log, and its progress in a goroutine between begin and end.
type screen struct {
	log      zerolog.Logger
	status   *replica.Status
	level    *levelGate
	interval atomic.Int64 // ns between lines of progress in the log; 0 for none
	bar      *bar         // on a terminal, else nil
	console  bool
	began    time.Time

	latest  atomic.Pointer[replica.View]
	stop    func()        // ends the goroutine; nil before begin
	done    chan struct{} // closed when it has ended
	loading bool          // it ended in the midst of a snapshot; to be read after done
}

func newScreen(f screenFlags, s *streams, status *replica.Status) *screen {
	file, ok := s.err.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	sc := &screen{status: status, level: &levelGate{}, began: time.Now()}
	sc.interval.Store(int64(f.LogInterval))
	sc.console = f.LogFormat == "console" || f.LogFormat == "auto" && terminal
	var w io.Writer = s.err
	if sc.console && terminal {
		sc.bar = newBar(file)
		w = sc.bar
	}
	if sc.console {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !terminal || os.Getenv("NO_COLOR") != ""}
	}
	if err := sc.level.set(f.LogLevel); err != nil { // not possible behind the flag's enum
		sc.level.Store(int32(zerolog.InfoLevel))
	}
	sc.log = zerolog.New(w).Level(zerolog.DebugLevel).Sample(sc.level).With().Timestamp().Logger()
	if !sc.console {
		s.json = &sc.log
	}
	for _, text := range s.warnings {
		sc.log.Warn().Msg(text)
	}
	states := stateLog{log: sc.log, console: sc.console}
	status.Observe = states.observe
	return sc
}

// levelGate is a log level that can change: copies of a logger keep their own.
type levelGate struct{ atomic.Int32 }

// Sample tells whether something of this level is logged.
func (g *levelGate) Sample(level zerolog.Level) bool { return level >= zerolog.Level(g.Load()) }

// logLevels are what --log-level may be.
const logLevels = "debug,info,warn,error"

func (g *levelGate) set(text string) error {
	level, err := zerolog.ParseLevel(strings.ToLower(text))
	if err != nil || !slices.Contains(strings.Split(logLevels, ","), level.String()) {
		return fmt.Errorf("must be one of %s", logLevels)
	}
	g.Store(int32(level))
	return nil
}

// settings are the flags that may change while the run goes on.
func (s *screen) settings() []admin.Setting {
	return []admin.Setting{
		{Name: "log-level", Get: func() string { return zerolog.Level(s.level.Load()).String() }, Set: s.level.set},
		{Name: "log-interval", Get: func() string { return time.Duration(s.interval.Load()).String() }, Set: func(text string) error {
			d, err := admin.DurationText(text)
			if err == nil {
				s.interval.Store(int64(d))
			}
			return err
		}},
	}
}

// alsoTell has another one hear of the changes of state. It is called before the run begins.
func (s *screen) alsoTell(f func(replica.State, string)) {
	first := s.status.Observe
	s.status.Observe = func(state replica.State, why string) {
		first(state, why)
		f(state, why)
	}
}

// now is the run at this moment; what follows from several looks is as it was at the last one.
func (s *screen) now() replica.View {
	var v replica.View
	if latest := s.latest.Load(); latest != nil {
		v = *latest
	}
	v.State, v.Why, v.Since = s.status.Now()
	v.Phase, v.Paused = s.status.Base(), s.status.IsPaused()
	return v
}

// stateLog logs changes of state. Status calls it under its lock: one goroutine at a time.
type stateLog struct {
	log     zerolog.Logger
	console bool
	last    struct { // of the waits
		why string
		at  time.Time
	}
	waits bool
}

// sameWait is how often the same reason to wait is logged: a source that is away is asked again each few seconds.
const sameWait = time.Minute

func (l *stateLog) observe(state replica.State, why string) {
	level := zerolog.InfoLevel
	switch state {
	case replica.Waiting:
		if why == l.last.why && time.Since(l.last.at) < sameWait {
			level = zerolog.DebugLevel
		} else {
			l.last.why, l.last.at = why, time.Now()
		}
	case replica.Connecting:
		if l.waits { // it tries again, which the wait has said
			level = zerolog.DebugLevel
		}
	}
	l.waits = state == replica.Waiting || state == replica.Connecting
	if why = redact(why); l.console {
		l.log.WithLevel(level).Msg(string(state) + ": " + why)
		return
	}
	l.log.WithLevel(level).Str("state", string(state)).Msg(why)
}

// begin starts to show progress. ctx is the run's.
func (s *screen) begin(ctx context.Context) {
	s.began = time.Now()
	showing, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop, s.done = stop, make(chan struct{})
	go func() {
		defer close(s.done)
		s.show(showing, ctx)
	}()
}

// show looks at the status several times a second until ctx ends. It says so when the run's context does.
func (s *screen) show(ctx, run context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var m replica.Meter
	logged, asked := time.Now(), run.Done()
	first := m.Look(s.status, logged)
	s.latest.Store(&first)
	for {
		select {
		case <-ctx.Done():
			s.loading = s.status.Base() == replica.Loading
			return
		case <-asked:
			asked = nil
			if s.bar != nil {
				s.bar.interrupted()
			}
			s.log.Info().Msgf("%v: finishing what was read, then stopping; a second one stops at once", context.Cause(run))
		case <-tick.C:
		}
		now := time.Now()
		v := view{m.Look(s.status, now)}
		s.latest.Store(&v.View)
		switch {
		case s.bar != nil:
			s.bar.set(v)
		case s.every(now.Sub(logged)):
			logged = now
			v.log(s.log)
		}
	}
}

// every tells whether a line of progress is due so long after the last one.
func (s *screen) every(since time.Duration) bool {
	interval := time.Duration(s.interval.Load())
	return interval > 0 && since >= interval
}

// log writes a view as a line of fields.
func (v *view) log(log zerolog.Logger) {
	e := log.Info().Str("state", string(v.State)).Str("why", redact(v.Why))
	if v.Loading() {
		e.Int64("snapshot_bytes", v.Snapshot.Read).Int64("snapshot_size", v.Snapshot.Size).Int64("snapshot_received", v.Snapshot.Received).
			Int64("snapshot_keys", v.Snapshot.Keys).Int64("snapshot_total", v.Snapshot.Total).
			Int64("bytes_per_s", int64(v.Rate.Bytes)).Int64("keys_per_s", int64(v.Rate.Keys))
	} else {
		e.Int64("received", v.Offset.Received).Int64("checkpointed", v.Offset.Checkpointed).Int64("source_offset", v.Offset.Source)
		if v.Lag.Bytes >= 0 {
			e.Int64("lag_bytes", v.Lag.Bytes).Int64("to_receive_bytes", v.Lag.ToReceive).Int64("to_apply_bytes", v.Lag.ToApply)
		}
		if v.Lag.Time >= 0 {
			e.Float64("lag_seconds", time.Duration(v.Lag.Time).Round(100*time.Millisecond).Seconds())
		}
		if v.State == replica.Settling {
			e.Int64("settled", v.Settle.Settled).Int64("settle_keys", v.Settle.Seen).Int64("settle_total", v.Settle.Total)
		}
		e.Int64("commands", v.Applied.Commands).Int64("commands_per_s", int64(v.Rate.Commands))
	}
	if v.Left > 0 {
		e.Int64("left_seconds", int64(time.Duration(v.Left).Seconds()))
	}
	e.Int64("spool_bytes", v.Spool.Used).Int64("rejected", v.Loss.Rejected).Int64("divergence", v.Loss.Divergence).Int64("evicted", v.Loss.Evicted).Msg("progress")
}

// end stops showing progress and, when the run has done what it should, sums it up.
func (s *screen) end(ctx context.Context, err error, stopAt string) {
	if s.stop != nil {
		s.stop()
		<-s.done
	}
	if s.bar != nil {
		s.bar.close()
	}
	if err != nil {
		return
	}
	why := "the target has all that was read of the source"
	switch {
	case s.status.Base() == replica.Completed:
		why = "cut over: the target is the one to write to"
	case errors.Is(context.Cause(ctx), errSignal) && s.status.Base() == replica.Connecting && s.status.Checkpointed.Load() == 0:
		why = "stopped before it knew both ends, and has done nothing"
	case errors.Is(context.Cause(ctx), errSignal) && s.loading:
		why = "stopped in the midst of the snapshot; the same command goes on with it if all of the RDB has arrived, and else begins it again"
	case errors.Is(context.Cause(ctx), errSignal):
		why = "stopped; the same command goes on from here. Meanwhile no key expires in the target: cutover, --stop-at caught-up, or reset, gives it the source's TTLs"
	case stopAt == "caught-up":
		why = "caught up: the target has all that the source had when it was in sync"
	case stopAt != "":
		why = "the target has all up to offset " + stopAt
	}
	p, took := &s.status.Progress, time.Since(s.began)
	if s.console {
		s.log.Info().Msg(why + ". " + summary(p, took))
		return
	}
	s.log.Info().Int64("snapshot_keys", p.SnapshotKeys.Load()).Int64("snapshot_bytes", p.SnapshotRead.Load()).
		Int64("commands", p.Commands.Load()).Int64("transactions", p.Transactions.Load()).Int64("checkpointed", p.Checkpointed.Load()).
		Int64("full_resyncs", p.FullResyncs.Load()).Int64("reconnects", p.Reconnects.Load()).Int64("rejected", p.Rejected.Load()).Int64("evicted", p.Evicted.Load()).
		Int64("divergence", p.Divergence.Load()).Str("divergence_kinds", divergenceKinds(p)).
		Float64("seconds", took.Round(time.Millisecond).Seconds()).Int("exit_code", exitDone).Msg(why)
}

// summary tells what a run has done, in a sentence.
func summary(p *replica.Progress, took time.Duration) string {
	var parts []string
	if keys := p.SnapshotKeys.Load(); keys > 0 || p.FullResyncs.Load() > 0 {
		parts = append(parts, fmt.Sprintf("%s keys of a snapshot (%s)", humanize.Comma(keys), humanize.Bytes(uint64(p.SnapshotRead.Load()))))
	}
	parts = append(parts, humanize.Comma(p.Commands.Load())+" commands of the stream, up to offset "+humanize.Comma(p.Checkpointed.Load()))
	counts := []string{plural(p.FullResyncs.Load(), "full resync"), plural(p.Reconnects.Load(), "reconnect"), plural(p.Rejected.Load(), "refused write")}
	if n := p.Settled.Load(); n > 0 {
		counts = append(counts, humanize.Comma(n)+" expiries settled")
	}
	if n := p.Evicted.Load(); n > 0 {
		counts = append(counts, plural(n, "key")+" that the target evicted")
	}
	text := fmt.Sprintf("In %s: %s; %s", short(took), strings.Join(parts, ", "), strings.Join(counts, ", "))
	if n := p.Divergence.Load(); n > 0 {
		text += fmt.Sprintf(". The target differs from the source: that has shown %s since the snapshot (%s)", plural(n, "time"), divergenceKinds(p))
	}
	return text
}

// divergenceKinds is the divergence by command.
func divergenceKinds(p *replica.Progress) string {
	if kinds := p.DivergenceKinds.Load(); kinds != nil {
		return *kinds
	}
	return ""
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return humanize.Comma(n) + " " + what + "s"
}

// short is a duration for people: two parts at most.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// switchWriter writes to one writer until that is done with, then to another.
type switchWriter struct {
	mu    sync.Mutex
	first io.Writer // nil once it is done with
	then  io.Writer
}

func (w *switchWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first != nil {
		return w.first.Write(p)
	}
	return w.then.Write(p)
}

// leave ends the use of the first writer; when it returns no Write is in it.
func (w *switchWriter) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.first = nil
}
