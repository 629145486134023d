package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// shell runs an operator's command with what it needs to know, and returns the beginning of what it says. Ctrl-C is not the command's, and all of it is killed when ctx ends.
func shell(ctx context.Context, command string, facts ...string) (said string, err error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = withoutFlags(os.Environ())
	for _, f := range facts {
		cmd.Env = append(cmd.Env, envPrefix+f)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out firstBytes
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = cmd.Run(); ctx.Err() != nil {
		err = ctx.Err()
	}
	return redact(string(bytes.TrimSpace(out.Bytes()))), err
}

// withoutFlags leaves our own variables out of an environment: some hold passwords.
func withoutFlags(environ []string) []string {
	return slices.DeleteFunc(environ, func(v string) bool { return strings.HasPrefix(v, envPrefix) })
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct{ bytes.Buffer }

func (b *firstBytes) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, 500-b.Len()))])
	return len(p), nil
}
