package replica

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redis/rueidis"
)

// What the source's clients write while it sends its RDB waits in its output buffer for us, however fast we read (protocol 1.5). When that
// passes client-output-buffer-limit, the source closes the link without a word, and a large keyspace under load never gets through.

const (
	bufferLimitName = "client-output-buffer-limit"
	// rdbRate is what a source is taken to make of its dataset in a second while it saves: a guess on the slow side, for one that was never
	// seen to save.
	rdbRate = 50 << 20
	// rateSample is how long the write rate is looked at: a source whose rate matters writes a lot in that time, and the snapshot waits for it.
	rateSample = time.Second / 10
)

// bufferLimit is the source's client-output-buffer-limit for replicas: a client is closed when Hard bytes wait for it, or Soft bytes for longer
// than SoftSeconds. Hard and Soft are no limit where they are 0.
type bufferLimit struct {
	class                   string // what this source calls replicas here: slave, or replica
	Hard, Soft, SoftSeconds uint64
}

// parseBufferLimit reads the limit of replicas out of what CONFIG GET says, which is a name and three numbers for each class of clients, the
// sizes in bytes: "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60".
func parseBufferLimit(text string) (bufferLimit, error) {
	bad := func(why string) (bufferLimit, error) {
		return bufferLimit{}, fmt.Errorf("%s is %.200q: %s", bufferLimitName, text, why)
	}
	words := strings.Split(text, " ")
	if len(words)%4 != 0 {
		return bad("not a name and three numbers for each class of clients")
	}
	var found bufferLimit
	for ; len(words) > 0; words = words[4:] {
		l := bufferLimit{class: words[0]}
		for i, to := range []*uint64{&l.Hard, &l.Soft, &l.SoftSeconds} {
			n, err := strconv.ParseUint(words[1+i], 10, 64)
			if err != nil {
				return bad(fmt.Sprintf("%.40q is not a number", words[1+i]))
			}
			*to = n
		}
		if l.class != "slave" && l.class != "replica" {
			continue
		}
		if found.class != "" {
			return bad("it has two limits for replicas")
		}
		found = l
	}
	if found.class == "" {
		return bad("it has none for replicas")
	}
	return found, nil
}

// String is the limit as CONFIG SET takes it.
func (l bufferLimit) String() string {
	return fmt.Sprintf("%s %d %d %d", l.class, l.Hard, l.Soft, l.SoftSeconds)
}

// unlimited tells whether no client is ever closed for it.
func (l bufferLimit) unlimited() bool { return l.Hard == 0 && l.Soft == 0 }

// smallest is the lower of the two sizes, or 0 without any.
func (l bufferLimit) smallest() uint64 {
	if l.Hard == 0 || l.Soft == 0 {
		return max(l.Hard, l.Soft)
	}
	return min(l.Hard, l.Soft)
}

// words is the limit for people.
func (l bufferLimit) words() string {
	hard, soft := humanize.IBytes(l.Hard), fmt.Sprintf("%s for more than %d s", humanize.IBytes(l.Soft), l.SoftSeconds)
	switch {
	case l.unlimited():
		return "no limit"
	case l.Soft == 0:
		return hard
	case l.Hard == 0:
		return soft
	}
	return hard + ", or " + soft
}

// setBufferLimit is the command that gives the source a limit: for people, on its redis-cli.
func setBufferLimit(numbers string) string {
	return fmt.Sprintf(`CONFIG SET %s "%s"`, bufferLimitName, numbers)
}

// bufferFacts is what decides whether the source's buffer holds what is written while its RDB is sent.
type bufferFacts struct {
	limit   bufferLimit   // as it works: Hard is not below the backlog's size where the source counts so; zero when unknown
	known   bool          // false when the source does not permit CONFIG
	rate    float64       // bytes a second that the source's clients write; negative when unknown
	atMost  bool          // rate counts what clients ask, too: nothing tells writes alone
	took    time.Duration // how long the source is expected to send; 0 when unknown
	tookWhy string        // why so long
}

