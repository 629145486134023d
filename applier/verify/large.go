package verify

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/rueidis"
)

// pieceBytes is about how much of a large value is asked for at a time.
const pieceBytes = 1 << 20

// large compares large values in pieces. The source may change in between: what differs then is looked at again like everything else.
func (w *worker) large(ctx context.Context, db int, p *pair) (*Difference, error) {
	source, target, err := w.ask(ctx, db, 1, func(c *conn, _ int) rueidis.Completed { return c.dedicated.B().Type().Key(p.key).Build() })
	if err != nil {
		return nil, err
	}
	s, _ := source[0].ToString()
	t, _ := target[0].ToString()
	if s != t {
		return &Difference{DB: db, Key: p.key, Kind: Type, Source: s, Target: t}, nil
	}
	var d *Difference
	switch s {
	case "none":
		return nil, nil
	case "string":
		d, err = w.largeString(ctx, db, p.key)
	case "list":
		d, err = w.largeList(ctx, db, p)
	case "set", "zset", "hash":
		d, err = w.largeTable(ctx, db, p, s)
	case "stream":
		return w.stream(ctx, db, p)
	default: // a module's, which has no pieces
		unlike, found, err := w.dumps(ctx, db, []pair{*p})
		if err != nil || len(unlike)+len(found) == 0 {
			return nil, err
		}
		if len(found) == 0 {
			found, err = w.values(ctx, db, unlike)
		}
		if err != nil || len(found) == 0 {
			return nil, err
		}
		return &found[0], nil
	}
	if d != nil || err != nil {
		return d, err
	}
	return w.keyTTL(db, p), nil
}

func (w *worker) largeString(ctx context.Context, db int, key string) (*Difference, error) {
	for from := int64(0); ; from += pieceBytes {
		source, target, err := w.ask(ctx, db, 1, func(c *conn, _ int) rueidis.Completed {
			return c.dedicated.B().Getrange().Key(key).Start(from).End(from + pieceBytes - 1).Build()
		})
		if err != nil {
			return nil, err
		}
		s, _ := source[0].ToString()
		t, _ := target[0].ToString()
		if s != t {
			at := 0
			for at < min(len(s), len(t)) && s[at] == t[at] {
				at++
			}
			have := func(piece string) string { return shorten(piece[at:min(len(piece), at+shownBytes)]) }
			d := Difference{DB: db, Key: key, Kind: Value, Source: have(s), Target: have(t)}
			d.What = "from byte " + strconv.FormatInt(from+int64(at), 10) + " on"
			return &d, nil
		}
		if len(s) < pieceBytes {
			return nil, nil
		}
	}
}

// length asks both sides how many elements a value has.
func (w *worker) length(ctx context.Context, db int, kind, key string) (source, target int64, err error) {
	cmd := map[string]string{"list": "LLEN", "set": "SCARD", "zset": "ZCARD", "hash": "HLEN"}[kind]
	s, t, err := w.ask(ctx, db, 1, func(c *conn, _ int) rueidis.Completed { return c.dedicated.B().Arbitrary(cmd).Keys(key).Build() })
	if err != nil {
		return 0, 0, err
	}
	source, _ = s[0].AsInt64()
	target, _ = t[0].AsInt64()
	return source, target, nil
}

// atOnce is how many of n elements may be asked for at a time, of a value of this size.
func atOnce(size, n int64) int64 {
	return max(1, min(1000, pieceBytes*max(n, 1)/max(size, 1)))
}

func (w *worker) largeList(ctx context.Context, db int, p *pair) (*Difference, error) {
	n, m, err := w.length(ctx, db, "list", p.key)
	if err != nil {
		return nil, err
	}
	step := min(atOnce(p.source.size, n), atOnce(p.target.size, m))
	for from := int64(0); ; from += step {
		source, target, err := w.ask(ctx, db, 1, func(c *conn, _ int) rueidis.Completed {
			return c.dedicated.B().Lrange().Key(p.key).Start(from).Stop(from + step - 1).Build()
		})
		if err != nil {
			return nil, err
		}
		s, err := elementsOf(source[0].ToMessage())
		if err != nil {
			return nil, err
		}
		t, err := elementsOf(target[0].ToMessage())
		if err != nil {
			return nil, err
		}
		for i := range max(len(s), len(t)) {
			if i >= len(s) || i >= len(t) || s[i] != t[i] {
				d := &Difference{DB: db, Key: p.key, Kind: Value}
				d.What, d.Source, d.Target = listDifference(s, t, from)
				return d, nil
			}
		}
		if int64(len(s)) < step {
			return nil, nil
		}
	}
}

