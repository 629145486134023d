package redistest

import (
	"strings"
	"testing"
)

func TestStartCluster(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		nodes := StartCluster(t, b, 3)
		served := 0
		for _, node := range nodes {
			err := node.TryDo("SET", "key", "v")
			if err == nil {
				served++
			} else if !strings.HasPrefix(err.Error(), "MOVED ") {
				t.Error(err)
			}
		}
		if served != 1 {
			t.Errorf("%d of 3 nodes took the key, want 1", served)
		}
	})
}
