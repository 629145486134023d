package replica

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"redferry/internal/redistest"
	"redferry/replica/spool"
)

// sinkDouble is a Sink that keeps what it is given, and whose answers a test chooses. Its methods hold it to the contract.
type sinkDouble struct {
	t         testing.TB
	onResume  func(n int, src SourceInfo) (Resume, error) // the n-th, from 1; nil goes on from where the sink is
	onLoad    func(ctx context.Context, snap Snapshot) error
	onCommit  func(ctx context.Context, offset int64) error // before everything up to offset is durable
	onSettle  func(ctx context.Context) error
	onRelease func(ctx context.Context) error

	mu       sync.Mutex
	at       Position // durable
	taken    Position // applied
	moved    chan struct{}
	came     chan struct{} // a unit was applied
	units    []unitText
	news     []Position // of units without commands
	resumes  int
	loads    int
	underway bool // Commit runs
	drained  bool // Commit has ended without an error since the last Resume
}

func newSink(t testing.TB) *sinkDouble {
	return &sinkDouble{t: t, moved: make(chan struct{}), came: make(chan struct{}, 1)}
}

func (s *sinkDouble) Resume(_ context.Context, src SourceInfo) (Resume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumes++
	if s.underway {
		s.t.Error("Resume while Commit runs")
	}
	s.drained = false
	s.taken = s.at // what is not durable is void
	for len(s.units) > 0 && s.units[len(s.units)-1].End > s.at.Offset {
		s.units = s.units[:len(s.units)-1]
	}
	if s.onResume != nil {
		return s.onResume(s.resumes, src)
	}
	return Resume{From: s.at}, nil
}

