package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
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
		var before string // what is found different in the first round is looked at again anyway
		if round > 0 {
			var err error
			if before, err = w.source.changes(ctx); err != nil {
				return err
			}
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
	cmds := make(rueidis.Commands, 0, 3)
	for _, key := range checkpoint.Keys(r.Name) { // one each, for a cluster's sake
		cmds = append(cmds, c.dedicated.B().Exists().Key(key).Build())
	}
	there, replies, err := c.keyspace(ctx, db, cmds...)
	if err != nil {
		return n, err
	}
	for _, d := range there {
		if d.Number == db {
			n = numbers{lasting: d.Keys - d.Volatile, volatile: d.Volatile}
		}
	}
	own, err := sum(replies)
	n.lasting -= own
	return n, err
}

func countText(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return strconv.FormatInt(n, 10) + " keys"
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
	if found, err = libraries(replies[0].ToMessage()); err != nil {
		return nil, fmt.Errorf("list the functions of the %s %s: %w", c.end, c.endpoint, err)
	}
	return found, nil
}

// libraries reads the reply to FUNCTION LIST WITHCODE: the code of each by its name.
func libraries(r rueidis.RedisMessage, err error) (map[string]string, error) {
	list, err := listOf(r, err)
	if err != nil {
		return nil, err
	}
	found := make(map[string]string, len(list))
	for i := range list {
		fields, err := list[i].AsMap()
		if err != nil {
			return nil, err
		}
		name, code := fields["library_name"], fields["library_code"]
		if scalar(&name) == "" || !code.IsString() {
			return nil, errors.New("a library has no name or no code")
		}
		found[scalar(&name)] = scalar(&code)
	}
	return found, nil
}
