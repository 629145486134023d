package applier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// place is a key, or a field of a hash.
type place struct {
	db         int
	key, field string
}

// expiryCases are what a target may hold, with what settling makes of it: a moment of 0 is none, and of -1 that there is no key any more.
func expiryCases(shift int64) (cases []struct{ was, is int64 }) {
	now := time.Now()
	add := func(was, is int64) { cases = append(cases, struct{ was, is int64 }{was, is}) }
	for _, original := range []int64{now.Add(time.Hour).UnixMilli(), now.AddDate(60, 0, 0).UnixMilli(), now.AddDate(260, 0, 0).UnixMilli(), distant - 1} {
		add(shift+original, original)
	}
	add(shift+now.Add(-time.Hour).UnixMilli(), -1)
	add(shift, -1)
	for _, asItIs := range []int64{0, now.Add(time.Hour).UnixMilli(), now.AddDate(60, 0, 0).UnixMilli(), distant, shift - 1, shift + distant} {
		add(asItIs, asItIs)
	}
	return cases
}

// unsettled is a target with shifted expiries of every kind in several databases, which belongs to an owner.
type unsettled struct {
	*redistest.Server
	client rueidis.Client
	owner  *owner
	want   map[place]int64 // what settling makes of them
	keys   int64           // how many are shifted
	fields int64
}

var (
	testDatabases = []int{0, 2, 15}
	testHashes    = map[string]int{"small": 5, "medium": 150, "large": 300, "huge": 1700}
)

func newUnsettled(t *testing.T, b redistest.Build, keys int) *unsettled {
	t.Helper()
	u := newOwned(t, b)
	for _, db := range testDatabases {
		u.fill(t, db, keys/len(testDatabases))
	}
	return u
}

