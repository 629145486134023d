package applier

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redis/rueidis"

	"redferry/replica"
)

// A target may close the connection on a command instead of refusing it: one that is longer than its client-query-buffer-limit, or takes more memory than its
// maxmemory-clients. To send the same again would go on for ever. But a target that restarts closes connections, too, and so does a network. So a write is only
// named when it was sent alone, the same server process answered before and after, and either a limit of that server is surely smaller than the write, or it is
// large and the connection was closed on it three times in a row, and for some seconds: less may be any short trouble.

const (
	hungUpOften = 3               // times in a row that a write alone is given,
	hungUpFor   = 5 * time.Second // for so long at least
	splitAfter  = 2               // times in a row that several writes are given before they are sent in parts
	// largeWrite is what a write has at least that is large. No setting of a server's but maxmemory-clients can be as small as twice of it.
	largeWrite = 512 << 10
	// oldArguments is how many arguments a command may have on servers before 7.0.
	oldArguments = 1 << 20
)

// hungUp tells whether a transaction ended because the other side closed the connection, rather than by silence.
func hungUp(err error) bool {
	return errors.Is(err, errBroken) && replica.ClosedByPeer(err)
}

// hangUps counts in how many tries in a row one and the same server process closed the connection. The zero value has counted none.
type hangUps struct {
	n       int
	since   time.Time         // the first of them
	history string            // of that process
	info    map[string]string // that it gave before the last try
}

// count takes in how a try on c has ended.
func (h *hangUps) count(err error, c *conn) {
	switch {
	case c == nil || !hungUp(err): // whether it could be reached at all is another question
		*h = hangUps{}
		return
	case h.history != c.history:
		*h = hangUps{}
	}
	if h.n++; h.n == 1 {
		h.since = time.Now()
	}
	h.history, h.info = c.history, c.info
}

// among tells whether that many tries have been counted, and c is a connection to the process that closed the others.
func (h *hangUps) among(c *conn, n int) bool { return h.n >= n && c.history == h.history }

// end is the error that the tries end with, once c is connected.
func (h *hangUps) end(c *conn) *hungUpError {
	return &hungUpError{tries: h.n, lasted: time.Since(h.since), before: h.info, after: c.info}
}

// hungUpError says that the target closes the connection on a transaction again and again, and answers in between.
type hungUpError struct {
	tries         int
	lasted        time.Duration     // since the first
	before, after map[string]string // INFO
}

func (e *hungUpError) Error() string {
	if e.tries == 1 {
		return "the target closed the connection on it"
	}
	return fmt.Sprintf("the target closed the connection on it %d times in a row", e.tries)
}

// grown tells whether a counter of INFO has grown from before the last try to after it.
func (e *hungUpError) grown(counter string) bool {
	return parseInt(e.after[counter]) > parseInt(e.before[counter])
}

// heavy is how large a write is.
type heavy struct {
	what    string // "it", or what it is a part of
	bytes   int64  // of all its arguments
	longest int64  // argument
	args    int
}

func (h *heavy) add(arg int) {
	h.bytes += int64(arg)
	h.longest = max(h.longest, int64(arg))
	h.args++
}

func (h *heavy) String() string {
	return fmt.Sprintf("%s has %s (%d bytes) in %s arguments", h.what, humanize.IBytes(uint64(h.bytes)), h.bytes, humanize.Comma(int64(h.args)))
}

// clientLimits are the settings for which a target closes a connection; -1 where it does not say, 0 for no limit.
type clientLimits struct{ queryBuffer, memory, bulk int64 }

// readClientLimits reads what CONFIG GET gave of a target with that maxmemory: maxmemory-clients may be a percentage of it.
func readClientLimits(config map[string]string, maxmemory int64) clientLimits {
	number := func(name string) int64 {
		n, err := strconv.ParseInt(config[name], 10, 64)
		if err != nil || n < 0 {
			return -1
		}
		return n
	}
	l := clientLimits{queryBuffer: number("client-query-buffer-limit"), memory: number("maxmemory-clients"), bulk: number("proto-max-bulk-len")}
	if percent, ok := strings.CutSuffix(config["maxmemory-clients"], "%"); ok {
		if n, err := strconv.ParseInt(percent, 10, 64); err == nil && n >= 0 && n <= 100 {
			l.memory = max(0, maxmemory/100*n)
		}
	}
	return l
}

// tooLarge judges a write that was sent alone and on which the target hung up. The error is why the target does not take it, and nil when that cannot be said.
func (l clientLimits) tooLarge(h heavy, e *hungUpError) *largeError {
	err := &largeError{why: fmt.Sprintf("%s: %s", e, &h)}
	over := func(name string, limit, size int64) bool {
		if limit <= 0 || size <= limit {
			return false
		}
		err.why += fmt.Sprintf(", and the target's %s is %s (%d)", name, humanize.IBytes(uint64(limit)), limit)
		err.mend = fmt.Sprintf("CONFIG SET %s %d on the target, or more", name, roomFor(size))
		return true
	}
	switch {
	case over("client-query-buffer-limit", l.queryBuffer, h.longest),
		over("proto-max-bulk-len", l.bulk, h.longest),
		over("maxmemory-clients", l.memory, h.bytes):
	case e.tries < hungUpOften || e.lasted < hungUpFor || h.bytes < largeWrite:
		return nil
	case over("client-query-buffer-limit", l.queryBuffer, h.bytes): // some servers count together what a transaction has, and all is sent in one
	case e.grown("client_query_buffer_limit_disconnections"):
		err.why += ", and the target counts it as over its client-query-buffer-limit"
		err.mend = "raise client-query-buffer-limit on the target"
	case e.grown("evicted_clients"):
		err.why += ", and the target counts it as over its maxmemory-clients"
		err.mend = "raise maxmemory-clients on the target"
	default:
		err.why += "; none of its limits that are known says why"
		err.mend = "look at its log, raise its client-query-buffer-limit and maxmemory-clients, and see what is between it and redferry"
	}
	return err
}

