package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"redferry/rdbstream"
)

func dataChecks() []check {
	return []check{
		{"versions", "versions", ofBoth, versions},
		{"types", "value types", ofTarget | ofDataset, types},
		{"modules", "modules", ofTarget | ofDataset, missingModules},
		{"functions", "functions", ofTarget | ofDataset, functions},
		{"databases", "databases", ofTarget | ofDataset, databases},
		{"large-values", "large values", ofDataset, largeValues},
	}
}

func versions(f *facts) verdict {
	src, ok := releaseOf(f.source.version)
	dst, too := releaseOf(f.target.version)
	if !ok || !too {
		return untold("a server does not tell its version", "an older target does not know all commands of a newer source", "ACL SETUSER <user> +info on both servers")
	}
	const stops = "a command of the stream that the target does not know stops a run in front of it (exit code 4)"
	both := fmt.Sprintf("from %s to %s", src, dst)
	switch {
	case !dst.since(5, 0):
		return verdict{Block, both, "RESTORE has no ABSTTL before Redis 5.0", "a target of Redis 6.0 or later"}
	case !dst.since(6, 0) || !src.since(6, 0):
		return verdict{Warn, both, "redferry is not tested with servers before 6.0", "rehearse the migration with a copy"}
	case src.valkey == dst.valkey && !dst.since(src.major, src.minor):
		return verdict{Warn, both + ": the target is older", stops, fmt.Sprintf("a target of %s or later; or make certain that the clients use no newer commands", src)}
	case src.valkey != dst.valkey && (src.valkey && src.since(8, 1) || !src.valkey && src.since(7, 4) || src.valkey && !dst.since(7, 2)):
		return verdict{Warn, both + ": the two families have gone different ways since Redis 7.2", stops, "make certain that the clients use no commands that only the source's family has"}
	case !src.since(7, 0):
		return good("%s; the source sends TTLs that count from the moment of the command, so that what is written during the snapshot lives longer by the time that it waits", both)
	}
	return good("%s", both)
}

// fieldTTLs counts the source's hashes whose fields have expiries, as INFO keyspace says it since there are some.
func fieldTTLs(info map[string]string) (n int64) {
	for _, d := range keyspace(info) {
		n += d.VolatileSubs
	}
	return n
}

func types(f *facts) verdict {
	src, ok := releaseOf(f.source.version)
	dst, too := releaseOf(f.target.version)
	if !ok || !too {
		return untold("a server does not tell its version", "a value of a type that the target does not know is refused (exit code 4)", "ACL SETUSER <user> +info on both servers")
	}
	const why = "redferry passes values on as they are: each key of such a type is refused, and the run stops (exit code 4)"
	fix := fmt.Sprintf("a target that is at least as new, of the same family: %s", src)
	s := &f.source.sample
	if n := fieldTTLs(f.source.info); n > 0 && !dst.takes(src.valkey, fieldTTLType(src)) {
		return verdict{Block, fmt.Sprintf("%s of the source have fields with a TTL, which %s does not take from %s", plural(n, "hash", "hashes"), dst, src), why, fix}
	}
	var bad []string
	refused := 0
	for _, typ := range slices.Sorted(maps.Keys(s.types)) {
		if name := rdbstream.TypeName(src.valkey, typ); name != "" && !dst.takes(src.valkey, typ) {
			refused += s.types[typ].n
			bad = append(bad, fmt.Sprintf("%s, as key %s", name, s.types[typ].example))
		}
	}
	switch {
	case refused > 0:
		return verdict{Block, fmt.Sprintf("%d of %d sampled values are of types that %s does not know: %s", refused, s.dumped, dst, strings.Join(bad, "; ")), why, fix}
	case dst.takesAll(src):
		return good("%s takes all that %s holds", dst, src)
	case s.err != nil:
		return untold(fmt.Sprintf("%s does not know all value types of %s, and the source's user may not look which are used (%v)", dst, src, s.err), why,
			"ACL SETUSER <user> %R~* +select +scan +memory|usage +dump on the source, for this check")
	}
	return verdict{Warn, fmt.Sprintf("%s does not know all value types of %s; it knows those of the %d values that were sampled", dst, src, s.dumped), why, fix}
}

