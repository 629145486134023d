package rdbstream

import "fmt"

// The RDB types of a value (rdb.h, RDB_TYPE_…; protocol 2.2). From 22 on Redis and Valkey give the numbers different meanings.
const (
	TypeString           byte = 0
	TypeList             byte = 1
	TypeSet              byte = 2
	TypeZSet             byte = 3
	TypeHash             byte = 4
	TypeZSet2            byte = 5
	TypeModulePreGA      byte = 6
	TypeModule2          byte = 7
	TypeHashZipmap       byte = 9
	TypeListZiplist      byte = 10
	TypeSetIntset        byte = 11
	TypeZSetZiplist      byte = 12
	TypeHashZiplist      byte = 13
	TypeListQuicklist    byte = 14
	TypeStreamListpacks  byte = 15
	TypeHashListpack     byte = 16
	TypeZSetListpack     byte = 17
	TypeListQuicklist2   byte = 18
	TypeStreamListpacks2 byte = 19
	TypeSetListpack      byte = 20
	TypeStreamListpacks3 byte = 21

	TypeHashMetadataPreGA   byte = 22 // Redis 7.4 release candidates
	TypeHashListpackExPreGA byte = 23 // likewise
	TypeHashMetadata        byte = 24
	TypeHashListpackEx      byte = 25
	TypeStreamListpacks4    byte = 26
	TypeStreamListpacks5    byte = 27
	TypeArray               byte = 28
	TypeHashTmplLP          byte = 29
	TypeHashTmplLPRef       byte = 30
	TypeHashTmplArray       byte = 31
	TypeHashTmplArrayRef    byte = 32

	TypeValkeyHash2 byte = 22 // Valkey 9: a hash whose fields have expiries
)

// The opcodes (rdb.h, RDB_OPCODE_…; protocol 2.1).
const (
	opHashTemplate  byte = 242 // Redis; in Valkey 9.2 UPDATE, which is not supported
	opKeyMeta       byte = 243 // Redis
	opSlotImport    byte = 243 // Valkey
	opSlotInfo      byte = 244
	opFunction2     byte = 245
	opFunctionPreGA byte = 246
	opModuleAux     byte = 247
	opIdle          byte = 248
	opFreq          byte = 249
	opAux           byte = 250
	opResizeDB      byte = 251
	opExpireTimeMs  byte = 252
	opExpireTime    byte = 253
	opSelectDB      byte = 254
	opEOF           byte = 255
)

// firstOpcode parts the byte before a key: what lies below is its type.
const firstOpcode = opHashTemplate

// The newest RDB versions that are understood. Valkey 9.2 is to write 81, with commands between the keys, but only to replicas that say
// they know it.
const (
	newestRedis  = 15
	oldestValkey = 80
	newestValkey = 80
	firstWithCRC = 5
)

// Version is what an RDB's magic says: who wrote it decides what the type and opcode numbers mean.
type Version struct {
	Valkey bool // VALKEYnnn, not REDISnnnn; Valkey before 9 writes REDIS0011
	Number int
}

// String is the magic as it stands in the RDB.
func (v Version) String() string {
	if v.Valkey {
		return fmt.Sprintf("VALKEY%03d", v.Number)
	}
	return fmt.Sprintf("REDIS%04d", v.Number)
}

// known describes a type or opcode: its name in rdb.h, and the first RDB version that has it; 0 where there is none that can be read.
type known struct {
	name  string
	since int
}

// typeInfo describes a type. The versions are those of protocol 2.5; types that are older than RDB 6 have 1.
func typeInfo(valkey bool, typ byte) known {
	if int(typ) >= len(types) {
		return known{}
	}
	if valkey && typ > TypeStreamListpacks3 {
		if typ == TypeValkeyHash2 {
			return known{"HASH_2", 80}
		}
		return known{}
	}
	return types[typ]
}

