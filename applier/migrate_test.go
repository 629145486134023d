package applier_test

import (
	"fmt"
	"testing"

	"redferry/internal/redistest"
	"redferry/replica"
)

// TestMigrate moves a keyspace of every type, in 16 databases, between all servers that can take each other's types, and then a stream.
func TestMigrate(t *testing.T) {
	builds := redistest.Servers(t)
	for i, from := range builds {
		for j, to := range builds {
			if !canMove(from, to) || i > 0 && i != j && j != len(builds)-1 && j != i+1 {
				continue
			}
			for _, diskless := range []string{"yes", "no"} {
				if i != j && diskless == "no" {
					continue
				}
				t.Run(fmt.Sprintf("%s to %s, diskless %s", from.Name, to.Name, diskless), func(t *testing.T) {
					t.Parallel()
					src := redistest.Start(t, from, redistest.Config("repl-diskless-sync "+diskless))
					dst := redistest.Start(t, to)
					redistest.Fill(t, src, redistest.FillOptions{Keys: 3000, Seed: uint64(i), Big: i == j && diskless == "yes"})
					m := newMigration(t, src.URL(), dst.URL())
					r := m.start(t)
					r.until(t, replica.InSync, "")
					load(t, src, redistest.LoadOptions{Seed: uint64(j), Commands: 3000, Writers: 2})
					if err := r.end(); err != nil {
						t.Fatalf("stop: %v", err)
					}
					m.finish(t)
					redistest.AssertEqual(t, src, dst, redistest.CompareOptions{})
					if got := fullResyncs(t, src); got != "1" {
						t.Errorf("full resyncs: got %s, want 1", got)
					}
				})
			}
		}
	}
}

// canMove tells whether a server can RESTORE all that another one has: types that it does not know are for later.
func canMove(from, to redistest.Build) bool {
	switch {
	case from == to:
		return true
	case from.HasFieldTTL():
		return false // field TTLs have a type of their own in each of both families
	case from.Server == "valkey" && to.Server == "redis":
		return false
	}
	return from.Has70() == to.Has70() || to.Has70()
}
