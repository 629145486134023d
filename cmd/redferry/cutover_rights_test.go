package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"redferry/internal/redistest"
)

// The users of docs/operations.md may do all that a cutover does, with all that it may compare; and it lacks something without what the page adds for it.
func TestCutoverByUsersOfTheManual(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	const section = "`cutover` pauses the source's clients"
	runs, cuts, ok := strings.Cut(string(doc), section)
	if !ok {
		t.Fatalf("the manual does not say %q", section)
	}
	rule := regexp.MustCompile(`(?m)^    ACL SETUSER (ferry-source|ferry-target) (.*)$`)
	source, target := pair(t)
	servers := map[string]*redistest.Server{"ferry-source": source, "ferry-target": target}
	grant := func(text string) {
		t.Helper()
		lines := rule.FindAllStringSubmatch(text, 2)
		if len(lines) != 2 || lines[0][1] == lines[1][1] {
			t.Fatalf("found %q, want a line of the source and one of the target", lines)
		}
		for _, l := range lines {
			servers[l[1]].Do(t, append([]string{"ACL", "SETUSER", l[1]}, strings.Fields(l[2])...)...)
		}
	}
	grant(runs)
	p := newProgram(t)
	run := p.start(t, "run", "--source", "redis://ferry-source:secret@"+source.Addr(), "--target", "redis://ferry-target:secret@"+target.Addr())
	run.until(t, "in_sync")
	if r := p.run(t, "cutover", "--verify=full"); r.code == exitDone {
		t.Error("a cutover wants no rights of its own: the manual asks for too much")
	}
	grant(cuts)
	for right, says := range map[string]string{"client|pause": "does not let its writes be paused", "config|set": "cannot be made to refuse writes"} {
		source.Do(t, "ACL", "SETUSER", "ferry-source", "-"+right)
		r := p.run(t, "cutover")
		r.expect(t, exitDecide, "no cutover, and replication goes on: the source "+source.Addr()+" "+says, "ACL SETUSER <user> +")
		if strings.Contains(r.stderr, "settling") {
			t.Errorf("without %s: it comes to light behind settling", right)
		}
		source.Do(t, "ACL", "SETUSER", "ferry-source", "+"+right)
	}
	p.run(t, "cutover", "--verify=full").expect(t, exitDone, "the target is the one to write to")
	run.wait(t).expect(t, exitDone)
}
