package main

import (
	"fmt"
	"runtime/debug"
)

// version is given by the build: go build -ldflags '-X main.version=…', as the Makefile does.
var version string

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(s *streams) error {
	_, err := fmt.Fprintln(s.out, "redferry", versionText())
	return err
}
