package verify

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// count compares how many keys a database has. While the source is written to, a number of the target is right that lies between two of the source.
//
// It takes a few round trips where the numbers agree, however many keys there are: a cutover counts while nobody can write to the source.
func (r *run) count(ctx context.Context, db int) error {
	w := r.scanner
	for _, c := range []*conn{w.source, w.target} {
		if there, err := c.selects(ctx, db); err != nil {
			return err
		} else if !there {
			return r.absent(ctx, c, db)
		}
	}
	var d Difference
	var counted int64
	defer func() { r.looked.Add(counted) }()
	for round := range r.Rounds {
		before, err := w.source.changes(ctx)
		if err != nil {
			return err
		}
		first, err := r.numbers(ctx, w.source, db)
		if err != nil {
			return err
		}
		if round > 0 {
			if err := r.reach(ctx); err != nil {
				return err
			}
		}
		target, err := r.numbers(ctx, w.target, db)
		if err != nil {
			return err
		}
		last, err := r.numbers(ctx, w.source, db)
		if err != nil {
			return err
		}
		counted = last.all() + target.all()
		if between(target.lasting, first.lasting, last.lasting) && between(target.volatile, first.volatile, last.volatile) {
			return nil
		}
		d = Difference{DB: db, Kind: Keys, Source: countText(last.all()), Target: countText(target.all())}
		if round == 0 {
			continue
		}
		after, err := w.source.changes(ctx)
		if err != nil {
			return err
		}
		if before != after {
			continue
		}
		found, err := r.recount(ctx, db, last, target)
		if err != nil || found == nil {
			return err
		}
		return r.found(*found)
	}
	r.report.Moving++
	r.report.FirstMoving = append(r.report.FirstMoving, d)
	return nil
}

// numbers is how many keys a database has, as its server counts them: with those whose time is over, and which it has not deleted yet.
type numbers struct {
	lasting, volatile int64 // without an expiry, and with one
}

func (n numbers) all() int64 { return n.lasting + n.volatile }

func between(n, a, b int64) bool { return n >= min(a, b) && n <= max(a, b) }

// numbers asks one end for them, without the keys of the migration that may lie between the two.
func (r *run) numbers(ctx context.Context, c *conn, db int) (n numbers, err error) {
	info, err := c.infoSection(ctx, "keyspace")
	if err != nil {
		return n, err
	}
	there, err := replica.Keyspace(info)
	if err != nil {
		return n, fmt.Errorf("ask the %s %s for INFO: %w", c.end, c.endpoint, err)
	}
	for _, d := range there {
		if d.Number == db {
			n = numbers{lasting: d.Keys - d.Volatile, volatile: d.Volatile}
		}
	}
	cmds := make(rueidis.Commands, 0, 3)
	for _, key := range checkpoint.Keys(r.Name) { // one each, for a cluster's sake
		cmds = append(cmds, c.dedicated.B().Exists().Key(key).Build())
	}
	replies, err := c.do(ctx, db, cmds...)
	if err != nil {
		return n, err
	}
	for _, reply := range replies {
		own, err := reply.AsInt64()
		if err != nil {
			return n, err
		}
		n.lasting -= own
	}
	return n, nil
}

// mostListed is how many keys of a database are listed, on each side, to find out which of them are only there because their server has not deleted them yet.
const mostListed = 200_000

// recount finds out whether numbers differ that were read while nobody wrote. They may for two reasons: keys that are redferry's own, of another migration; and keys whose time is over, which
// count until their server comes to delete them, and a source that is paused does not. It is only noted where there are too many keys to tell whether it is those.
func (r *run) recount(ctx context.Context, db int, source, target numbers) (*Difference, error) {
	w := r.scanner
	if source.lasting != target.lasting {
		for c, n := range map[*conn]*numbers{w.source: &source, w.target: &target} {
			own, err := c.own(ctx, db, r.Name)
			if err != nil {
				return nil, err
			}
			n.lasting -= own
		}
	}
	d := &Difference{DB: db, Kind: Keys, Source: countText(source.all()), Target: countText(target.all())}
	switch most := max(source.all(), target.all()); {
	case source.lasting != target.lasting:
		return d, nil
	case source.volatile == target.volatile:
		return nil, nil
	case most > mostListed && max(source.volatile-target.volatile, target.volatile-source.volatile) <= max(source.volatile, target.volatile)/4: // servers see to it that no more than that wait
		r.report.Note = strings.TrimPrefix(fmt.Sprintf("%s; of database %d the source counts %s, and the target %s: as many as that may be over and not deleted yet among those that expire; --mode=sample or full tells",
			r.report.Note, db, countText(source.all()), countText(target.all())), "; ")
		return nil, nil
	case most > mostListed:
		return d, nil
	}
	var ours, theirs []int64
	if err := both(
		func() (err error) { theirs, err = r.expiries(ctx, w.source, db); return err },
		func() (err error) { ours, err = r.expiries(ctx, w.target, db); return err },
	); err != nil {
		return nil, err
	}
	var now int64
	for _, c := range []*conn{w.source, w.target} { // whose clock is ahead has deleted more
		at, err := c.now(ctx)
		if err != nil {
			return nil, err
		}
		now = max(now, at)
	}
	// What both have is at least what lives on in one of them, and at most all that one of them has.
	fewest := max(r.living(theirs, now), r.living(ours, now))
	if fewest <= int64(min(len(theirs), len(ours))) {
		return nil, nil
	}
	d.Source, d.Target = countText(source.lasting+int64(len(theirs))), countText(target.lasting+int64(len(ours)))
	return d, nil
}

