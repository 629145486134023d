package applier

// longestName is how long the longest name is that a nameTable can have.
const longestName = 15

// nameTable finds what is known of a command by its name, in whatever case. Most commands are in no
// table: a bit for each pair of a first letter and a length spares them the look-up. It allocates
// nothing.
type nameTable[T any] struct {
	byName map[string]T // by the name in upper case; letters and hyphens only
	shapes [32]uint16
}

func newNameTable[T any](byName map[string]T) *nameTable[T] {
	t := &nameTable[T]{byName: byName}
	for name := range byName {
		t.shapes[name[0]&31] |= 1 << len(name)
	}
	return t
}

func (t *nameTable[T]) find(name []byte) (found T, ok bool) {
	if len(name) == 0 || len(name) > longestName || t.shapes[name[0]&31]>>len(name)&1 == 0 {
		return found, false
	}
	var upper [longestName]byte
	for i, b := range name {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		upper[i] = b
	}
	found, ok = t.byName[string(upper[:len(name)])]
	return found, ok
}
