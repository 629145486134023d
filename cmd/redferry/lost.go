package main

import (
	"context"
	"fmt"

	"redferry/applier/verify"
)

// compareKeys compares keys of two servers for a run that has lost replies about them.
func compareKeys(ends verify.Config) func(ctx context.Context, keys []string) (int64, []string, error) {
	return func(ctx context.Context, keys []string) (int64, []string, error) {
		c := ends
		c.Mode, c.Keys, c.First = verify.Listed, keys, 5
		report, err := verify.Run(ctx, c)
		if err != nil {
			return 0, nil, err
		}
		if report.Moving > 0 {
			return 0, nil, fmt.Errorf("%d keys differed whenever they were looked at, and were written to each time meanwhile; the first: %s", report.Moving, report.FirstMoving[0])
		}
		var first []string
		for _, d := range report.First {
			first = append(first, d.String())
		}
		return report.Total(), first, nil
	}
}
