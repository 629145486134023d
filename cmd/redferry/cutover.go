package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier/verify"
	"redferry/replica"
	"redferry/replica/admin"
)

// cutoverFile is where is noted what a cutover has changed at the source.
func cutoverFile(dir string) string { return filepath.Join(dir, "cutover") }

// cutoverChoice is how a cutover is to be made: run has it for one that nobody asks for, and cutover for one that is.
type cutoverChoice struct {
	SourceWrites  string `enum:"pause,stopped" default:"pause" help:"How the source's writes are stopped: by a pause, or, where that does not stop them, by you, before: on a source that is a replica, or older than Redis 6.2.7 (${enum})."`
	SourceClients string `enum:"keep,kick" default:"keep" help:"What becomes of the source's clients behind it: they stay connected, or their connections are closed, so that those that wait there notice (${enum})."`
	SourceAfter   string `enum:"refuse,paused,open" default:"refuse" help:"What becomes of the source: it refuses writes, it has them wait for the rest of the pause, or it goes on as before (${enum})."`
}

// autoFlags are a run's, for the cutover.
type autoFlags struct {
	Auto           bool          `help:"Cut over as soon as the target is in sync, without being asked."`
	CutoverTimeout time.Duration `default:"30s" help:"With --auto: for how long the source's writes may be stopped before that is given up."`
	CutoverVerify  verify.Mode   `enum:"none,count,sample,full" default:"count" help:"With --auto: what to compare while the source's writes are stopped (${enum})."`
	OnCutover      string        `placeholder:"COMMAND" help:"A shell command to run once the target is the one to write to, and before writes that wait at the source are let go, with REDFERRY_NAME, REDFERRY_OFFSET, REDFERRY_REPLID and REDFERRY_STOPPED_MS in its environment."`
	cutoverChoice
}

// cutoverOrder is what CUTOVER takes, as JSON.
type cutoverOrder struct {
	Timeout       time.Duration `json:"timeout"`
	Force         bool          `json:"force"`
	SourceWrites  string        `json:"source_writes"`
	SourceAfter   string        `json:"source_after"`
	SourceClients string        `json:"source_clients"`
	Verify        verify.Mode   `json:"verify"`
}

// cutoverResult is what CUTOVER answers, as JSON; people script against it.
type cutoverResult struct {
	ReplID         string  `json:"replid"`
	Offset         int64   `json:"offset"`
	StoppedSeconds float64 `json:"stopped_seconds"` // for how long writes were; 0 when they were stopped before
	Source         string  `json:"source"`
	Resumed        bool    `json:"resumed"`
	HookError      string  `json:"hook_error"`     // why --on-cutover has failed; "" where it has not
	Clients        int64   `json:"source_clients"` // that are still connected to the source; -1 when it does not say
	Ended          int64   `json:"ended_clients"`  // of the source, whose connections --source-clients=kick has closed
}

// clients says what has become of the source's clients; "" when nobody knows, or there are none.
func (r *cutoverResult) clients() string {
	var text []string
	if r.Ended > 0 {
		text = append(text, fmt.Sprintf("closed the connections of %s", plural(r.Ended, "client")))
	}
	if r.Clients > 0 {
		text = append(text, fmt.Sprintf("%s still connected there", plural(r.Clients, "client")))
	}
	return strings.Join(text, "; ")
}

// cutovers is a run's side of them.
type cutovers struct {
	ends   verify.Config // which servers
	hook   string
	name   string
	orders *replica.Orders
	stops  bool // the run ends by itself
	log    zerolog.Logger

	mu       sync.Mutex
	underWay *askedCutover // by CUTOVER; nil for none
}

// askedCutover is one on its way.
type askedCutover struct {
	back  context.CancelCauseFunc // takes it back, if it comes in time
	ended chan struct{}           // closed when it has come to an end
	err   error                   // that it has ended with
}

