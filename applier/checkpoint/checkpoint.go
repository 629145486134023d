// Package checkpoint is the record that a migration keeps in its target: how far it has come, and what it found on the way.
//
// The record is a hash, redferry:<name> in database 0, written in the same MULTI/EXEC as the writes that it covers. This package knows its
// fields, its key names and its format version; it does no input or output and starts no goroutine. docs/checkpoint.md describes the format.
package checkpoint

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"redferry/replica"
)

// Format is the version of the record that this program writes. It reads the one before it, too; any other is refused, never guessed at.
const Format = 2

// formatAsIs is the version that did not say how expiries are written: they were as the source has them.
const formatAsIs = 1

// The Expiry of a record, beside those that an operator may choose.
const (
	AsIs  = "as-is" // nothing has to be undone: the target's expiries are the source's
	Mixed = "mixed" // those before RealFrom are shifted; later ones may be the source's
)

// Prefix begins every key that redferry writes for itself. Such keys are never copied from a source.
const Prefix = "redferry:"

// Phase says what the target holds.
type Phase string

// The phases of a migration.
const (
	PhaseSnapshot  Phase = "snapshot"  // a snapshot in part, of what the source had at Offset: useless without its rest
	PhaseStream    Phase = "stream"    // the source's data as of Offset
	PhaseCompleted Phase = "completed" // a cutover's tombstone: no process may write here again
)

// Origin says what the target held before the snapshot's first key.
type Origin string

// The origins of a target's data.
const (
	OriginEmpty Origin = "empty" // nothing: whatever is there until the stream phase is our own, and may be flushed
	OriginMerge Origin = "merge" // keys that are not the source's, which a flush would destroy
)

// Record is the checkpoint. Offsets are bytes of the replication history ReplID, as in the source's master_repl_offset.
type Record struct {
	Name  string
	Epoch int64 // of the process that wrote it; a newer process has a higher one
	Phase Phase
	Origin

	ReplID  string
	Offset  int64 // all units up to here are in the target
	Checked int64 // every reply up to here was read
	DB      int   // selected in the stream at Offset; in the snapshot phase as far as the RDB has said

	SnapshotRead int64  // bytes of the RDB of which all is in the target
	SnapshotScan string // the reader's state there, as rdbstream gives it: what the rest can be read with. Empty when there is no such place
	SnapshotSize int64  // bytes of the RDB, -1 when unknown

	Rejected  int64  // writes that the target refused for good
	Diverged  int64  // transactions that committed although their guard had not agreed
	Unchecked string // ranges of offsets whose replies were lost, as from-to,from-to
	// Divergence is of the replies that were read, since the snapshot, and of what was compared in place of those that were lost. It is shared by copies of the record.
	Divergence Divergence

	Expiry    string // how the target's expiries are written: shift, import, AsIs or Mixed
	ImportWas string // import: the target's import-mode before, to be put back; empty otherwise
	// RealFrom is, of Mixed, the moment before which no expiry in the target is the source's, in Unix ms. As
	// long as the target's clock is before it, the target has expired nothing by itself.
	RealFrom int64
	// Expired is the offset at which it was found last that the target may have expired keys by itself before
	// it had all that the source wrote to them. 0 means never, or that all keys were compared since.
	Expired int64

	// Refusal says how the source was before a cutover made it refuse writes, in a text that belongs to
	// the replica package; empty while the source was left alone. The tombstone keeps it, for undoing.
	Refusal string

	Time   int64  // of the last write, Unix time in ms by the writer's clock
	Source string // address of the source, for messages only
}

// Position is where the stream goes on.
func (r *Record) Position() replica.Position {
	return replica.Position{ReplID: r.ReplID, Offset: r.Offset, DB: r.DB}
}

// maxRanges bounds Unchecked: beyond it the oldest ranges are taken together, with what lies between them.
const maxRanges = 64