// types is read only.
var types = [...]known{
	TypeString:              {"STRING", 1},
	TypeList:                {"LIST", 1},
	TypeSet:                 {"SET", 1},
	TypeZSet:                {"ZSET", 1},
	TypeHash:                {"HASH", 1},
	TypeZSet2:               {"ZSET_2", 8},
	TypeModulePreGA:         {"MODULE_PRE_GA", 0}, // its end cannot be found without the module
	TypeModule2:             {"MODULE_2", 8},
	TypeHashZipmap:          {"HASH_ZIPMAP", 1},
	TypeListZiplist:         {"LIST_ZIPLIST", 1},
	TypeSetIntset:           {"SET_INTSET", 1},
	TypeZSetZiplist:         {"ZSET_ZIPLIST", 1},
	TypeHashZiplist:         {"HASH_ZIPLIST", 1},
	TypeListQuicklist:       {"LIST_QUICKLIST", 7},
	TypeStreamListpacks:     {"STREAM_LISTPACKS", 9},
	TypeHashListpack:        {"HASH_LISTPACK", 10},
	TypeZSetListpack:        {"ZSET_LISTPACK", 10},
	TypeListQuicklist2:      {"LIST_QUICKLIST_2", 10},
	TypeStreamListpacks2:    {"STREAM_LISTPACKS_2", 10},
	TypeSetListpack:         {"SET_LISTPACK", 11},
	TypeStreamListpacks3:    {"STREAM_LISTPACKS_3", 11},
	TypeHashMetadataPreGA:   {"HASH_METADATA_PRE_GA", 12},
	TypeHashListpackExPreGA: {"HASH_LISTPACK_EX_PRE_GA", 12},
	TypeHashMetadata:        {"HASH_METADATA", 12},
	TypeHashListpackEx:      {"HASH_LISTPACK_EX", 12},
	TypeStreamListpacks4:    {"STREAM_LISTPACKS_4", 13},
	TypeStreamListpacks5:    {"STREAM_LISTPACKS_5", 14},
	TypeArray:               {"ARRAY", 14},
	TypeHashTmplLP:          {"HASH_TMPL_LP", 15}, // in RDB 14 a build option gives this number to GCRA
	TypeHashTmplLPRef:       {"HASH_TMPL_LP_REF", 15},
	TypeHashTmplArray:       {"HASH_TMPL_ARRAY", 15},
	TypeHashTmplArrayRef:    {"HASH_TMPL_ARRAY_REF", 15},
}

// opcodeInfo describes an opcode.
func opcodeInfo(valkey bool, op byte) known {
	switch op {
	case opHashTemplate:
		if valkey {
			return known{"UPDATE", 0}
		}
		return known{"HASH_TEMPLATE", 15}
	case opKeyMeta:
		if valkey {
			return known{"SLOT_IMPORT", 80}
		}
		return known{"KEY_META", 13}
	case opSlotInfo:
		return known{"SLOT_INFO", 12}
	case opFunction2:
		return known{"FUNCTION2", 10}
	case opFunctionPreGA:
		return known{"FUNCTION_PRE_GA", 0} // of 7.0's release candidates; no released server reads it
	case opModuleAux:
		return known{"MODULE_AUX", 9}
	case opIdle:
		return known{"IDLE", 9}
	case opFreq:
		return known{"FREQ", 9}
	case opAux:
		return known{"AUX", 7}
	case opResizeDB:
		return known{"RESIZEDB", 7}
	case opExpireTimeMs:
		return known{"EXPIRETIME_MS", 1}
	case opExpireTime:
		return known{"EXPIRETIME", 1}
	case opSelectDB:
		return known{"SELECTDB", 1}
	case opEOF:
		return known{"EOF", 1}
	}
	return known{}
}

// TypeName is the type's name in rdb.h without RDB_TYPE_, or "" when there is none. valkey is [Entry.Valkey].
func TypeName(valkey bool, typ byte) string { return typeInfo(valkey, typ).name }
