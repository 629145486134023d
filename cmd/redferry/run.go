package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"redferry/applier"
	"redferry/applier/verify"
	"redferry/replica"
	"redferry/replica/admin"
)

type runCmd struct {
	Source    string   `required:"" placeholder:"URL" help:"The server to replicate from, as for --target."`
	SourceTLS tlsFlags `embed:"" prefix:"source-tls-" group:"TLS to the source:"`
	targetFlags
	homeFlags
	planFlags

	StopAt            string            `placeholder:"caught-up|OFFSET" help:"Settle and end, with exit code 0, once the target has all that the source had when redferry was in sync for the first time, or all up to this replication offset."`
	OnError           string            `enum:"stop,continue" default:"stop" help:"When the target refuses a write for good: stop with exit code 4, or keep it in rejected.resp and go on (${enum})."`
	TTLGrace          time.Duration     `name:"ttl-grace" default:"60s" help:"For how long the target may stall, or redferry be away, while it settles without losing a key."`
	Takeover          bool              `help:"Replace a process that owns this migration and lives, on another machine; one on this machine is to be stopped."`
	Ack               string            `enum:"durable,liveness" default:"durable" help:"What to acknowledge to the source: what is in the target, or offset 0, for a source whose clients use WAIT or FAILOVER (${enum})."`
	RenamedCommand    map[string]string `placeholder:"NEW=USUAL" help:"A command that the source has under another name, as NEW=USUAL; may be repeated."`
	AnnouncePort      int               `default:"0" help:"The port to announce to the source. Nothing that speaks Redis may listen there."`
	SnapshotPipelines int               `default:"3" help:"Connections that load the snapshot. CONFIG SET on the admin socket changes it while the run goes on."`
	MaxRate           byteSize          `placeholder:"SIZE" help:"Most of the source's data to apply in a second, as 20MB, snapshot and stream; no limit by default. It may be changed while the run goes on, too."`
	TargetTimeout     time.Duration     `default:"1m" help:"How long one round trip to the target may take, however large."`
	OnState           string            `placeholder:"COMMAND" help:"A shell command to run on every change of state, with REDFERRY_STATE, REDFERRY_WHY and REDFERRY_NAME in its environment."`
	autoFlags
	spoolFlags
	adminFlags
	MetricsAddr string `placeholder:"HOST:PORT" help:"Serve /metrics for Prometheus, /healthz and /readyz at this address, to whoever asks."`
	screenFlags
}

// Run replicates until it is told to stop.
func (c *runCmd) Run(ctx context.Context, s *streams) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	status := &replica.Status{}
	screen := newScreen(c.screenFlags, s, status)
	err := c.replicate(ctx, screen, func() { cancel(fmt.Errorf("SHUTDOWN %w", errSignal)) })
	screen.end(ctx, err, c.StopAt)
	return err
}

