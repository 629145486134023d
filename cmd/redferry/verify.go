package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"redferry/applier/verify"
	"redferry/replica"
)

type verifyCmd struct {
	Source    string   `required:"" placeholder:"URL" help:"The server that has the data, as for run. Nothing is written to it."`
	SourceTLS tlsFlags `embed:"" prefix:"source-tls-" group:"TLS to the source:"`
	Target    string   `required:"" placeholder:"URL" help:"The server that shall have the same, as for run. Nothing is written to it, either."`
	targetTLS
	nameFlag
	Mode         verify.Mode   `enum:"count,sample,full" default:"full" help:"What to compare: how many keys each database has, some random keys of each, or all keys (${enum})."`
	Sample       int           `default:"1000" help:"With --mode=sample, how many keys of each database and side."`
	Rate         int           `default:"0" placeholder:"KEYS/S" help:"Look at so many keys of a side in a second at most; 0 for as many as go."`
	TTLTolerance time.Duration `default:"1s" help:"How far two expiries may be apart. redferry copies them to the millisecond; sources before 7.0 send some of them as spans, which count from when they arrive."`
	Rounds       int           `default:"12" help:"How often to look again at what differs, while it is written to."`
	JSON         bool          `name:"json" help:"Print one JSON object."`
}

// Run compares the two servers.
func (c *verifyCmd) Run(ctx context.Context, s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := within("verify", limit{"--sample", c.Sample >= 1, "1 or more"}, limit{"--rate", c.Rate >= 0, "0 or more"}, limit{"--rounds", c.Rounds >= 1, "1 or more"},
		limit{"--ttl-tolerance", c.TTLTolerance > 0, "more than 0"}); err != nil {
		return err
	}
	source, err := endpoint("source", c.Source, c.SourceTLS)
	if err != nil {
		return err
	}
	target, err := endpoint("target", c.Target, c.TargetTLS)
	if err != nil {
		return err
	}
	screen := newVerifyScreen(s.err)
	report, err := verify.Run(ctx, verify.Config{
		Source: source, Target: target, Name: c.Name, Mode: c.Mode, Sample: c.Sample, Rate: c.Rate, TTLTolerance: c.TTLTolerance, Rounds: c.Rounds,
		Progress: screen.show,
	})
	screen.close()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("verify broke off: %w", context.Cause(ctx))
	case err != nil:
		return err
	case c.JSON:
		err = printJSON(s.out, verifyResult(&report))
	default:
		err = printVerified(s.out, &report)
	}
	if err != nil || report.Equal() {
		return err
	}
	return &replica.Stop{
		Kind: replica.Refused, Reason: fmt.Sprintf("the target %s differs from the source %s: %s", target, source, kindsText(&report)),
		Hint: "look at the first of them on both sides; to load the target anew: `redferry reset`, then `redferry run --on-target-not-empty=flush`",
	}
}

func printVerified(w io.Writer, r *verify.Report) error {
	p := &table{w: w}
	p.row("source", "%s", r.Source)
	p.row("target", "%s", r.Target)
	looked := fmt.Sprintf("%s looked at in %s", plural(r.Looked, "key"), short(r.Elapsed))
	if r.Mode == verify.Count {
		looked = plural(r.Looked, "key") + " counted, of both sides"
	} else if s := r.Elapsed.Seconds(); s > 0 {
		looked += fmt.Sprintf(", %s/s", amount(float64(r.Looked)/s))
	}
	p.row("mode", "%s: %s", r.Mode, looked)
	if r.Note != "" {
		p.row("note", "%s", r.Note)
	}
	if r.Shifted > 0 {
		p.row("expiry", "shifted in the target, as while a migration runs; compared as it will be")
	}
	if r.Expired > 0 {
		p.row("expired", "%s on one side only: its time is over, which is no difference", plural(r.Expired, "key"))
	}
	if r.Moving > 0 {
		p.row("unjudged", "%s differed, but changed in the source whenever somebody looked: verify again when it is written to less", plural(r.Moving, "key"))
		for _, d := range r.FirstMoving {
			p.line("  %s", d)
		}
	}
	if r.Incomparable > 0 {
		p.row("incomparable", "%s that nobody can compare, which is no difference", plural(r.Incomparable, "key"))
		for _, d := range r.FirstIncomparable {
			p.line("  %s", d)
		}
	}
	p.row("differences", "%s", kindsText(r))
	for _, d := range r.First {
		p.line("  %s", d)
	}
	if n := r.Total() - int64(len(r.First)); n > 0 {
		p.line("  … and %s more", humanize.Comma(n))
	}
	if r.Ended {
		p.line("So many that the rest was not looked at.")
	}
	return p.err
}

