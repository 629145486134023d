package applier

import "testing"

func TestEvictionsGrown(t *testing.T) {
	var e evictions
	for _, tt := range []struct {
		name, runID string
		n, want     int64
	}{
		{"what it evicted before", "a", 7, 0},
		{"none", "a", 7, 0},
		{"three more", "a", 10, 3},
		{"its statistics were reset", "a", 2, 2},
		{"another server", "b", 500, 0},
		{"and there", "b", 501, 1},
	} {
		if got := e.grown(tt.runID, tt.n); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}