// roomFor is a limit that takes so many bytes, twice over: a power of two.
func roomFor(size int64) int64 {
	limit := int64(1 << 20)
	for limit < size && limit < 1<<61 {
		limit <<= 1
	}
	return limit << 1
}

// largeError is why a target does not take a write, and what helps.
type largeError struct{ why, mend string }

func (e *largeError) Error() string { return e.why }

// overBulk is the error about an argument that the target would close the connection on.
func overBulk(what string, size, limit int64) error {
	return &largeError{
		why:  fmt.Sprintf("%s %d bytes, and the target's proto-max-bulk-len is %d", what, size, limit),
		mend: fmt.Sprintf("CONFIG SET proto-max-bulk-len %d on the target, or more", roomFor(size)),
	}
}

// mend is what helps against a refusal: what it says itself, or otherwise.
func mend(err error, otherwise string) string {
	if large := (*largeError)(nil); errors.As(err, &large) {
		return large.mend
	}
	return otherwise
}

// tooLarge asks the target for its limits and judges by them; see clientLimits.tooLarge. What it does not permit to ask is unknown.
func (a *Applier) tooLarge(ctx context.Context, c rueidis.CoreClient, h heavy, e *hungUpError) *largeError {
	config := map[string]string{}
	for _, name := range []string{"client-query-buffer-limit", "maxmemory-clients", "proto-max-bulk-len"} { // before 7.0 it takes one at a time
		m, err := c.Do(ctx, c.B().ConfigGet().Parameter(name).Build()).AsStrMap()
		if err == nil {
			config[name] = m[name]
		}
	}
	return readClientLimits(config, parseInt(e.after["maxmemory"])).tooLarge(h, e)
}

// resends is how a batch of the stream is sent again whose connection broke. Its units have an order: so the first ones go alone, and then ever more at a time,
// until the target has all of them, or hangs up on one that was alone.
type resends struct {
	hangs hangUps
	from  int // the first unit of these tries
	most  int // units at a time; 0 for all
}

// to is how far units may be sent from the given one on. Where that is another than before, the target has taken the last one, though its connection broke.
func (r *resends) to(from, all int) int {
	if r.from != from {
		r.from, r.hangs = from, hangUps{}
	}
	if r.most == 0 {
		return all
	}
	return min(all, from+r.most)
}

// note takes in how a try on c has ended that sent so many units, of which some were committed.
func (r *resends) note(err error, c *conn, sent, committed int) {
	if committed > 0 {
		r.hangs, r.most = hangUps{}, 2*r.most
		if err == nil {
			return
		}
	}
	if errors.Is(err, errAgain) {
		r.hangs = hangUps{}
		return
	}
	r.hangs.count(err, c)
	if r.hangs.n >= splitAfter && sent > 1 {
		r.hangs, r.most = hangUps{}, 1
	}
}

// heavy is how large unit i is, without what is left out of it.
func (b *batch) heavy(i int) (h heavy) {
	from, to := b.commands(i)
	sent := 0
	for cmd := from; cmd < to; cmd++ {
		if b.cmds[cmd].skip {
			continue
		}
		sent++
		b.arguments(cmd, func(arg []byte) { h.add(len(arg)) })
	}
	h.what = "it"
	if sent > 1 {
		h.what = fmt.Sprintf("its transaction of %d commands", sent)
	}
	return h
}

// hungUpOn deals with unit i, which was sent alone and on which the target hung up. Its error is a Stop in front of the unit; or errAgain, when the unit's commands are left
// out; or nil, when it is to be sent again.
func (a *Applier) hungUpOn(ctx context.Context, b *batch, i int, h hangUps) error {
	e := h.end(a.conn)
	ctx, cancel := lasting(ctx)
	defer cancel()
	err := a.tooLarge(ctx, a.conn, b.heavy(i), e)
	if err == nil {
		return nil
	}
	from, to := b.commands(i)
	largest, most := from, -1
	var all []failure
	for cmd := from; cmd < to; cmd++ {
		if b.cmds[cmd].skip {
			continue
		}
		size := 0
		b.arguments(cmd, func(arg []byte) { size += len(arg) })
		if size > most {
			largest, most = cmd, size
		}
		all = append(all, failure{cmd, err})
	}
	if len(all) == 0 { // what is left of it is redferry's own
		return nil
	}
	if !a.KeepGoing {
		all = []failure{{largest, err}}
	}
	return a.refuseCommands(b, all)
}
