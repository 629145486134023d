package redistest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// CompareOptions change what [Compare] looks at. The zero value looks at everything.
type CompareOptions struct {
	// TTLTolerance is how far two expiry times may be apart; 0 means 50 ms, or 1 s where a server cannot tell the exact time (before 7.0).
	TTLTolerance time.Duration
	// IgnoreTTL leaves out expiry times, of keys and of fields, and whether there are any.
	IgnoreTTL bool
	// Max ends the comparison after so many differences; 0 means 20.
	Max int
}

// Difference is one thing in which two servers differ.
type Difference struct {
	DB   int
	Key  string // or a function library's name, see What
	What string // in words, which begin with missing, extra, type, value, TTL, field TTL or function
}

func (d Difference) String() string { return fmt.Sprintf("db %d key %.60q: %s", d.DB, d.Key, d.What) }

// Compare tells in what got differs from want: databases, keys, types, values by their meaning, pending entries and ids of streams, expiry
// times of keys and fields, functions. Keys that begin with "redferry:" do not count. Both servers should be at rest. The result is nil when
// they are equal; errors of the servers fail the test.
func Compare(t TB, want, got *Server, o CompareOptions) []Difference {
	t.Helper()
	o.Max = cmp.Or(o.Max, 20)
	exact := want.Build.Has70() && got.Build.Has70()
	if o.TTLTolerance == 0 {
		o.TTLTolerance = time.Second
		if exact {
			o.TTLTolerance = 50 * time.Millisecond
		}
	}
	c := &comparison{o: o, exact: exact, want: want, got: got}
	c.streams.counters = exact
	c.streams.entriesRead = exact && !(want.Build.Server == "redis" && !want.Build.AtLeast("redis", 7, 2)) // 7.0 does not replicate it
	if err := c.run(); err != nil {
		t.Fatalf("compare %s with %s: %v", got.Build.Name, want.Build.Name, err)
	}
	return c.found
}

// AssertEqual fails the test when got differs from want, and says in what.
func AssertEqual(t TB, want, got *Server, o CompareOptions) {
	t.Helper()
	if found := Compare(t, want, got, o); len(found) > 0 {
		var text strings.Builder
		for _, d := range found {
			fmt.Fprintf(&text, "\n  %v", d)
		}
		t.Errorf("%s at %s differs from %s at %s:%s", got.Build.Name, got.Addr(), want.Build.Name, want.Addr(), text.String())
	}
}

type comparison struct {
	o         CompareOptions
	exact     bool // both servers have PEXPIRETIME, functions and a stream's counters
	streams   streamView
	patience  time.Time // until when keys that one server lacks may yet expire on the other
	want, got *Server
	found     []Difference
}

func (c *comparison) add(db int, key, format string, args ...any) {
	if !c.full() {
		c.found = append(c.found, Difference{db, key, fmt.Sprintf(format, args...)})
	}
}

func (c *comparison) full() bool { return len(c.found) >= c.o.Max }

func (c *comparison) run() error {
	if c.exact {
		if err := c.functions(); err != nil {
			return err
		}
	}
	dbs := map[int]bool{}
	for _, s := range []*Server{c.want, c.got} {
		info, err := s.Pipeline([]string{"INFO", "keyspace"})
		if err != nil {
			return err
		}
		text, err := info[0].ToString()
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			var db int
			if _, err := fmt.Sscanf(line, "db%d:", &db); err == nil {
				dbs[db] = true
			}
		}
	}
	for _, db := range slices.Sorted(maps.Keys(dbs)) {
		if err := c.database(db); err != nil {
			return fmt.Errorf("database %d: %w", db, err)
		}
	}
	return nil
}

// functions compares the function libraries by their code.
func (c *comparison) functions() error {
	want, err := libraries(c.want)
	if err != nil {
		return err
	}
	got, err := libraries(c.got)
	if err != nil {
		return err
	}
	for name, code := range want {
		if other, ok := got[name]; !ok {
			c.add(0, name, "function library missing")
		} else if other != code {
			c.add(0, name, "function library has other code: %.80q, want %.80q", other, code)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			c.add(0, name, "function library extra")
		}
	}
	return nil
}

