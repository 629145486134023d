package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
	"golang.org/x/sync/errgroup"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// databases are those that have keys on either side. It counts the keys, too.
func (r *run) databases(ctx context.Context) ([]int, error) {
	found := map[int]bool{}
	for _, c := range []*conn{r.scanner.source, r.scanner.target} {
		there, _, err := c.keyspace(ctx, c.db)
		if err != nil {
			return nil, err
		}
		for _, d := range there {
			found[d.Number] = true
			if r.Mode == Full {
				r.total.Add(d.Keys)
			}
		}
	}
	switch r.Mode {
	case Sample:
		r.total.Store(int64(2 * r.Sample * len(found)))
	case Listed:
		r.total.Store(int64(len(r.Keys) * len(found)))
	}
	return slices.Sorted(maps.Keys(found)), nil
}

func (c *conn) infoSection(ctx context.Context, section string) (map[string]string, error) {
	replies, err := c.do(ctx, c.db, c.dedicated.B().Info().Section(section).Build())
	if err != nil {
		return nil, err
	}
	return c.readInfo(replies[0])
}

func (c *conn) readInfo(reply rueidis.RedisResult) (map[string]string, error) {
	text, err := reply.ToString()
	if err != nil {
		return nil, fmt.Errorf("ask the %s %s for INFO: %w", c.end, c.endpoint, err)
	}
	return replica.ParseInfo(text), nil
}

// keyspace tells what is in which database. In the same round trip it gives other commands, to db, and their replies.
func (c *conn) keyspace(ctx context.Context, db int, also ...rueidis.Completed) ([]replica.Database, []rueidis.RedisResult, error) {
	replies, err := c.do(ctx, db, slices.Concat([]rueidis.Completed{c.cmd("INFO", "keyspace")}, also)...)
	if err != nil {
		return nil, nil, err
	}
	info, err := c.readInfo(replies[0])
	if err != nil {
		return nil, nil, err
	}
	there, err := replica.Keyspace(info)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the %s %s for INFO: %w", c.end, c.endpoint, err)
	}
	return there, replies[1:], nil
}

// database compares all keys of a database: those of the source with the target's, and then those that the target has alone.
func (r *run) database(ctx context.Context, db int) error {
	for _, c := range []*conn{r.scanner.source, r.scanner.target} {
		if there, err := c.selects(ctx, db); err != nil {
			return err
		} else if !there { // it has fewer databases than the other one
			return r.absent(ctx, c, db)
		}
	}
	if err := r.pass(ctx, r.scanner.source, db, (*worker).compare); err != nil {
		return err
	}
	return r.pass(ctx, r.scanner.target, db, (*worker).extra)
}

// selects tells whether a server has a database.
func (c *conn) selects(ctx context.Context, db int) (bool, error) {
	err := c.dedicated.Do(ctx, c.cmd("SELECT", strconv.Itoa(db))).Error()
	if re, ok := rueidis.IsRedisErr(err); ok && strings.Contains(re.Error(), "out of range") {
		return false, nil
	}
	if err != nil {
		return false, c.failed(ctx, fmt.Errorf("SELECT %d: %w", db, err))
	}
	c.db = db
	return true, nil
}

// absent reports a database that one side does not have at all, and that has keys on the other.
func (r *run) absent(ctx context.Context, without *conn, db int) error {
	other := r.scanner.source
	if without == other {
		other = r.scanner.target
	}
	n, err := r.size(ctx, other, db)
	if err != nil || n == 0 {
		return err
	}
	d := Difference{DB: db, Kind: Keys, Source: countText(n), Target: "has no such database"}
	if other == r.scanner.target {
		d.Source, d.Target = d.Target, d.Source
	}
	return r.found(d)
}

// size is how many keys a database has, of those that are to be compared.
func (r *run) size(ctx context.Context, c *conn, db int) (int64, error) {
	ask := []rueidis.Completed{c.cmd("DBSIZE")}
	if r.Mode == Listed {
		ask = ask[:0]
		for page := range slices.Chunk(r.Keys, r.burst) {
			ask = append(ask, c.dedicated.B().Exists().Key(page...).Build())
		}
	}
	replies, err := c.do(ctx, db, ask...)
	if err != nil {
		return 0, err
	}
	return sum(replies)
}

