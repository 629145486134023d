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
	// Settled says that no expiry time of got may be shifted any more. One difference tells how many are.
	Settled bool
	// IgnoreTTL leaves out expiry times, of keys and of fields, and whether there are any.
	IgnoreTTL bool
	// Max ends the comparison after so many differences; 0 means 20.
	Max int
}

// Difference is one thing in which two servers differ.
type Difference struct {
	DB   int
	Key  string // or a function library's name, see What
	What string // in words, which begin with missing, extra, type, value, TTL, field TTL, shifted or function
}

func (d Difference) String() string { return fmt.Sprintf("db %d key %.60q: %s", d.DB, d.Key, d.What) }

// Compare tells in what got differs from want: databases, keys, types, values by their meaning, pending entries and ids of streams, expiry
// times of keys and fields, functions. Keys that begin with "redferry:" do not count. Expiry times of got may be those that a migration writes
// (see comparison.agree). Both servers should be at rest, but for keys and fields that expire: what only one server has is looked at again while its time is over on want, for
// up to fifteen seconds: longer than the short TTLs of a load, which a large hash may have many of. The result is nil when they are equal; errors of the servers fail the test.
func Compare(t TB, want, got *Server, o CompareOptions) []Difference {
	t.Helper()
	found, err := newComparison(want, got, o).run()
	if err != nil {
		t.Fatalf("compare %s with %s: %v", got.Build.Name, want.Build.Name, err)
	}
	return found
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
	has70     bool // both servers have functions and a stream's counters
	streams   streamView
	patience  time.Duration // how long a database's keys are looked at again that one server lacks
	want, got *Server
	shifted   shiftedCount
	found     []Difference
}

func newComparison(want, got *Server, o CompareOptions) *comparison {
	has70 := want.Build.Has70() && got.Build.Has70()
	o.Max = cmp.Or(o.Max, 20)
	if o.TTLTolerance == 0 {
		o.TTLTolerance = time.Second
		if has70 {
			o.TTLTolerance = 50 * time.Millisecond
		}
	}
	c := &comparison{o: o, has70: has70, patience: 15*time.Second + 2*o.TTLTolerance, want: want, got: got}
	c.streams.counters = has70
	c.streams.entriesRead = has70 && !(want.Build.Server == "redis" && !want.Build.AtLeast("redis", 7, 2)) // 7.0 does not replicate it
	return c
}

func (c *comparison) add(db int, key, format string, args ...any) {
	if !c.full() {
		c.found = append(c.found, Difference{db, key, fmt.Sprintf(format, args...)})
	}
}

func (c *comparison) full() bool { return len(c.found) >= c.o.Max }

func (c *comparison) run() ([]Difference, error) {
	if c.has70 {
		if err := c.functions(); err != nil {
			return nil, err
		}
	}
	dbs := map[int]bool{}
	for _, s := range []*Server{c.want, c.got} {
		info, err := s.Pipeline([]string{"INFO", "keyspace"})
		if err != nil {
			return nil, err
		}
		text, err := info[0].ToString()
		if err != nil {
			return nil, err
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
			return nil, fmt.Errorf("database %d: %w", db, err)
		}
	}
	if c.shifted.any() {
		c.found = append(c.found, c.shifted.difference())
	}
	return c.found, nil
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

// database compares all keys that either server has. Those in which the servers differ because a time is over, which one of them has not noticed
// yet, are looked at again: a source may take a while until it deletes what has expired, and a target until it hears of it.
func (c *comparison) database(db int) error {
	var want, got map[string]bool
	if err := both(
		func() (err error) { want, err = scan(c.want.DB(db)); return err },
		func() (err error) { got, err = scan(c.got.DB(db)); return err },
	); err != nil {
		return err
	}
	maps.Copy(want, got)
	passing, err := c.keys(db, slices.Collect(maps.Keys(want)), false)
	for end := time.Now().Add(c.patience); len(passing) > 0 && err == nil; {
		time.Sleep(20 * time.Millisecond)
		last := time.Now().After(end)
		if last {
			c.patience = 0 // who has waited in vain for one database does not wait for the next
		}
		passing, err = c.keys(db, passing, last)
	}
	return err
}

// keys compares these keys, in batches, and gives those that have to be looked at again. The last time there are none.
func (c *comparison) keys(db int, keys []string, last bool) (passing []string, err error) {
	for batch := range slices.Chunk(keys, 500) {
		if c.full() {
			return nil, nil
		}
		more, err := c.batch(db, batch, last)
		if err != nil {
			return nil, err
		}
		passing = append(passing, more...)
	}
	return passing, nil
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
	kind   string // "none" when there is no such key
	expire int64  // in Unix ms, negative for never
}

// fieldTTLs tells that it is a hash with expiry times of fields: those have value types of their own, of which 22 is the first one.
func (r record) fieldTTLs() bool { return r.kind == "hash" && r.dump != "" && r.dump[0] >= 22 }

func records(d *Database, keys []string) ([]record, error) {
	ttl := "PTTL"
	if d.s.Build.Has70() {
		ttl = "PEXPIRETIME"
	}
	cmds := make([][]string, 0, 3*len(keys)+1)
	for _, key := range keys {
		cmds = append(cmds, []string{"DUMP", key}, []string{"TYPE", key}, []string{ttl, key})
	}
	replies, err := d.Pipeline(append(cmds, []string{"TIME"})...)
	if err != nil {
		return nil, err
	}
	now, err := unixMilli(replies[len(cmds)])
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
		switch {
		case r.kind == "none" || r.expire == noKey: // it may have expired in between
			*r = record{kind: "none", expire: noKey}
		case r.expire >= 0 && ttl == "PTTL":
			r.expire += now
		}
	}
	return records, nil
}

