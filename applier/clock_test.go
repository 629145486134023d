package applier

import (
	"testing"
	"time"
)

func TestClocksSay(t *testing.T) {
	var c clocks
	for _, tt := range []struct {
		name   string
		ahead  time.Duration
		unsure time.Duration
		want   bool
	}{
		{"together", 900 * time.Millisecond, 0, false},
		{"apart", time.Minute, 0, true},
		{"as before", time.Minute + 500*time.Millisecond, 0, false},
		{"by less", 30 * time.Second, 0, true},
		{"the other way round", -2 * time.Second, 0, true},
		{"by more, but the answer was slow", -5 * time.Second, 3 * time.Second, false},
		{"together again", 0, 0, false},
		{"and apart again", -2 * time.Second, 0, true},
	} {
		if got := c.say(tt.ahead, tt.unsure); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