// bufferFacts asks the source, whose INFO says info. rate is the bytes a second that are written there, if it is known; a negative one is measured, for
// rateSample. What the source does not permit to know is unknown in the facts; the error is a broken connection, or what no server says.
func (s *source) bufferFacts(ctx context.Context, info map[string]string, rate float64) (f bufferFacts, err error) {
	f.rate = rate
	began := time.Now()
	f.took, f.tookWhy = transferTime(info)
	if f.limit, err = s.effectiveLimit(ctx, info); err != nil && !errors.Is(err, errForbidden) {
		return f, err
	}
	f.known = err == nil
	if rate >= 0 || s.blind {
		return f, nil
	}
	select {
	case <-ctx.Done():
		return f, ctx.Err()
	case <-time.After(rateSample):
	}
	later, err := s.info(ctx)
	if err != nil {
		return f, err
	}
	f.rate, f.atMost = writeRate(info, later, time.Since(began))
	return f, nil
}

// bufferLimit is the source's limit for replicas, as configured.
func (s *source) bufferLimit(ctx context.Context) (bufferLimit, error) {
	value, err := s.config(ctx, bufferLimitName)
	if err != nil {
		return bufferLimit{}, err
	}
	return parseBufferLimit(value)
}

// config is one setting of the source.
func (s *source) config(ctx context.Context, name string) (string, error) {
	m, err := s.client.Do(ctx, s.client.B().ConfigGet().Parameter(name).Build()).AsStrMap()
	if err != nil {
		return "", fmt.Errorf("ask the source for its %s: %w", name, forbidden(err))
	}
	value, ok := m[name]
	if !ok {
		return "", fmt.Errorf("ask the source for its %s: %w: it does not list it", name, errForbidden)
	}
	return value, nil
}

// errForbidden is a source's no that another try does not change.
var errForbidden = errors.New("the source does not permit it")

// forbidden marks the errors that are such a no; a source that is busy, or a broken connection, passes through.
func forbidden(err error) error {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return err
	}
	for _, passing := range []string{"LOADING", "BUSY", "MASTERDOWN"} {
		if strings.HasPrefix(re.Error(), passing) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", errForbidden, err)
}

// effectiveLimit is the limit for replicas as this source applies it: since 7.0 the buffer of a replica is shared with the backlog, and a hard limit
// below the backlog's size counts as that size (R: networking.c checkClientOutputBufferLimits).
func (s *source) effectiveLimit(ctx context.Context, info map[string]string) (bufferLimit, error) {
	l, err := s.bufferLimit(ctx)
	if err != nil {
		return l, err
	}
	major, _, _ := strings.Cut(info["redis_version"], ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 || l.Hard == 0 {
		return l, nil
	}
	value, err := s.config(ctx, "repl-backlog-size")
	if err != nil {
		return l, err
	}
	backlog, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return l, fmt.Errorf("repl-backlog-size is %.40q: not a number of bytes", value)
	}
	l.Hard = max(l.Hard, backlog)
	return l, nil
}

// writeRate is what was written between two looks at INFO, in bytes of the stream a second. A source without a backlog does not count its
// stream; what its clients sent is an upper bound then.
func writeRate(a, b map[string]string, between time.Duration) (rate float64, atMost bool) {
	field := "master_repl_offset"
	if a["repl_backlog_active"] != "1" || a["master_replid"] != b["master_replid"] {
		field, atMost = "total_net_input_bytes", true
	}
	from, errA := strconv.ParseInt(a[field], 10, 64)
	to, errB := strconv.ParseInt(b[field], 10, 64)
	if errors.Join(errA, errB) != nil || to < from || between <= 0 || a["run_id"] != b["run_id"] {
		return -1, false
	}
	return float64(to-from) / between.Seconds(), atMost
}

// transferTime is how long the source will take to send its RDB: as long as its last BGSAVE, or as its data needs at rdbRate, whichever is longer.
// It is 0 when INFO tells neither.
func transferTime(info map[string]string) (took time.Duration, why string) {
	size, err := strconv.ParseUint(info["used_memory_dataset"], 10, 63) // a fresh server may say some bytes less than 2^64: it has subtracted too much
	if err != nil {
		size, err = strconv.ParseUint(info["used_memory"], 10, 63)
	}
	if err == nil {
		took = max(seconds(float64(size)/rdbRate), 1)
		why = fmt.Sprintf("%s of data at %s/s", humanize.IBytes(size), humanize.IBytes(rdbRate))
	}
	if n, err := strconv.ParseInt(info["rdb_last_bgsave_time_sec"], 10, 64); err == nil && seconds(float64(n)) > took {
		took, why = seconds(float64(n)), "its last BGSAVE took so long"
	}
	return took, why
}