// NoteLostReplies keeps in Unchecked what lies between Checked and Offset, and sets Checked to Offset.
func (r *Record) NoteLostReplies() (lost bool) {
	if r.Checked >= r.Offset {
		return false
	}
	from, ranges := itoa(r.Checked), strings.FieldsFunc(r.Unchecked, func(c rune) bool { return c == ',' })
	if n := len(ranges); n > 0 && strings.HasSuffix(ranges[n-1], "-"+from) {
		from, _, _ = strings.Cut(ranges[n-1], "-")
		ranges = ranges[:n-1]
	}
	ranges = append(ranges, from+"-"+itoa(r.Offset))
	if len(ranges) > maxRanges {
		first, _, _ := strings.Cut(ranges[0], "-")
		_, last, _ := strings.Cut(ranges[1], "-")
		ranges = append([]string{first + "-" + last}, ranges[2:]...)
	}
	r.Unchecked, r.Checked = strings.Join(ranges, ","), r.Offset
	return true
}

// Ranges are the ranges of Unchecked, oldest first. What cannot be read is left out, and stays in Unchecked.
func (r *Record) Ranges() (list []replica.Range) {
	for text := range strings.SplitSeq(r.Unchecked, ",") {
		if part, ok := parseRange(text); ok {
			list = append(list, part)
		}
	}
	return list
}

// NoteCompared takes parts of the stream out of Unchecked. What touches one of them and goes beyond it stays.
func (r *Record) NoteCompared(parts []replica.Range) {
	var left []string
	for text := range strings.SplitSeq(r.Unchecked, ",") {
		lost, ok := parseRange(text)
		for _, p := range parts {
			if ok && p.From <= lost.From && p.To > lost.From {
				lost.From = min(p.To, lost.To)
				text = lost.String()
			}
		}
		if text != "" && (!ok || lost.From < lost.To) {
			left = append(left, text)
		}
	}
	r.Unchecked = strings.Join(left, ",")
}

func parseRange(text string) (r replica.Range, ok bool) {
	from, to, _ := strings.Cut(text, "-")
	var bad [2]error
	r.From, bad[0] = strconv.ParseInt(from, 10, 64)
	r.To, bad[1] = strconv.ParseInt(to, 10, 64)
	return r, bad == [2]error{} && r.From < r.To
}

// Key is the checkpoint's key.
func Key(name string) string { return Prefix + name }

// OwnerKey is the key of the owner's record: who writes, its epoch and its lease.
func OwnerKey(name string) string { return Prefix + name + ":owner" }

// FenceKey is the key that the snapshot's transactions watch: epoch and generation. It is not the owner's, whose lease changes all the time.
func FenceKey(name string) string { return Prefix + name + ":fence" }

// Keys are all keys of a migration.
func Keys(name string) []string { return []string{Key(name), OwnerKey(name), FenceKey(name)} }

// Reserved tells a key that is redferry's own.
func Reserved(key []byte) bool { return bytes.HasPrefix(key, []byte(Prefix)) }

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName tells whether a migration may have this name: it is part of key names and of a directory's.
func CheckName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("migration name %q: use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit", name)
	}
	return nil
}

// The fields of the hash.
const (
	FieldFormat   = "format"
	FieldName     = "name"
	FieldEpoch    = "epoch"
	FieldPhase    = "phase"
	FieldOrigin   = "origin"
	FieldReplID   = "replid"
	FieldOffset   = "offset"
	FieldChecked  = "checked"
	FieldDB       = "db"
	FieldSnapRead = "snapshot_read"
	FieldSnapScan = "snapshot_scan"
	FieldSnapSize = "snapshot_size"
	FieldRejected = "rejected"
	FieldDiverged = "diverged"
	FieldLost     = "unchecked"
	FieldExpiry   = "expiry"
	FieldImport   = "import_was"
	FieldRefusal  = "refusal"
	FieldReal     = "real_from"
	FieldExpired  = "expired"
	FieldTime     = "time"
	FieldSource   = "source"

	FieldDivergence = "divergence"
)

