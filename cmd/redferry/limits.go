package main

import "redferry/replica"

// limit is what a flag's number or time must be.
type limit struct {
	flag string
	ok   bool
	must string // as in "--count must be 1 or more"
}

// within is an error where a flag of the command is not as it must be.
func within(command string, limits ...limit) error {
	for _, l := range limits {
		if !l.ok {
			return &replica.Stop{Kind: replica.Config, Reason: l.flag + " must be " + l.must, Hint: "redferry " + command + " --help"}
		}
	}
	return nil
}