// seconds is a time of so many seconds, of a thousand hours at most: far enough from where a duration overflows.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 3600*1000) * float64(time.Second))
}

// about is a duration for people.
func about(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// RiskLevel is how likely it is that the source cuts the link during its RDB.
type RiskLevel int

// The levels, from the best to be heard to the worst but for the first.
const (
	RiskUnknown RiskLevel = iota
	RiskFine
	RiskLikely
	RiskCertain
)

// Risk is the judgement before a full resync.
type Risk struct {
	Level RiskLevel
	Text  string // a sentence with the numbers, without its full stop
	Hint  string // the ways out; empty where none is needed
}

// risk compares how long the source will send with how long its limit lasts. What is expected is known to a factor of two at best: below half
// of the limit is fine, above twice is certain.
func (f bufferFacts) risk() Risk {
	switch {
	case !f.known:
		return Risk{
			Text: "whether the source can hold what is written while it sends its RDB is unknown: it does not permit CONFIG GET",
			Hint: "ACL SETUSER <user> +config|get on the source",
		}
	case f.limit.unlimited() && (f.rate < 0 || f.took == 0):
		return Risk{Level: RiskFine, Text: "the source holds what is written while it sends its RDB: it has no client-output-buffer-limit for replicas"}
	case f.rate < 0 || f.took == 0:
		return Risk{
			Text: fmt.Sprintf("whether the source can hold what is written while it sends its RDB is unknown: its limit is %s, "+
				"and its INFO does not tell how much is written", f.limit.words()),
			Hint: "ACL SETUSER <user> +info on the source",
		}
	}
	load := fmt.Sprintf("%s/s of writes%s for about %s (%s) are %s; its client-output-buffer-limit for replicas is %s",
		humanize.IBytes(uint64(f.rate)), f.bound(), about(f.took), f.tookWhy, humanize.IBytes(uint64(f.rate*f.took.Seconds())), f.limit.words())
	lasts := f.lasts()
	reached := load + ", which is reached after " + about(seconds(lasts))
	switch ratio := f.took.Seconds() / lasts; {
	case ratio < 0.5:
		return Risk{Level: RiskFine, Text: "the source holds what is written while it sends its RDB: " + load}
	case ratio < 2 || f.atMost:
		return Risk{Level: RiskLikely, Text: "the source will probably cut the link before its RDB is through: " + reached, Hint: f.waysOut()}
	default:
		return Risk{Level: RiskCertain, Text: "the source will cut the link before its RDB is through: " + reached, Hint: f.waysOut()}
	}
}

func (f bufferFacts) bound() string {
	if f.atMost {
		return " at most (whatever its clients send; it counts no writes before its first replica)"
	}
	return ""
}

// lasts is how many seconds the buffer grows until the source closes the link.
func (f bufferFacts) lasts() float64 {
	lasts := math.Inf(1)
	if f.limit.Hard > 0 {
		lasts = float64(f.limit.Hard) / f.rate
	}
	if f.limit.Soft > 0 {
		lasts = min(lasts, float64(f.limit.Soft)/f.rate+float64(f.limit.SoftSeconds))
	}
	return lasts
}

// waysOut names what an operator can do.
func (f bufferFacts) waysOut() string {
	return fmt.Sprintf("--raise-source-limits lifts the limit for the snapshot and puts it back; or, on the source, %s; or choose a quieter hour",
		setBufferLimit(f.enough()))
}

// enough is a limit that holds twice of what is expected.
func (f bufferFacts) enough() string {
	bytes := max(2*f.rate*f.took.Seconds(), float64(f.limit.Hard))
	mb := uint64(math.Ceil(bytes / (1 << 20)))
	return fmt.Sprintf("replica %dmb %dmb %d", mb, mb, f.limit.SoftSeconds)
}
