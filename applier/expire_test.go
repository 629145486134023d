package applier

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/rdbstream"
	"redferry/replica"
)

const received = 1_000_000 // when the source got the commands, in these tests

var shiftedWord = regexp.MustCompile(`\b[KF]-?\d+\b`)

// moments puts numbers for words: K5 is the moment 5 of a key, shifted, and F5 that of a field.
func moments(text string) string {
	return shiftedWord.ReplaceAllStringFunc(text, func(word string) string {
		ms, _ := strconv.ParseInt(word[1:], 10, 64)
		if word[0] == 'K' {
			return strconv.FormatInt(ms+keyShift, 10)
		}
		return strconv.FormatInt(ms+fieldShift, 10)
	})
}

// written is what translate makes of a command; its second command behind a semicolon.
func written(t *testing.T, a *Applier, args [][]byte) string {
	t.Helper()
	sent := slices.Clone(args)
	for i := range sent {
		sent[i] = bytes.Clone(sent[i])
	}
	u := replica.Unit{When: func() int64 { return received }}
	got, drop, err := a.translate(&u, replica.Command{Args: args})
	if err != nil || drop {
		t.Fatalf("%q: dropped %v, %v", args, drop, err)
	}
	if !slices.EqualFunc(sent, args, bytes.Equal) {
		t.Errorf("the stream's own memory has changed (-was +is):\n%s", cmp.Diff(sent, args))
	}
	text := string(bytes.Join(got.args, []byte(" ")))
	if got.then != nil {
		text += "; " + string(bytes.Join(got.then, []byte(" ")))
	}
	return text
}

