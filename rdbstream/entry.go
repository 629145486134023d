package rdbstream

// Kind says what an [Entry] is.
type Kind uint8

// The kinds of entries. What carries nothing for a replica (SELECTDB, SLOT_INFO, HASH_TEMPLATE) is taken in by [Reader.Next] itself.
const (
	KindKey        Kind = iota + 1 // a key and its value
	KindAux                        // an AUX field: Name and Data; may come between keys
	KindFunction                   // a function library: Data is its source, as FUNCTION LOAD takes it
	KindResize                     // RESIZEDB: the DB's Keys and Expires
	KindModuleAux                  // a module's own data, which no client can restore: Name is the module's type, Data the raw body
	KindSlotImport                 // Valkey: a slot is just being imported, its keys are not yet its own: Name is the job, Data the raw body
)

func (k Kind) String() string {
	switch k {
	case KindKey:
		return "key"
	case KindAux:
		return "aux"
	case KindFunction:
		return "function"
	case KindResize:
		return "resize"
	case KindModuleAux:
		return "module-aux"
	case KindSlotImport:
		return "slot-import"
	}
	return "none"
}

// Entry is one thing that an RDB says. Its slices belong to the [Reader] and are valid until the next call of Next.
type Entry struct {
	Kind   Kind
	Valkey bool // the RDB has Valkey's magic: decides what Types above 21 mean
	DB     int

	// Of a key.
	Key       []byte // decoded
	Type      byte   // TypeString …
	Value     []byte // the value's body as it stands in the RDB, behind type and key
	Meta      []byte // the KEY_META block of Redis >= 8.6, its opcode included, or nil; comes before Type in a RESTORE payload
	HasExpire bool
	ExpireAt  int64 // ms since the epoch, when HasExpire; may be 0 or negative
	Idle      int64 // seconds since the last access (LRU), or -1
	Freq      int   // access frequency (LFU), 0 to 255, or -1

	Name, Data    []byte // decoded, see Kind
	Keys, Expires uint64 // of a KindResize

	Offset int64 // bytes of the RDB before the entry
	End    int64 // bytes of the RDB up to and with its last
}
