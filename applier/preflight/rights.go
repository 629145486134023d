package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"redferry/applier"
	"redferry/applier/checkpoint"
)

// need is a command that a run gives.
type need struct {
	args  []string // as it may look
	right string   // as ACL SETUSER takes it, without its plus
	must  bool     // a run stops without it; else it takes a default, or knows less
}

func needed(right string, args ...string) need { return need{args: args, right: right, must: true} }

func wished(right string, args ...string) need { return need{args: args, right: right} }

// anyKey stands for all keys: no pattern but one that allows all is likely to match it.
const anyKey = "~redferry~check~"

// psyncName is the source's name for PSYNC.
func psyncName(c Config) string { return cmp.Or(c.PSYNCCommand, "PSYNC") }

// sourceRights are what a run needs at its source.
func sourceRights(c Config) []need {
	list := []need{
		needed(strings.ToLower(psyncName(c)), psyncName(c), "?", "-1"),
		needed("replconf", "REPLCONF", "ACK", "0"),
		wished("info", "INFO"),
		wished("time", "TIME"),
		wished("command", "COMMAND"),
		wished("config|get", "CONFIG", "GET", "repl-timeout"),
	}
	if c.RaiseLimits {
		list = append(list, needed("config|set", "CONFIG", "SET", "client-output-buffer-limit", "replica 0 0 0"))
	}
	return list
}

// targetRights are what a run needs at its target, for itself and for a stream that holds a bit of everything.
func targetRights(c Config) []need {
	key := checkpoint.Key(c.Name)
	list := []need{
		needed("info", "INFO"), needed("time", "TIME"), needed("select", "SELECT", "1"), needed("client|setname", "CLIENT", "SETNAME", "redferry"),
		needed("watch", "WATCH", key), needed("multi", "MULTI"), needed("exec", "EXEC"), needed("eval", "EVAL", "return 1", "1", key),
		needed("hset", "HSET", key, "f", "v"), needed("hgetall", "HGETALL", key), needed("exists", "EXISTS", key), needed("persist", "PERSIST", key),
		needed("restore", "RESTORE", anyKey, "0", ""), needed("scan", "SCAN", "0"), needed("flushall", "FLUSHALL"), needed("function", "FUNCTION", "LIST"),
	}
	for _, write := range [][]string{
		{"set", "v"},
		{"del"},
		{"unlink"},
		{"pexpireat", "1"},
		{"incr"},
		{"append", "v"},
		{"rpush", "v"},
		{"lpop"},
		{"sadd", "v"},
		{"srem", "v"},
		{"zadd", "1", "v"},
		{"hdel", "f"},
		{"xadd", "*", "f", "v"},
		{"pfadd", "v"},
		{"pfcount"},
		{"setrange", "1", "v"},
		{"rename", anyKey},
	} {
		list = append(list, needed(write[0], slices.Insert(slices.Clone(write), 1, anyKey)...))
	}
	if c.Publish {
		list = append(list, wished("publish", "PUBLISH", anyKey, "v"), wished("spublish", "SPUBLISH", anyKey, "v"))
	}
	list = append(list, wished("config|get", "CONFIG", "GET", "maxmemory"))
	list = append(list, wished("script|load", "SCRIPT", "LOAD", "return 1")) // for sources before 7.0
	if c.Expiry == applier.Import {
		list = append(list, needed("config|set", "CONFIG", "SET", "import-mode", "yes"), needed("client|import-source", "CLIENT", "IMPORT-SOURCE", "ON"))
	}
	return list
}

// rights are what an end's user may do of what a run needs.
type rights struct {
	user    string
	untold  error    // why nothing is known; nil otherwise
	missing []need   // what it may not
	lacking []string // commands of redferry's own that the server does not have at all: rename-command has taken them away
	keys    []string // of these, what it may not on any key; the same as missing, but for keys or channels alone
}

// gatherRights asks what the user may do: by ACL DRYRUN from 7.0 on, where it is permitted; else by the user's rules.
func gatherRights(ctx context.Context, c rueidis.Client, info map[string]string, user string, needs []need) rights {
	r := rights{user: cmp.Or(user, "default")}
	if r.untold = r.dryRun(ctx, c, needs); r.untold == nil {
		return r
	}
	if err := r.read(ctx, c, needs); err == nil {
		r.untold = nil
	}
	return r
}

// lacks tells which of the commands the server does not have that every run gives to its target, whatever the data.
func lacks(ctx context.Context, c rueidis.Client) (lacking []string) {
	for _, name := range []string{"WATCH", "MULTI", "EXEC", "EVAL", "TIME", "SELECT", "EXISTS", "PERSIST", "HSET", "HGETALL", "RESTORE"} {
		if knows(ctx, c, name) == no {
			lacking = append(lacking, name)
		}
	}
	return lacking
}

