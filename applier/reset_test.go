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

func TestRemove(t *testing.T) {
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
		e, err := replica.ParseEndpoint(s.URL(), replica.TLSFiles{})
		if err != nil {
			t.Fatal(err)
		}
		for name, tt := range tests {
			t.Run(b.Name+"/"+name, func(t *testing.T) {
				traces(t, s, tt.left)
				before, err := applier.Remove(context.Background(), e, "test", tt.place, tt.takeover)
				if stop := replica.AsStop(err); tt.removed != (err == nil) || err != nil && (stop == nil || stop.Kind != replica.Fenced) {
					t.Fatalf("got %v, want it removed: %v", err, tt.removed)
				}
				if !before.HasRecord || before.Record.Offset != 7 || before.Owner.Text != "somebody" || before.Owner.Epoch != 5 || before.Alive() != (tt.left > 0) {
					t.Errorf("before: got %+v", before)
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
	e, err := replica.ParseEndpoint(s.URL(), replica.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
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

// An owner that is evicted finds a newer epoch before its keys are gone: it ends as a process that was replaced, and does not begin anew.
func TestRemoveEndsTheOwner(t *testing.T) {
	b := redistest.Latest(t)
	source, target := redistest.Start(t, b), redistest.Start(t, b)
	m := newMigration(t, source.URL(), target.URL())
	m.apply.OnFullResync, m.apply.OnNotEmpty = applier.Flush, applier.Flush // it may begin anew
	r := m.start(t)
	for end := time.Now().Add(20 * time.Second); target.DoInt(t, "EXISTS", checkpoint.Key("test")) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no checkpoint")
		}
	}
	e, err := replica.ParseEndpoint(target.URL(), replica.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := applier.Remove(context.Background(), e, "test", "", true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it still runs")
	}
	if stop := replica.AsStop(r.err); stop == nil || stop.Kind != replica.Fenced {
		t.Errorf("it ended with %v", r.err)
	}
	if keys := target.DoStrings(t, "KEYS", checkpoint.Prefix+"*"); len(keys) != 0 {
		t.Errorf("there again: %q", keys)
	}
}
