package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// value is a small value by its meaning, whatever its encoding.
type value struct {
	gone     bool
	text     string            // of a string
	list     []string          // of a list, in its order
	elements map[string]string // of a hash: fields and values; of a sorted set: members and scores; of a set: members
	expiries map[string]int64  // of a hash's fields that have one
}

// values compares small values by their meaning: TYPE first, then one pipeline for all.
func (w *worker) values(ctx context.Context, db int, pairs []pair) (found []Difference, err error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	kinds := make([]string, len(pairs))
	source, target, err := w.ask(ctx, db, len(pairs), func(c *conn, i int) rueidis.Completed { return c.dedicated.B().Type().Key(pairs[i].key).Build() })
	if err != nil {
		return nil, err
	}
	var alike []pair // that are of the same type, one of which all can be asked
	var types []string
	for i, p := range pairs {
		s, _ := source[i].ToString()
		t, _ := target[i].ToString()
		kinds[i] = s
		switch {
		case s != t:
			found = append(found, Difference{DB: db, Key: p.key, Kind: Type, Source: s, Target: t})
		case s == "none":
		case s == "stream":
			d, err := w.stream(ctx, db, &p)
			if err != nil {
				return nil, err
			}
			if d != nil {
				found = append(found, *d)
			}
		case readWhole(w.source, s, p.key) == nil:
			d, err := w.module(ctx, db, p.key, s)
			if err != nil {
				return nil, err
			}
			found = append(found, d)
		default:
			alike, types = append(alike, p), append(types, s)
		}
	}
	if len(alike) == 0 {
		return found, nil
	}
	if source, target, err = w.ask(ctx, db, len(alike), func(c *conn, i int) rueidis.Completed { return *readWhole(c, types[i], alike[i].key) }); err != nil {
		return nil, err
	}
	theirs, ours := make([]value, len(alike)), make([]value, len(alike))
	for i := range alike {
		if theirs[i], err = valueOf(source[i], types[i]); err != nil {
			return nil, err
		}
		if ours[i], err = valueOf(target[i], types[i]); err != nil {
			return nil, err
		}
	}
	var now int64
	if err := both(
		func() (err error) { now, err = w.source.fieldExpiries(ctx, db, alike, types, theirs); return err },
		func() (err error) { _, err = w.target.fieldExpiries(ctx, db, alike, types, ours); return err },
	); err != nil {
		return nil, err
	}
	for i, p := range alike {
		if d := w.sameValue(db, &p, types[i], &theirs[i], &ours[i], now); d != nil {
			found = append(found, *d)
		}
	}
	return found, nil
}

// module is the verdict on a module's value in other bytes: only the module knows what they mean.
// Of a vector set (Redis 8.0), whose bytes depend on chance, the size tells.
func (w *worker) module(ctx context.Context, db int, key, kind string) (Difference, error) {
	d := Difference{DB: db, Key: key, Kind: Incomparable, Source: "other bytes", Target: "other bytes"}
	d.What = "the bytes of a " + kind + ", whose meaning only its module knows"
	if kind != "vectorset" {
		return d, nil
	}
	source, target, err := w.ask(ctx, db, 1, func(c *conn, _ int) rueidis.Completed {
		return c.dedicated.B().Arbitrary("VCARD").Keys(key).Build()
	})
	if err != nil {
		return d, err
	}
	theirs, err1 := source[0].AsInt64()
	ours, err2 := target[0].AsInt64()
	if err1 == nil && err2 == nil && theirs != ours {
		d.Kind, d.What = Value, "elements"
		d.Source, d.Target = strconv.FormatInt(theirs, 10), strconv.FormatInt(ours, 10)
	}
	return d, nil
}

