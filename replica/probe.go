package replica

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// SourceProbe looks at a source as a run does before PSYNC, by the same code, and changes nothing there. One goroutine uses it at a time; it starts none of its own.
type SourceProbe struct {
	Server Endpoint          // the one server that the endpoint stands for now
	Info   map[string]string // what INFO said when it was connected to; empty where that is not permitted

	src *source
}

// ProbeSource connects to a source, until ctx ends. The error is the one that a run meets; the probe is the caller's to close.
func ProbeSource(ctx context.Context, e Endpoint) (*SourceProbe, error) {
	src, server, info, err := openSource(ctx, e.Until(ctx))
	switch {
	case err == nil:
	case AsStop(err) == nil && server.Addr != "": // it was found, and does not answer us
		return nil, AuthStop("source", server, err)
	default:
		return nil, err
	}
	return &SourceProbe{Server: server, Info: info, src: src}, nil
}

// Close ends the connection.
func (p *SourceProbe) Close() { p.src.close() }

// Client is the connection, for other questions.
func (p *SourceProbe) Client() rueidis.Client { return p.src.client }

// Blind tells that the source does not permit INFO.
func (p *SourceProbe) Blind() bool { return p.src.blind }

// Describe is what a run learns of its source. The error is a [Stop] where the run would end with it.
func (p *SourceProbe) Describe(ctx context.Context) (SourceInfo, error) {
	return p.src.describe(ctx, p.Server, p.Info)
}

// WriteRate measures, for so long, how many bytes of the stream a second are written at the source: negative when that cannot be told. atMost says that it is an
// upper bound, as of a source that has no backlog and so does not count its stream.
func (p *SourceProbe) WriteRate(ctx context.Context, sample time.Duration) (rate float64, atMost bool, err error) {
	if p.src.blind {
		return -1, false, nil
	}
	before, err := p.src.info(ctx)
	if err != nil {
		return -1, false, err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return -1, false, ctx.Err()
	case <-time.After(sample):
	}
	after, err := p.src.info(ctx)
	if err != nil {
		return -1, false, err
	}
	rate, atMost = writeRate(before, after, time.Since(began))
	return rate, atMost, nil
}

// BufferRisk judges whether the source's client-output-buffer-limit holds what is written while it sends its RDB, at this write rate.
func (p *SourceProbe) BufferRisk(ctx context.Context, rate float64, atMost bool) (Risk, error) {
	facts, err := p.src.bufferFacts(ctx, p.Info, max(rate, 0))
	if err != nil {
		return Risk{}, err
	}
	facts.rate, facts.atMost = rate, atMost
	return facts.risk(), nil
}

// TransferTime is how long the source is expected to take to send its RDB, and from what that follows; 0 when nobody can tell.
func (p *SourceProbe) TransferTime() (took time.Duration, why string) { return transferTime(p.Info) }
