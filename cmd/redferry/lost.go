package main

import (
	"context"
	"errors"
	"fmt"

	"redferry/applier/verify"
)

// lostRate is how many such keys are compared in a second: nobody waits for them.
const lostRate = 20_000

// compareKeys compares keys of two servers for a run that has lost replies about them.
func compareKeys(ends verify.Config) func(ctx context.Context, keys []string) (int64, []string, error) {
	return func(ctx context.Context, keys []string) (int64, []string, error) {
		c := ends
		c.Mode, c.Keys, c.First, c.Rate = verify.Listed, keys, 10, lostRate
		report, err := verify.Run(ctx, c)
		if err != nil {
			return 0, nil, err
		}
		if report.Moving > 0 {
			return 0, nil, errors.New(movingText(&report))
		}
		var first []string
		for _, d := range report.First {
			first = append(first, d.String())
		}
		return report.Total(), first, nil
	}
}

// movingText says that a comparison could not judge some keys.
func movingText(r *verify.Report) string {
	return fmt.Sprintf("%s differed whenever they were looked at, and were written to each time meanwhile; the first: %s", plural(r.Moving, "key"), r.FirstMoving[0])
}
