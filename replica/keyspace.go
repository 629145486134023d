package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Database is one that has keys, as INFO keyspace says it.
type Database struct {
	Number       int
	Keys         int64
	Volatile     int64 // keys with an expiry
	VolatileSubs int64 // hashes with fields that have one, from the versions on that know such fields
}

// Keyspace reads of INFO what is in which of a server's databases, in their order. The error names a line that cannot be read; the others are there all the same.
func Keyspace(info map[string]string) (there []Database, err error) {
	for name, stats := range info { // db0:keys=12,expires=3,avg_ttl=0
		digits, ok := strings.CutPrefix(name, "db")
		number, bad := strconv.ParseUint(digits, 10, 31)
		if !ok || bad != nil {
			continue
		}
		d := Database{Number: int(number), Keys: -1}
		if bad := d.read(stats); bad != nil {
			err = fmt.Errorf("read the keyspace %q: %w", stats, bad)
			continue
		}
		there = append(there, d)
	}
	slices.SortFunc(there, func(a, b Database) int { return a.Number - b.Number })
	return there, err
}

func (d *Database) read(stats string) (err error) {
	for stat := range strings.SplitSeq(stats, ",") {
		switch what, n, _ := strings.Cut(stat, "="); what {
		case "keys":
			d.Keys, err = strconv.ParseInt(n, 10, 64)
		case "expires":
			d.Volatile, err = strconv.ParseInt(n, 10, 64)
		case "subexpiry", "keys_with_volatile_items": // Redis' name for it, and Valkey's
			d.VolatileSubs, err = strconv.ParseInt(n, 10, 64)
		}
		if err != nil {
			return err
		}
	}
	if d.Keys < 0 {
		return errors.New("it does not say how many keys")
	}
	return nil
}

// RandomCursor is where SCAN may begin to look at some keys: any number is a cursor, and a random one a random place.
func RandomCursor() string { return strconv.FormatUint(rand.Uint64(), 10) }
