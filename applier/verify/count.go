package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"redferry/applier/checkpoint"
)

// count compares how many keys a database has. While the source is written to, a number of the target is right that lies between two of the source.
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
		first, err := w.source.keys(ctx, db)
		if err != nil {
			return err
		}
		if round > 0 {
			if err := r.reach(ctx); err != nil {
				return err
			}
		}
		target, err := w.target.keys(ctx, db)
		if err != nil {
			return err
		}
		last, err := w.source.keys(ctx, db)
		if err != nil {
			return err
		}
		counted = last + target
		if target >= min(first, last) && target <= max(first, last) {
			return nil
		}
		after, err := w.source.changes(ctx)
		if err != nil {
			return err
		}
		d = Difference{DB: db, Kind: Keys, Source: countText(last), Target: countText(target)}
		if round > 0 && before == after {
			return r.found(d)
		}
	}
	r.report.Moving++
	r.report.FirstMoving = append(r.report.FirstMoving, d)
	return nil
}

func countText(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return strconv.FormatInt(n, 10) + " keys"
}

// keys counts a database's keys without redferry's own. Those are found by SCAN alone.
func (c *conn) keys(ctx context.Context, db int) (int64, error) {
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
			own[key] = true
		}
		cursor = strconv.FormatUint(entry.Cursor, 10)
	}
	replies, err := c.do(ctx, db, c.cmd("DBSIZE"))
	if err != nil {
		return 0, err
	}
	n, err := replies[0].AsInt64()
	return n - int64(len(own)), err
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
