package applier_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// traces writes what a migration leaves in a target: a checkpoint, and an owner whose lease ends so long after now by the target's clock.
func traces(t *testing.T, s *redistest.Server, left time.Duration) {
	t.Helper()
	r := checkpoint.Record{Name: "test", Epoch: 5, Phase: checkpoint.PhaseStream, Origin: checkpoint.OriginEmpty, ReplID: "abc", Offset: 7, Checked: 7}
	s.Do(t, append([]string{"HSET", checkpoint.Key("test")}, r.Fields()...)...)
	now, err := strconv.ParseInt(s.DoStrings(t, "TIME")[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	s.Do(t, "HSET", checkpoint.OwnerKey("test"), "owner", "somebody", "place", "there", "epoch", "5", "lease", strconv.FormatInt((now*1000)+left.Milliseconds(), 10))
	s.Do(t, "SET", "data", "stays")
}

// reset runs a whole reset, and returns what was there before and what it has settled.
func reset(e replica.Endpoint, place string, takeover bool) (applier.Traces, applier.Settling, error) {
	ctx := context.Background()
	r, err := applier.BeginReset(ctx, e, "test", place, takeover)
	if err != nil {
		return applier.Traces{}, applier.Settling{}, err
	}
	defer r.Close()
	at, err := r.Settle(ctx, nil)
	if err == nil {
		err = r.Remove(ctx)
	}
	return r.Before, at, err
}

const shift = 1 << 52

func endpointOf(t *testing.T, s *redistest.Server) replica.Endpoint {
	t.Helper()
	e, err := replica.ParseEndpoint(s.URL(), replica.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestReset(t *testing.T) {
	t.Parallel()
	const alive, dead = time.Minute, -time.Minute
	tests := map[string]struct {
		left     time.Duration
		place    string
		takeover bool
		removed  bool
	}{
		"the owner lives":               {alive, "", false, false},
		"it lives, and we lock another": {alive, "here", false, false},
		"its lease has run out":         {dead, "", false, true},
		"we hold its lock":              {alive, "there", false, true},
		"it lives, and we take over":    {alive, "", true, true},
	}
	for _, b := range redistest.Servers(t) {
		s := redistest.Start(t, b)
		e := endpointOf(t, s)
		for name, tt := range tests {
			t.Run(b.Name+"/"+name, func(t *testing.T) {
				traces(t, s, tt.left)
				due := time.Now().Add(time.Hour).UnixMilli()
				s.Do(t, "SET", "volatile", "x")
				s.Do(t, "PEXPIREAT", "volatile", strconv.FormatInt(shift+due, 10))
				before, at, err := reset(e, tt.place, tt.takeover)
				left := time.Duration(s.DoInt(t, "PTTL", "volatile")) * time.Millisecond
				if settled := left <= time.Hour; settled != tt.removed {
					t.Errorf("a shifted key expires in %v", left)
				}
				if !tt.removed {
					wantStop(t, err, replica.Fenced, "owned by somebody, which is alive")
				} else if err != nil {
					t.Fatal(err)
				} else if !before.HasRecord || before.Record.Offset != 7 || before.Owner.Text != "somebody" || before.Owner.Epoch != 5 || before.Alive() != (tt.left > 0) || at.Settled != 1 {
					t.Errorf("before: got %+v; %+v", before, at)
				}
				want := int64(2)
				if tt.removed {
					want = 0
				}
				if got := s.DoInt(t, "EXISTS", checkpoint.Key("test"), checkpoint.OwnerKey("test")); got != want {
					t.Errorf("its keys: got %d, want %d", got, want)
				}
				if got := s.DoString(t, "GET", "data"); got != "stays" {
					t.Errorf("data: got %q", got)
				}
			})
		}
	}
}

func TestFindTraces(t *testing.T) {
	s := redistest.Start(t, redistest.Latest(t))
	e := endpointOf(t, s)
	find := func() applier.Traces {
		t.Helper()
		found, err := applier.FindTraces(context.Background(), e, "test")
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if got := find(); got.HasRecord || got.HasOwner || got.Alive() || got.Unusable != nil || time.Since(got.Now).Abs() > time.Minute {
		t.Errorf("of nothing: got %+v", got)
	}
	traces(t, s, time.Minute)
	if got := find(); !got.HasRecord || !got.Alive() || got.Owner.Place != "there" || got.Checkpoint["offset"] != "7" || got.OwnerKey["epoch"] != "5" {
		t.Errorf("got %+v", got)
	}
	s.Do(t, "HSET", checkpoint.Key("test"), "format", "99")
	if got := find(); got.HasRecord || got.Unusable == nil || got.Checkpoint["format"] != "99" {
		t.Errorf("of another format: got %+v", got)
	}
	s.Do(t, "DEL", checkpoint.Key("test"))
	s.Do(t, "SET", checkpoint.Key("test"), "no hash")
	if _, err := applier.FindTraces(context.Background(), e, "test"); err == nil {
		t.Error("a key of another type: no error")
	}
}

// An owner that is replaced by a reset finds a newer epoch before its keys are gone: it ends as a process that was replaced, and does not begin anew.
func TestResetEndsTheOwner(t *testing.T) {
	b := redistest.Latest(t)
	source, target := redistest.Start(t, b), redistest.Start(t, b)
	m := newMigration(t, source.URL(), target.URL())
	m.apply.OnFullResync, m.apply.OnNotEmpty = applier.Flush, applier.Flush // it may begin anew
	r := m.start(t)
	for end := time.Now().Add(time.Minute); target.DoInt(t, "EXISTS", checkpoint.Key("test")) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no checkpoint")
		}
	}
	if _, _, err := reset(endpointOf(t, target), "", true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		t.Fatal("it still runs")
	}
	if stop := replica.AsStop(r.err); stop == nil || stop.Kind != replica.Fenced {
		t.Errorf("it ended with %v", r.err)
	}
	if keys := target.DoStrings(t, "KEYS", checkpoint.Prefix+"*"); len(keys) != 0 {
		t.Errorf("there again: %q", keys)
	}
}

// Of what it does not know, and of what a cutover has settled, it leaves the expiries as they are.
func TestResetLeavesExpiries(t *testing.T) {
	s := redistest.Start(t, redistest.Latest(t))
	s.Do(t, "SET", "volatile", "x")
	s.Do(t, "PEXPIREAT", "volatile", strconv.FormatInt(shift+time.Now().UnixMilli(), 10))
	for name, make := range map[string]func(){
		"nothing there": func() {},
		"completed": func() {
			traces(t, s, -time.Minute)
			s.Do(t, "HSET", checkpoint.Key("test"), "phase", string(checkpoint.PhaseCompleted))
		},
	} {
		t.Run(name, func(t *testing.T) {
			make()
			if _, at, err := reset(endpointOf(t, s), "", false); err != nil || at != (applier.Settling{}) {
				t.Errorf("got %+v, %v", at, err)
			}
			if keys := s.DoStrings(t, "KEYS", checkpoint.Prefix+"*"); len(keys) != 0 {
				t.Errorf("it has left %q", keys)
			}
			if s.DoInt(t, "EXISTS", "volatile") == 0 {
				t.Error("it has settled")
			}
		})
	}
}

// While a reset goes on nobody else gets the migration, unless by a takeover; that ends the reset before it has done anything more.
func TestResetOwns(t *testing.T) {
	ctx := context.Background()
	s := redistest.Start(t, redistest.Latest(t))
	e := endpointOf(t, s)
	traces(t, s, -time.Minute)
	s.Do(t, "PEXPIREAT", "data", strconv.FormatInt(shift+time.Now().Add(time.Hour).UnixMilli(), 10))
	first, err := applier.BeginReset(ctx, e, "test", "here", false)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = applier.BeginReset(ctx, e, "test", "there", false)
	wantStop(t, err, replica.Fenced, "owned by a reset, which is alive")
	second, err := applier.BeginReset(ctx, e, "test", "there", true)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	_, err = first.Settle(ctx, nil)
	wantStop(t, err, replica.Fenced, "another process has taken over")
	wantStop(t, first.Remove(ctx), replica.Fenced, "another process has taken over")
	if at, err := second.Settle(ctx, nil); err != nil || at.Settled != 1 {
		t.Errorf("the second one has settled %d: %v", at.Settled, err)
	}
	if err := second.Remove(ctx); err != nil {
		t.Error(err)
	}
	if _, err := first.Settle(ctx, nil); err == nil {
		t.Error("settled without an owner")
	}
}
