package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"redferry/applier"
	"redferry/replica"
	"redferry/replica/spool"
)

// spoolFlags say where what is received waits for the target.
type spoolFlags struct {
	Spool     string        `enum:"on,off" default:"on" help:"Keep what is received on the disk, in --dir, until the target has it; off: a slow target holds up the source, and an outage costs what its backlog does not have (${enum})."`
	SpoolMax  byteSize      `placeholder:"SIZE" help:"Most that the spool may take of the disk, as 50GB. Default: 80% of what is free."`
	SpoolKeep time.Duration `default:"10m" help:"How long the stream is kept after the target has it: a target that fails over may have to go back."`
}

// byteSize is a number of bytes, for people: 512MB, 1.5GiB.
type byteSize int64

// UnmarshalText reads one.
func (b *byteSize) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is no size: write 500MB, 20GB or 1.5GiB", text)
	}
	*b = byteSize(n)
	return nil
}

// minSpool is the least that --spool-max may be: a few segments.
const minSpool = 16 << 20

// spoolDir is where a migration's spool is.
func spoolDir(home *applier.Home) string { return filepath.Join(home.Dir(), "spool") }

// openSpool opens the migration's spool, which is the caller's to close. The home's lock is its lock, too.
func (f spoolFlags) openSpool(home *applier.Home) (*spool.Spool, error) {
	if f.SpoolMax != 0 && f.SpoolMax < minSpool {
		return nil, &replica.Stop{
			Kind: replica.Config, Reason: fmt.Sprintf("--spool-max %s is too small", humanize.IBytes(uint64(f.SpoolMax))),
			Hint: "16MiB is the least; --spool=off does without",
		}
	}
	c := spool.Config{Dir: spoolDir(home), Place: home.Place(), Max: int64(f.SpoolMax), Keep: f.SpoolKeep}
	if f.Spool == "off" {
		c = spool.Config{}
	}
	s, err := spool.Open(c)
	if errors.Is(err, syscall.ENOSPC) {
		return nil, &replica.Stop{Kind: replica.Failed, Reason: "the disk is full", Err: err, Hint: "make room in --dir, and run the same command again"}
	}
	if err != nil {
		return nil, &replica.Stop{Kind: replica.Config, Reason: "cannot use the spool", Err: err, Hint: "give another --dir, or --spool=off"}
	}
	return s, nil
}
