package redistest

import (
	"testing"
)

func TestStartSentinels(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		primary := Start(t, b, Password("secret"))
		second := Start(t, b, Password("secret"), ReplicaOf(primary))
		if !within(patience, func() bool { return second.Info(t, "replication")["master_link_status"] == "up" }) {
			t.Fatal("the replica does not follow")
		}
		sentinels := StartSentinels(t, primary, 3)
		primary.Kill()
		for _, s := range sentinels {
			AwaitMaster(t, s, second)
		}
		if role := second.Info(t, "replication")["role"]; role != "master" {
			t.Errorf("the new primary is a %s", role)
		}
	})
}