func libraries(s *Server) (map[string]string, error) {
	replies, err := s.Pipeline([]string{"FUNCTION", "LIST", "WITHCODE"})
	if err != nil {
		return nil, err
	}
	list, err := replies[0].ToArray()
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, m := range list {
		fields, err := m.AsMap()
		if err != nil {
			return nil, err
		}
		name, code := fields["library_name"], fields["library_code"]
		found[name.String()] = code.String()
	}
	return found, nil
}

// database compares the key sets and then, in batches, what both have.
func (c *comparison) database(db int) error {
	var want, got map[string]bool
	if err := both(
		func() (err error) { want, err = scan(c.want.DB(db)); return err },
		func() (err error) { got, err = scan(c.got.DB(db)); return err },
	); err != nil {
		return err
	}
	var common, lonely []string
	for key := range want {
		if got[key] {
			common = append(common, key)
		} else {
			lonely = append(lonely, key)
		}
	}
	for key := range got {
		if !want[key] {
			lonely = append(lonely, key)
		}
	}
	if err := c.lonely(db, lonely); err != nil {
		return err
	}
	for batch := range slices.Chunk(common, 500) {
		if c.full() {
			return nil
		}
		if err := c.batch(db, batch); err != nil {
			return err
		}
	}
	return nil
}

// lonely looks again at keys that one server has: they may be about to expire on the other one, too. A hash whose fields have all expired
// exists until the server's own cycle finds it, so this waits a moment, once for all keys.
func (c *comparison) lonely(db int, keys []string) error {
	for _, key := range keys {
		if c.full() {
			return nil
		}
		if c.patience.IsZero() {
			c.patience = time.Now().Add(time.Second)
		}
		var want, got int64
		var err error
		within(time.Until(c.patience), func() bool {
			err = both(
				func() (err error) { want, err = exists(c.want.DB(db), key); return err },
				func() (err error) { got, err = exists(c.got.DB(db), key); return err },
			)
			return err != nil || want == got
		})
		switch {
		case err != nil:
			return err
		case want > got:
			c.add(db, key, "missing")
		case want < got:
			c.add(db, key, "extra")
		}
	}
	return nil
}

func exists(d *Database, key string) (int64, error) {
	replies, err := d.Pipeline([]string{"EXISTS", key})
	if err != nil {
		return 0, err
	}
	return replies[0].AsInt64()
}

// scan collects a database's keys.
func scan(d *Database) (map[string]bool, error) {
	keys := map[string]bool{}
	for cursor := "0"; ; {
		replies, err := d.Pipeline([]string{"SCAN", cursor, "COUNT", "2000"})
		if err != nil {
			return nil, err
		}
		entry, err := replies[0].AsScanEntry()
		if err != nil {
			return nil, err
		}
		for _, key := range entry.Elements {
			if !strings.HasPrefix(key, "redferry:") {
				keys[key] = true
			}
		}
		if entry.Cursor == 0 {
			return keys, nil
		}
		cursor = strconv.FormatUint(entry.Cursor, 10)
	}
}

// record is what a batch asks of each key.
type record struct {
	dump   string // without the footer of 10 bytes: RDB version and CRC
	kind   string
	expire int64
}