// What is written for each command that carries an expiry. An empty want is for one that goes on as it is.
func TestExpire(t *testing.T) {
	tests := []struct {
		name, command                 string
		shifted, asItIs, settled, old string // with the shift; as it is; with a grace of 50 ms; shifted, to a target before 6.2
	}{
		{"SET PXAT", "SET k v PXAT 5000", "SET k v PXAT K5000", "", "SET k v PXAT K5000", "SET k v; PEXPIREAT k K5000"},
		{"SET EXAT", "set k v exat 5", "SET k v PXAT K5000", "", "SET k v PXAT K5000", "SET k v; PEXPIREAT k K5000"},
		{"SET EX", "set k v Ex 5", "SET k v PXAT K1005000", "SET k v PXAT 1005000", "SET k v PXAT 1005000", "SET k v; PEXPIREAT k K1005000"},
		{"SET PX", "SET k v px 5", "SET k v PXAT K1000005", "SET k v PXAT 1000005", "SET k v PXAT 1000005", "SET k v; PEXPIREAT k K1000005"},
		{"SET with conditions before", "SET k v XX GET PXAT 5000", "SET k v PXAT K5000", "", "SET k v PXAT K5000", "SET k v; PEXPIREAT k K5000"},
		{"SET with a condition behind", "SET k v PX 5 nx", "SET k v PXAT K1000005", "SET k v PXAT 1000005", "SET k v PXAT 1000005", "SET k v; PEXPIREAT k K1000005"},
		{"SET IFEQ of a value like an option", "SET k v IFEQ PXAT PXAT 5000", "SET k v PXAT K5000", "", "SET k v PXAT K5000", "SET k v; PEXPIREAT k K5000"},
		{"SET IFNE", "SET k v PXAT 5000 ifne EX", "SET k v PXAT K5000", "", "SET k v PXAT K5000", "SET k v; PEXPIREAT k K5000"},
		{"SET IFDEQ", "SET k v PXAT 5000 IFDEQ 1234567812345678", "SET k v PXAT K5000", "", "SET k v PXAT K5000", "SET k v; PEXPIREAT k K5000"},
		{"SET of an option's name as its value", "SET PXAT EX PXAT 5000", "SET PXAT EX PXAT K5000", "", "SET PXAT EX PXAT K5000", "SET PXAT EX; PEXPIREAT PXAT K5000"},
		{"SET", "SET k v", "", "", "", ""},
		{"SET of PXAT", "SET k PXAT", "", "", "", ""},
		{"SET NX", "SET k v NX", "", "", "", ""},
		{"SET NX GET", "SET k v NX GET", "", "", "", ""},
		{"SET IFEQ PXAT", "SET k v IFEQ PXAT", "SET k v", "SET k v", "SET k v", "SET k v"},
		{"SET IFDNE", "set k v keepttl ifdne 1234567812345678 GET", "set k v keepttl GET", "set k v keepttl GET", "set k v keepttl GET", "set k v keepttl GET"},
		{"SET IFEQ of nothing", "SET k v NX IFEQ", "", "", "", ""},
		{"SET KEEPTTL", "SET k v KEEPTTL GET", "", "", "", ""},
		{"SET KEEPTTL with an expiry", "SET k v KEEPTTL PXAT 5", "", "", "", ""},
		{"SET with two", "SET k v PX 5 EX 5", "", "", "", ""},
		{"SET without its number", "SET k v NX PXAT", "", "", "", ""},
		{"SET with no number", "SET k v PXAT x", "", "", "", ""},
		{"SET with what nobody knows", "SET k v NEW 5 PXAT 5", "", "", "", ""},
		{"SETEX", "setex k 5 v", "SET k v PXAT K1005000", "SET k v PXAT 1005000", "SET k v PXAT 1005000", "SET k v; PEXPIREAT k K1005000"},
		{"PSETEX", "PSETEX k 5 v", "SET k v PXAT K1000005", "SET k v PXAT 1000005", "SET k v PXAT 1000005", "SET k v; PEXPIREAT k K1000005"},
		{"SETEX of too much", "SETEX k 5 v w", "", "", "", ""},
		{"SETEX of so long that it is over", "SETEX k 9223372036854775 v", "SET k v PXAT K1", "SET k v PXAT 1", "SET k v PXAT K1", "SET k v; PEXPIREAT k K1"},

		{"GETEX PXAT", "GETEX k PXAT 5000", "PEXPIREAT k K5000", "", "PEXPIREAT k K5000", "PEXPIREAT k K5000"},
		{"GETEX EX", "getex k ex 5", "PEXPIREAT k K1005000", "PEXPIREAT k 1005000", "PEXPIREAT k 1005000", "PEXPIREAT k K1005000"},
		{"GETEX PERSIST", "GETEX k PERSIST", "", "", "", ""},
		{"GETEX without its number", "GETEX k PX", "", "", "", ""},

		{"PEXPIREAT", "PEXPIREAT k 5000", "PEXPIREAT k K5000", "", "PEXPIREAT k K5000", "PEXPIREAT k K5000"},
		{"PEXPIREAT NX", "PEXPIREAT k 5000 NX", "PEXPIREAT k K5000", "", "PEXPIREAT k K5000", "PEXPIREAT k K5000"},
		{"PEXPIREAT XX GT", "pexpireat k 5000 xx gt", "PEXPIREAT k K5000", "", "PEXPIREAT k K5000", "PEXPIREAT k K5000"},
		{"PEXPIREAT with what nobody knows", "PEXPIREAT k 5000 IF", "", "", "", ""},
		{"PEXPIREAT of no number", "PEXPIREAT k 5e3", "", "", "", ""},
		{"PEXPIREAT of nothing", "PEXPIREAT k", "", "", "", ""},
		{"PEXPIREAT of an original far away", "PEXPIREAT k 17592186044416 GT", "PEXPIREAT k 17592186044416", "", "PEXPIREAT k 17592186044416", "PEXPIREAT k 17592186044416"},
		{"PEXPIREAT before 1970", "PEXPIREAT k -5", "PEXPIREAT k K1", "", "PEXPIREAT k K1", "PEXPIREAT k K1"},
		{"EXPIREAT", "EXPIREAT k 5", "PEXPIREAT k K5000", "", "PEXPIREAT k K5000", "PEXPIREAT k K5000"},
		{"EXPIREAT of the greatest number", "EXPIREAT k 9223372036854775807", "PEXPIREAT k K1", "", "PEXPIREAT k K1", "PEXPIREAT k K1"},
		{"EXPIRE", "Expire k 5", "PEXPIREAT k K1005000", "PEXPIREAT k 1005000", "PEXPIREAT k 1005000", "PEXPIREAT k K1005000"},
		{"EXPIRE LT", "EXPIRE k 5 LT", "PEXPIREAT k K1005000", "PEXPIREAT k 1005000", "PEXPIREAT k 1005000", "PEXPIREAT k K1005000"},
		{"PEXPIRE", "PEXPIRE k 5", "PEXPIREAT k K1000005", "PEXPIREAT k 1000005", "PEXPIREAT k 1000005", "PEXPIREAT k K1000005"},
		{"PEXPIRE of the greatest number", "PEXPIRE k 9223372036854775807", "PEXPIREAT k K1", "PEXPIREAT k 1", "PEXPIREAT k K1", "PEXPIREAT k K1"},
		{"PERSIST", "PERSIST k", "", "", "", ""},

		{"HPEXPIREAT", "HPEXPIREAT h 5000 FIELDS 2 a b", "HPEXPIREAT h F5000 FIELDS 2 a b", "", "HPEXPIREAT h F5000 FIELDS 2 a b", "HPEXPIREAT h F5000 FIELDS 2 a b"},
		{"HPEXPIREAT NX", "hpexpireat h 5000 nx FIELDS 1 a", "HPEXPIREAT h F5000 nx FIELDS 1 a", "", "HPEXPIREAT h F5000 nx FIELDS 1 a", "HPEXPIREAT h F5000 nx FIELDS 1 a"},
		{"HEXPIREAT", "HEXPIREAT h 5 FIELDS 1 NX", "HPEXPIREAT h F5000 FIELDS 1 NX", "", "HPEXPIREAT h F5000 FIELDS 1 NX", "HPEXPIREAT h F5000 FIELDS 1 NX"},
		{"HEXPIRE", "HEXPIRE h 5 GT FIELDS 1 a", "HPEXPIREAT h F1005000 GT FIELDS 1 a", "HPEXPIREAT h 1005000 GT FIELDS 1 a", "HPEXPIREAT h F1005000 GT FIELDS 1 a", "HPEXPIREAT h F1005000 GT FIELDS 1 a"},
		{"HPEXPIRE", "HPEXPIRE h 5 FIELDS 1 a", "HPEXPIREAT h F1000005 FIELDS 1 a", "HPEXPIREAT h 1000005 FIELDS 1 a", "HPEXPIREAT h 1000005 FIELDS 1 a", "HPEXPIREAT h F1000005 FIELDS 1 a"},
		{"HPEXPIRE of no fields", "HPEXPIRE h 5 FIELDS", "", "", "", ""},

		{"HSETEX PXAT", "HSETEX h PXAT 5000 FIELDS 1 a 1", "HSETEX h PXAT F5000 FIELDS 1 a 1", "", "HSETEX h PXAT F5000 FIELDS 1 a 1", "HSETEX h PXAT F5000 FIELDS 1 a 1"},
		{"HSETEX FXX EX", "HSETEX h FXX ex 5 FIELDS 1 PX 7", "HSETEX h FXX PXAT F1005000 FIELDS 1 PX 7", "HSETEX h FXX PXAT 1005000 FIELDS 1 PX 7", "HSETEX h FXX PXAT 1005000 FIELDS 1 PX 7", "HSETEX h FXX PXAT F1005000 FIELDS 1 PX 7"},
		{"HSETEX with the expiry last", "HSETEX h FIELDS 2 PX 7 EX 8 EXAT 5", "HSETEX h FIELDS 2 PX 7 EX 8 PXAT F5000", "", "HSETEX h FIELDS 2 PX 7 EX 8 PXAT F5000", "HSETEX h FIELDS 2 PX 7 EX 8 PXAT F5000"},
		{"HSETEX KEEPTTL", "HSETEX h KEEPTTL FIELDS 1 PX 7", "", "", "", ""},
		{"HSETEX without an expiry", "HSETEX h FNX FIELDS 1 PX 7", "", "", "", ""},
		{"HSETEX of less fields than it says", "HSETEX h PX 5 FIELDS 2 a 7", "", "", "", ""},

		{"MSETEX PXAT", "MSETEX 2 PX 7 EX 8 PXAT 5000", "MSETEX 2 PX 7 EX 8 PXAT K5000", "", "MSETEX 2 PX 7 EX 8 PXAT K5000", "MSETEX 2 PX 7 EX 8 PXAT K5000"},
		{"MSETEX XX EX", "msetex 1 a 1 xx EX 5", "msetex 1 a 1 xx PXAT K1005000", "msetex 1 a 1 xx PXAT 1005000", "msetex 1 a 1 xx PXAT 1005000", "msetex 1 a 1 xx PXAT K1005000"},
		{"MSETEX NX behind", "MSETEX 1 a 1 EXAT 5 NX", "MSETEX 1 a 1 PXAT K5000 NX", "", "MSETEX 1 a 1 PXAT K5000 NX", "MSETEX 1 a 1 PXAT K5000 NX"},
		{"MSETEX KEEPTTL", "MSETEX 1 a 1 KEEPTTL", "", "", "", ""},
		{"MSETEX without an expiry", "MSETEX 1 a 1", "", "", "", ""},
		{"MSETEX of less keys than it says", "MSETEX 2 a 1 PX 5", "", "", "", ""},
		{"MSETEX of more than there can be", "MSETEX 9223372036854775807 a 1 PX 5", "", "", "", ""},

		{"RESTORE", "RESTORE k 0 payload REPLACE", "", "", "", ""},
		{"RESTORE of a moment", "restore k 5000 payload ABSTTL", "restore k K5000 payload ABSTTL", "", "restore k K5000 payload ABSTTL", "restore k K5000 payload ABSTTL"},
		{"RESTORE of a span", "RESTORE k 5 payload REPLACE IDLETIME 9", "RESTORE k K1000005 payload REPLACE IDLETIME 9 ABSTTL", "RESTORE k 1000005 payload REPLACE IDLETIME 9 ABSTTL", "RESTORE k 1000005 payload REPLACE IDLETIME 9 ABSTTL", "RESTORE k K1000005 payload REPLACE IDLETIME 9 ABSTTL"},
		{"RESTORE of none, as a moment", "RESTORE k 0 payload ABSTTL FREQ 7", "", "", "", ""},
		{"RESTORE-ASKING", "RESTORE-ASKING k 5000 payload REPLACE ABSTTL", "RESTORE k K5000 payload REPLACE ABSTTL", "RESTORE k 5000 payload REPLACE ABSTTL", "RESTORE k K5000 payload REPLACE ABSTTL", "RESTORE k K5000 payload REPLACE ABSTTL"},
		{"RESTORE with what nobody knows", "RESTORE k 5 payload NEW", "", "", "", ""},
		{"RESTORE of no payload", "RESTORE k 5", "", "", "", ""},

		{"a renamed command", "later k 5000 NX", "PEXPIREAT k K5000", "PEXPIREAT k 5000 NX", "PEXPIREAT k K5000", "PEXPIREAT k K5000"},
	}
	rename := RenameMap{"LATER": "PEXPIREAT"}
	shifting, asIs, settling, old := New(Config{Rename: rename}), New(Config{Rename: rename, Expiry: AsIs}), New(Config{Rename: rename}), New(Config{Rename: rename})
	settling.expiries, settling.real = expiries{below: 10_000}, 10_000
	old.target.noPXAT = true
	for _, test := range tests {
		for _, way := range []struct {
			name, want string
			a          *Applier
		}{{"shifted", test.shifted, shifting}, {"as it is", test.asItIs, asIs}, {"settled", test.settled, settling}, {"to an old target", test.old, old}} {
			want := moments(way.want)
			if want == "" {
				want = test.command
			}
			if got := written(t, way.a, words(test.command)); got != want {
				t.Errorf("%s, %s: %s: got %s, want %s", test.name, way.name, test.command, got, want)
			}
		}
	}
}