// sum adds numbers up.
func sum(replies []rueidis.RedisResult) (total int64, err error) {
	for _, reply := range replies {
		n, err := reply.AsInt64()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// look looks at some keys, and gives those that are suspect.
type look func(w *worker, ctx context.Context, db int, keys []string) ([]Difference, error)

// pass has all keys of one side looked at. Whenever there are many suspects, they are looked at again before the pass goes on.
func (r *run) pass(ctx context.Context, of *conn, db int, look look) error {
	for cursor, began := "0", false; !began || cursor != "0"; began = true {
		pages := make(chan []string)
		g, gctx := errgroup.WithContext(ctx)
		g.Go(func() (err error) {
			defer close(pages)
			cursor, err = r.scan(gctx, of, db, cursor, pages)
			return err
		})
		r.look(g, gctx, db, pages, look)
		if err := g.Wait(); err != nil {
			return err
		}
		if r.full() {
			if err := r.settle(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// look starts the workers on pages.
func (r *run) look(g *errgroup.Group, ctx context.Context, db int, pages <-chan []string, look look) {
	for _, w := range r.workers {
		g.Go(func() error {
			for page := range pages {
				found, err := look(w, ctx, db, page)
				if err != nil {
					return err
				}
				r.suspect(db, found)
				r.saw(len(page))
			}
			return nil
		})
	}
}

// scan hands out pages of keys from a cursor on, until there are no more or many suspects. It gives the cursor to go on from.
func (r *run) scan(ctx context.Context, of *conn, db int, cursor string, pages chan<- []string) (string, error) {
	for {
		replies, err := of.do(ctx, db, of.cmd("SCAN", cursor, "COUNT", strconv.Itoa(r.burst)))
		if err != nil {
			return "", err
		}
		entry, err := replies[0].AsScanEntry()
		if err != nil {
			return "", err
		}
		keys := slices.DeleteFunc(entry.Elements, reserved)
		if err := r.pace(ctx, len(keys)); err != nil {
			return "", err
		}
		if len(keys) > 0 {
			select {
			case pages <- keys:
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		if cursor = strconv.FormatUint(entry.Cursor, 10); cursor == "0" || r.full() {
			return cursor, nil
		}
	}
}

// reserved tells a key that is redferry's own.
func reserved(key string) bool { return strings.HasPrefix(key, checkpoint.Prefix) }

// extra gives those of the target's keys that the source has not. One EXISTS counts them; each is asked about only where that is fewer than there should be.
func (w *worker) extra(ctx context.Context, db int, keys []string) (found []Difference, err error) {
	b := w.source.dedicated.B()
	if !w.source.cluster { // where keys of several slots are refused
		replies, err := w.source.do(ctx, db, b.Exists().Key(keys...).Build())
		if err != nil {
			return nil, err
		}
		if n, err := replies[0].AsInt64(); err != nil || n == int64(len(keys)) {
			return nil, err
		}
	}
	cmds := make(rueidis.Commands, len(keys))
	for i, key := range keys {
		cmds[i] = b.Exists().Key(key).Build()
	}
	replies, err := w.source.do(ctx, db, cmds...)
	if err != nil {
		return nil, err
	}
	for i, reply := range replies {
		n, err := reply.AsInt64()
		if err != nil {
			return nil, err
		}
		if n == 0 {
			found = append(found, lone(db, keys[i], false, noExpiry))
		}
	}
	return found, nil
}

// some compares some keys of a database: those that are listed, or random ones of either side.
func (r *run) some(ctx context.Context, db int) error {
	for _, c := range []*conn{r.scanner.source, r.scanner.target} {
		there, err := c.selects(ctx, db)
		if err != nil {
			return err
		}
		if !there {
			return r.absent(ctx, c, db)
		}
	}
	if r.Mode == Listed {
		return r.these(ctx, db, r.Keys)
	}
	for _, c := range []*conn{r.scanner.source, r.scanner.target} {
		keys, err := c.sample(ctx, db, r.Sample)
		if err != nil {
			return err
		}
		if err := r.these(ctx, db, keys); err != nil {
			return err
		}
	}
	return nil
}

// these compares keys of a database, whether they are there or not.
func (r *run) these(ctx context.Context, db int, keys []string) error {
	pages := make(chan []string)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(pages)
		for page := range slices.Chunk(keys, r.burst) {
			if err := r.pace(gctx, len(page)); err != nil {
				return err
			}
			select {
			case pages <- page:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	r.look(g, gctx, db, pages, (*worker).compare)
	return g.Wait()
}