// newOwned is one that has nothing but its owner yet.
func newOwned(t *testing.T, b redistest.Build) *unsettled {
	t.Helper()
	u := &unsettled{Server: redistest.Start(t, b), owner: &owner{name: "test", epoch: 7}, want: map[place]int64{}}
	client, err := u.Client(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	u.client = client
	u.Do(t, "HSET", checkpoint.OwnerKey("test"), "owner", "the test", "epoch", "7")
	return u
}

func (u *unsettled) fill(t *testing.T, db, keys int) {
	t.Helper()
	var cmds [][]string
	for i, cases := 0, expiryCases(keyShift); i < keys; i++ {
		key, c := fmt.Sprintf("key:%d", i), cases[i%len(cases)]
		cmds = append(cmds, []string{"SET", key, "x"})
		if c.was != 0 {
			cmds = append(cmds, []string{"PEXPIREAT", key, strconv.FormatInt(c.was, 10)})
		}
		u.want[place{db, key, ""}] = c.is
		u.keys += count(isShifted(c.was, keyShift))
	}
	for name, n := range testHashes {
		for i, cases := 0, expiryCases(fieldShift); i < n; i++ {
			field, c := fmt.Sprintf("field:%d", i), cases[i%len(cases)]
			cmds = append(cmds, []string{"HSET", name, field, "x"})
			if !u.Build.HasFieldTTL() {
				c.was, c.is = 0, 0
			}
			if c.was != 0 {
				cmds = append(cmds, []string{"HPEXPIREAT", name, strconv.FormatInt(c.was, 10), "FIELDS", "1", field})
			}
			u.want[place{db, name, field}] = c.is
			u.fields += count(isShifted(c.was, fieldShift))
		}
		due := time.Now().Add(time.Hour).UnixMilli()
		cmds = append(cmds, []string{"PEXPIREAT", name, strconv.FormatInt(keyShift+due, 10)})
		u.want[place{db, name, ""}] = due
		u.keys++
	}
	u.pipeline(t, db, cmds)
}

func count(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (u *unsettled) pipeline(t *testing.T, db int, cmds [][]string) []rueidis.RedisResult {
	t.Helper()
	results, err := u.DB(db).Pipeline(cmds...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if err := r.Error(); err != nil {
			t.Fatalf("%.100q: %v", cmds[i], err)
		}
	}
	return results
}

func (u *unsettled) settler() *settler { return &settler{} }

// ask is the command that asks for a place's expiry.
func (u *unsettled) ask(p place) []string {
	switch {
	case p.field != "":
		return []string{"HPEXPIRETIME", p.key, "FIELDS", "1", p.field}
	case u.Build.Has70():
		return []string{"PEXPIRETIME", p.key}
	}
	return []string{"EVAL", `
		local function now() local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) end
		while true do
			local t, left = now(), redis.call('PTTL', KEYS[1])
			if left < 0 then return left end
			if t == now() then return t + left end
		end`, "1", p.key}
}

// check compares all that the target holds with what it should.
func (u *unsettled) check(t *testing.T) {
	t.Helper()
	places, cmds := map[int][]place{}, map[int][][]string{}
	for p := range u.want {
		if p.field == "" || u.Build.HasFieldTTL() {
			places[p.db], cmds[p.db] = append(places[p.db], p), append(cmds[p.db], u.ask(p))
		}
	}
	wrong := 0
	for db, cmds := range cmds {
		for i, r := range u.pipeline(t, db, cmds) {
			m, _ := r.ToMessage()
			if list, err := m.ToArray(); err == nil {
				m = list[0]
			}
			got, err := m.AsInt64()
			if err != nil {
				t.Fatalf("%q: %v", cmds[i], err)
			}
			if got < 0 { // the servers say -1 of what does not expire, and -2 of what is not there
				got++
			}
			if want := u.want[places[db][i]]; got != want && wrong < 20 {
				t.Errorf("%+v: got %d, want %d", places[db][i], got, want)
				wrong++
			}
		}
	}
}

func TestSettler(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			u := newUnsettled(t, b, 20_000)
			s := u.settler()
			reports, last := 0, Settling{}
			s.report = func(at Settling) { reports, last = reports+1, at }
			if err := s.run(ctx, u.client, u.owner); err != nil {
				t.Fatal(err)
			}
			u.check(t)
			if s.at.Settled != u.keys || s.at.Fields != u.fields || s.at.Pass != 2 || s.at.Looked < s.at.Keys-10 || s.at.Left() != 0 || last != s.at || reports < 20 {
				t.Errorf("%d reports, the last %+v; want %d keys and %d fields", reports, s.at, u.keys, u.fields)
			}

			before := u.Info(t, "persistence")["rdb_changes_since_last_save"]
			again := u.settler()
			if err := again.run(ctx, u.client, u.owner); err != nil {
				t.Fatal(err)
			}
			if after := u.Info(t, "persistence")["rdb_changes_since_last_save"]; after != before || again.at.Pass != 1 || again.at.Settled+again.at.Fields != 0 {
				t.Errorf("a second run: got %+v, %s changes before and %s after", again.at, before, after)
			}
		})
	}
}

// Settling that ends anywhere is gone on with, by the same process or by another.
func TestSettlerEndsAnywhere(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			u := newUnsettled(t, b, 5000)
			s := u.settler()
			for range 3 {
				ctx, cancel := context.WithCancel(context.Background())
				left := 1 + rand.IntN(12) // steps, and then some part of one
				s.report = func(Settling) {
					if left--; left == 0 {
						time.AfterFunc(time.Duration(rand.IntN(1000))*time.Microsecond, cancel)
					}
				}
				if err := s.run(ctx, u.client, u.owner); err != nil && !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				cancel()
				if rand.IntN(2) == 0 { // another process
					s = u.settler()
				}
			}
			s.report = nil
			if err := s.run(context.Background(), u.client, u.owner); err != nil {
				t.Fatal(err)
			}
			u.check(t)
		})
	}
}

// broken runs until so many steps are done.
func broken(t *testing.T, s *settler, u *unsettled, steps int) Settling {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.report = func(Settling) {
		if steps--; steps == 0 {
			cancel()
		}
	}
	if err := s.run(ctx, u.client, u.owner); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	s.report = nil
	return s.at
}

// A pass that broke off goes on where it was.
func TestSettlerGoesOn(t *testing.T) {
	u := newUnsettled(t, redistest.Latest(t), 20_000)
	s := u.settler()
	first, second := broken(t, s, u, 5), broken(t, s, u, 5)
	if second.Pass != 1 || second.Looked <= first.Looked || second.Left() >= first.Left() || second.Left() == 0 || second.ETA() == 0 {
		t.Errorf("got %+v, then %+v", first, second)
	}
	if err := s.run(context.Background(), u.client, u.owner); err != nil {
		t.Fatal(err)
	}
	u.check(t)
}