// A SET that is left as it is has its moment taken out for a target that does not know that.
func TestExpireAsItIsToAnOldTarget(t *testing.T) {
	a := New(Config{Expiry: AsIs})
	a.target.noPXAT = true
	for command, want := range map[string]string{
		"SET k v EXAT 5": "SET k v; PEXPIREAT k 5000", "SET k v PX 5": "SET k v; PEXPIREAT k 1000005", "SET k v XX GET": "SET k v XX GET", "EXPIREAT k 5": "EXPIREAT k 5",
	} {
		if got := written(t, a, words(command)); got != want {
			t.Errorf("%s: got %s, want %s", command, got, want)
		}
	}
}

// A source whose clock nobody knows is taken to have ours.
func TestExpireWithoutAClock(t *testing.T) {
	a := New(Config{Expiry: AsIs})
	got, _, err := a.translate(&replica.Unit{}, replica.Command{Args: words("PEXPIRE k 0")})
	if err != nil {
		t.Fatal(err)
	}
	var r rewriter
	if at, now := parseInt(string(got.args[2])), r.now(); at > now || at < now-60_000 {
		t.Errorf("got %d at %d", at, now)
	}
}

// Where some of what is there may be real, a command that compares expiries has all of its key's shifted before it. One that takes them elsewhere
// has that only while the pass shifts, which would lose sight of them.
func TestFormsBefore(t *testing.T) {
	const compares, moves = 1, 2
	for command, is := range map[string]int{
		"RENAME a b": moves, "renamenx a b": moves, "COPY a b": moves, "COPY a b DB 3 REPLACE": moves, "move a 3": moves, "MOVE a": moves, "RENAME": 0,
		"HPEXPIREAT h 5 GT FIELDS 1 a": compares, "HPEXPIREAT h 5 nx FIELDS 1 a": compares, "HPEXPIREAT h 5 FIELDS 1 NX": 0, "HEXPIRE h 5 XX FIELDS 1 a": compares,
		"PEXPIREAT k 5 GT": 0, "SET k v PXAT 5": 0, "SMOVE a b c": 0, "SWAPDB 1 2": 0, "RENAMED a b": 0,
	} {
		for _, way := range []struct {
			name        string
			real, below int64
			want        map[int]formKey
		}{
			{"all is shifted", distant, distant, nil},
			{"settling", 5000, 5000, map[int]formKey{compares: {5000, distant}}},
			{"shifting again", 5000, distant, map[int]formKey{compares: {5000, distant}, moves: {5000, distant}}},
			{"settling less", 5000, 9000, map[int]formKey{compares: {5000, distant}, moves: {5000, 9000}}},
		} {
			a := New(Config{})
			a.real, a.expiries = way.real, expiries{below: way.below}
			got, _, err := a.translate(&replica.Unit{}, replica.Command{Args: words(command)})
			if err != nil || got.form != way.want[is] {
				t.Errorf("%s, %s: got %+v, %v; want %+v", command, way.name, got.form, err, way.want[is])
			}
		}
	}
}

