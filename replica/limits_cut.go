package replica

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
)

// transferMark is what is remembered of a source when its full resync begins, so that it can be told afterwards why the link ended.
type transferMark struct {
	runID  string
	at     Position    // of +FULLRESYNC: from here on writes wait in the buffer
	began  time.Time   // when that came
	closed int64       // client_output_buffer_limit_disconnections before it, -1 where INFO has no such field
	facts  bufferFacts // gathered after --raise-source-limits has done its work
}

// markTransfer makes the mark at +FULLRESYNC. info is INFO as it was before PSYNC.
func markTransfer(info map[string]string, facts bufferFacts, at Position) transferMark {
	return transferMark{runID: info["run_id"], at: at, began: time.Now(), closed: closedClients(info), facts: facts}
}

// closedClients is how many clients of any class the source closed for their limits. Redis 7.4 and Valkey 8.1 are among those that count them, Redis
// 7.0 is not: -1.
func closedClients(info map[string]string) int64 {
	n, err := strconv.ParseInt(info["client_output_buffer_limit_disconnections"], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// linkEnd is how far a link came that ended before its full resync had drained.
type linkEnd struct {
	when     time.Time
	received int64 // offset up to which we have the stream: transferMark.at's before the RDB was through
	rdb      int64 // bytes of the RDB that came
	rdbSize  int64 // of how many; -1 when unknown
}

// cut is a link that the source has closed because of its client-output-buffer-limit.
type cut struct {
	text string // a sentence with the numbers, without its full stop
	hint string // the ways out
}

// whyCut asks the source, over its side connection, whether it has closed the link for its limit. It is nil when it was something else, or when nobody
// can tell.
func (s *source) whyCut(ctx context.Context, m transferMark, end linkEnd) (*cut, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	return m.judge(info, end), nil
}

// judge compares INFO after the end with the mark.
//
// Before Redis 7.2 the end can show late: the source's child inherits the connection, which stays open until that has ended.
//
// The counter is of all clients, and not there before Redis 7.4; the bytes that waited are known to what was written between the cut and our look. So
// a counter that stands still says no. One that has grown says yes, unless far too little waited: then it was somebody else's link. Without a
// counter the bytes must have reached the limit, but for the tenth that a source's blocks may be unfilled.
func (m transferMark) judge(info map[string]string, end linkEnd) *cut {
	offset, err := strconv.ParseInt(info["master_repl_offset"], 10, 64)
	if err != nil || info["run_id"] != m.runID || info["master_replid"] != m.at.ReplID {
		return nil // INFO is not permitted, or the source restarted, or follows another history
	}
	after := closedClients(info)
	counted := m.closed >= 0 && after >= 0
	waited := float64(max(0, offset-max(m.at.Offset, end.received)))
	lasted := max(end.when.Sub(m.began), time.Millisecond)
	switch {
	case counted && after <= m.closed, m.facts.known && m.facts.limit.unlimited():
		return nil
	case counted && !m.facts.known:
	case counted && waited < 0.5*float64(m.facts.limit.smallest()):
		return nil
	case !counted && (!m.facts.known || !m.facts.limit.reached(waited/0.9, lasted)):
		return nil
	}

	seen := m.facts
	seen.rate, seen.atMost = float64(offset-m.at.Offset)/lasted.Seconds(), false
	seen.took = max(seen.took, m.whole(end, lasted))
	limit, evidence := "unknown to us", "over its limit; this version keeps no count of such cuts"
	if m.facts.known {
		limit = m.facts.limit.words()
	}
	if counted {
		evidence = fmt.Sprintf("its client_output_buffer_limit_disconnections went from %d to %d", m.closed, after)
	}
	return &cut{
		text: fmt.Sprintf("the source cut the link %s after its RDB was begun, because of its client-output-buffer-limit for replicas (%s): "+
			"%s of writes waited there for us, %s/s (%s)", about(lasted), limit, humanize.IBytes(uint64(waited)), humanize.IBytes(uint64(seen.rate)), evidence),
		hint: seen.waysOut(),
	}
}

// reached tells whether so many bytes, grown evenly over that time, get a client closed.
func (l bufferLimit) reached(bytes float64, over time.Duration) bool {
	if l.Hard > 0 && bytes >= float64(l.Hard) {
		return true
	}
	if l.Soft == 0 || bytes < float64(l.Soft) {
		return false
	}
	above := over.Seconds() * (1 - float64(l.Soft)/bytes)
	return above >= float64(l.SoftSeconds)
}

// whole is how long the RDB would have taken: by the part of it that came, or, where that cannot be told, twice as long.
func (m transferMark) whole(end linkEnd, lasted time.Duration) time.Duration {
	if end.rdbSize > 0 && end.rdb > 0 {
		return seconds(lasted.Seconds() * max(1, float64(end.rdbSize)/float64(end.rdb)))
	}
	return 2 * lasted
}

// maxCuts is after how many cuts in a row a run asks its operator: each costs the source a fork, and the next attempt would end like the last.
const maxCuts = 2

// cuts counts the links in a row that the source has cut for its limit. The zero value is ready for use.
type cuts int

// count takes in how a full resync ended: with whyCut's finding, or nil when it got through or ended otherwise. The error is the [Stop] after which the
// operator must decide.
func (n *cuts) count(c *cut) error {
	if c == nil {
		*n = 0
		return nil
	}
	if *n++; *n < maxCuts {
		return nil
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("%s; that was the %s time in a row, and the next would end like it", c.text, humanize.Ordinal(int(*n))),
		Hint: c.hint,
	}
}