// dryRun asks the server about each command.
func (r *rights) dryRun(ctx context.Context, c rueidis.Client, needs []need) error {
	cmds := make(rueidis.Commands, len(needs))
	for i, n := range needs {
		cmds[i] = c.B().Arbitrary("ACL", "DRYRUN", r.user).Args(n.args...).Build()
	}
	var missing []need
	for i, reply := range c.DoMulti(ctx, cmds...) {
		text, err := reply.ToString()
		switch {
		case err != nil && strings.Contains(err.Error(), "not found"): // a command that this server does not have needs no right; what that means, others say
		case err != nil:
			return fmt.Errorf("ACL DRYRUN: %w", err)
		case text != "OK":
			missing = append(missing, needs[i])
			if strings.Contains(text, "access") { // to a key or a channel, and not to run the command
				r.keys = append(r.keys, needs[i].right)
			}
		}
	}
	r.missing = missing
	return nil
}

// read judges by the user's rules, for servers before 7.0. A rule of a category is looked up on the server.
func (r *rights) read(ctx context.Context, c rueidis.Client, needs []need) error {
	text, keys, err := rulesOf(c.Do(ctx, c.B().Arbitrary("ACL", "GETUSER", r.user).Build()).ToMessage())
	if err != nil {
		return err
	}
	categories := map[string][]string{}
	for rule := range strings.FieldsSeq(text) {
		name := strings.TrimLeft(rule, "+-")
		if category, ok := strings.CutPrefix(name, "@"); ok && category != "all" {
			if categories[name], err = c.Do(ctx, c.B().Arbitrary("ACL", "CAT", category).Build()).AsStrSlice(); err != nil {
				return err
			}
		}
	}
	allKeys := slices.Contains(keys, "*") || slices.Contains(keys, "~*")
	r.missing = nil
	for _, n := range needs {
		ofKeys := slices.Contains(n.args[1:], anyKey) && !strings.HasSuffix(n.right, "publish")
		switch {
		case knows(ctx, c, n.args[0]) == no: // as DRYRUN
		case !permits(text, categories, n.right):
			r.missing = append(r.missing, n)
		case ofKeys && !allKeys:
			r.missing = append(r.missing, n)
			r.keys = append(r.keys, n.right)
		}
	}
	return nil
}

// rulesOf reads the reply to ACL GETUSER: the rules about commands, and the patterns of keys.
func rulesOf(reply rueidis.RedisMessage, err error) (commands string, keys []string, _ error) {
	if err != nil {
		return "", nil, err
	}
	user, err := reply.AsMap()
	if err != nil {
		return "", nil, err
	}
	rules, patterns := user["commands"], user["keys"]
	if commands, err = rules.ToString(); err != nil {
		return "", nil, err
	}
	if keys, err = patterns.AsStrSlice(); err != nil { // a text from 7.0 on
		text, _ := patterns.ToString()
		keys = strings.Fields(text)
	}
	return commands, keys, nil
}

// permits goes through a user's rules, of which the last one that names a command decides. It knows those of ACL GETUSER: +@category, -command, +command|subcommand.
func permits(rules string, categories map[string][]string, right string) bool {
	command, _, _ := strings.Cut(right, "|")
	may := false
	for rule := range strings.FieldsSeq(rules) {
		name := strings.ToLower(rule[1:])
		if name == "@all" || name == command || name == right || slices.Contains(categories[name], command) || slices.Contains(categories[name], right) {
			may = rule[0] == '+'
		}
	}
	return may
}

func rightChecks() []check {
	return []check{
		{"source-rights", "rights of the source's user", ofSource, func(f *facts) verdict { return f.source.rights.judge("source") }},
		{"target-rights", "rights of the target's user", ofTarget, func(f *facts) verdict { return f.target.rights.judge("target") }},
	}
}

func (r *rights) judge(end string) verdict {
	if len(r.lacking) > 0 {
		return verdict{
			level: Block, found: fmt.Sprintf("the %s does not know %s", end, strings.Join(r.lacking, ", ")),
			why: "a run writes every transaction with them, and ends at the first", fix: "take rename-command for them out of the " + end + "'s configuration, and restart it",
		}
	}
	if r.untold != nil {
		return untold(fmt.Sprintf("the %s tells neither by ACL DRYRUN nor by ACL GETUSER what the user %s may do (%v)", end, r.user, r.untold),
			"a right that is missing ends a run when it comes to that command", fmt.Sprintf("ACL SETUSER %s +acl|dryrun on the %s, before 7.0 +acl; or compare with docs/operations.md", r.user, end))
	}
	if len(r.missing) == 0 {
		return good("%s may do all that a run needs", r.user)
	}
	v := verdict{level: Warn, why: "without it redferry takes defaults, or knows less"}
	var names, grant []string
	for _, n := range r.missing {
		if n.must {
			v.level = Block
			v.why = "a run stops at the first of these, after the snapshot perhaps"
		}
		names = append(names, n.right)
		if !slices.Contains(r.keys, n.right) {
			grant = append(grant, "+"+n.right)
		}
	}
	if len(r.keys) > 0 {
		grant = append(grant, "~*", "&*")
	}
	v.found = fmt.Sprintf("%s may not: %s", r.user, strings.Join(names, ", "))
	v.fix = fmt.Sprintf("ACL SETUSER %s %s on the %s", r.user, strings.Join(grant, " "), end)
	return v
}