// replicate is Run; shutdown ends it as a signal does.
func (c *runCmd) replicate(ctx context.Context, screen *screen, shutdown func()) (err error) {
	source, err := endpoint("source", c.Source, c.SourceTLS)
	if err != nil {
		return err
	}
	target, err := endpoint("target", c.Target, c.TargetTLS)
	if err != nil {
		return err
	}
	if err := within("run", limit{"--ttl-grace", c.TTLGrace > 0, "more than 0"}, limit{"--target-timeout", c.TargetTimeout > 0, "more than 0"},
		limit{"--snapshot-pipelines", validPipelines(c.SnapshotPipelines), pipelinesMust}, limit{"--announce-port", c.AnnouncePort >= 0 && c.AnnouncePort < 1<<16, "0 to 65535"},
		limit{"--cutover-timeout", c.CutoverTimeout > 0, "more than 0"}, limit{"--log-interval", c.LogInterval >= 0, "0 or more"}); err != nil {
		return err
	}
	stopAt, err := parseStopAt(c.StopAt)
	if err != nil {
		return err
	}
	if err := c.adminFlags.check(); err != nil {
		return err
	}
	if c.Auto && c.StopAt != "" {
		return &replica.Stop{Kind: replica.Config, Reason: "--auto and --stop-at exclude each other", Hint: "--auto ends the run, too"}
	}
	home, err := c.open()
	if err != nil {
		return err
	}
	defer home.Close()
	spool, err := c.openSpool(home)
	if err != nil {
		return err
	}
	defer func() {
		if closing := spool.Close(); err == nil && closing != nil {
			err = closing
		}
	}()

	log := screen.log
	log.Info().Str("source", source.String()).Str("target", target.String()).Str("name", c.Name).Str("dir", home.Dir()).
		Str("version", versionText()).Msg("redferry starts")
	if found := spool.Found(); found != "" {
		log.Info().Msg(found)
	}
	var h *hook
	if c.OnState != "" {
		h = newHook(c.OnState, c.Name, filepath.Dir(home.Dir()), log)
	}
	journal := newJournal(home, h, log)
	defer func() { journal.end(err, endOf(ctx, c.StopAt)) }()
	screen.alsoTell(journal.observe)
	gate, pipelines := &replica.Gate{}, applier.NewPipelines(c.SnapshotPipelines)
	gate.SetRate(int64(c.MaxRate))
	cutovers := &cutovers{
		ends: verify.Config{Source: source, Target: target, Name: c.Name, TTLTolerance: ttlTolerance}, hook: c.OnCutover, name: c.Name, orders: replica.NewOrders(), stops: c.StopAt != "", log: log,
	}
	controls := admin.Controls{
		Report: reporter(c.identity(source, target, home), screen), Gate: gate, Events: eventsFile(home.Dir()), Settings: append(screen.settings(), speedSettings(gate, pipelines)...), Shutdown: shutdown,
	}
	services, err := c.services(home, controls, cutovers.command(), log)
	if err != nil {
		return err
	}
	a := applier.New(applier.Config{
		Name: c.Name, Target: target, Home: home,
		OnFullResync: applier.Choice(c.OnFullResync), OnNotEmpty: applier.Choice(c.OnTargetNotEmpty),
		Takeover: c.Takeover, KeepGoing: c.OnError == "continue", DropPublish: !c.Publish, Rename: renames(c.RenamedCommand),
		Expiry: applier.Expiry(c.Expiry), TTLGrace: c.TTLGrace, Pipelines: pipelines, Timeout: c.TargetTimeout, Status: screen.status, Log: log,
	})
	defer a.Close()
	screen.begin(ctx)
	config := replica.RunConfig{
		Source: source, ListeningPort: c.AnnouncePort, PSYNCCommand: c.PsyncCommand, AckLiveness: c.Ack == "liveness", Gate: gate,
		Spool: spool, RaiseLimits: c.RaiseSourceLimits, LimitsFile: limitsFile(home), StopAt: stopAt, Status: screen.status, Log: log,
		Cutover: cutovers.config(&c.autoFlags, a, home.Dir()), Lost: &replica.LostReplies{Record: a, Compare: compareKeys(cutovers.ends)},
	}
	return beside(ctx, log, func() error { return replica.Run(ctx, config, a) }, services...)
}

// endOf says why a run ended that did what it should.
func endOf(ctx context.Context, stopAt string) string {
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause.Error()
	case stopAt == "":
		return "the migration is completed"
	}
	return "--stop-at " + stopAt + " is reached"
}

func parseStopAt(text string) (replica.StopAt, error) {
	switch text {
	case "":
		return replica.StopAt{}, nil
	case "caught-up":
		return replica.StopAt{CaughtUp: true}, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return replica.StopAt{}, &replica.Stop{
			Kind: replica.Config, Reason: fmt.Sprintf("--stop-at %q is neither caught-up nor an offset above 0", text), Hint: "redferry run --help",
		}
	}
	return replica.StopAt{Offset: n}, nil
}

func renames(m map[string]string) applier.RenameMap {
	out := applier.RenameMap{}
	for renamed, usual := range m {
		out[strings.ToUpper(renamed)] = strings.ToUpper(usual)
	}
	return out
}