// config is what the run needs.
func (c *cutovers) config(f *autoFlags, closer replica.Closer, dir string) *replica.CutoverConfig {
	conf := &replica.CutoverConfig{
		Closer: closer, Orders: c.orders, File: cutoverFile(dir), Completed: c.completed,
		CompareAll: c.compareAll,
	}
	if f.Auto {
		auto := c.cutover(cutoverOrder{Timeout: f.CutoverTimeout, SourceWrites: f.SourceWrites, SourceAfter: f.SourceAfter, SourceClients: f.SourceClients, Verify: f.CutoverVerify})
		conf.Auto = &auto
	}
	return conf
}

func (c *cutovers) cutover(o cutoverOrder) replica.Cutover {
	r := replica.Cutover{
		Timeout: o.Timeout, Force: o.Force, WritesStopped: o.SourceWrites == "stopped", After: replica.SourceAfter(o.SourceAfter), EndClients: o.SourceClients == "kick",
		CompareAll: c.compareAll,
	}
	if o.Verify != "" && o.Verify != "none" {
		r.Compare = func(ctx context.Context) error { return c.compare(ctx, o.Verify) }
	}
	return r
}

func (c *cutovers) compareAll(ctx context.Context) error { return c.compare(ctx, verify.Full) }

// ttlTolerance is how far two expiries may be apart. redferry copies them to the millisecond, but sources before 7.0 send some of them as spans.
const ttlTolerance = time.Second

// compare is an error where the two ends differ, or where of a key it cannot be told.
func (c *cutovers) compare(ctx context.Context, mode verify.Mode) error {
	conf := c.ends
	conf.Mode = mode
	report, err := verify.Run(ctx, conf)
	if err != nil {
		return fmt.Errorf("compare the two ends: %w", err)
	}
	if report.Equal() && report.Moving > 0 && mode != verify.Count {
		return &replica.Stop{
			Kind: replica.Failed, Reason: movingText(&report),
			Hint: "the same command again, when the source is written to less; or with --force --verify=full, which compares all keys while nobody can write",
		}
	}
	if report.Incomparable > 0 {
		c.log.Warn().Int64("keys", report.Incomparable).Stringer("first", report.FirstIncomparable[0]).
			Msg("some keys cannot be compared; they do not count as differences")
	}
	if report.Equal() {
		return nil
	}
	first := ""
	if len(report.First) > 0 {
		first = fmt.Sprintf("; the first: %s", report.First[0])
	}
	return &replica.Stop{
		Kind: replica.Refused, Reason: fmt.Sprintf("the target differs from the source: %s%s", kindsText(&report), first), Hint: "redferry verify shows more",
	}
}

// hookMost is how long --on-cutover may take: writes that wait at the source wait for it, too.
const hookMost = time.Minute

// completed tells of the end, and runs the operator's command.
func (c *cutovers) completed(_ context.Context, r replica.CutoverReport) error {
	c.log.Info().Str("replid", r.At.ReplID).Int64("offset", r.At.Offset).Float64("stopped_seconds", r.WritesStopped().Seconds()).Bool("resumed", r.Resumed).
		Msg("cut over: the target has all that the source has acknowledged, and is the one to write to; the source " + r.Source)
	if c.hook == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), hookMost)
	defer cancel()
	said, err := shell(ctx, c.hook,
		"NAME="+c.name, "OFFSET="+strconv.FormatInt(r.At.Offset, 10), "REPLID="+r.At.ReplID, "STOPPED_MS="+strconv.FormatInt(r.WritesStopped().Milliseconds(), 10))
	if err != nil {
		return fmt.Errorf("--on-cutover: %w: it said %q", err, said)
	}
	return nil
}

// command is the admin socket's.
func (c *cutovers) command() admin.Command {
	return admin.Command{
		Name: "CUTOVER", Args: "[CANCEL | UNDO | order as JSON]", Arity: -1, Run: c.run,
		Help: "End the migration: stop the source's writes, wait until the target has all, and make it the one to write to. `redferry cutover` gives it. To hang up takes it back, and so does CANCEL, which waits for its end and tells when it came too late. UNDO also opens a source that refuses writes already; it answers 1, or 0 where there was nothing to undo.",
	}
}