// At another server, to which the target has failed over, it begins anew: a cursor is a server's own.
func TestSettlerAtAnotherServer(t *testing.T) {
	b := redistest.Latest(t)
	u, other := newOwned(t, b), newOwned(t, b)
	for _, x := range []*unsettled{u, other} {
		x.DB(3).Do(t, "EVAL", "for i = 1, 5000 do redis.call('SET', i, 'x') end", "0")
	}
	other.fill(t, 0, 100)
	s := u.settler()
	if at := broken(t, s, u, 4); at.found || at.Looked < 2 {
		t.Fatalf("got %+v", at)
	}
	if err := s.run(context.Background(), other.client, other.owner); err != nil {
		t.Fatal(err)
	}
	other.check(t)
}

// The application goes on meanwhile, by the stream: new expiries are as they are; and a key that takes its expiry elsewhere is settled before it does.
func TestSettlerBesideAWriter(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			u := newUnsettled(t, b, 6000)
			ended := make(chan error, 1)
			s := u.settler()
			s.busy = func() bool { return true } // so that it takes long enough
			go func() { ended <- s.run(context.Background(), u.client, u.owner) }()
			writes := 0
			for running := true; running; {
				select {
				case err := <-ended:
					if err != nil {
						t.Fatal(err)
					}
					running = false
				default:
					u.write(t, writes)
					writes++
				}
			}
			if writes < 50 {
				t.Errorf("only %d writes while it settled", writes)
			}
			u.check(t)
		})
	}
}

// write is one of an application's writes, to any key.
func (u *unsettled) write(t *testing.T, i int) {
	t.Helper()
	from := place{testDatabases[rand.IntN(len(testDatabases))], fmt.Sprintf("key:%d", rand.IntN(2000)), ""}
	is, ok := u.want[from]
	if !ok || is < 0 {
		return
	}
	due := time.Now().Add(time.Duration(1+rand.IntN(1000)) * time.Hour).UnixMilli()
	switch rand.IntN(4) {
	case 0:
		to := place{from.db, fmt.Sprintf("new:%d", i), ""}
		u.pipeline(t, from.db, [][]string{
			{"MULTI"}, formOf(from.key), {"RENAME", from.key, to.key}, {"EXEC"},
		})
		u.want[to], u.want[from] = is, -1
	case 1:
		u.pipeline(t, from.db, [][]string{{"PEXPIREAT", from.key, strconv.FormatInt(due, 10)}})
		u.want[from] = due
	case 2:
		u.pipeline(t, from.db, [][]string{{"PERSIST", from.key}})
		u.want[from] = 0
	case 3:
		u.pipeline(t, from.db, [][]string{{"DEL", from.key}})
		u.want[from] = -1
	}
}

