package verify

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// stream compares streams: their entries, their counters, their groups with consumers and pending entries. When a consumer was last seen, or an entry last delivered, is left
// out: the one is not replicated, the other is told only as how long ago.
func (w *worker) stream(ctx context.Context, db int, p *pair) (*Difference, error) {
	s := streamPair{w: w, db: db, key: p.key}
	if err := s.compare(ctx, p); err != nil {
		return nil, err
	}
	if s.found != nil {
		return s.found, nil
	}
	if d := w.keyTTL(db, p); d != nil {
		return d, nil
	}
	return s.unsure, nil
}

// streamPair is a stream as both sides have it, and the first difference that was found.
type streamPair struct {
	w      *worker
	db     int
	key    string
	found  *Difference
	unsure *Difference // the first of which nobody can tell whether it is one
}

func (s *streamPair) compare(ctx context.Context, p *pair) error {
	source, target, err := s.maps(ctx, "XINFO", "STREAM")
	if err != nil {
		return err
	}
	if len(source) > 1 || len(target) > 1 {
		return fmt.Errorf("ask about the stream %q: %d and %d maps instead of one", s.key, len(source), len(target))
	}
	if (len(source) == 0) != (len(target) == 0) {
		d := lone(s.db, s.key, len(source) > 0, max(p.source.expiry, p.target.expiry))
		s.found = &d
	}
	if s.found != nil || len(source) == 0 {
		return nil
	}
	n, _ := strconv.ParseInt(source[0]["length"], 10, 64)
	m, _ := strconv.ParseInt(target[0]["length"], 10, 64)
	if err := s.entries(ctx, min(atOnce(p.source.size, n), atOnce(p.target.size, m))); err != nil || s.found != nil {
		return err
	}
	fields := []string{"length", "last-generated-id"}
	if s.w.source.has70 && s.w.target.has70 {
		fields = append(fields, "max-deleted-entry-id", "entries-added")
	}
	if s.fields("", source[0], target[0], fields...); s.found != nil {
		return nil
	}
	return s.groups(ctx)
}

// ask asks both sides for the same of the stream.
func (s *streamPair) ask(ctx context.Context, command, sub string, args ...string) (source, target rueidis.RedisResult, err error) {
	a, b, err := s.w.ask(ctx, s.db, 1, func(c *conn, _ int) rueidis.Completed {
		words := []string{command}
		if sub != "" {
			words = append(words, sub)
		}
		return c.dedicated.B().Arbitrary(words...).Keys(s.key).Args(args...).Build()
	})
	if err != nil {
		return source, target, err
	}
	return a[0], b[0], nil
}

// maps asks both sides for a map, or a list of maps, with texts as values. It is nil where the stream is gone.
func (s *streamPair) maps(ctx context.Context, command, sub string, args ...string) (source, target []map[string]string, err error) {
	a, b, err := s.ask(ctx, command, sub, args...)
	if err != nil {
		return nil, nil, err
	}
	if source, err = parseMaps(a.ToMessage()); err != nil {
		return nil, nil, err
	}
	target, err = parseMaps(b.ToMessage())
	return source, target, err
}

