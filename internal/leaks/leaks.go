// Package leaks looks behind a package's tests for goroutines that are left.
package leaks

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is for goroutines that are about to end, on a machine that has much else to do.
const patience = 30 * time.Second

// Main is what a package's TestMain calls: it runs the tests, and fails when a goroutine of theirs is left. goleak alone waits less than half a second for one that is about to end.
func Main(m *testing.M, options ...goleak.Option) { goleak.VerifyTestMain(patient{m}, options...) }

type patient struct{ *testing.M }

// Run is called by goleak, which looks by itself afterwards.
func (p patient) Run() int {
	code := p.M.Run()
	for end := time.Now().Add(patience); code == 0 && goleak.Find() != nil && time.Now().Before(end); { // Find takes its time
	}
	return code
}
