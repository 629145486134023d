package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// value is a key's value in a form that does not depend on its encoding: one line for each element, sorted where order has no meaning.
type value struct {
	gone  bool // there is no such key, or a hash of which no field is left
	lines []string
	ttls  map[string]int64 // of hash fields that have one, by line
}

// ttl is the expiry time of a line's field in Unix ms, -1 for none.
func (v value) ttl(line string) int64 {
	if ms, ok := v.ttls[line]; ok {
		return ms
	}
	return -1
}

// values reads the keys' values with one pipeline, and the TTLs of hash fields with another.
func values(d *Database, keys []keyPair, view streamView) ([]value, error) {
	cmds := make([][]string, len(keys))
	for i, key := range keys {
		switch key.kind() {
		case "string":
			cmds[i] = []string{"GET", key.name}
		case "list":
			cmds[i] = []string{"LRANGE", key.name, "0", "-1"}
		case "set":
			cmds[i] = []string{"SMEMBERS", key.name}
		case "zset":
			cmds[i] = []string{"ZRANGE", key.name, "0", "-1", "WITHSCORES"}
		case "hash":
			cmds[i] = []string{"HGETALL", key.name}
		case "stream":
			cmds[i] = []string{"XINFO", "STREAM", key.name, "FULL", "COUNT", "0"}
		default:
			return nil, fmt.Errorf("key %q: cannot compare values of type %s", key.name, key.kind())
		}
	}
	replies, err := d.Pipeline(cmds...)
	if err != nil {
		return nil, err
	}
	out := make([]value, len(keys))
	for i, key := range keys {
		m, err := replies[i].ToMessage()
		if out[i].gone = absent(err); out[i].gone {
			continue
		}
		if err == nil {
			out[i].lines, err = lines(m, key.kind(), view)
		}
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", key.name, err)
		}
		out[i].gone = len(out[i].lines) == 0
	}
	if d.s.Build.HasFieldTTL() {
		err = fieldTTLs(d, keys, replies, out)
	}
	return out, err
}

// absent tells the answer to GET, and that to XINFO, for a key that is not there.
func absent(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return rueidis.IsRedisNil(err) || ok && reply.Error() == "no such key"
}

func lines(m rueidis.RedisMessage, kind string, view streamView) ([]string, error) {
	switch kind {
	case "string":
		text, err := m.ToString()
		return []string{text}, err
	case "stream":
		var s streamLines
		return s.stream(m, view)
	}
	list, err := m.AsStrSlice()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "set":
		slices.Sort(list)
	case "hash":
		list = pairs(list)
		slices.Sort(list)
	case "zset":
		for i := 1; i < len(list); i += 2 { // servers print the same number in different ways
			score, err := strconv.ParseFloat(list[i], 64)
			if err != nil {
				return nil, err
			}
			list[i] = strconv.FormatFloat(score, 'g', -1, 64)
		}
		list = pairs(list)
	}
	return list, nil
}

// pairs joins each two elements. The length in front keeps ("a=b", "c") from looking like ("a", "b=c").
func pairs(list []string) []string {
	joined := make([]string, 0, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		joined = append(joined, keyed(list[i], list[i+1]))
	}
	return joined
}

func keyed(a, b string) string { return strconv.Itoa(len(a)) + ":" + a + "=" + b }

// fieldTTLs reads HPEXPIRETIME of all fields of the hashes among keys. A field that has expired since they were read is left out.
func fieldTTLs(d *Database, keys []keyPair, replies []rueidis.RedisResult, out []value) error {
	type chunk struct {
		key   int
		pairs []string
	}
	var chunks []chunk
	var cmds [][]string
	for i, key := range keys {
		if key.kind() != "hash" {
			continue
		}
		list, err := replies[i].AsStrSlice()
		if err != nil {
			return err
		}
		out[i].ttls = map[string]int64{}
		for part := range slices.Chunk(list, 2*1000) {
			cmd := []string{"HPEXPIRETIME", key.name, "FIELDS", strconv.Itoa(len(part) / 2)}
			for f := 0; f < len(part); f += 2 {
				cmd = append(cmd, part[f])
			}
			chunks, cmds = append(chunks, chunk{i, part}), append(cmds, cmd)
		}
	}
	if len(cmds) == 0 {
		return nil
	}
	answers, err := d.Pipeline(cmds...)
	if err != nil {
		return err
	}
	for i, c := range chunks {
		times, err := answers[i].AsIntSlice()
		if err != nil {
			return fmt.Errorf("key %q: field TTLs: %w", keys[c.key].name, err)
		}
		for f, ms := range times {
			out[c.key].ttls[keyed(c.pairs[2*f], c.pairs[2*f+1])] = ms
		}
	}
	for i := range out {
		v := &out[i]
		v.lines = slices.DeleteFunc(v.lines, func(line string) bool { return v.ttls[line] == noField })
		v.gone = len(v.lines) == 0
	}
	return nil
}