// ask asks both sides the same n things at the same time.
func (w *worker) ask(ctx context.Context, db, n int, cmd func(c *conn, i int) rueidis.Completed) (source, target []rueidis.RedisResult, err error) {
	one := func(c *conn, out *[]rueidis.RedisResult) func() error {
		return func() (err error) {
			cmds := make(rueidis.Commands, n)
			for i := range cmds {
				cmds[i] = cmd(c, i)
			}
			*out, err = c.do(ctx, db, cmds...)
			return err
		}
	}
	err = both(one(w.source, &source), one(w.target, &target))
	return source, target, err
}

// readWhole is the command that reads a value of this type; nil where there is none.
func readWhole(c *conn, kind, key string) *rueidis.Completed {
	b := c.dedicated.B()
	var cmd rueidis.Completed
	switch kind {
	case "string":
		cmd = b.Get().Key(key).Build()
	case "list":
		cmd = b.Lrange().Key(key).Start(0).Stop(-1).Build()
	case "set":
		cmd = b.Smembers().Key(key).Build()
	case "zset":
		cmd = b.Zrange().Key(key).Min("0").Max("-1").Withscores().Build()
	case "hash":
		cmd = b.Hgetall().Key(key).Build()
	default:
		return nil
	}
	return &cmd
}

func valueOf(r rueidis.RedisResult, kind string) (value, error) {
	m, err := r.ToMessage()
	return parseValue(m, err, kind)
}

// parseValue reads the reply to readWhole of a type.
func parseValue(r rueidis.RedisMessage, err error, kind string) (v value, _ error) {
	if err != nil {
		if v.gone = about(err); v.gone {
			err = nil
		}
		return v, err
	}
	if kind == "string" {
		v.text, err = r.ToString()
		return v, err
	}
	list, err := r.AsStrSlice()
	if err != nil {
		return v, err
	}
	if (kind == "hash" || kind == "zset") && len(list)%2 != 0 {
		return v, fmt.Errorf("read a %s: %d texts are no pairs", kind, len(list))
	}
	v.gone = len(list) == 0
	switch kind {
	case "list":
		v.list = list
	case "set":
		v.elements = make(map[string]string, len(list))
		for _, member := range list {
			v.elements[member] = ""
		}
	default:
		v.elements = make(map[string]string, len(list)/2)
		for i := 0; i+1 < len(list); i += 2 {
			v.elements[list[i]] = list[i+1]
			if kind == "zset" {
				v.elements[list[i]] = score(list[i+1])
			}
		}
	}
	return v, nil
}

// score gives a score in one form: servers print the same number in different ways.
func score(text string) string {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	return strconv.FormatFloat(n, 'g', -1, 64)
}

// fieldsAtOnce is how many fields' expiries one command asks for.
const fieldsAtOnce = 1000

// fieldExpiries asks for the expiries of all fields of these hashes, and for the clock.
func (c *conn) fieldExpiries(ctx context.Context, db int, pairs []pair, types []string, values []value) (now int64, err error) {
	cmds := rueidis.Commands{c.dedicated.B().Time().Build()}
	type asked struct {
		value  int
		fields []string
	}
	var all []asked
	for i := range pairs {
		if types[i] != "hash" || values[i].gone || !c.fieldTTL {
			continue
		}
		for fields := range slices.Chunk(slices.Collect(maps.Keys(values[i].elements)), fieldsAtOnce) {
			all = append(all, asked{i, fields})
			cmds = append(cmds, c.hpexpiretime(pairs[i].key, fields))
		}
	}
	replies, err := c.do(ctx, db, cmds...)
	if err != nil {
		return 0, err
	}
	for i, a := range all {
		v := &values[a.value]
		if v.expiries == nil {
			v.expiries = map[string]int64{}
		}
		list, err := replies[i+1].AsIntSlice()
		if err != nil || len(list) != len(a.fields) { // the hash is gone, or was replaced
			v.gone = true
			continue
		}
		for f, ms := range list {
			if ms != noExpiry {
				v.expiries[a.fields[f]] = ms
			}
			if ms == noKey { // expired meanwhile
				delete(v.elements, a.fields[f])
			}
		}
	}
	return clock(replies[0])
}

