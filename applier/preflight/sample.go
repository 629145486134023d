package preflight

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"redferry/replica"
)

const (
	sampleKeys  = 256             // keys that are looked at, at most
	sampleBatch = 32              // in one pipeline
	sampleTime  = 2 * time.Second // after which no further one is begun
	sampled     = 4 << 10         // elements that MEMORY USAGE looks at: a value below sampleDump is then known exactly, since no element takes less than 16 bytes
	sampleDump  = 64 << 10        // a value of more bytes in memory is not dumped
	largeValue  = 64 << 20        // bytes in memory; redferry holds a value whole, about twice
)

// sample is what was seen of some of the source's keys, drawn at random.
type sample struct {
	err     error          // why none was
	keys    int            // looked at
	largest int64          // bytes in memory
	which   string         // the largest one's name
	large   int            // how many are larger than largeValue
	dumped  int            // keys whose types were read
	types   map[byte]typed // by RDB type, which is a DUMP's first byte
	values  int64          // bytes of the dumped ones
}

// typed are the sampled keys of one RDB type.
type typed struct {
	n       int
	example string
}

// gatherSample looks at keys of all databases. It stops at the first refusal: what was seen until then counts.
func gatherSample(ctx context.Context, c rueidis.Client, info map[string]string) sample {
	s := sample{types: map[byte]typed{}}
	there := keyspace(info)
	ctx, cancel := context.WithTimeout(ctx, 5*sampleTime) // a server that is this slow is not asked any more
	defer cancel()
	dedicated, release := c.Dedicate() // SELECT is state of its connection
	defer release()
	selected := 0
	end := time.Now().Add(sampleTime)
	for i, d := range there {
		db, share := d.Number, (sampleKeys-s.keys)/(len(there)-i)
		if db != selected { // else without that right
			if s.err = dedicated.Do(ctx, dedicated.B().Select().Index(int64(db)).Build()).Error(); s.err != nil {
				return s
			}
			selected = db
		}
		cursor := "0" // a database that is looked at whole begins there
		if d.Keys > int64(share) {
			cursor = replica.RandomCursor()
		}
		for n := int(min(int64(share), d.Keys)); n > 0 && time.Now().Before(end); n -= sampleBatch {
			next, err := s.look(ctx, dedicated, cursor, min(n, sampleBatch), func(key string) string { return keyName(key, db) })
			if s.err = err; err != nil {
				dedicated.Close() // a connection in doubt; all others go on
				return s
			}
			if cursor = next; d.Keys > int64(share) {
				cursor = replica.RandomCursor()
			} else if cursor == "0" {
				break
			}
		}
	}
	if selected != 0 {
		dedicated.Close()
	}
	return s
}

// look looks at about n keys of the selected database, which SCAN gives from a cursor on, and tells the next one. RANDOMKEY could hang the server, as verify's sample.go tells. The same
// key may be drawn twice, and a key may be gone by the second question.
func (s *sample) look(ctx context.Context, c rueidis.DedicatedClient, cursor string, n int, name func(key string) string) (next string, err error) {
	entry, err := c.Do(ctx, c.B().Arbitrary("SCAN", cursor, "COUNT", strconv.Itoa(n)).Build()).AsScanEntry()
	if err != nil {
		return "", err
	}
	keys := slices.DeleteFunc(entry.Elements, func(key string) bool { return key == "" }) // which a user of %R~* may not read: no pattern matches the empty key
	keys = keys[:min(2*n, len(keys))]
	weigh := make(rueidis.Commands, len(keys))
	for i, key := range keys {
		weigh[i] = c.B().MemoryUsage().Key(key).Samples(sampled).Build()
	}
	var dump rueidis.Commands
	var small []string
	for i, r := range c.DoMulti(ctx, weigh...) {
		size, err := r.AsInt64()
		if rueidis.IsRedisNil(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		s.keys++
		if size > largeValue {
			s.large++
		}
		if size > s.largest {
			s.largest, s.which = size, name(keys[i])
		}
		if size <= sampleDump {
			dump, small = append(dump, c.B().Dump().Key(keys[i]).Build()), append(small, name(keys[i]))
		}
	}
	for i, r := range c.DoMulti(ctx, dump...) {
		value, err := r.ToString()
		if rueidis.IsRedisNil(err) || err == nil && value == "" {
			continue
		}
		if err != nil {
			return "", err
		}
		t := s.types[value[0]]
		if t.n++; t.n == 1 {
			t.example = small[i]
		}
		s.types[value[0]] = t
		s.dumped++
		s.values += int64(len(value))
	}
	return strconv.FormatUint(entry.Cursor, 10), nil
}

// keyName is a key for people.
func keyName(key string, db int) string {
	if db == 0 {
		return fmt.Sprintf("%.60q", key)
	}
	return fmt.Sprintf("%.60q of database %d", key, db)
}