// streamView says what two servers both know of a stream.
type streamView struct {
	counters    bool // what came with 7.0: max-deleted-entry-id and its like, and consumers that have read nothing
	entriesRead bool
}

// streamLines turns XINFO STREAM FULL into lines. What it leaves out is not data (the shape of the radix tree), not replicated (when a consumer
// was last seen), or follows from the rest (pel-count, lag).
type streamLines struct{ lines []string }

func (s *streamLines) add(words ...string) { s.lines = append(s.lines, strings.Join(words, " ")) }

// copyFields adds a line for each of these fields.
func (s *streamLines) copyFields(prefix string, from map[string]rueidis.RedisMessage, names ...string) {
	for _, name := range names {
		s.add(prefix+name, plain(from[name]))
	}
}

func (s *streamLines) stream(m rueidis.RedisMessage, view streamView) ([]string, error) {
	top, err := m.AsMap()
	if err != nil {
		return nil, err
	}
	s.copyFields("", top, "length", "last-generated-id")
	if view.counters {
		s.copyFields("", top, "max-deleted-entry-id", "entries-added", "recorded-first-entry-id")
	}
	entries, groups := top["entries"], top["groups"]
	list, err := entries.ToArray()
	if err != nil {
		return nil, fmt.Errorf("entries: %w", err)
	}
	for _, entry := range list {
		s.add("entry", plain(entry))
	}
	if list, err = groups.ToArray(); err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	for _, group := range list {
		if err := s.group(group, view); err != nil {
			return nil, err
		}
	}
	return s.lines, nil
}

func (s *streamLines) group(m rueidis.RedisMessage, view streamView) error {
	group, err := m.AsMap()
	if err != nil {
		return fmt.Errorf("group: %w", err)
	}
	name := group["name"]
	prefix := "group " + plain(name) + " "
	s.copyFields(prefix, group, "last-delivered-id", "pending")
	if view.entriesRead {
		s.copyFields(prefix, group, "entries-read")
	}
	members := group["consumers"]
	consumers, err := members.ToArray()
	if err != nil {
		return fmt.Errorf("consumers: %w", err)
	}
	var lines []string
	for _, c := range consumers {
		consumer, err := c.AsMap()
		if err != nil {
			return fmt.Errorf("consumer: %w", err)
		}
		name, pending := consumer["name"], consumer["pending"]
		if list, err := pending.ToArray(); !view.counters && err == nil && len(list) == 0 {
			continue // before 7.0 a consumer without pending entries is not replicated
		}
		lines = append(lines, prefix+"consumer "+plain(name)+" pending "+plain(pending))
	}
	slices.Sort(lines)
	s.lines = append(s.lines, lines...)
	return nil
}

// plain is a reply as text: strings quoted, lists in brackets.
func plain(m rueidis.RedisMessage) string {
	if list, err := m.ToArray(); err == nil {
		var b strings.Builder
		b.WriteByte('[')
		for i, element := range list {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(plain(element))
		}
		b.WriteByte(']')
		return b.String()
	}
	if n, err := m.ToInt64(); err == nil { // not AsInt64, which takes the string 007 for 7
		return strconv.FormatInt(n, 10)
	}
	if m.IsNil() {
		return "nil"
	}
	text, err := m.ToString()
	if err != nil {
		return err.Error()
	}
	return strconv.Quote(text)
}