func (c *conn) hpexpiretime(key string, fields []string) rueidis.Completed {
	return c.dedicated.B().Arbitrary("HPEXPIRETIME").Keys(key).Args("FIELDS", strconv.Itoa(len(fields))).Args(fields...).Build()
}

// expiry is that of a field, noExpiry for none.
func (v *value) expiry(field string) int64 {
	if ms, ok := v.expiries[field]; ok {
		return ms
	}
	return noExpiry
}

// sameValue compares two values of the same type, and their expiries.
func (w *worker) sameValue(db int, p *pair, kind string, source, target *value, now int64) *Difference {
	if source.gone != target.gone {
		d := lone(db, p.key, !source.gone, max(p.source.expiry, p.target.expiry))
		return &d
	}
	d := Difference{DB: db, Key: p.key, Kind: Value}
	switch {
	case source.text != target.text && !sameHLL(source.text, target.text):
		d.What, d.Source, d.Target = textDifference(source.text, target.text)
		return &d
	case !slices.Equal(source.list, target.list):
		d.What, d.Source, d.Target = listDifference(source.list, target.list, 0)
		return &d
	}
	for _, name := range slices.Sorted(maps.Keys(source.elements)) {
		theirs := source.elements[name]
		ours, there := target.elements[name]
		switch {
		case !there && w.r.over(source.expiry(name), now, ofField):
		case !there || ours != theirs:
			d.What, d.Source, d.Target = elementDifference(kind, name, &theirs, orNil(ours, there))
			return &d
		case !w.sameExpiry(source.expiry(name), target.expiry(name), ofField):
			d := ttlDifference(db, p.key, "field "+shorten(name), source.expiry(name), target.expiry(name), ofField)
			return &d
		}
	}
	for _, name := range slices.Sorted(maps.Keys(target.elements)) {
		if _, there := source.elements[name]; !there && !w.r.over(target.expiry(name), now, ofField) {
			ours := target.elements[name]
			d.What, d.Source, d.Target = elementDifference(kind, name, nil, &ours)
			return &d
		}
	}
	return w.keyTTL(db, p)
}

// keyTTL is the difference of two keys whose values are equal: in their expiries, if there is one.
func (w *worker) keyTTL(db int, p *pair) *Difference {
	if w.sameExpiry(p.source.expiry, p.target.expiry, ofKey) {
		return nil
	}
	d := ttlDifference(db, p.key, "", p.source.expiry, p.target.expiry, ofKey)
	return &d
}

func orNil(text string, there bool) *string {
	if there {
		return &text
	}
	return nil
}

// elementDifference tells how an element of a set, sorted set or hash differs; nil is one that is not there.
func elementDifference(kind, name string, source, target *string) (what, theirs, ours string) {
	noun := map[string]string{"hash": "field", "zset": "score of member", "set": "member"}[kind]
	have := func(text *string) string {
		switch {
		case text == nil:
			return "has not"
		case kind == "set":
			return "has it"
		case kind == "zset":
			return *text
		}
		return shorten(*text)
	}
	return noun + " " + shorten(name), have(source), have(target)
}

// textDifference shows the place where two strings part.
func textDifference(source, target string) (what, theirs, ours string) {
	at := 0
	for at < min(len(source), len(target)) && source[at] == target[at] {
		at++
	}
	if at < shownBytes/2 {
		return "", shorten(source), shorten(target)
	}
	return fmt.Sprintf("from byte %d on", at), shorten(source[at:]), shorten(target[at:])
}

// listDifference shows the first element in which two lists part. They begin at this index.
func listDifference(source, target []string, from int64) (what, theirs, ours string) {
	at := 0
	for at < min(len(source), len(target)) && source[at] == target[at] {
		at++
	}
	have := func(list []string) string {
		if at >= len(list) {
			return fmt.Sprintf("ends after %d", from+int64(at))
		}
		return shorten(strings.Clone(list[at]))
	}
	return fmt.Sprintf("element %d", from+int64(at)), have(source), have(target)
}
