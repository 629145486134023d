//go:build !linux

package redistest

import "os/exec"

// dieWithParent cannot be had here: servers outlive a test binary that is killed.
func dieWithParent(*exec.Cmd) {}
