package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"redferry/replica"
)

const envPrefix = "REDFERRY_"

// checkEnvironment looks for variables that no flag has. One that is close to a flag's is a typing error, and would run something else than
// what was meant: an error. Others may be somebody else's (Kubernetes sets REDFERRY_SERVICE_HOST and more for a service named redferry) and
// give a warning.
func checkEnvironment(app *kong.Application, environ []string, s *streams) error {
	known := hookVariables() // a hook may call redferry
	for _, f := range allFlags(app) {
		known = append(known, f.Envs...)
	}
	var strange []string
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) {
			continue
		}
		if like := nearest(name, known); like != "" {
			return &replica.Stop{
				Kind: replica.Config, Reason: fmt.Sprintf("the environment has %s, which is no flag's variable", name),
				Hint: "did you mean " + like + "?",
			}
		}
		strange = append(strange, name)
	}
	if len(strange) > 0 {
		slices.Sort(strange)
		s.warn("the environment has %s: no flag's variable, not used", strings.Join(strange, ", "))
	}
	return nil
}

// allFlags are the flags of all commands; one that several commands have is there several times.
func allFlags(app *kong.Application) []*kong.Flag {
	flags := slices.Clone(app.Flags)
	for _, command := range app.Children {
		flags = append(flags, command.Flags...)
	}
	return flags
}

// nearest is the word that text may be a misspelling of: two letters off at most, one in a short word. "" when there is none.
func nearest(text string, words []string) string {
	least := 3
	if len(strings.TrimPrefix(text, envPrefix)) <= 4 {
		least = 2
	}
	best := ""
	for _, w := range words {
		if d := distance(text, w); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance is how many letters must be added, removed or changed to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
