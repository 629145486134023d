package applier

import (
	"context"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// Probe looks at a target as a run does at its start, by the same code, but claims nothing and changes nothing. One goroutine uses it at a time; it starts none of its
// own. Each of its judgements is an error that a run with this configuration would end with, or nil.
type Probe struct {
	Server replica.Endpoint  // the one server that the endpoint stands for now
	Info   map[string]string // what INFO said when it was connected to
	Found  Traces            // what it holds of the migration; nothing where Unsupported has an error

	a *Applier
}

// OpenProbe connects to the target of a configuration, until ctx ends. Its Home may be one of [PeekHome]. The probe is the caller's to close.
func OpenProbe(ctx context.Context, c Config) (*Probe, error) {
	c.Target = c.Target.Until(ctx)
	server, err := c.Target.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	p := &Probe{Server: server, a: New(c)}
	if err := p.look(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Probe) look(ctx context.Context) error {
	if err := p.a.connect(ctx); err != nil {
		return err
	}
	text, err := p.a.client.Do(ctx, p.a.client.B().Info().Build()).ToString()
	if err != nil {
		return err
	}
	p.Info = replica.ParseInfo(text)
	if p.Unsupported() != nil { // it may not even take the question
		return nil
	}
	p.Found, err = findTraces(ctx, p.a.client, p.a.Target, p.a.Name)
	return err
}

// Close ends the connection.
func (p *Probe) Close() { p.a.disconnect() }

// Client is the connection, for other questions.
func (p *Probe) Client() rueidis.Client { return p.a.client }

// Loops judges whether the target is the source itself, or one replicates the other.
func (p *Probe) Loops(src replica.SourceInfo) error { return p.a.target.loops(src, p.a.Target) }

// Unsupported judges whether the target is of a kind that redferry cannot write to.
func (p *Probe) Unsupported() error { return p.a.target.unsupported(p.a.Target) }

// ReadOnly judges whether the target takes writes.
func (p *Probe) ReadOnly() error { return p.a.target.readOnly(p.a.Target, true) }

// Expiry judges whether the target can do what the configuration's Expiry needs.
func (p *Probe) Expiry() error { return p.a.admitImport() }

// Eviction is the policy by which the target may drop keys by itself; empty when it drops none.
func (p *Probe) Eviction() string { return p.a.target.eviction }

// Data judges what the target holds: this migration's checkpoint, somebody's keys, or nothing.
func (p *Probe) Data(ctx context.Context) error {
	rec, ok, err := ReadCheckpoint(ctx, p.a.client, p.a.Name)
	if err != nil {
		return err
	}
	resume := replica.Resume{}
	switch {
	case !ok:
		if resume, err = p.a.judgeNone(ctx); err != nil {
			return err
		}
	default:
		if err := p.a.recognise(&rec); err != nil {
			return err
		}
		if err := p.a.admit(&rec); err != nil {
			return err
		}
		if rec.Phase != checkpoint.PhaseSnapshot { // gone on with; whether the source can is another question
			return nil
		}
		resume = p.a.judgePart(&rec)
	}
	if resume.FullResync != nil {
		return resume.FullResync
	}
	return nil
}

// Database judges whether the target has a database.
func (p *Probe) Database(ctx context.Context, number int) error { return p.a.probe(ctx, number) }