// kindsText counts the differences, the most frequent kind first.
func kindsText(r *verify.Report) string {
	if r.Equal() {
		return "none"
	}
	var kinds []verify.Kind
	for k := range r.Differences {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b verify.Kind) int {
		if n := int(r.Differences[b] - r.Differences[a]); n != 0 {
			return n
		}
		return strings.Compare(string(a), string(b))
	})
	var parts []string
	for _, k := range kinds {
		parts = append(parts, fmt.Sprintf("%s %s", humanize.Comma(r.Differences[k]), k))
	}
	return strings.Join(parts, ", ")
}

// verifyJSON is what verify --json prints; people script against it.
type verifyJSON struct {
	Source      string                `json:"source"`
	Target      string                `json:"target"`
	Mode        verify.Mode           `json:"mode"`
	Equal       bool                  `json:"equal"`
	Looked      int64                 `json:"looked"`
	Total       int64                 `json:"differences"`
	Kinds       map[verify.Kind]int64 `json:"kinds"`
	First       []verify.Difference   `json:"first"`
	Ended       bool                  `json:"ended_early"`
	Unjudged    int64                 `json:"unjudged"`
	FirstMoving []verify.Difference   `json:"first_unjudged"`
	Untold      int64                 `json:"incomparable"`
	FirstUntold []verify.Difference   `json:"first_incomparable"`
	Expired     int64                 `json:"expired"`
	Shifted     int64                 `json:"shifted"`
	Note        string                `json:"note"`
	Seconds     float64               `json:"seconds"`
}

func verifyResult(r *verify.Report) verifyJSON {
	list := func(l []verify.Difference) []verify.Difference { return append([]verify.Difference{}, l...) } // [] where there is none
	return verifyJSON{
		Source: r.Source, Target: r.Target, Mode: r.Mode, Equal: r.Equal(), Looked: r.Looked, Total: r.Total(), Kinds: r.Differences, First: list(r.First), Ended: r.Ended,
		Untold: r.Incomparable, FirstUntold: list(r.FirstIncomparable),
		Unjudged: r.Moving, FirstMoving: list(r.FirstMoving), Expired: r.Expired, Shifted: r.Shifted, Note: r.Note, Seconds: r.Elapsed.Seconds(),
	}
}

// verifyScreen shows how far a comparison is: a bar on a terminal, a line now and then elsewhere.
type verifyScreen struct {
	w        io.Writer
	progress *mpb.Progress // nil where there is no terminal
	line     *mpb.Bar
	said     time.Time

	mu    sync.Mutex // the bar draws while show is called
	at    verify.Progress
	speed replica.Speed
	keysS float64
}

func newVerifyScreen(w io.Writer) *verifyScreen {
	v := &verifyScreen{w: w, said: time.Now()}
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return v
	}
	v.progress = mpb.New(mpb.WithOutput(file))
	v.line = v.progress.AddBar(0, mpb.BarWidth(40), mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Any(func(s decor.Statistics) string { return "verify " })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return "  " + v.text() })),
	)
	return v
}

func (v *verifyScreen) show(p verify.Progress) {
	v.mu.Lock()
	v.at, v.keysS = p, v.speed.At(time.Now(), p.Looked)
	v.mu.Unlock()
	switch {
	case v.line != nil:
		v.line.SetTotal(p.Total+1, false) // which it does not reach: close takes it away
		v.line.SetCurrent(min(p.Looked, p.Total))
	case time.Since(v.said) >= sayEvery:
		v.said = time.Now()
		fmt.Fprintln(v.w, "verify: "+v.text())
	}
}

func (v *verifyScreen) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	text := amount(float64(v.at.Looked)) + " keys"
	if v.at.Total > 0 {
		text = fmt.Sprintf("%s of %s keys", amount(float64(v.at.Looked)), amount(float64(v.at.Total)))
	}
	text += fmt.Sprintf("  %s/s", amount(v.keysS))
	if left := time.Duration(replica.TimeLeft(v.at.Total-v.at.Looked, v.keysS)); left > 0 && v.at.Round == 0 {
		text += "  ETA " + short(left)
	}
	if v.at.Suspected > 0 {
		text += "  " + amount(float64(v.at.Suspected)) + " to look at again"
	}
	if v.at.Round > 0 {
		text += fmt.Sprintf(", round %d", v.at.Round)
	}
	return text + "  " + plural(v.at.Found, "difference")
}

func (v *verifyScreen) close() {
	if v.line != nil {
		v.line.Abort(true)
		v.progress.Wait()
	}
}