// Keys come from where the pass has not been to where it was, and to a database that was empty, in the midst of one that finds nothing else.
func TestSettlerMovedKeys(t *testing.T) {
	swap := func(t *testing.T, u *unsettled, to string) { u.Do(t, "SWAPDB", "5", to) }
	tests := map[string]struct {
		to   int // the shifted keys are in 5
		move func(t *testing.T, u *unsettled, s *settler)
	}{
		"by SWAPDB": {3, func(t *testing.T, u *unsettled, s *settler) {
			swap(t, u, "3")
			s.rewind()
		}},
		"by SWAPDB, to an empty one": {9, func(t *testing.T, u *unsettled, s *settler) { swap(t, u, "9") }},
		"by a unit that settles them": {3, func(t *testing.T, u *unsettled, s *settler) {
			for _, key := range u.DB(5).DoStrings(t, "KEYS", "*") {
				u.pipeline(t, 5, [][]string{
					{"MULTI"}, formOf(key), {"MOVE", key, "3"}, {"EXEC"},
				})
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := newOwned(t, redistest.Latest(t))
			u.DB(3).Do(t, "SET", "only", "x")
			u.fill(t, 5, 100)
			s := u.settler()
			moved := false
			s.report = func(at Settling) {
				if at.Looked == 2 && !moved { // it was in 0 and 3
					moved = true
					tt.move(t, u, s)
				}
			}
			if err := s.run(context.Background(), u.client, u.owner); err != nil {
				t.Fatal(err)
			}
			for p, is := range maps.Clone(u.want) {
				delete(u.want, p)
				p.db = tt.to
				u.want[p] = is
			}
			u.check(t)
		})
	}
}

// A process that was replaced, or that the target does not know, settles nothing.
func TestSettlerIsFenced(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			u := newUnsettled(t, b, 100)
			tests := []struct {
				epoch string
				want  func(error) bool
			}{
				{"8", func(err error) bool { stop := replica.AsStop(err); return stop != nil && stop.Kind == replica.Fenced }},
				{"6", func(err error) bool { return errors.Is(err, errLost) }},
				{"", func(err error) bool { return errors.Is(err, errLost) }},
			}
			for _, tt := range tests {
				u.Do(t, "DEL", checkpoint.OwnerKey("test"))
				if tt.epoch != "" {
					u.Do(t, "HSET", checkpoint.OwnerKey("test"), "epoch", tt.epoch)
				}
				before := u.Info(t, "persistence")["rdb_changes_since_last_save"]
				s := u.settler()
				if err := s.run(context.Background(), u.client, u.owner); !tt.want(err) {
					t.Errorf("epoch %q: got %v", tt.epoch, err)
				}
				if reply, err := u.client.Do(context.Background(), u.client.B().Eval().Script(settleHashScript).Numkeys(2).Key(checkpoint.OwnerKey("test"), "huge").
					Arg("0", "7", "0", "0", "0", "0").Build()).AsStrSlice(); err != nil || len(reply) != 1 || reply[0] != tt.epoch {
					t.Errorf("epoch %q: of a hash: got %q, %v", tt.epoch, reply, err)
				}
				if after := u.Info(t, "persistence")["rdb_changes_since_last_save"]; after != before {
					t.Errorf("epoch %q: it has written", tt.epoch)
				}
			}
		})
	}
}

// A target that is full takes no new data; settling is none.
func TestSettlerFullTarget(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			u := newUnsettled(t, b, 1000)
			u.Do(t, "CONFIG", "SET", "maxmemory", "1")
			if u.TryDo("SET", "x", "y") == nil {
				t.Fatal("it is not full")
			}
			if err := u.settler().run(context.Background(), u.client, u.owner); err != nil {
				t.Error(err)
			}
			u.check(t)
		})
	}
}

// formOf is the command that makes all of a key's expiries real.
func formOf(key string) []string {
	return append([]string{"EVAL", formScript, "1", key}, formKey{}.arguments()...)
}

// A busy target gives at most a twelfth of its time.
func TestSettlerYields(t *testing.T) {
	u := newUnsettled(t, redistest.Latest(t), 3000)
	s := u.settler()
	s.busy = func() bool { return true }
	began := time.Now()
	if err := s.run(context.Background(), u.client, u.owner); err != nil {
		t.Fatal(err)
	}
	var calls, usec int64
	if _, err := fmt.Sscanf(u.Info(t, "commandstats")["cmdstat_eval"], "calls=%d,usec=%d", &calls, &usec); err != nil {
		t.Fatal(err)
	}
	if took, used := time.Since(began), time.Duration(usec)*time.Microsecond; took < 12*used || calls < 5 {
		t.Errorf("it has used %v of %v in %d calls", used, took, calls)
	}
}

// A step that took long because the target stalled does not keep the pass off the target for long.
func TestSettlerYieldsNotForLong(t *testing.T) {
	t.Parallel()
	u := newUnsettled(t, redistest.Latest(t), 300)
	s := u.settler()
	s.busy = func() bool { return true }
	thawed := make(chan time.Time, 1)
	s.report = func(at Settling) {
		if at.Pass == 1 && at.Looked == 0 {
			u.Freeze()
			time.AfterFunc(2*time.Second, func() { thawed <- time.Now(); u.Thaw() })
		}
	}
	if err := s.run(context.Background(), u.client, u.owner); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(<-thawed); took > 15*time.Second {
		t.Errorf("it took %v after a stall of 2 s", took)
	}
	u.check(t)
}