func parseMaps(r rueidis.RedisMessage, err error) ([]map[string]string, error) {
	list, err := listOf(r, err)
	if about(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(list) > 0 && !list[0].IsArray() { // one map
		list = []rueidis.RedisMessage{r}
	}
	out := make([]map[string]string, 0, len(list))
	for i := range list {
		pairs, err := list[i].ToArray()
		if err != nil {
			return nil, err
		}
		if len(pairs)%2 != 0 {
			return nil, fmt.Errorf("read what a stream says of itself: %d replies are no pairs", len(pairs))
		}
		m := map[string]string{}
		for f := 0; f+1 < len(pairs); f += 2 {
			name, _ := pairs[f].ToString()
			m[name] = scalar(&pairs[f+1])
		}
		out = append(out, m)
	}
	return out, nil
}

// listOf is a reply that is a list.
func listOf(r rueidis.RedisMessage, err error) ([]rueidis.RedisMessage, error) {
	if err != nil {
		return nil, err
	}
	return r.ToArray()
}

// scalar is a number or a string as text; empty for what is neither.
func scalar(m *rueidis.RedisMessage) string {
	if n, err := m.ToInt64(); err == nil {
		return strconv.FormatInt(n, 10)
	}
	text, _ := m.ToString()
	return text
}

// differ notes the first difference.
func (s *streamPair) differ(what, source, target string) {
	if s.found == nil && source != target {
		s.found = &Difference{DB: s.db, Key: s.key, Kind: Value, What: what, Source: source, Target: target}
	}
}

func (s *streamPair) fields(prefix string, source, target map[string]string, names ...string) {
	for _, name := range names {
		s.differ(prefix+name, source[name], target[name])
	}
}

// entries compares all entries, some at a time.
func (s *streamPair) entries(ctx context.Context, step int64) error {
	for from := "-"; ; {
		a, b, err := s.ask(ctx, "XRANGE", "", from, "+", "COUNT", strconv.FormatInt(step, 10))
		if err != nil {
			return err
		}
		source, err := entryTexts(a.ToMessage())
		if err != nil {
			return err
		}
		target, err := entryTexts(b.ToMessage())
		if err != nil {
			return err
		}
		for i := range max(len(source), len(target)) {
			var x, y entry
			if i < len(source) {
				x = source[i]
			}
			if i < len(target) {
				y = target[i]
			}
			if x.id != y.id || x.text != y.text {
				s.differ("entry "+cmp.Or(x.id, y.id), x.String(), y.String())
				return nil
			}
		}
		if int64(len(source)) < step {
			return nil
		}
		if from = after(source[len(source)-1].id); from == "" {
			return nil
		}
	}
}

// entry is one of a stream. The zero one is none.
type entry struct{ id, text string }

func (e entry) String() string {
	if e.id == "" {
		return "none"
	}
	if len(e.text) > 2*shownBytes {
		return fmt.Sprintf("%s %s… (%d bytes)", e.id, e.text[:2*shownBytes], len(e.text))
	}
	return e.id + " " + e.text
}

func entryTexts(r rueidis.RedisMessage, err error) ([]entry, error) {
	list, err := listOf(r, err)
	if about(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, len(list))
	for i := range list {
		parts, err := list[i].ToArray()
		if err != nil || len(parts) != 2 {
			return nil, fmt.Errorf("read a stream's entry of %d parts: %w", len(parts), err)
		}
		id, _ := parts[0].ToString()
		fields, err := parts[1].AsStrSlice()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, err
		}
		out = append(out, entry{id, fmt.Sprintf("%q", fields)})
	}
	return out, nil
}

// after is the next possible ID, and empty when there is none, or id is none: servers before 6.2 know no exclusive ranges.
func after(id string) string {
	first, second, _ := strings.Cut(id, "-")
	ms, noTime := strconv.ParseUint(first, 10, 64)
	seq, noNumber := strconv.ParseUint(second, 10, 64)
	switch {
	case noTime != nil, noNumber != nil, ms == math.MaxUint64 && seq == math.MaxUint64:
		return ""
	case seq == math.MaxUint64:
		return strconv.FormatUint(ms+1, 10) + "-0"
	}
	return first + "-" + strconv.FormatUint(seq+1, 10)
}

// groups compares the consumer groups.
func (s *streamPair) groups(ctx context.Context) error {
	a, b, err := s.maps(ctx, "XINFO", "GROUPS")
	if err != nil {
		return err
	}
	source, target := byName(a), byName(b)
	for _, name := range slices.Sorted(maps.Keys(union(source, target))) {
		x, inSource := source[name]
		y, inTarget := target[name]
		prefix := "group " + shorten(name)
		s.differ(prefix, has(inSource), has(inTarget))
		fields := []string{"last-delivered-id", "pending"}
		if s.w.source.has72 && s.w.target.has72 {
			fields = append(fields, "entries-read")
		}
		if s.fields(prefix+" ", x, y, fields...); s.found != nil {
			return nil
		}
		if err := s.consumers(ctx, name); err != nil || s.found != nil {
			return err
		}
		if err := s.pending(ctx, name); err != nil || s.found != nil {
			return err
		}
	}
	return nil
}

