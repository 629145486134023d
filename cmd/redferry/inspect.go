package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
)

type inspectCmd struct {
	File   string `arg:"" optional:"" placeholder:"FILE.rdb" help:"An RDB file; - for stdin."`
	Keys   bool   `help:"List each key of the file: database, type, bytes, time of expiry, place in the file, name."`
	Top    int    `default:"10" help:"How many of the file's biggest keys to show."`
	Target string `placeholder:"URL" help:"Show the checkpoint in this target, as it stands."`
	targetTLS
	nameFlag
	JSON bool `name:"json" help:"Print JSON: one object, or with --keys one for each key."`
}

// Run shows an RDB file, or a checkpoint.
func (c *inspectCmd) Run(ctx context.Context, s *streams) error {
	switch {
	case c.File != "": // also when REDFERRY_TARGET is set
		return c.inspectFile(ctx, s.out)
	case c.Target == "":
		return &replica.Stop{Kind: replica.Config, Reason: "inspect needs an RDB file or a --target", Hint: "redferry inspect dump.rdb, or redferry inspect --target URL"}
	}
	target, t, err := findTraces(ctx, c.Target, c.TargetTLS, c.nameFlag)
	if err != nil {
		return err
	}
	if len(t.Checkpoint) == 0 && len(t.OwnerKey) == 0 {
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("the target %s has nothing of migration %q", target, c.Name), Hint: "check --target and --name",
		}
	}
	if c.JSON {
		return printJSON(s.out, map[string]any{checkpoint.Key(c.Name): t.Checkpoint, checkpoint.OwnerKey(c.Name): t.OwnerKey, "time": t.Now.UTC()})
	}
	return c.printTraces(s.out, target, &t)
}

func (c *inspectCmd) printTraces(w io.Writer, target replica.Endpoint, t *applier.Traces) error {
	p := &table{w: w}
	p.line("%s in database 0 of %s", checkpoint.Key(c.Name), target)
	p.fields(t.Checkpoint, checkpointMeanings(), t.Now)
	if t.Unusable != nil {
		p.line("This version of redferry cannot use it: %v", t.Unusable)
	}
	p.line("")
	p.line("%s", checkpoint.OwnerKey(c.Name))
	p.fields(t.OwnerKey, ownerMeanings(), t.Now)
	return p.err
}

// meaning explains one field of a hash.
type meaning struct {
	field, text string
	isTime      bool // Unix time in ms
}

func checkpointMeanings() []meaning {
	return []meaning{
		{checkpoint.FieldFormat, "version of this record", false},
		{checkpoint.FieldName, "the migration", false},
		{checkpoint.FieldEpoch, "of the process that wrote it; a later process has a higher one", false},
		{checkpoint.FieldPhase, "snapshot: loaded in part; stream: the source's data as of the offset; completed: ended by a cutover", false},
		{checkpoint.FieldOrigin, "of the target before the snapshot: empty, or merge: it held other keys", false},
		{checkpoint.FieldReplID, "the replication ID that the offset belongs to", false},
		{checkpoint.FieldOffset, "all up to here is in the target", false},
		{checkpoint.FieldChecked, "all replies up to here were read", false},
		{checkpoint.FieldDB, "selected in the stream at the offset", false},
		{checkpoint.FieldSnapRead, "bytes of the RDB of which all is in the target", false},
		{checkpoint.FieldSnapScan, "what a scanner needs to go on at that byte of the RDB; empty behind the snapshot", false},
		{checkpoint.FieldSnapSize, "bytes of the RDB; -1: the source did not say", false},
		{checkpoint.FieldRejected, "writes that the target refused for good", false},
		{checkpoint.FieldDiverged, "transactions that took effect though their guard had not agreed", false},
		{checkpoint.FieldDivergence, "commands that found nothing to change in the target, where the source had", false},
		{checkpoint.FieldLost, "offsets, from-to, of writes whose replies were lost", false},
		{checkpoint.FieldExpiry, "how the target's expiries are written: shift, import, mixed: shifted if they are before real_from, or as-is: they are the source's", false},
		{checkpoint.FieldReal, "mixed: the moment before which no expiry in the target is the source's, by the target's clock", false},
		{checkpoint.FieldExpired, "the offset up to which the target may have expired keys by itself that the source has renewed; 0: it has not", false},
		{checkpoint.FieldImport, "the target's import-mode before the migration, to be put back", false},
		{checkpoint.FieldRefusal, "how the source was before a cutover made it refuse writes, for undoing that; empty when it takes them", false},
		{checkpoint.FieldTime, "when it was written, by the writer's clock", true},
		{checkpoint.FieldSource, "where the source was, for messages only", false},
		{"fenced", "how often a writer was stopped that was not the last one", false},
	}
}

func ownerMeanings() []meaning {
	return []meaning{
		{"owner", "who writes, or did", false},
		{"place", "its machine and lock file", false},
		{"epoch", "under which it writes; the highest one may", false},
		{"lease", "until when it counts as alive, by the target's clock", true},
	}
}

func (t *table) line(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format+"\n", args...)
	}
}

// fields prints a hash: the fields that are known in their order, and then the others.
func (t *table) fields(hash map[string]string, meanings []meaning, now time.Time) {
	if len(hash) == 0 {
		t.line("  is not there")
	}
	var known []string
	for _, m := range meanings {
		known = append(known, m.field)
		value, ok := hash[m.field]
		if !ok {
			continue
		}
		text := m.text
		if ms, err := strconv.ParseInt(value, 10, 64); m.isTime && err == nil {
			text = fmt.Sprintf("%s: %s", text, ago(now.Sub(time.UnixMilli(ms))))
		}
		t.line("  %-13s  %-40s  %s", m.field, strconv.Quote(value), text)
	}
	var others []string
	for field := range hash {
		if !slices.Contains(known, field) {
			others = append(others, field)
		}
	}
	slices.Sort(others)
	for _, field := range others {
		t.line("  %-13s  %-40q  unknown to this version", field, hash[field])
	}
}

func ago(d time.Duration) string {
	if d < 0 {
		return "in " + short(-d)
	}
	return short(d) + " ago"
}
