//go:build !linux

package crash

import (
	"errors"

	"redferry/internal/redistest"
)

// smallDisk needs Linux.
func smallDisk(redistest.TB) (dir string, err error) { return "", errors.ErrUnsupported }

func (w *world) fillDisk() {}
func (w *world) freeDisk() {}