func (s *sinkDouble) Snapshot(ctx context.Context, snap Snapshot) (Position, error) {
	s.mu.Lock()
	s.loads++
	s.mu.Unlock()
	if err := s.onLoad(ctx, snap); err != nil {
		return Position{}, err
	}
	if err := snap.End(); err != nil {
		return Position{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.taken = snap.At, snap.At
	return snap.At, nil
}

func (s *sinkDouble) Apply(_ context.Context, u *Unit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained {
		s.t.Error("Apply after Commit has finished")
	}
	if u.Start != s.taken.Offset {
		s.t.Errorf("a unit begins at %d, behind %v", u.Start, s.taken)
	}
	s.taken = u.End
	if len(u.Cmds) > 0 {
		s.units = append(s.units, textOf(u))
	} else {
		s.news = append(s.news, u.End)
	}
	select {
	case s.came <- struct{}{}:
	default:
	}
	return nil
}

func (s *sinkDouble) Commit(ctx context.Context) (err error) {
	s.setUnderway(true)
	defer func() {
		s.setUnderway(false)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drained = err == nil
	}()
	for {
		if err := s.commit(ctx); err != nil {
			return err
		}
		select {
		case <-s.came:
		case <-ctx.Done():
			return s.commit(ctx) // what was applied before the end
		}
	}
}

func (s *sinkDouble) commit(ctx context.Context) error {
	s.mu.Lock()
	to := s.taken
	s.mu.Unlock()
	if s.onCommit != nil {
		if err := s.onCommit(ctx, to.Offset); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = to
	close(s.moved)
	s.moved = make(chan struct{})
	return nil
}

func (s *sinkDouble) Settle(ctx context.Context, _ time.Duration) error {
	if s.onSettle != nil {
		return s.onSettle(ctx)
	}
	return nil
}

func (s *sinkDouble) Release(ctx context.Context) error {
	if s.onRelease != nil {
		return s.onRelease(ctx)
	}
	return nil
}

func (s *sinkDouble) setUnderway(b bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underway == b {
		s.t.Error("two Commits at once")
	}
	s.underway = b
}

func (s *sinkDouble) Checkpointed() (int64, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at.Offset, s.moved
}

// seen is what the sink holds, for checks.
func (s *sinkDouble) seen() (at Position, units []unitText, news []Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, append([]unitText(nil), s.units...), append([]Position(nil), s.news...)
}

func (s *sinkDouble) counts() (resumes, loads int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resumes, s.loads
}

// sourceDouble is a scripted source: it answers INFO, and lets a test play what follows PSYNC.
type sourceDouble struct {
	t      testing.TB
	script *redistest.Script
	play   func(p *redistest.Peer, n int, replID, next string) // after the n-th PSYNC, from 1

	onInfo func(n int) // before the n-th INFO, from 1; may be nil

	mu     sync.Mutex
	info   map[string]string
	infos  int
	psyncs []string // "replID next"
}

// newSource is a source with a backlog of all its bytes up to offset.
func newSource(t testing.TB, offset int64, play func(p *redistest.Peer, n int, replID, next string)) *sourceDouble {
	s := &sourceDouble{t: t, play: play, info: map[string]string{
		"redis_version": "7.0.15", "run_id": strings.Repeat("f", 40), "role": "master", "master_replid": testID,
		"master_replid2": strings.Repeat("0", 40), "second_repl_offset": "-1", "repl_backlog_active": "1", "repl_backlog_first_byte_offset": "1",
	}}
	s.grow(offset)
	s.script = redistest.StartScript(t, s.converse)
	return s
}

// set changes a field of INFO.
func (s *sourceDouble) set(field, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.info[field] = value
}

// grow says that the source has written so many bytes in all.
func (s *sourceDouble) grow(offset int64) {
	s.set("master_repl_offset", strconv.FormatInt(offset, 10))
	s.set("repl_backlog_histlen", strconv.FormatInt(offset, 10))
}

func (s *sourceDouble) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.psyncs...)
}

func (s *sourceDouble) converse(p *redistest.Peer) {
	for {
		switch args := p.Receive(); strings.ToUpper(args[0]) {
		case "INFO":
			var text strings.Builder
			s.mu.Lock()
			s.infos++
			n := s.infos
			s.mu.Unlock()
			if s.onInfo != nil {
				s.onInfo(n)
			}
			s.mu.Lock()
			for field, value := range s.info {
				fmt.Fprintf(&text, "%s:%s\r\n", field, value)
			}
			s.mu.Unlock()
			p.Send(fmt.Sprintf("$%d\r\n%s\r\n", text.Len(), text.String()))
		case "COMMAND", "CONFIG", "TIME":
			p.Send("-NOPERM no\r\n")
		case "PING":
			p.Send("+PONG\r\n")
		case "HELLO", "CLIENT", "REPLCONF":
			p.Send("+OK\r\n")
		case "PSYNC":
			s.mu.Lock()
			s.psyncs = append(s.psyncs, strings.Join(args[1:], " "))
			n := len(s.psyncs)
			s.mu.Unlock()
			s.play(p, n, args[1], args[2])
			return
		default:
			s.t.Errorf("the scripted source heard %q", args)
			return
		}
	}
}

func (s *sourceDouble) endpoint() Endpoint { return Endpoint{Network: "tcp", Addr: s.script.Addr()} }

// running is a Run beside the test.
type running struct {
	t      testing.TB
	status *Status
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	mu     sync.Mutex
	states []string // "state: why"
}

func startRun(t testing.TB, e Endpoint, sink Sink, change ...func(*RunConfig)) *running {
	t.Helper()
	r := &running{t: t, status: &Status{}, done: make(chan struct{})}
	r.status.Observe = func(s State, why string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.states = append(r.states, string(s)+": "+why)
	}
	c := RunConfig{Source: e, Status: r.status, Spool: openSpool(t, t.TempDir()), Log: zerolog.Nop()}
	for _, f := range change {
		f(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		r.err = Run(ctx, c, sink)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

// openSpool opens a spool that is closed when the test ends; in memory when dir is empty.
func openSpool(t testing.TB, dir string) *spool.Spool {
	t.Helper()
	return openSpoolOf(t, spool.Config{Dir: dir, Keep: time.Hour})
}

// openSpoolOf is openSpool with more to choose.
func openSpoolOf(t testing.TB, c spool.Config) *spool.Spool {
	t.Helper()
	s, err := spool.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the spool: %v", err)
		}
	})
	return s
}

// wait waits for the end of the run.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(2 * time.Minute):
		state, why, _ := r.status.Now()
		r.t.Fatalf("the run does not end; it is %s: %s", state, why)
		return nil
	}
}

// stop ends the run as a signal does.
func (r *running) stop() error {
	r.t.Helper()
	r.cancel()
	return r.wait()
}

// saw tells whether the run was ever in a state for a reason with this text.
func (r *running) saw(state State, why string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.states {
		if strings.HasPrefix(s, string(state)+": ") && strings.Contains(s, why) {
			return true
		}
	}
	return false
}

func stopAtOffset(offset int64) func(*RunConfig) {
	return func(c *RunConfig) { c.StopAt.Offset = offset }
}

func stopAtCaughtUp(c *RunConfig) { c.StopAt.CaughtUp = true }

// eventually waits for what is to come, as long as a machine takes that has much else to do.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// fakeRDB ends as an RDB does, with the EOF opcode and a CRC; receiving looks for no more.
const fakeRDB = "not really an RDB\xff12345678"

// readRDB is an onLoad that takes everything up to the RDB's end.
func readRDB(_ context.Context, snap Snapshot) error {
	if _, err := io.Copy(io.Discard, snap.RDB); err != nil {
		return fmt.Errorf("read the RDB: %w", err)
	}
	return nil
}
