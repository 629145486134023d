package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tidwall/redcon"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
)

// result is what came of one file.
type result struct {
	server, file string
	skipped      string // why it did not run

	outcome          // of the suite; zero when it was ended
	compared   int   // comparisons
	commands   int64 // that the control was sent
	bytes      int64 // of the stream
	kills      int
	findings   []finding
	told       map[string]int // findings by test
	uncompared []string       // tests after which nothing could be compared, with why

	divergence checkpoint.Divergence
	diverged   int64
	rejected   int64
	refused    map[string]int // by what was said of the command

	stopped string // redferry's end by itself, or that it hangs
	broke   string // what else ended the file early
	fault   error  // of what the program itself needs
}

// finding is a difference of the target.
type finding struct {
	redistest.Difference
	test string
	own  bool // the server's own gap: the control is as the target
}

func (f finding) String() string {
	if f.own {
		return fmt.Sprintf("after %q: %.400v (and so is the control)", f.test, f.Difference.String())
	}
	return fmt.Sprintf("after %q: %.400v", f.test, f.Difference.String())
}

// note keeps a finding, and tells the first ones of each test.
func (r *result) note(f finding, out io.Writer) {
	r.findings = append(r.findings, f)
	if r.told == nil {
		r.told = map[string]int{}
	}
	if r.told[f.test]++; r.told[f.test] > 5 {
		return
	}
	fmt.Fprintf(out, "    %s %s: %v\n", r.server, r.file, f)
}

// own counts the differences that are the server's own gaps.
func (r *result) own() (n int) {
	for _, f := range r.findings {
		if f.own {
			n++
		}
	}
	return n
}

// wrong says what speaks against redferry; empty for nothing.
func (r *result) wrong() string {
	var all []string
	if n := len(r.findings) - r.own(); n > 0 {
		all = append(all, fmt.Sprintf("%d differences", n))
	}
	if r.stopped != "" {
		all = append(all, r.stopped)
	}
	if r.rejected > 0 {
		all = append(all, fmt.Sprintf("%d refused: %s", r.rejected, counts(r.refused)))
	}
	if r.diverged > 0 {
		all = append(all, fmt.Sprintf("%d transactions in spite of the fence", r.diverged))
	}
	return strings.Join(all, "; ")
}

// remarks are what else there is to say.
func (r *result) remarks() string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if r.fault != nil {
		add("failed: %v", r.fault)
	}
	if r.broke != "" {
		add("ended early: %s", r.broke)
	}
	if r.exception != "" {
		add("the suite ended early: %.100s", r.exception)
	}
	if n := r.own(); n > 0 {
		add("%d gaps of the server's own", n)
	}
	if r.divergence.Total() > 0 {
		add("divergence %v", r.divergence)
	}
	if n := len(r.uncompared); n > 0 {
		add("%d times not compared, first after %s", n, r.uncompared[0])
	}
	return strings.Join(all, "; ")
}

// verdictText is the last column of the table.
func (r *result) verdictText() string {
	switch {
	case r.skipped != "":
		return "skipped: " + r.skipped
	case r.wrong()+r.broke+r.exception == "" && r.ok+len(r.failures) == 0 && r.fault == nil:
		if r.outcome.skipped == 0 {
			return fmt.Sprintf("skipped: the suite has run no test; its last words were %.200q", r.last)
		}
		return "skipped: the suite leaves it out with an external server"
	case r.wrong() != "":
		return strings.TrimSuffix("DIFFERS: "+r.wrong()+"; "+r.remarks(), "; ")
	}
	return strings.TrimSuffix("equal; "+r.remarks(), "; ")
}

// line is the result in a line.
func (r *result) line() string {
	return fmt.Sprintf("%s: %d tests, %d comparisons, %d commands, %d kills: %s", r.file, r.ok+len(r.failures), r.compared, r.commands, r.kills, r.verdictText())
}

// tooLate is why a file does not run for which nothing but the time is missing.
const tooLate = "the time was over"

// printTable prints a row for each file that ran or was left out, and how many were not begun.
func printTable(w io.Writer, all []result) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nserver\tfile\ttests\tfailed\tcompared\tcommands\tbytes\tkills\t")
	late := map[string]int{}
	for _, r := range all {
		if r.skipped == tooLate {
			late[r.server]++
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n",
			r.server, r.file, r.ok+len(r.failures), len(r.failures), r.compared, r.commands, r.bytes, r.kills, r.verdictText())
	}
	_ = table.Flush()
	if len(late) > 0 {
		fmt.Fprintf(w, "\nFiles not begun, for %s: %s\n", tooLate, counts(late))
	}
}

// verdict sums up, and gives the exit code.
func verdict(w io.Writer, all []result) int {
	var ran, compared, kills, wrong int
	var commands int64
	for _, r := range all {
		if r.compared > 0 {
			ran++
		}
		compared, kills, commands = compared+r.compared, kills+r.kills, commands+r.commands
		if r.wrong() != "" || r.fault != nil {
			wrong++
		}
	}
	fmt.Fprintf(w, "\n%d files, %d comparisons, %d commands, %d kills: ", ran, compared, commands, kills)
	switch {
	case wrong > 0:
		fmt.Fprintf(w, "%d files are NOT AS THEY SHOULD BE\n", wrong)
	case compared == 0:
		fmt.Fprintln(w, "nothing was compared")
	default:
		fmt.Fprintln(w, "the target was equal to the source wherever the control was")
		return 0
	}
	return 1
}

// counts is a count of each kind, by name.
func counts(kinds map[string]int) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		all = append(all, fmt.Sprintf("%s ×%d", kind, kinds[kind]))
	}
	return strings.Join(all, ", ")
}

// refusals reads rejected.resp: how often a command was refused, by its name and the reason.
func refusals(text []byte) map[string]int {
	kinds := map[string]int{}
	why := ""
	for len(text) > 0 {
		complete, args, _, rest, err := redcon.ReadNextCommand(text, nil)
		if err != nil || !complete || len(args) == 0 {
			break
		}
		text = rest
		switch name := strings.ToUpper(string(args[0])); {
		case name == "SELECT" && why == "":
		case name == "ECHO" && why == "" && len(args) == 2:
			why, _, _ = strings.Cut(offset.ReplaceAllString(string(args[1]), ""), ", with args")
		default:
			kinds[fmt.Sprintf("%s (%.100s)", name, why)]++
			why = ""
		}
	}
	return kinds
}

// offset is what a refusal's reason begins with.
var offset = regexp.MustCompile(`^redferry: refused at (offset )?\d+(: )?`)