// parseOrder reads the order that CUTOVER was given; one that says nothing is the usual one.
func parseOrder(args []string) (cutoverOrder, error) {
	o := cutoverOrder{Timeout: replica.DefaultCutoverTimeout, Verify: verify.Count}
	if len(args) > 0 {
		d := json.NewDecoder(strings.NewReader(strings.Join(args, " ")))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			return o, fmt.Errorf("ERR the order: %w", err)
		}
		if _, err := d.Token(); err != io.EOF {
			return o, errors.New("ERR the order: something follows it")
		}
	}
	return o, o.check()
}

func (c *cutovers) run(ctx context.Context, args []string) (any, error) {
	if len(args) == 1 && strings.EqualFold(args[0], "cancel") {
		return c.takeBack()
	}
	if len(args) == 1 && strings.EqualFold(args[0], "undo") {
		return c.undo(ctx)
	}
	o, err := parseOrder(args)
	if err != nil {
		return nil, err
	}
	if c.stops {
		return nil, told(&replica.Stop{Kind: replica.Config, Reason: "this run ends by --stop-at", Hint: "wait for that, or start it again without"})
	}
	it := &askedCutover{ended: make(chan struct{})}
	ctx, it.back = context.WithCancelCause(ctx)
	defer it.back(nil)
	c.mu.Lock()
	if c.underWay != nil {
		c.mu.Unlock()
		return nil, told(&replica.Stop{Kind: replica.Fenced, Reason: "one is under way already", Hint: "redferry events shows how it goes on"})
	}
	c.underWay = it
	c.mu.Unlock()
	report, err := c.orders.Cutover(ctx, c.cutover(o))
	it.err = err
	c.mu.Lock()
	c.underWay = nil
	c.mu.Unlock()
	close(it.ended)
	if err != nil {
		return nil, told(err)
	}
	result := cutoverResult{ReplID: report.At.ReplID, Offset: report.At.Offset, StoppedSeconds: report.WritesStopped().Seconds(), Source: report.Source, Resumed: report.Resumed, Clients: report.Clients, Ended: report.Ended}
	if report.Hook != nil {
		result.HookError = redact(report.Hook.Error())
	}
	text, err := json.Marshal(result)
	return string(text), err
}

// takeBack is CUTOVER CANCEL: it waits for how the cutover ends, since that alone tells whether it came in time.
func (c *cutovers) takeBack() (any, error) {
	c.mu.Lock()
	it := c.underWay
	c.mu.Unlock()
	if it == nil {
		return nil, errors.New("ERR no cutover is under way that CUTOVER has asked for; one of --auto is taken back with SHUTDOWN")
	}
	it.back(errors.New("CUTOVER CANCEL"))
	<-it.ended
	switch {
	case it.err == nil:
		return nil, errors.New("ERR it is too late: the cutover has come to its end")
	case errors.Is(it.err, replica.ErrCutoverBegun), errors.Is(it.err, replica.ErrCutoverDone):
		return nil, fmt.Errorf("ERR it is too late: %w", it.err)
	}
	return admin.OK, nil
}

// undo is CUTOVER UNDO.
func (c *cutovers) undo(ctx context.Context) (any, error) {
	if c.stops {
		return nil, told(&replica.Stop{
			Kind: replica.Config, Reason: "this run ends by --stop-at, and carries out no cutover",
			Hint: "stop it, then: redferry cutover --undo --source URL --target URL",
		})
	}
	had, err := c.orders.Undo(ctx)
	if err != nil {
		return nil, told(err)
	}
	if had {
		return 1, nil
	}
	return 0, nil
}