// batch compares keys: by their DUMP, which settles most, the rest by meaning. It gives those that have to be looked at again, unless this is
// the last time.
func (c *comparison) batch(db int, keys []string, last bool) (passing []string, err error) {
	var want, got []record
	if err := both(
		func() (err error) { want, err = records(c.want.DB(db), keys); return err },
		func() (err error) { got, err = records(c.got.DB(db), keys); return err },
	); err != nil {
		return nil, err
	}
	now, err := c.now()
	if err != nil {
		return nil, err
	}
	var unlike []keyPair
	for i, key := range keys {
		p := keyPair{name: key, want: want[i], got: got[i]}
		switch w, g := p.want.kind, p.got.kind; {
		case w == g && p.want.dump == p.got.dump && !p.want.fieldTTLs():
			c.sameKeyTTL(db, p)
		case w == g, p.lonely() && p.kind() == "hash":
			unlike = append(unlike, p)
		case p.lonely():
			if c.excused(p, value{}, value{}, now) && !last {
				passing = append(passing, key)
			} else {
				c.add(db, key, "%s", p.lack())
			}
		default:
			c.add(db, key, "type %s, want %s", g, w)
		}
	}
	more, err := c.byMeaning(db, unlike, last)
	return append(passing, more...), err
}

// keyPair is a key as both servers have it.
type keyPair struct {
	name      string
	want, got record
}

// lonely tells that only one server has the key.
func (p keyPair) lonely() bool { return (p.want.kind == "none") != (p.got.kind == "none") }

// kind is the type of its value, on the server that has the key.
func (p keyPair) kind() string {
	if p.want.kind == "none" {
		return p.got.kind
	}
	return p.want.kind
}

// lack is the difference when it is lonely.
func (p keyPair) lack() string {
	if p.want.kind == "none" {
		return "extra"
	}
	return "missing"
}

// byMeaning compares keys whose DUMPs differ: encodings, the order in hash tables and the RDB version do not matter. It gives those that have to
// be looked at again, unless this is the last time.
func (c *comparison) byMeaning(db int, pairs []keyPair, last bool) (passing []string, err error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	var want, got []value
	if err := both(
		func() (err error) { want, err = values(c.want.DB(db), pairs, c.streams); return err },
		func() (err error) { got, err = values(c.got.DB(db), pairs, c.streams); return err },
	); err != nil {
		return nil, err
	}
	now, err := c.now()
	if err != nil {
		return nil, err
	}
	for i, p := range pairs {
		w, g := want[i], got[i]
		if w.gone { // since the batch
			p.want.kind = "none"
		}
		if g.gone {
			p.got.kind = "none"
		}
		diff := firstDifference(w.lines, g.lines)
		switch {
		case w.gone && g.gone:
		case (diff != "" || p.lonely()) && !last && c.excused(p, w, g, now):
			passing = append(passing, p.name)
		case p.lonely():
			c.add(db, p.name, "%s", p.lack())
		case diff != "":
			c.sameKeyTTL(db, p)
			c.add(db, p.name, "value of the %s: %s", p.kind(), diff)
		default:
			c.sameKeyTTL(db, p)
			c.sameFieldTTLs(db, p.name, w, g)
		}
	}
	return passing, nil
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