// elementsOf reads the reply to LRANGE; of a list that is gone there are none.
func elementsOf(r rueidis.RedisMessage, err error) ([]string, error) {
	_, err = listOf(r, err)
	if about(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r.AsStrSlice()
}

// largeTable compares what has elements with names: each of the source's is looked up in the target. Where the numbers differ then, each of the target's in the source.
func (w *worker) largeTable(ctx context.Context, db int, p *pair, kind string) (*Difference, error) {
	n, m, err := w.length(ctx, db, kind, p.key)
	if err != nil {
		return nil, err
	}
	pass := tablePass{w: w, db: db, p: p, kind: kind, from: w.source, to: w.target, step: atOnce(p.source.size, n)}
	if d, err := pass.run(ctx); d != nil || err != nil || n == m {
		return d, err
	}
	pass.from, pass.to, pass.step, pass.back = w.target, w.source, atOnce(p.target.size, m), true
	return pass.run(ctx)
}

// tablePass looks up the elements of one side in the other.
type tablePass struct {
	w        *worker
	db       int
	p        *pair
	kind     string
	from, to *conn
	step     int64 // elements at a time
	back     bool  // from is the target
}

func (t *tablePass) run(ctx context.Context) (*Difference, error) {
	scan := map[string]string{"set": "SSCAN", "zset": "ZSCAN", "hash": "HSCAN"}[t.kind]
	for cursor := "0"; ; {
		replies, err := t.from.do(ctx, t.db, t.from.dedicated.B().Arbitrary(scan).Keys(t.p.key).Args(cursor, "COUNT", strconv.FormatInt(t.step, 10)).Build())
		if err != nil {
			return nil, err
		}
		entry, err := replies[0].AsScanEntry()
		if err != nil {
			return nil, err
		}
		if d, err := t.page(ctx, entry.Elements); d != nil || err != nil {
			return d, err
		}
		if entry.Cursor == 0 {
			return nil, nil
		}
		cursor = strconv.FormatUint(entry.Cursor, 10)
	}
}

// page compares some elements of one side with the same of the other.
func (t *tablePass) page(ctx context.Context, list []string) (*Difference, error) {
	if len(list) == 0 {
		return nil, nil
	}
	have := value{elements: map[string]string{}}
	var names []string
	if t.kind == "set" {
		names = list
	} else {
		for i := 0; i+1 < len(list); i += 2 {
			names = append(names, list[i])
			if have.elements[list[i]] = list[i+1]; t.kind == "zset" {
				have.elements[list[i]] = score(list[i+1])
			}
		}
	}
	for _, name := range names {
		if t.kind == "set" {
			have.elements[name] = ""
		}
	}
	other, err := t.lookUp(ctx, names)
	if err != nil {
		return nil, err
	}
	var now int64
	pairs, types, values := []pair{*t.p}, []string{t.kind}, []value{have}
	others := []value{other}
	if err := both(
		func() (err error) {
			n, err := t.from.fieldExpiries(ctx, t.db, pairs, types, values)
			if !t.back {
				now = n
			}
			return err
		},
		func() (err error) {
			n, err := t.to.fieldExpiries(ctx, t.db, pairs, types, others)
			if t.back {
				now = n
			}
			return err
		},
	); err != nil {
		return nil, err
	}
	source, target := &values[0], &others[0]
	if t.back {
		source, target = target, source
	}
	alike := *t.p
	alike.target.expiry = alike.source.expiry // the key's own are compared once, at the end
	return t.w.sameValue(t.db, &alike, t.kind, source, target, now), nil
}

// fields takes in the values of a hash's fields, as HMGET gives them.
func (v *value) fields(names []string, list []rueidis.RedisMessage) error {
	if len(list) != len(names) {
		return fmt.Errorf("read %d fields of a hash: %d replies", len(names), len(list))
	}
	for i := range list {
		if text, err := list[i].ToString(); err == nil {
			v.elements[names[i]] = text
		}
	}
	return nil
}

// lookUp asks the other side for elements by their names.
func (t *tablePass) lookUp(ctx context.Context, names []string) (v value, err error) {
	b := t.to.dedicated.B()
	v.elements = make(map[string]string, len(names))
	if t.kind == "hash" {
		replies, err := t.to.do(ctx, t.db, b.Hmget().Key(t.p.key).Field(names...).Build())
		if err != nil {
			return v, err
		}
		list, err := listOf(replies[0].ToMessage())
		if about(err) {
			return v, nil
		}
		if err != nil {
			return v, err
		}
		return v, v.fields(names, list)
	}
	cmds := make(rueidis.Commands, len(names))
	for i, name := range names {
		if t.kind == "set" {
			cmds[i] = b.Sismember().Key(t.p.key).Member(name).Build()
		} else {
			cmds[i] = b.Zscore().Key(t.p.key).Member(name).Build()
		}
	}
	replies, err := t.to.do(ctx, t.db, cmds...)
	if err != nil {
		return v, err
	}
	for i, r := range replies {
		if t.kind == "set" {
			if n, err := r.AsInt64(); err == nil && n == 1 {
				v.elements[names[i]] = ""
			}
		} else if text, err := r.ToString(); err == nil {
			v.elements[names[i]] = score(text)
		}
	}
	return v, nil
}