func (o *cutoverOrder) check() error {
	one := func(name, value string, of ...string) error {
		if value == "" || slices.Contains(of, value) {
			return nil
		}
		return fmt.Errorf("ERR %s is one of %s", name, strings.Join(of, ", "))
	}
	if o.Timeout <= 0 {
		return errors.New("ERR the timeout is not above 0")
	}
	return errors.Join(one("source_writes", o.SourceWrites, "pause", "stopped"), one("source_after", o.SourceAfter, "refuse", "paused", "open"),
		one("source_clients", o.SourceClients, "keep", "kick"), one("verify", string(o.Verify), "none", "count", "sample", "full"))
}

// The first words of CUTOVER's errors, by the exit code that they mean.
var toldAs = map[int]string{exitFailed: "NOTYET", exitUsage: "CONFIG", exitDecide: "DECIDE", exitRefused: "DIFFERS", exitOwned: "BUSY"}

// toldBegun is for what came behind the point of no return.
const toldBegun = "BEGUN"

// toldDone is for what came behind the tombstone.
const toldDone = "DONE"

const toldHint = " -- try: "

// told puts an error and its way out into one line; heard takes it out.
func told(err error) error {
	code, hint := verdict(err)
	word := toldAs[code]
	switch {
	case errors.Is(err, replica.ErrCutoverBegun):
		word = toldBegun
	case errors.Is(err, replica.ErrCutoverDone):
		word = toldDone
	}
	text := word + " " + err.Error()
	if hint != "" {
		text += toldHint + hint
	}
	return errors.New(redact(text))
}

func heard(err error) error { return heardOf(err, "no cutover, and replication goes on: ") }

// heardUndo is heard of the answer to CUTOVER UNDO.
func heardUndo(err error) error { return heardOf(err, "the cutover is not undone: ") }

func heardOf(err error, what string) error {
	word, rest, _ := strings.Cut(err.Error(), " ")
	if word == toldDone {
		return &replica.Stop{Kind: replica.Failed, Reason: "the cutover is done: " + rest, Hint: "start redferry run again: it brings them back"}
	}
	if word == toldBegun {
		return &replica.Stop{Kind: replica.Failed, Reason: "the cutover is not complete yet: " + rest, Hint: "redferry status and redferry events show how it goes on; redferry cutover --undo opens the source"}
	}
	for code, as := range toldAs {
		if word == as {
			reason, hint, _ := strings.Cut(rest, toldHint)
			return &replica.Stop{Kind: replica.Kind(code), Reason: what + reason, Hint: hint}
		}
	}
	return err
}

type cutoverCmd struct {
	homeFlags
	Timeout time.Duration `default:"30s" help:"For how long the source's writes may be stopped before it is given up: then the source goes on, and so does replication. Settling, which comes before, takes the time that it takes."`
	Force   bool          `help:"Cut over although something speaks against the target's being equal. With --undo: open the source without asking the run or the target, which may become the one to write to all the same."`
	Verify  verify.Mode   `enum:"none,count,sample,full" default:"count" help:"What to compare while the source's writes are stopped; sample and full take their time (${enum})."`
	Undo    bool          `help:"Let a source take writes again that a cutover has made refuse them. Where no run is at it: wants --source and, unless the cutover has come to its end here, --target."`
	JSON    bool          `name:"json" help:"Print the report as one JSON object."`
	cutoverChoice
	Source    string   `placeholder:"URL" help:"With --undo: the source, as for run."`
	SourceTLS tlsFlags `embed:"" prefix:"source-tls-" group:"TLS to the source:"`
	Target    string   `placeholder:"URL" help:"With --undo: the target, as for run."`
	targetTLS
	Takeover bool `help:"With --undo: take the migration from a process on another machine that is alive; it stops writing and ends."`
}