func (c *comparison) records(d *Database, keys []string) ([]record, error) {
	ttl := "PTTL"
	if c.exact {
		ttl = "PEXPIRETIME"
	}
	cmds := make([][]string, 0, 3*len(keys))
	for _, key := range keys {
		cmds = append(cmds, []string{"DUMP", key}, []string{"TYPE", key}, []string{ttl, key})
	}
	replies, err := d.Pipeline(cmds...)
	if err != nil {
		return nil, err
	}
	records := make([]record, len(keys))
	for i := range keys {
		r := &records[i]
		if r.dump, err = replies[3*i].ToString(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, err
		}
		r.dump = r.dump[:max(0, len(r.dump)-10)]
		if r.kind, err = replies[3*i+1].ToString(); err != nil {
			return nil, err
		}
		if r.expire, err = replies[3*i+2].AsInt64(); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// batch compares keys that both databases have: by their DUMP, which settles most, the rest by meaning.
func (c *comparison) batch(db int, keys []string) error {
	var want, got []record
	if err := both(
		func() (err error) { want, err = c.records(c.want.DB(db), keys); return err },
		func() (err error) { got, err = c.records(c.got.DB(db), keys); return err },
	); err != nil {
		return err
	}
	var unlike []typed
	var lonely []string
	for i, key := range keys {
		w, g := want[i], got[i]
		switch {
		case w.kind != g.kind && (w.kind == "none" || g.kind == "none"):
			lonely = append(lonely, key)
		case w.kind != g.kind:
			c.add(db, key, "type %s, want %s", g.kind, w.kind)
		case w.dump != g.dump:
			unlike = append(unlike, typed{key, w.kind})
		}
		if w.kind == g.kind && !c.o.IgnoreTTL && !c.sameTime(w.expire, g.expire) {
			c.add(db, key, "TTL %s, want %s", c.timeText(g.expire), c.timeText(w.expire))
		}
	}
	if err := c.lonely(db, lonely); err != nil {
		return err
	}
	return c.byMeaning(db, unlike)
}

// byMeaning compares values whose DUMPs differ: encodings, the order in hash tables and the RDB version do not matter.
func (c *comparison) byMeaning(db int, keys []typed) error {
	var want, got []value
	if err := both(
		func() (err error) { want, err = values(c.want.DB(db), keys, c.streams); return err },
		func() (err error) { got, err = values(c.got.DB(db), keys, c.streams); return err },
	); err != nil {
		return err
	}
	for i, key := range keys {
		w, g := want[i], got[i]
		if diff := firstDifference(w.lines, g.lines); diff != "" {
			c.add(db, key.name, "value of the %s: %s", key.kind, diff)
			continue
		}
		if c.o.IgnoreTTL {
			continue
		}
		for field := range w.lines { // both have the same fields
			if wt, gt := w.ttl(field), g.ttl(field); !c.sameTime(wt, gt) {
				c.add(db, key.name, "field TTL of %.60q: %s, want %s", w.lines[field], c.timeText(gt), c.timeText(wt))
				break
			}
		}
	}
	return nil
}

// sameTime compares two expiry times, or two TTLs, of which a negative one is none.
func (c *comparison) sameTime(a, b int64) bool {
	if a < 0 || b < 0 {
		return a < 0 && b < 0
	}
	return max(a-b, b-a) <= c.o.TTLTolerance.Milliseconds()
}

func (c *comparison) timeText(ms int64) string {
	switch {
	case ms < 0:
		return "none"
	case !c.exact:
		return fmt.Sprintf("in %d ms", ms)
	default:
		return fmt.Sprintf("at %d", ms)
	}
}

// both runs two functions at the same time: one for each server.
func both(a, b func() error) error {
	errs := make(chan error, 1)
	go func() { errs <- a() }()
	err := b()
	return cmp.Or(<-errs, err)
}

// firstDifference says where two lists of lines part; empty when they do not.
func firstDifference(want, got []string) string {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return fmt.Sprintf("element %d is %.120q, want %.120q (%d and %d elements)", i, got[i], want[i], len(got), len(want))
		}
	}
	switch {
	case len(got) < len(want):
		return fmt.Sprintf("%d elements, want %d: the first one missing is %.120q", len(got), len(want), want[len(got)])
	case len(got) > len(want):
		return fmt.Sprintf("%d elements, want %d: the first one extra is %.120q", len(got), len(want), got[len(want)])
	}
	return ""
}
