package redistest

import (
	"testing"
	"time"
)

func TestClockOffset(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		for _, offset := range []time.Duration{time.Minute, -time.Minute} {
			s := Start(t, b, ClockOffset(offset))
			check := func() {
				ms, err := clockOf(s)
				if err != nil {
					t.Fatal(err)
				}
				if off := time.Until(time.UnixMilli(ms)) - offset; off.Abs() > 10*time.Second {
					t.Errorf("its clock is %v off what was asked for", off)
				}
			}
			check()
			s.Restart(t)
			check()
			// It expires keys by that clock, and no later.
			s.Do(t, "SET", "k", "v", "PX", "10")
			if !within(patience, func() bool { return s.DoInt(t, "EXISTS", "k") == 0 }) {
				t.Error("a key of 10 ms lives on")
			}
		}
	})
}
