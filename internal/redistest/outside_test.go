package redistest

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOutside(t *testing.T) {
	var log bytes.Buffer
	var steps []string
	var dir string
	err := Outside("program", &log, func(o TB) {
		o.Cleanup(func() { steps = append(steps, "first cleanup") })
		dir = o.TempDir()
		o.Cleanup(func() { steps = append(steps, "last cleanup") })
		o.Logf("at %s", o.Name())
		o.Errorf("one")
		if !o.Failed() {
			steps = append(steps, "not failed after Errorf")
		}
		o.Fatalf("%s", "two")
		steps = append(steps, "went on after Fatalf")
	})
	if err == nil || err.Error() != "one\ntwo" {
		t.Errorf("error %v, want both", err)
	}
	if diff := cmp.Diff([]string{"last cleanup", "first cleanup"}, steps); diff != "" {
		t.Error(diff)
	}
	if log.String() != "at program\n" {
		t.Errorf("log %q", log.String())
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("folder %q is still there: %v", dir, err)
	}
	if err := Outside("program", &log, func(TB) {}); err != nil {
		t.Error(err)
	}
}
