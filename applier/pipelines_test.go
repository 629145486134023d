package applier_test

import (
	"strings"
	"testing"

	"redferry/applier"
	"redferry/internal/redistest"
	"redferry/replica"
)

// While a snapshot is loaded its connections become more and fewer, and its rate another one, as the operator likes; and all of it arrives.
func TestSpeedOfASnapshotChanges(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	redistest.Fill(t, src, redistest.FillOptions{Keys: 60_000, Databases: 1})
	m := newMigration(t, src.URL(), dst.URL())
	m.run.Gate, m.apply.Pipelines = &replica.Gate{}, applier.NewPipelines(1)
	m.run.Gate.SetRate(1)
	r := m.start(t)
	r.until(t, replica.Loading, "")
	if m.run.Gate.SetRate(1 << 20); m.run.Gate.Rate() != 1<<20 || m.apply.Pipelines.Get() != 1 {
		t.Errorf("%d bytes a second, %d pipelines", m.run.Gate.Rate(), m.apply.Pipelines.Get())
	}
	connections := func() int {
		return strings.Count(dst.DoString(t, "CLIENT", "LIST"), "cmd=exec") // whose last command that is
	}
	for _, n := range []int{1, 5, 2, 4} {
		m.apply.Pipelines.Set(n)
		eventually(t, "there are as many connections", func() bool { return connections() == n+1 }) // and that of the progress
		if r.status.Base() != replica.Loading {
			t.Fatal("it is loaded already")
		}
	}
	m.run.Gate.SetRate(0)
	r.until(t, replica.InSync, "")
	redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
}

// The stream does not go faster than it may, and a cut of the rate is lifted at once.
func TestRateOfTheStream(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Latest(t), func(m *migration) { m.run.Gate = &replica.Gate{} })
	f.m.run.Gate.SetRate(1000)
	for range 20 {
		f.src.Do(t, "SET", "k", strings.Repeat("x", 10_000))
	}
	f.until(t, replica.CatchingUp, "behind the source")
	if behind := f.src.Offset(t) - mustRecord(t, f.dst).Offset; behind < 100_000 {
		t.Errorf("it is only %d bytes behind", behind)
	}
	f.m.run.Gate.SetRate(0)
	f.equal(t)
}