// living is how many of these moments are not over, nor will be soon.
func (r *run) living(expiries []int64, now int64) (n int64) {
	for _, ms := range expiries {
		if !r.over(ms, now, ofKey) {
			n++
		}
	}
	return n
}

// expiries are those of a database's keys that have one and are there still, in Unix ms.
func (r *run) expiries(ctx context.Context, c *conn, db int) ([]int64, error) {
	found := map[uint64]int64{} // by a hash of the key, for SCAN may give one twice
	seed := maphash.MakeSeed()
	for cursor, began := "0", false; !began || cursor != "0"; began = true {
		replies, err := c.do(ctx, db, c.cmd("SCAN", cursor, "COUNT", strconv.Itoa(pageKeys)))
		if err != nil {
			return nil, err
		}
		entry, err := replies[0].AsScanEntry()
		if err != nil {
			return nil, err
		}
		keys := slices.DeleteFunc(entry.Elements, reserved)
		moments, err := c.moments(ctx, db, keys)
		if err != nil {
			return nil, err
		}
		for i, ms := range moments {
			if ms >= 0 {
				found[maphash.String(seed, keys[i])] = ms
			}
		}
		cursor = strconv.FormatUint(entry.Cursor, 10)
	}
	return slices.Collect(maps.Values(found)), nil
}

// moments are when keys expire, in Unix ms; a negative one is none.
func (c *conn) moments(ctx context.Context, db int, keys []string) ([]int64, error) {
	cmds := make(rueidis.Commands, 0, len(keys)+1)
	for _, key := range keys {
		cmds = append(cmds, c.dedicated.B().Arbitrary(c.expiryCommand()).Keys(key).Build())
	}
	replies, err := c.do(ctx, db, append(cmds, c.dedicated.B().Time().Build())...)
	if err != nil {
		return nil, err
	}
	now, err := clock(replies[len(keys)])
	if err != nil {
		return nil, err
	}
	moments := make([]int64, len(keys))
	for i := range keys {
		if moments[i], err = replies[i].AsInt64(); err != nil {
			return nil, err
		}
		if moments[i] >= 0 && !c.has70 {
			moments[i] += now
		}
	}
	return moments, nil
}

// now is the server's clock, in Unix ms.
func (c *conn) now(ctx context.Context) (int64, error) {
	replies, err := c.do(ctx, c.db, c.dedicated.B().Time().Build())
	if err != nil {
		return 0, err
	}
	return clock(replies[0])
}

func countText(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return strconv.FormatInt(n, 10) + " keys"
}

// own is how many keys of a database are redferry's, but for those of one migration. SCAN alone finds them.
func (c *conn) own(ctx context.Context, db int, but string) (int64, error) {
	own := map[string]bool{}
	for cursor, began := "0", false; !began || cursor != "0"; began = true {
		replies, err := c.do(ctx, db, c.cmd("SCAN", cursor, "MATCH", checkpoint.Prefix+"*", "COUNT", "1000"))
		if err != nil {
			return 0, err
		}
		entry, err := replies[0].AsScanEntry()
		if err != nil {
			return 0, err
		}
		for _, key := range entry.Elements {
			if !slices.Contains(checkpoint.Keys(but), key) {
				own[key] = true
			}
		}
		cursor = strconv.FormatUint(entry.Cursor, 10)
	}
	return int64(len(own)), nil
}

// functions compares the function libraries by their code. What differs is looked at once more.
func (r *run) functions(ctx context.Context) error {
	found, err := r.differentFunctions(ctx)
	if err != nil || len(found) == 0 {
		return err
	}
	if err := r.reach(ctx); err != nil {
		return err
	}
	again, err := r.differentFunctions(ctx)
	if err != nil {
		return err
	}
	for _, d := range again {
		if slices.Contains(found, d) {
			if err := r.found(d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) differentFunctions(ctx context.Context) (found []Difference, err error) {
	source, err := r.scanner.source.libraries(ctx)
	if err != nil {
		return nil, err
	}
	target, err := r.scanner.target.libraries(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(union(source, target))) {
		theirs, inSource := source[name]
		ours, inTarget := target[name]
		d := Difference{DB: -1, Key: name, Kind: Function, Source: has(inSource), Target: has(inTarget)}
		if inSource && inTarget {
			d.What, d.Source, d.Target = textDifference(theirs, ours)
		}
		if theirs != ours || inSource != inTarget {
			found = append(found, d)
		}
	}
	return found, nil
}

// libraries are a server's function libraries, by name.
func (c *conn) libraries(ctx context.Context) (map[string]string, error) {
	found := map[string]string{}
	if !c.has70 {
		return found, nil
	}
	replies, err := c.do(ctx, c.db, c.cmd("FUNCTION", "LIST", "WITHCODE"))
	if err != nil {
		return nil, err
	}
	list, err := replies[0].ToArray()
	if err != nil {
		return nil, fmt.Errorf("list the functions of the %s %s: %w", c.end, c.endpoint, err)
	}
	for i := range list {
		fields, err := list[i].AsMap()
		if err != nil {
			return nil, fmt.Errorf("list the functions of the %s %s: %w", c.end, c.endpoint, err)
		}
		name, code := fields["library_name"], fields["library_code"]
		found[scalar(&name)] = scalar(&code)
	}
	return found, nil
}