func (s *streamPair) consumers(ctx context.Context, group string) error {
	a, b, err := s.maps(ctx, "XINFO", "CONSUMERS", group)
	if err != nil {
		return err
	}
	if !s.w.source.has70 || !s.w.target.has70 { // one without pending entries is not replicated before
		idle := func(m map[string]string) bool { return m["pending"] == "0" }
		a, b = slices.DeleteFunc(a, idle), slices.DeleteFunc(b, idle)
	}
	source, target := byName(a), byName(b)
	for _, name := range slices.Sorted(maps.Keys(union(source, target))) {
		x, inSource := source[name]
		y, inTarget := target[name]
		prefix := "group " + shorten(group) + " consumer " + shorten(name)
		if inSource && !inTarget && x["pending"] == "0" {
			s.unsure = cmp.Or(s.unsure, &Difference{
				DB: s.db, Key: s.key, Kind: Incomparable, Source: has(true), Target: has(false),
				What: prefix + ": a source does not replicate a consumer whose first XREADGROUP got nothing",
			})
			continue
		}
		s.differ(prefix, has(inSource), has(inTarget))
		s.fields(prefix+" ", x, y, "pending")
	}
	return nil
}

// pendingAtOnce is how many pending entries are asked for at a time.
const pendingAtOnce = 1000

// pending compares the pending entries of a group: ID, consumer, and how often it was delivered. That the source has
// delivered one more often is no difference: a consumer that reads its pending entries again is not replicated.
func (s *streamPair) pending(ctx context.Context, group string) error {
	for from := "-"; ; {
		a, b, err := s.ask(ctx, "XPENDING", "", group, from, "+", strconv.Itoa(pendingAtOnce))
		if err != nil {
			return err
		}
		source, err := pendingEntries(a.ToMessage())
		if err != nil {
			return err
		}
		target, err := pendingEntries(b.ToMessage())
		if err != nil {
			return err
		}
		for i := range min(len(source), len(target)) {
			x, y := source[i], target[i]
			if x.id == y.id && x.consumer == y.consumer && x.deliveries > y.deliveries {
				s.unsure = cmp.Or(s.unsure, &Difference{
					DB: s.db, Key: s.key, Kind: Incomparable, Source: x.String(), Target: y.String(),
					What: "group " + shorten(group) + ": a source does not replicate that a consumer reads a pending entry again",
				})
				target[i] = x
			}
		}
		if !slices.Equal(source, target) {
			what, theirs, ours := listDifference(pendingTexts(source), pendingTexts(target), 0)
			s.differ("group "+shorten(group)+" pending "+what+" from "+from, theirs, ours)
			return nil
		}
		if len(source) < pendingAtOnce {
			return nil
		}
		if from = after(source[len(source)-1].id); from == "" {
			return nil
		}
	}
}

// pendingEntry is an entry that was delivered, and not acknowledged.
type pendingEntry struct {
	id, consumer string
	deliveries   int64
}

func (p pendingEntry) String() string {
	return fmt.Sprintf("%s of %q, delivered %d times", p.id, p.consumer, p.deliveries)
}

func pendingTexts(list []pendingEntry) []string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return texts
}

func pendingEntries(r rueidis.RedisMessage, err error) ([]pendingEntry, error) {
	all, err := listOf(r, err)
	if about(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]pendingEntry, len(all))
	for i := range all {
		parts, err := all[i].ToArray()
		if err != nil || len(parts) != 4 { // ID, consumer, how long ago, how often
			return nil, fmt.Errorf("read a pending entry of %d parts: %w", len(parts), err)
		}
		list[i] = pendingEntry{id: scalar(&parts[0]), consumer: scalar(&parts[1])}
		if list[i].deliveries, err = parts[3].AsInt64(); err != nil {
			return nil, fmt.Errorf("read how often an entry was delivered: %w", err)
		}
	}
	return list, nil
}

func byName(list []map[string]string) map[string]map[string]string {
	out := make(map[string]map[string]string, len(list))
	for _, m := range list {
		out[m["name"]] = m
	}
	return out
}

func union[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func has(there bool) string {
	if there {
		return "has it"
	}
	return "has not"
}