// The form goes both ways: what is real from a moment on is shifted again, what is earlier stays, and back again nothing is lost.
func TestSettlerShiftsAgain(t *testing.T) {
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			u := newUnsettled(t, b, 3000)
			half := time.Now().Add(30 * time.Minute).UnixMilli() // the cases have an hour before and behind now
			kept := newNear()
			s := &settler{form: split{half, half}, once: true, near: kept}
			if err := s.run(ctx, u.client, u.owner); err != nil {
				t.Fatal(err)
			}
			over := 0 // what is over by now is all that is shifted still
			for _, run := range kept.nearest() {
				over += len(run.keys)
			}
			if over < 100 || s.at.Pass != 1 || s.at.Settled == 0 {
				t.Errorf("%d keys are near after %+v", over, s.at)
			}
			settled := s.at.Settled
			again := &settler{form: split{half, distant}}
			if err := again.run(ctx, u.client, u.owner); err != nil {
				t.Fatal(err)
			}
			// Of those that never were shifted it takes the ones that could be a migration's, too.
			if again.at.Settled < settled || again.at.Pass != 2 {
				t.Errorf("%d were settled, and %+v", settled, again.at)
			}
			for _, run := range kept.nearest() {
				if err := again.list(ctx, u.client, u.owner, run.db, run.keys); err != nil {
					t.Fatal(err)
				}
			}
			if err := u.settler().run(ctx, u.client, u.owner); err != nil {
				t.Fatal(err)
			}
			u.check(t)
		})
	}
}

// A list of keys is settled without a look at any other.
func TestSettlerOfAList(t *testing.T) {
	for _, b := range oldestAndLatest(t) {
		t.Run(b.Name, func(t *testing.T) {
			u := newUnsettled(t, b, 30)
			keys := []string{"key:0", "nothing", "huge", "small"}
			s := u.settler()
			if err := s.list(context.Background(), u.client, u.owner, 2, keys); err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			if b.HasFieldTTL() {
				want = u.shiftedFields("huge") + u.shiftedFields("small")
			}
			if s.at.Settled != 3 || s.at.Fields != want {
				t.Errorf("got %+v, want 3 keys and %d fields", s.at, want)
			}
			for p := range u.want {
				if p.db != 2 || p.key != "key:0" && p.key != "huge" && p.key != "small" {
					delete(u.want, p)
				}
			}
			u.check(t)
		})
	}
}

func oldestAndLatest(t *testing.T) []redistest.Build {
	builds := redistest.Servers(t)
	return []redistest.Build{builds[0], redistest.Latest(t)}
}

func (u *unsettled) shiftedFields(key string) (n int64) {
	cases := expiryCases(fieldShift)
	for i := range testHashes[key] {
		n += count(isShifted(cases[i%len(cases)].was, fieldShift))
	}
	return n
}

func TestSettling(t *testing.T) {
	tests := map[string]struct {
		at   Settling
		left int64
		eta  time.Duration
	}{
		"nothing yet":           {Settling{}, 0, 0},
		"at its beginning":      {Settling{Pass: 1, Keys: 1000, Volatile: 500}, 500, 0},
		"found none so far":     {Settling{Pass: 1, Keys: 1000, Volatile: 500, Looked: 200, took: time.Second}, 400, 4 * time.Second},
		"has to look again":     {Settling{Pass: 1, Keys: 1000, Volatile: 500, Looked: 200, took: time.Second, found: true}, 400, 9 * time.Second},
		"looks again":           {Settling{Pass: 2, Keys: 1000, Volatile: 500, Looked: 200, took: time.Second, again: true}, 0, 4 * time.Second},
		"more than there were":  {Settling{Pass: 1, Keys: 1000, Volatile: 500, Looked: 2000, took: time.Second}, 0, 0},
		"more than can be told": {Settling{Pass: 1, Looked: 3, took: time.Second}, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if left, eta := tt.at.Left(), tt.at.ETA(); left != tt.left || (eta-tt.eta).Abs() > time.Microsecond {
				t.Errorf("got %d and %v, want %d and %v", left, eta, tt.left, tt.eta)
			}
		})
	}
}