// fieldTTLType is the RDB type of a hash whose fields have expiries.
func fieldTTLType(r release) byte {
	if r.valkey {
		return rdbstream.TypeValkeyHash2
	}
	return rdbstream.TypeHashMetadata
}

// luaEngine is what Valkey 9 has as a module, and all others built in.
const luaEngine = "lua"

func missingModules(f *facts) verdict {
	const why = "values of a module can be restored only where it is loaded, and its commands are unknown elsewhere (exit code 4)"
	switch {
	case f.source.modules == nil && f.target.modules == nil:
		return untold("neither server permits MODULE LIST", why, "ACL SETUSER <user> +module|list on both servers")
	case f.source.modules == nil:
		return untold("the source does not permit MODULE LIST", why, "ACL SETUSER <user> +module|list on the source")
	case len(f.source.modules) == 0:
		return good("the source has none loaded")
	case f.target.modules == nil:
		return untold("the target does not permit MODULE LIST; the source has "+strings.Join(f.source.modules, ", "), why, "ACL SETUSER <user> +module|list on the target")
	}
	var missing []string
	for _, m := range f.source.modules {
		if m != luaEngine && !slices.Contains(f.target.modules, m) {
			missing = append(missing, m)
		}
	}
	if len(missing) == 0 {
		return good("the target has all of %s", strings.Join(f.source.modules, ", "))
	}
	if t, ok := f.source.sample.types[rdbstream.TypeModule2]; ok {
		return verdict{
			Block, fmt.Sprintf("the source has %s, which the target has not, and values of modules, as key %s", strings.Join(missing, ", "), t.example), why,
			"load them into the target: MODULE LOAD, or loadmodule in its configuration",
		}
	}
	return verdict{
		Warn, fmt.Sprintf("the source has %s, which the target has not; none of %d sampled values is a module's", strings.Join(missing, ", "), f.source.sample.dumped), why,
		"load them into the target, unless the clients do not use them",
	}
}

func functions(f *facts) verdict {
	dst, ok := releaseOf(f.target.version)
	if text := f.source.info["number_of_libraries"]; text != "0" && text != "" && ok && !dst.valkey && !dst.since(7, 0) {
		return verdict{Block, fmt.Sprintf("the source has %s function libraries, and %s knows none", text, dst), "a run stops before it loads any key", "a target of Redis 7.0 or later; or FUNCTION FLUSH on the source"}
	}
	return good("the source has %s function libraries", cmp.Or(f.source.info["number_of_libraries"], "no"))
}

func databases(f *facts) verdict {
	if f.source.blind {
		return untold("the source does not permit INFO", "a run stops at the first key of a database that the target does not have", "ACL SETUSER <user> +info on the source")
	}
	numbers := slices.Sorted(maps.Keys(f.target.databases))
	for _, db := range numbers {
		if err := f.target.databases[db]; err != nil {
			return stopped(err, "a run stops at the first key of this database")
		}
	}
	if len(numbers) == 0 {
		return good("the source holds nothing")
	}
	return good("the source uses %v, and the target has them", numbers)
}

func largeValues(f *facts) verdict {
	s := &f.source.sample
	const why = "redferry holds one value in memory whole, about twice, and so does the target while it takes it"
	switch {
	case s.large > 0:
		return verdict{
			Warn, fmt.Sprintf("%d of %d sampled values take more than %s, the largest, %s, %s", s.large, s.keys, humanize.IBytes(largeValue), s.which, humanize.IBytes(uint64(s.largest))),
			why + "; a value over its proto-max-bulk-len (512 MB) is refused", "give redferry's machine the memory, or split these values; redis-cli --memkeys finds all of them",
		}
	case s.err != nil && s.keys == 0:
		return untold(fmt.Sprintf("the source's user may not look at keys (%v)", s.err), why, "ACL SETUSER <user> %R~* +select +scan +memory|usage +dump on the source, for this check")
	case f.source.blind:
		return untold("the source does not permit INFO, and so not where its keys are", why, "ACL SETUSER <user> +info on the source")
	case s.keys == 0:
		return good("the source has no keys")
	}
	return good("of %d sampled values the largest, %s, takes %s", s.keys, s.which, humanize.IBytes(uint64(s.largest)))
}

// plural is a number with its noun.
func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(n) + " " + many
}