// The pass is told where the last SWAPDB was.
func TestSwappedAt(t *testing.T) {
	a := New(Config{})
	for i, command := range []string{"SWAPDB 1 2", "RENAME a b", "swapdb 0 1"} {
		u := replica.Unit{Cmds: []replica.Command{{Args: words(command)}}, End: replica.Position{Offset: int64(10 + i)}}
		if err := a.Apply(t.Context(), &u); err != nil {
			t.Fatal(err)
		}
		if want := []int64{10, 10, 12}[i]; a.swapped != want {
			t.Errorf("after %s: got %d, want %d", command, a.swapped, want)
		}
	}
}

// What is redferry's own beside a command goes in the same transaction, in the command's database, and under no mark of the source's.
func TestPackForms(t *testing.T) {
	a := New(Config{Name: "test"})
	a.expiries, a.real, a.target.noPXAT = expiries{below: distant}, 4000, true
	u := replica.Unit{Cmds: []replica.Command{
		{Args: words("RENAME a b"), DB: 3}, {Args: words("SET k v PXAT 5000"), DB: 3}, {Args: words("MOVE k 5"), DB: 3}, {Args: words("COPY c d"), DB: 0},
	}}
	if err := a.Apply(t.Context(), &u); err != nil {
		t.Fatal(err)
	}
	b := a.queue.take(t.Context(), nil)
	client, err := redistest.Start(t, redistest.Latest(t)).Client(0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p := &pipeline{b: client.B()}
	p.begin(checkpoint.Key("test"), streamGuard)
	before := len(p.cmds)
	b.cmds[4].skip = true // refused for good
	if a.packCommands(p, b, 0, 1) {
		t.Error("it says that our own keys are lost")
	}
	var got []string
	for i, c := range p.cmds[before:] {
		got = append(got, fmt.Sprint(p.txns[0].refs[i], " ", strings.Join(c.Commands(), " ")))
	}
	form := func(key string) string {
		return fmt.Sprint("-1 EVAL ", formScript, " 1 ", key, " 4000 0 0 0 ", distant, " 0")
	}
	want := []string{
		"-2 SELECT 3", form("a"), "0 RENAME a b", "1 SET k v", fmt.Sprint("2 PEXPIREAT k ", keyShift+5000), form("k"), "3 MOVE k 5",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Which commands a target knows is told by its version.
func TestTargetKnows(t *testing.T) {
	for _, test := range []struct {
		redis, valkey string
		noPXAT        bool
	}{
		{"5.0.14", "", true},
		{"6.0.16", "", true},
		{"6.2.0", "", false},
		{"7.2.4", "", false},
		{"7.4.0", "", false},
		{"8.10.1", "", false},
		{"255.255.255", "", false}, // of an unstable branch
		{"7.2.4", "8.1.1", false},
		{"7.2.4", "9.0.0", false},
		{"7.4.0", "8.0.0", false},
		{"", "", true}, // INFO is not permitted
	} {
		var got target
		got.read(map[string]string{"redis_version": test.redis, "valkey_version": test.valkey})
		if got.noPXAT != test.noPXAT {
			t.Errorf("%s %s: %+v", test.redis, test.valkey, got)
		}
	}
}

// Nothing of the hot path allocates: neither what carries no expiry, nor what is written anew.
func TestExpireAllocatesNothing(t *testing.T) {
	a := New(Config{})
	a.target.noPXAT = true
	when := func() int64 { return received }
	for _, command := range []string{
		"SET key value", "INCR key", "HINCRBY h f 1", "SET key value PXAT 99999999999999", "SET key value EX 100", "PEXPIREAT key 99999999999999 GT",
		"HPEXPIREAT h 99999999999999 NX FIELDS 2 a b", "HSETEX h PXAT 99999999999999 FIELDS 1 a b", "MSETEX 1 a b PXAT 99999999999999",
	} {
		u := replica.Unit{When: when}
		cmd := replica.Command{Args: words(command)}
		if got := testing.AllocsPerRun(100, func() {
			if _, _, err := a.translate(&u, cmd); err != nil {
				t.Fatal(err)
			}
		}); got > 0 {
			t.Errorf("%s: %v allocations", command, got)
		}
	}
}

// A giant command's memory is given back, and no command's is held for long.
func TestRewriterForgets(t *testing.T) {
	t.Parallel()
	a := New(Config{})
	giant := words("MSETEX 200000")
	giant = append(giant, slices.Repeat(words("x"), 400_000)...)
	written(t, a, append(giant, words("PXAT 5")...))
	written(t, a, words("PEXPIREAT k 5"))
	if got := cap(a.rewriter.args); got > keepAtMost/24 {
		t.Errorf("it keeps room for %d arguments", got)
	}
	written(t, a, words("HPEXPIREAT h 5 FIELDS 3 a b c"))
	written(t, a, words("PEXPIREAT k 5"))
	for _, arg := range a.rewriter.args[:cap(a.rewriter.args)][3:] {
		if arg != nil {
			t.Errorf("it holds %q", arg)
		}
	}
}

// Of a unit that lends its memory nothing is held but by the batch: it would stay until the next command of the same kind, perhaps for ever.
func TestLentMemoryIsNotHeld(t *testing.T) {
	t.Parallel()
	value := bytes.Repeat([]byte{'v'}, 2*lendFrom)
	dump, err := rdbstream.AppendDump(nil, &rdbstream.Entry{Type: rdbstream.TypeString, Value: append([]byte{0x41, 0x00}, value...)})
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][][]byte{
		"written anew":     append(words("SETEX k 5"), value),
		"a payload":        append(words("RESTORE k 5"), dump),
		"two commands":     append(words("MSETEX 1 k"), append([][]byte{value}, words("EX 5")...)...),
		"with its options": append(words("XADD k MAXLEN = 5 LIMIT 0 1-1 f"), value),
		"a script":         append([][]byte{[]byte("EVAL"), value}, words("1 k")...),
	} {
		a := New(Config{})
		a.target.noPXAT = name == "two commands"
		a.target.msetex = name != "two commands"
		u := &replica.Unit{Own: true, Cmds: []replica.Command{{Args: args}}, End: replica.Position{Offset: 5}, When: func() int64 { return received }}
		if err := a.Apply(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if len(a.queue.cur.lent) != 1 {
			t.Errorf("%s: %d arguments are lent; want 1", name, len(a.queue.cur.lent))
		}
		held := slices.Concat(a.rewriter.args[:cap(a.rewriter.args)], a.rewriter.second[:], a.rewriter.then, a.forms.args[:cap(a.forms.args)], a.forms.second[:cap(a.forms.second)], [][]byte{a.rewriter.payload})
		for _, arg := range held {
			if len(arg) >= lendFrom {
				t.Errorf("%s: %d bytes are held", name, len(arg))
			}
		}
	}
}

// adversarial are arguments that could be taken for something else.
var adversarial = []string{"", "PXAT", "px", "EX", "ABSTTL", "NX", "FIELDS", "GET", "IFEQ", "5", "0", "-1", "v", "KEEPTTL", "REPLACE"}

// FuzzExpire builds commands of parts that could be taken for one another: what is neither an expiry nor a condition is there afterwards, in its place.
func FuzzExpire(f *testing.F) {
	for i := range byte(60) {
		f.Add([]byte{i, i * 7, i * 13, i * 29, i * 31, i * 3, i, i * 5})
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		next := func(n int) int {
			if len(choices) == 0 {
				return 0
			}
			c := int(choices[0]) % n
			choices = choices[1:]
			return c
		}
		one := func(words ...string) string { return words[next(len(words))] }
		some := func() string { return adversarial[next(len(adversarial))] }
		number := func() string { return one("0", "1", "5000", "-7", "17592186044416", "9223372036854775807", "x") }
		expiry := func() []string { return []string{one("EX", "px", "EXAT", "pxat"), number()} }
		var in, out []string // out has what must be there, in this order; "*" stands for what may have been changed
		keep := func(args ...string) { in, out = append(in, args...), append(out, args...) }
		drop := func(args ...string) { in = append(in, args...) }
		key, value := some(), some()
		switch next(7) {
		case 0:
			drop("SET")
			out = append(out, "*")
			keep(key, value)
			drop([][]string{nil, {"NX"}, {"GET", "XX"}, {"IFEQ", some()}}[next(4)]...)
			drop(expiry()...)
			drop([][]string{nil, {"xx"}, {"IFNE", some()}}[next(3)]...)
		case 1:
			drop(one("SETEX", "PSETEX"))
			out = append(out, "*")
			keep(key)
			drop(number())
			keep(value)
		case 2:
			drop(one("EXPIRE", "pexpire", "EXPIREAT", "PEXPIREAT", "GETEX"))
			out = append(out, "*")
			keep(key)
			if in[0] == "GETEX" {
				drop(expiry()...)
			} else {
				drop(number())
				drop([][]string{nil, {"NX"}, {"gt", "XX"}}[next(3)]...)
			}
		case 3:
			drop(one("HEXPIRE", "hpexpire", "HEXPIREAT", "HPEXPIREAT"))
			out = append(out, "*")
			keep(key)
			drop(number())
			keep([][]string{nil, {"NX"}, {"gt"}}[next(3)]...)
			keep("FIELDS", "2", some(), some())
		case 4:
			keep("HSETEX", key)
			keep([][]string{nil, {"FNX"}, {"FXX"}}[next(3)]...)
			drop(expiry()...)
			keep("FIELDS", "2", some(), some(), some(), some())
		case 5:
			keep("MSETEX", "2", key, value, some(), some())
			keep([][]string{nil, {"NX"}}[next(2)]...)
			drop(expiry()...)
			keep([][]string{nil, {"XX"}}[next(2)]...)
		case 6:
			keep("RESTORE", key)
			drop(number())
			keep(value)
			keep([][]string{nil, {"REPLACE"}, {"ABSTTL"}, {"IDLETIME", "5"}}[next(4)]...)
		}
		args := make([][]byte, len(in))
		for i, arg := range in {
			args[i] = []byte(arg)
		}
		a := New(Config{Expiry: []Expiry{Shift, AsIs}[next(2)]})
		a.target.noPXAT = next(2) == 1
		u := replica.Unit{When: func() int64 { return received }}
		got, drop2, err := a.translate(&u, replica.Command{Args: args})
		if err != nil || drop2 {
			t.Fatalf("%q: dropped %v, %v", in, drop2, err)
		}
		left := out
		for _, arg := range got.args {
			if len(left) > 0 && (left[0] == "*" || left[0] == string(arg)) {
				left = left[1:]
			}
		}
		if len(left) > 0 {
			t.Errorf("%q became %q: %q is missing", in, got.args, left)
		}
		was, _ := keyPositions(args, nil)
		is, _ := keyPositions(got.args, nil)
		if !slices.Equal(was, is) {
			t.Errorf("%q became %q: its keys were at %v and are at %v", in, got.args, was, is)
		}
		if got.then != nil && (len(got.then) != 3 || string(got.then[1]) != key) {
			t.Errorf("%q has %q behind it", in, got.then)
		}
	})
}
