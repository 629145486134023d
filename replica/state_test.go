package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStatus(t *testing.T) {
	set := func(state State, why string) func(*Status) { return func(s *Status) { s.Set(state, why) } }
	waitOn := func(side Side, why string) func(*Status) { return func(s *Status) { s.Wait(side, why) } }
	wait := func(why string) func(*Status) { return waitOn(OnSource, why) }
	resume := func(s *Status) { s.Go(OnSource) }
	pause, unpause := func(s *Status) { s.Pause(true) }, func(s *Status) { s.Pause(false) }
	tests := []struct {
		name string
		do   []func(*Status)
		want []string // what is observed
	}{
		{"one state after another", []func(*Status){set(Connecting, "a"), set(Loading, "b"), set(InSync, "c")}, []string{"connecting: a", "snapshot: b", "in_sync: c"}},
		{"the same again is no change", []func(*Status){set(CatchingUp, "a"), set(CatchingUp, "a")}, []string{"catching_up: a"}},
		{"another reason is one", []func(*Status){set(CatchingUp, "a"), set(CatchingUp, "b")}, []string{"catching_up: a", "catching_up: b"}},
		{"a wait and back", []func(*Status){set(Loading, "a"), wait("w"), resume}, []string{"snapshot: a", "waiting: w", "snapshot: a"}},
		{"the same wait again is no change", []func(*Status){set(Loading, "a"), wait("w"), wait("w"), resume, resume}, []string{"snapshot: a", "waiting: w", "snapshot: a"}},
		{"one wait after another", []func(*Status){set(Loading, "a"), wait("w"), wait("x"), resume}, []string{"snapshot: a", "waiting: w", "waiting: x", "snapshot: a"}},
		{"a state set during a wait", []func(*Status){set(Connecting, "a"), wait("w"), set(CatchingUp, "b"), resume}, []string{"connecting: a", "waiting: w", "catching_up: b"}},
		{
			"waits for both",
			[]func(*Status){set(Loading, "a"), waitOn(OnTarget, "t"), wait("w"), resume, func(s *Status) { s.Go(OnTarget) }},
			[]string{"snapshot: a", "waiting: t", "waiting: w; t", "waiting: t", "snapshot: a"},
		},
		{"Go without a wait", []func(*Status){resume, set(InSync, "a"), resume}, []string{"in_sync: a"}},
		{"a pause and back", []func(*Status){set(InSync, "a"), pause, pause, set(CatchingUp, "b"), unpause}, []string{"in_sync: a", "paused: " + whyPaused, "catching_up: b"}},
		{"a wait in a pause", []func(*Status){set(InSync, "a"), pause, wait("w"), resume, unpause}, []string{"in_sync: a", "paused: " + whyPaused, "waiting: w; and it is paused", "paused: " + whyPaused, "in_sync: a"}},
		{"a wait before any state", []func(*Status){wait("w"), resume}, []string{"waiting: w"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			s := &Status{Observe: func(state State, why string) { got = append(got, string(state)+": "+why) }}
			for _, do := range test.do {
				do(s)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			state, why, _ := s.Now()
			if last := test.want[len(test.want)-1]; string(state)+": "+why != last {
				t.Errorf("Now is %s: %s, want %s", state, why, last)
			}
		})
	}
}

func TestStatusSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Status // without an observer
		if state, why, since := s.Now(); state != "" || why != "" || !since.IsZero() {
			t.Errorf("before anything it is %q, %q since %v", state, why, since)
		}
		began := time.Now()
		s.Set(Loading, "a")
		time.Sleep(time.Minute)
		s.Set(Loading, "a")
		if _, _, since := s.Now(); since != began {
			t.Errorf("since %v, want the first time, %v", since, began)
		}
		s.Set(Loading, "b")
		if _, _, since := s.Now(); since != began.Add(time.Minute) {
			t.Errorf("since %v, want the new reason's time", since)
		}
	})
}