// Run cuts a run over, or undoes it.
func (c *cutoverCmd) Run(ctx context.Context, s *streams) error {
	if c.Undo {
		return c.undo(ctx, s)
	}
	if err := within("cutover", limit{"--timeout", c.Timeout > 0, "more than 0"}); err != nil {
		return err
	}
	order, err := json.Marshal(cutoverOrder{c.Timeout, c.Force, c.SourceWrites, c.SourceAfter, c.SourceClients, c.Verify})
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	client, err := c.dialRun(watching)
	if errors.Is(err, admin.ErrNotRunning) {
		err = c.whatWas(err)
	}
	if err != nil {
		return err
	}
	defer client.Close()
	var watcher sync.WaitGroup
	watcher.Go(func() { c.watch(watching, s) })
	answered := context.AfterFunc(ctx, client.HangUp) // that takes it back, if it comes in time; the answer comes all the same
	text, err := client.Do(watching, "CUTOVER", string(order))
	answered()
	stop()
	watcher.Wait()
	if errors.Is(err, syscall.EPIPE) && ctx.Err() != nil { // it came before the order was given
		return fmt.Errorf("no cutover was asked for: %w", context.Cause(ctx))
	}
	if errors.Is(err, admin.ErrNoAnswer) {
		return c.whatWas(err)
	}
	if err != nil {
		return heard(err)
	}
	var r cutoverResult
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fmt.Errorf("read the run's answer: %w", err)
	}
	if c.JSON {
		_, err = fmt.Fprintln(s.out, text)
		return err
	}
	p := &table{w: s.out}
	p.row("cut over", "%s: the target is the one to write to", c.Name)
	if r.StoppedSeconds > 0 {
		p.row("stopped", "writes to the source, for %s until the target was ready for them", time.Duration(r.StoppedSeconds*float64(time.Second)).Round(time.Millisecond))
	}
	p.row("offset", "%d of %s: all that the source has acknowledged", r.Offset, r.ReplID)
	p.row("source", "%s", r.Source)
	if text := r.clients(); text != "" {
		p.row("", "%s", text)
	}
	if r.HookError != "" {
		p.row("to do", "run by hand what was to be run now; %s", r.HookError)
	}
	return p.err
}

// whatWas is what has become of a cutover where no run answers, as its note tells.
func (c *cutoverCmd) whatWas(why error) error {
	dir, err := c.folder()
	if err != nil {
		return err
	}
	if err := notBegun(dir); err != nil {
		return err
	}
	done, err := replica.CutoverDone(cutoverFile(dir))
	switch {
	case err != nil:
		return err
	case done:
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("migration %q was cut over already", c.Name),
			Hint: "redferry status --target URL shows it; redferry cutover --undo --source URL lets the source take writes again",
		}
	case errors.Is(why, admin.ErrNotRunning):
		return c.notRunning(why)
	}
	return &replica.Stop{
		Kind: replica.Failed, Reason: "the run has ended before it answered; if the source's writes were paused, that ends within four seconds", Err: why,
		Hint: "redferry events tells why; redferry run goes on from where it was",
	}
}

// notBegun is an error when the source refuses writes because of a cutover that has not come to its end: only the note in dir says how it was before.
func notBegun(dir string) error {
	begun, err := replica.CutoverBegun(cutoverFile(dir))
	if err != nil || !begun {
		return err
	}
	return &replica.Stop{
		Kind: replica.Decide, Reason: "a cutover of this migration has not come to its end, and the source may refuse writes because of it",
		Hint: "redferry run finishes the cutover; or redferry cutover --undo --source URL --target URL opens the source",
	}
}

// watch prints what the run does meanwhile.
func (c *cutoverCmd) watch(ctx context.Context, s *streams) {
	client, err := c.dialRun(ctx)
	if err != nil {
		return
	}
	defer client.Close()
	last := ""
	for {
		if r, err := client.Status(ctx); err == nil {
			now := string(r.State)
			if r.Settle.Total > 0 && r.State == replica.Settling {
				now = fmt.Sprintf("%s: %d%% of the keys looked at", now, 10*(10*r.Settle.Seen/r.Settle.Total))
			} else {
				now += ": " + r.Why
			}
			if now != last {
				fmt.Fprintln(s.err, now)
				last = now
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}
