package redistest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// each runs a test against every server build there is.
func each(t *testing.T, test func(t *testing.T, b Build)) {
	for _, b := range Servers(t) {
		t.Run(b.Name, func(t *testing.T) { test(t, b) })
	}
}
