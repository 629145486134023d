//go:build !linux

package redistest

import "os/exec"

// dieWithParent cannot be had here: servers outlive a test binary that is killed.
func dieWithParent(*exec.Cmd) {}

// childrenOf is for Linux alone: the death of a child's parent ends it, in most cases.
func childrenOf(int) []int { return nil }
