package applier_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// losing is a migration whose target's replies can be lost, and that compares what they were about.
type losing struct {
	src, dst *redistest.Server
	m        *migration
	proxy    *redistest.CommandProxy
	lose     atomic.Bool // the reply to the next EXEC with a command of the stream in it
	filled   atomic.Bool

	mu       sync.Mutex
	compared []string
}

func newLosing(t *testing.T) *losing {
	t.Helper()
	b := redistest.Latest(t)
	l := &losing{src: redistest.Start(t, b, quiet), dst: redistest.Start(t, b)}
	l.proxy = redistest.NewCommandProxy(t, l.dst.Addr())
	l.m = newMigration(t, l.src.URL(), l.dst.URLAt(l.proxy.Addr()))
	l.m.compare = func(keys []string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.compared = append(l.compared, keys...)
	}
	l.proxy.Handle(func(_ int, args [][]byte) redistest.Answer {
		if slices.ContainsFunc(args, func(arg []byte) bool { return strings.HasPrefix(string(arg), "lost") }) {
			l.filled.Store(true)
		}
		if strings.EqualFold(string(args[0]), "exec") && l.filled.Load() && l.lose.CompareAndSwap(true, false) {
			return redistest.LoseReply()
		}
		return redistest.Forward()
	})
	return l
}

// loses runs commands at the source to which the target's reply is lost.
func (l *losing) loses(t *testing.T, commands ...string) {
	t.Helper()
	l.filled.Store(false)
	l.lose.Store(true)
	tx := [][]string{{"MULTI"}}
	for _, c := range commands {
		tx = append(tx, strings.Fields(c))
	}
	results, err := l.src.Pipeline(append(tx, []string{"EXEC"})...)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if err := r.Error(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the reply is lost", func() bool { return !l.lose.Load() })
}

func (l *losing) keys() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.compared)
}

// What lost replies were about is compared with the source, and nothing else is; then the record knows of no doubt any more.
func TestLostRepliesAreComparedOnceInSync(t *testing.T) {
	t.Parallel()
	l := newLosing(t)
	l.src.Do(t, "SET", "other", "x")
	r := l.m.start(t)
	r.until(t, replica.InSync, "")
	l.src.DB(3).Do(t, "SET", "kept", "x") // a command of another database, which the lost part does not name
	l.loses(t, "SET lost:a 1", "MSET lost:b 1 lost:c 2", "SELECT 3", "RPUSH lost:d x", "DEL kept")
	eventually(t, "what was lost is compared", func() bool { return len(l.keys()) > 0 && mustRecord(t, l.dst).Unchecked == "" })
	if diff := cmp.Diff([]string{"kept", "lost:a", "lost:b", "lost:c", "lost:d"}, l.keys()); diff != "" {
		t.Errorf("the keys that were compared (-want +got):\n%s", diff)
	}
	eventually(t, "no doubts are left", func() bool { why, unchecked := r.sink.Doubts(); return len(why) == 0 && !unchecked })
	eventually(t, "it is said", func() bool { return r.said("are equal to the source's") == 1 })
}

// A write that the target refused, which nobody heard of, shows as divergence.
func TestLostRepliesThatHideARefusal(t *testing.T) {
	t.Parallel()
	l := newLosing(t)
	r := l.m.start(t)
	r.until(t, replica.InSync, "")
	l.dst.Do(t, "RPUSH", "lost:a", "somebody else's")
	l.loses(t, "APPEND lost:a 1", "SET lost:b 1")
	eventually(t, "the difference is in the record", func() bool { return mustRecord(t, l.dst).Divergence[checkpoint.LostReply] == 1 })
	if got := mustRecord(t, l.dst).Unchecked; got != "" {
		t.Errorf("it is compared, and yet unchecked: %s", got)
	}
	eventually(t, "it is a doubt", func() bool {
		why, _ := r.sink.Doubts()
		return len(why) == 1 && strings.Contains(why[0], "1 keys differ to which replies were lost")
	})
	eventually(t, "the status counts it", func() bool { return r.status.Divergence.Load() == 1 })
}

// A run that ends when it is caught up compares before: there is no later.
func TestLostRepliesAreComparedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	l := newLosing(t)
	compare := l.m.compare
	l.m.compare = nil
	r := l.m.start(t)
	r.until(t, replica.InSync, "")
	l.loses(t, "SET lost:a 1")
	eventually(t, "the record says so", func() bool { return mustRecord(t, l.dst).Unchecked != "" })
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	l.m.compare = compare
	l.m.finish(t)
	if got := mustRecord(t, l.dst).Unchecked; got != "" || len(l.keys()) != 1 {
		t.Errorf("unchecked: %q; compared: %q", got, l.keys())
	}
}

// What does not name its keys, and what the spool does not have any more, stays unchecked: a cutover compares all keys then.
func TestLostRepliesOfUnknownKeys(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*migration)
		lost   string
	}{
		"a flush": {func(*migration) {}, "FLUSHALL"},
		"freed":   {func(m *migration) { m.spool.Keep, m.spool.Segment = time.Millisecond, 1<<10 }, "SET lost:b " + strings.Repeat("x", 4<<10)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLosing(t)
			test.change(l.m)
			compare := l.m.compare
			l.m.compare = nil // the next run does: by then the spool has freed what it is to free
			r := l.m.start(t)
			r.until(t, replica.InSync, "")
			before := l.src.Offset(t)
			l.loses(t, "SET lost:a 1", test.lost)
			eventually(t, "it is in the record, and freed", func() bool {
				return mustRecord(t, l.dst).Unchecked != "" && (name != "freed" || r.spool.Contents().First > before)
			})
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			l.m.compare = compare
			r = l.m.start(t)
			eventually(t, "it is said", func() bool { return r.said("cannot be told which keys") == 1 })
			if rec := mustRecord(t, l.dst); rec.Unchecked == "" || len(l.keys()) > 0 {
				t.Errorf("unchecked: %q; compared: %q", rec.Unchecked, l.keys())
			}
		})
	}
}

func TestKeysOfAUnit(t *testing.T) {
	t.Parallel()
	a := applier.New(applier.Config{Rename: applier.RenameMap{"HIDDEN": "MSET", "GONE": "FLUSHALL"}})
	for text, want := range map[string]string{
		"SET a 1":                              "a",
		"hidden a 1 b 2":                       "a b",
		"GONE":                                 "?",
		"FLUSHDB":                              "?",
		"SWAPDB 0 1":                           "?",
		"RENAME a b":                           "a b",
		"PUBLISH a b":                          "",
		"FUNCTION LOAD x":                      "?",
		"EVAL text 2 a b c":                    "?", // it may write others
		"EVALSHA sha 0":                        "?",
		"SFLUSH 0 100":                         "?",
		"ZUNIONSTORE a 9 b c":                  "?",
		"MSET a 1 " + checkpoint.Prefix + " 2": "a",
	} {
		u := replica.Unit{Cmds: []replica.Command{{Args: [][]byte{}}}}
		for _, word := range strings.Fields(text) {
			u.Cmds[0].Args = append(u.Cmds[0].Args, []byte(word))
		}
		var keys []string
		got := "?"
		if a.Keys(&u, func(key []byte) { keys = append(keys, string(key)) }) {
			got = strings.Join(keys, " ")
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
