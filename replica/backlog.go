package replica

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Backlog is what a source can still repeat, as its INFO replication tells. Asking for what it cannot costs a full resync, hence it is looked at
// before PSYNC.
type Backlog struct {
	ReplID       string // the history that the source writes now
	ReplID2      string // the one that it comes from: another primary's, before a failover
	SecondOffset int64  // the first byte, in PSYNC's counting, that is not in ReplID2's history any more; -1 without one
	FirstByte    int64  // the oldest byte in the backlog, in PSYNC's counting
	HistLen      int64  // bytes in the backlog
	MasterOffset int64  // bytes written in all
	Active       bool   // there is a backlog; a source that never had a replica has none
	Replica      bool   // the source is a replica itself
	Orphaned     bool   // … and has lost its own primary: what it says now may not be its last word
}

// ParseInfo splits the text of INFO into its fields.
func ParseInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			info[name] = value
		}
	}
	return info
}

// ParseBacklog reads the fields of INFO replication. The error names one that is missing or is no number.
func ParseBacklog(info map[string]string) (Backlog, error) {
	b := Backlog{
		ReplID: info["master_replid"], ReplID2: info["master_replid2"], Active: info["repl_backlog_active"] == "1",
		Replica: info["role"] == roleReplica,
	}
	b.Orphaned = b.Replica && info["master_link_status"] == "down"
	if b.ReplID == "" {
		return Backlog{}, errors.New("INFO replication has no master_replid: the source is older than Redis 4.0, or hides it")
	}
	for name, to := range map[string]*int64{
		"second_repl_offset":             &b.SecondOffset,
		"repl_backlog_first_byte_offset": &b.FirstByte,
		"repl_backlog_histlen":           &b.HistLen,
		"master_repl_offset":             &b.MasterOffset,
	} {
		n, err := strconv.ParseInt(info[name], 10, 64)
		if err != nil {
			return Backlog{}, fmt.Errorf("INFO replication: %s is %q: %w", name, info[name], err)
		}
		*to = n
	}
	return b, nil
}

// Has tells whether the source would continue from p, by its own rule (R: replication.c masterTryPartialResynchronization), and if not, why: a sentence
// for the operator. The source moves on: a yes is worth the seconds until PSYNC, a no is final but for a source that is being reconfigured.
func (b Backlog) Has(p Position) (ok bool, why string) {
	next := p.Offset + 1 // the byte that PSYNC asks for
	switch {
	case p.IsZero():
		return false, "there is no position to go on from"
	case !strings.EqualFold(p.ReplID, b.ReplID) && !strings.EqualFold(p.ReplID, b.ReplID2):
		return false, fmt.Sprintf("the checkpoint belongs to the replication ID %s, the source has %s%s: "+
			"it restarted, or was synchronised from elsewhere, or is another server",
			p.ReplID, b.ReplID, b.predecessor())
	case !strings.EqualFold(p.ReplID, b.ReplID) && next > b.SecondOffset:
		return false, fmt.Sprintf("the source was promoted at offset %d, the checkpoint is at %d in the history before that: %d bytes were lost in the failover",
			b.SecondOffset-1, p.Offset, next-b.SecondOffset)
	case !b.Active:
		return false, "the source keeps no backlog: it dropped it after repl-backlog-ttl without a replica, or never had one"
	case next < b.FirstByte:
		return false, fmt.Sprintf("the backlog begins at offset %d, the checkpoint is at %d: %d bytes are gone; repl-backlog-size is too small for the outage",
			b.FirstByte, p.Offset, b.FirstByte-next)
	case next > b.FirstByte+b.HistLen:
		return false, fmt.Sprintf("the checkpoint is at offset %d, the source only at %d: it has lost %d bytes, or went back to an older state",
			p.Offset, b.MasterOffset, p.Offset-b.MasterOffset)
	}
	return true, ""
}

// Behind tells whether the source is a replica that has not come to p yet, in p's own history: it came back from a file, say, and hears the rest from its
// primary. Only the newest ID will do: a primary that lost something, and its replicas, go on under another one.
func (b Backlog) Behind(p Position) bool {
	return b.Replica && !p.IsZero() && strings.EqualFold(p.ReplID, b.ReplID) && p.Offset > b.MasterOffset
}

// predecessor names the second replication ID, if there is one: without, it is all zeros.
func (b Backlog) predecessor() string {
	if strings.Trim(b.ReplID2, "0") == "" {
		return ""
	}
	return " (and before, " + b.ReplID2 + ")"
}
