package rdbstream

import (
	"fmt"
	"strings"

	"redferry/internal/redistest"
)

// A keyspace makes a server use an encoding; the golden files are named after it.
type keyspace struct {
	name   string
	config []string // lines for the server's configuration
	cmds   [][]string
}

// cmd splits at spaces.
func cmd(format string, args ...any) []string { return strings.Fields(fmt.Sprintf(format, args...)) }

// repeated is a command with n times the arguments that f gives.
func repeated(begin string, n int, f func(i int) string) []string {
	c := cmd("%s", begin)
	for i := range n {
		c = append(c, cmd("%s", f(i))...)
	}
	return c
}

// keyspaces are those that the build knows the commands of.
func keyspaces(b redistest.Build) []keyspace {
	all := append(stringKeyspaces(), collectionKeyspaces()...)
	all = append(all, streamKeyspaces()...)
	all = append(all,
		keyspace{name: "empty"},
		keyspace{name: "lfu", config: []string{"maxmemory-policy allkeys-lfu"}, cmds: [][]string{cmd("SET k v"), cmd("PEXPIREAT k 4102444800123")}},
		keyspace{name: "lru", config: []string{"maxmemory-policy allkeys-lru"}, cmds: [][]string{cmd("SET k v"), cmd("RPUSH l a")}},
		keyspace{name: "no-crc", config: []string{"rdbchecksum no"}, cmds: [][]string{cmd("SET k v")}},
		keyspace{name: "cluster", config: []string{"cluster-enabled yes"}, cmds: [][]string{cmd("SET k v"), cmd("PEXPIREAT k 4102444800123"), cmd("SET m w")}},
	)
	if b.Has70() {
		all = append(all, keyspace{name: "function", cmds: [][]string{
			{"FUNCTION", "LOAD", "#!lua name=short\nredis.register_function('f', function() return 1 end)"},
			{"FUNCTION", "LOAD", "#!lua name=long\nredis.register_function('g', function() return '" + strings.Repeat("compressible ", 50) + "' end)"},
			cmd("SET k v"),
		}})
	}
	if b.HasFieldTTL() {
		all = append(all, keyspace{name: "hash-field-ttl", cmds: [][]string{
			cmd("HSET small f 1 g 2 h 3"), cmd("HPEXPIREAT small 4102444800123 FIELDS 1 g"),
			repeated("HSET large", 600, func(i int) string { return fmt.Sprintf("f%d v%d", i, i) }),
			cmd("HPEXPIREAT large 4102444800123 FIELDS 2 f1 f2"), cmd("HPEXPIREAT large 4102444900123 FIELDS 1 f3"),
		}})
	}
	return all
}

func stringKeyspaces() []keyspace {
	long := strings.Repeat("abcdefgh", 100)
	return []keyspace{
		{name: "string", cmds: [][]string{
			cmd("SET k v"),
			{"SET", "empty", ""},
			{"SET", "", "empty key"},
			cmd("SET long %s", strings.Repeat("0123456789abcdef", 3)),
			{"SET", "binary \x00\xff\r\n", "\x00\xff"},
			{"SET", "random", string(randomBytes(17000))},
		}},
		{name: "string-int", cmds: [][]string{
			cmd("MSET i8 -128 i16 32767 i32 -2147483648 i64 2147483648"), cmd("MSET 12 a -300 b 100000 c 9999999999 d"),
		}},
		{name: "string-lzf", cmds: [][]string{cmd("SET k %s", long), cmd("SET %s v", long), cmd("SET %s %s", long+"x", long)}},
		{name: "databases", cmds: [][]string{
			cmd("SELECT 0"), cmd("SET k 0"), cmd("SELECT 5"), cmd("SET k 5"), cmd("PEXPIREAT k 4102444800123"), cmd("SELECT 15"), cmd("SET k 15"), cmd("SELECT 0"),
		}},
	}
}

func collectionKeyspaces() []keyspace {
	element := func(i int) string { return fmt.Sprintf("element-%d", i) }
	scored := func(i int) string { return fmt.Sprintf("%d.5 element-%d", i*1000, i) }
	pair := func(i int) string { return fmt.Sprintf("field-%d %d", i, i) }
	random := string(randomBytes(12000))
	return []keyspace{
		{name: "list", cmds: [][]string{
			cmd("RPUSH short a 1 -5000 4294967296"), repeated("RPUSH several-nodes", 2000, element), {"RPUSH", "huge-element", "a", random, "b"},
		}},
		{name: "list-plain", config: []string{"list-compress-depth 1"}, cmds: [][]string{ // from 7.0 on, elements beyond the size are nodes of their own
			cmd("CONFIG SET list-max-ziplist-size 2"), {"RPUSH", "l", "a", "b", "c", strings.Repeat("x", 5000), "d", random, "e", "f"},
		}},
		{name: "set-intset", cmds: [][]string{cmd("SADD i16 1 2 -3"), cmd("SADD i32 1 100000"), cmd("SADD i64 1 9999999999999")}},
		{name: "set", cmds: [][]string{cmd("SADD small a b 1"), repeated("SADD large", 600, element)}},
		{name: "zset", cmds: [][]string{cmd("ZADD small 1.5 a -2 b inf c -inf d"), repeated("ZADD large", 300, scored)}},
		{name: "hash", cmds: [][]string{cmd("HSET small f v 1 2"), repeated("HSET large", 600, pair), {"HSET", "long-value", "f", strings.Repeat("y", 1000)}}},
	}
}

func streamKeyspaces() []keyspace {
	add := func(i int) []string { return cmd("XADD s %d-%d same %d fields %d", i+1, i%3+1, i, i*i) }
	cmds := [][]string{cmd("XADD other 5-1 a 1 a 2 b 3"), cmd("XADD other 5-2 x y")}
	for i := range 250 { // more than one node
		cmds = append(cmds, add(i))
	}
	groups := [][]string{
		cmd("XDEL s 7-1 9-3"), cmd("XGROUP CREATE s empty $"), cmd("XGROUP CREATE s g 0"), cmd("XREADGROUP GROUP g alice COUNT 5 STREAMS s >"),
		cmd("XREADGROUP GROUP g bob COUNT 70 STREAMS s >"), cmd("XACK s g 1-1"), cmd("XGROUP CREATE other g 5-1"),
		cmd("XGROUP CREATE none g $ MKSTREAM"),
	}
	return []keyspace{{name: "stream", cmds: append(cmds, groups...)}}
}
