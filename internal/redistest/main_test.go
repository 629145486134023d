package redistest

import (
	"testing"

	"redferry/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// each runs a test against every server build there is.
func each(t *testing.T, test func(t *testing.T, b Build)) {
	for _, b := range Servers(t) {
		t.Run(b.Name, func(t *testing.T) { test(t, b) })
	}
}