// Fields is the whole record as HSET takes it: field, value, field, value…
func (r *Record) Fields() []string {
	return []string{
		FieldFormat, strconv.Itoa(Format),
		FieldName, r.Name,
		FieldEpoch, itoa(r.Epoch),
		FieldPhase, string(r.Phase),
		FieldOrigin, string(r.Origin),
		FieldReplID, r.ReplID,
		FieldOffset, itoa(r.Offset),
		FieldChecked, itoa(r.Checked),
		FieldDB, strconv.Itoa(r.DB),
		FieldSnapRead, itoa(r.SnapshotRead),
		FieldSnapScan, r.SnapshotScan,
		FieldSnapSize, itoa(r.SnapshotSize),
		FieldRejected, itoa(r.Rejected),
		FieldDiverged, itoa(r.Diverged),
		FieldLost, r.Unchecked,
		FieldExpiry, r.Expiry,
		FieldImport, r.ImportWas,
		FieldReal, itoa(r.RealFrom),
		FieldExpired, itoa(r.Expired),
		FieldDivergence, r.Divergence.String(),
		FieldRefusal, r.Refusal,
		FieldTime, itoa(r.Time),
		FieldSource, r.Source,
	}
}

// ExpiryFields are those of Fields that say how expiries are written.
func (r *Record) ExpiryFields() []string {
	return []string{
		FieldFormat, strconv.Itoa(Format), FieldExpiry, r.Expiry, FieldImport, r.ImportWas,
		FieldReal, itoa(r.RealFrom), FieldExpired, itoa(r.Expired),
	}
}

// Parse reads a record from the hash's fields. ok is false when there is none: no field, or nothing but what a guard left behind.
func Parse(fields map[string]string) (r Record, ok bool, err error) {
	format, ok := fields[FieldFormat]
	if !ok {
		return Record{}, false, nil
	}
	if format != strconv.Itoa(Format) && format != strconv.Itoa(formatAsIs) {
		return Record{}, false, fmt.Errorf("the checkpoint has format %q, this program knows %d and %d", format, formatAsIs, Format)
	}
	p := parser{fields: fields}
	r = Record{
		Name:         fields[FieldName],
		Epoch:        p.int(FieldEpoch),
		Phase:        Phase(fields[FieldPhase]),
		Origin:       Origin(fields[FieldOrigin]),
		ReplID:       fields[FieldReplID],
		Offset:       p.int(FieldOffset),
		Checked:      p.int(FieldChecked),
		DB:           int(p.int(FieldDB)),
		SnapshotRead: p.int(FieldSnapRead),
		SnapshotScan: fields[FieldSnapScan],
		SnapshotSize: p.int(FieldSnapSize),
		Rejected:     p.int(FieldRejected),
		Diverged:     p.int(FieldDiverged),
		Unchecked:    fields[FieldLost],
		Expiry:       fields[FieldExpiry],
		ImportWas:    fields[FieldImport],
		Refusal:      fields[FieldRefusal],
		RealFrom:     p.later(FieldReal),
		Expired:      p.later(FieldExpired),
		Time:         p.int(FieldTime),
		Source:       fields[FieldSource],
	}
	if r.Divergence, err = parseDivergence(fields[FieldDivergence]); err != nil {
		p.err = cmp.Or(p.err, err)
	}
	if p.err != nil {
		return Record{}, false, p.err
	}
	if format == strconv.Itoa(formatAsIs) {
		r.Expiry = AsIs
	}
	switch r.Phase {
	case PhaseSnapshot, PhaseStream, PhaseCompleted:
	default:
		return Record{}, false, fmt.Errorf("the checkpoint's phase is %q", r.Phase)
	}
	return r, true, nil
}

type parser struct {
	fields map[string]string
	err    error
}

func (p *parser) int(field string) int64 {
	n, err := strconv.ParseInt(p.fields[field], 10, 64)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("the checkpoint's field %s is %q, not a number", field, p.fields[field])
	}
	return n
}

// later reads a number that records of earlier versions of this program do not have: it is 0 there.
func (p *parser) later(field string) int64 {
	if p.fields[field] == "" {
		return 0
	}
	return p.int(field)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
