package applier

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// near are keys that settling leaves shifted, since they expire too soon, each with the moment when it does. Release begins with them, the
// nearest first, so that each has its own TTL again before that is over. Nothing is lost with a key that is not here, or no more: the passes
// over all keys come to it. So its memory is bounded by forgetting the farther half. A nil near keeps nothing.
type near struct {
	mu    sync.Mutex
	keys  map[nearKey]int64
	bytes int
	cut   int64 // keys from here on are not kept
}

type nearKey struct {
	db  int
	key string
}

// What near takes at most, and what a key takes beside its name, about.
const (
	nearBytes    = 32 << 20
	nearOverhead = 80
)

func newNear() *near { return &near{keys: map[nearKey]int64{}, cut: distant} }

// cutoff is from which moment on keys need not be added.
func (n *near) cutoff() int64 {
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut
}

// add keeps a key. A later moment replaces an earlier one.
func (n *near) add(db int, key string, ms int64) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if ms >= n.cut {
		return
	}
	k := nearKey{db, key}
	if _, ok := n.keys[k]; !ok {
		n.bytes += len(key) + nearOverhead
	}
	n.keys[k] = ms
	if n.bytes > nearBytes {
		n.halve()
	}
}

// halve forgets the farther half. Its caller holds the lock.
func (n *near) halve() {
	moments := slices.Sorted(maps.Values(n.keys))
	n.cut, n.bytes = moments[len(moments)/2], 0
	maps.DeleteFunc(n.keys, func(_ nearKey, ms int64) bool { return ms >= n.cut })
	for k := range n.keys {
		n.bytes += len(k.key) + nearOverhead
	}
}

// nearAtOnce is how many keys are sorted by database rather than by their moment, for the sake of fewer steps.
const nearAtOnce = 4 * listStep

// nearest are all keys in the order in which Release takes them, in runs of one database.
func (n *near) nearest() (runs []nearRun) {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	sorted := slices.SortedFunc(maps.Keys(n.keys), func(a, b nearKey) int { return cmp.Compare(n.keys[a], n.keys[b]) })
	for part := range slices.Chunk(sorted, nearAtOnce) {
		databases := map[int][]string{}
		for _, k := range part {
			databases[k.db] = append(databases[k.db], k.key)
		}
		for _, db := range slices.Sorted(maps.Keys(databases)) {
			runs = append(runs, nearRun{db, databases[db]})
		}
	}
	return runs
}

type nearRun struct {
	db   int
	keys []string
}
