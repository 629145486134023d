package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"redferry/applier/verify"
	"redferry/internal/redistest"
)

// wantIncomparable fails the test unless the report has no difference, and these keys of which it
// cannot tell, in any order.
func wantIncomparable(t *testing.T, r verify.Report, want ...string) {
	t.Helper()
	wantEqual(t, r)
	if r.Incomparable != int64(len(want)) || len(r.FirstIncomparable) != len(want) {
		t.Errorf("%d are incomparable, want %d: %v", r.Incomparable, len(want), r.FirstIncomparable)
	}
	for _, w := range want {
		found := false
		for _, d := range r.FirstIncomparable {
			found = found || strings.Contains(d.String(), w)
		}
		if !found {
			t.Errorf("not said: %s; but %v", w, r.FirstIncomparable)
		}
	}
}

// awaitReplica waits until a native replica has everything.
func awaitReplica(t *testing.T, src, replica *redistest.Server) {
	t.Helper()
	for end := time.Now().Add(time.Minute); replica.Info(t, "replication")["slave_repl_offset"] != fmt.Sprint(src.Offset(t)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the native replica does not get everything")
		}
	}
}

// A consumer whose first XREADGROUP got nothing is not replicated, to native replicas either.
// Whether it is one of these, or is missing, nobody can tell.
func TestConsumersThatAreNotReplicated(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			control := redistest.Start(t, b, redistest.ReplicaOf(src))
			stop := migrate(t, src, dst, false)
			src.Do(t, "XGROUP", "CREATE", "jobs", "g", "$", "MKSTREAM")
			_ = src.TryDo("XREADGROUP", "GROUP", "g", "idle", "STREAMS", "jobs", ">") // nil is its reply
			src.Do(t, "XADD", "jobs", "1-1", "f", "v")
			src.Do(t, "XREADGROUP", "GROUP", "g", "busy", "STREAMS", "jobs", ">")
			if b.Server == "redis" && !b.AtLeast("redis", 7, 2) { // makes no consumer for it
				wantIncomparable(t, check(t, src, dst, verify.Config{Name: "test"}))
				return
			}
			awaitReplica(t, src, control)
			wantIncomparable(t, check(t, src, dst, verify.Config{Name: "test"}), `consumer "idle"`)
			wantIncomparable(t, check(t, src, control, verify.Config{}), `consumer "idle"`)
			stop()
			dst.Do(t, "XGROUP", "CREATECONSUMER", "jobs", "g", "extra")
			wantDifferences(t, check(t, src, dst, verify.Config{Name: "test"}), `value db 0 key "jobs", group "g" consumer "extra": source has not, target has it`)
			dst.Do(t, "XGROUP", "DELCONSUMER", "jobs", "g", "extra")
			dst.Do(t, "XGROUP", "DELCONSUMER", "jobs", "g", "busy")
			if r := check(t, src, dst, verify.Config{Name: "test"}); r.Total() != 1 || r.Incomparable != 0 {
				t.Errorf("without a consumer that has pending entries: %v, %v", r.First, r.FirstIncomparable)
			}
		})
	}
}

// A consumer that reads its pending entries again raises their count of deliveries, which no server
// replicates, to native replicas either. The other way round it is a difference.
func TestDeliveriesThatAreNotReplicated(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			control := redistest.Start(t, b, redistest.ReplicaOf(src))
			stop := migrate(t, src, dst, false)
			src.Do(t, "XGROUP", "CREATE", "jobs", "g", "$", "MKSTREAM")
			for i := range 3 {
				src.Do(t, "XADD", "jobs", fmt.Sprint(1+i, "-1"), "f", "v")
			}
			src.Do(t, "XREADGROUP", "GROUP", "g", "alice", "STREAMS", "jobs", ">")
			src.Do(t, "XREADGROUP", "GROUP", "g", "alice", "COUNT", "1", "STREAMS", "jobs", "1-1")
			awaitReplica(t, src, control)
			wantIncomparable(t, check(t, src, dst, verify.Config{Name: "test"}), "2-1 of \"alice\"")
			wantIncomparable(t, check(t, src, control, verify.Config{}), "2-1 of \"alice\"")
			stop()
			dst.Do(t, "XREADGROUP", "GROUP", "g", "alice", "COUNT", "1", "STREAMS", "jobs", "2-1")
			wantDifferences(t, check(t, src, dst, verify.Config{Name: "test"}),
				`value db 0 key "jobs", group "g" pending element 2 from -: source "3-1 of \"alice\", delivered 1 times", target "3-1 of \"alice\", delivered 2 times"`)
			dst.Do(t, "XCLAIM", "jobs", "g", "bob", "0", "2-1", "RETRYCOUNT", "1", "JUSTID")
			if r := check(t, src, dst, verify.Config{Name: "test"}); r.Total() != 1 || r.Incomparable != 0 {
				t.Errorf("with an entry of another consumer: %v, %v", r.First, r.FirstIncomparable)
			}
		})
	}
}

// The bytes of a vector set depend on chance.
func TestVectorSets(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	if !b.AtLeast("redis", 8, 0) {
		t.Skip("no vector sets before Redis 8.0")
	}
	src, dst := redistest.Start(t, b), redistest.Start(t, b)
	for _, key := range []string{"small", "large"} {
		n := map[string]int{"small": 30, "large": 800}[key]
		for _, s := range []*redistest.Server{src, dst} {
			cmds := make([][]string, n)
			for i := range cmds {
				cmds[i] = []string{"VADD", key, "VALUES", "3", fmt.Sprint(i), fmt.Sprint(i * i % 7), "1", fmt.Sprint("element-", i)}
			}
			replies, err := s.Pipeline(cmds...)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range replies {
				if err := r.Error(); err != nil {
					t.Skipf("this build has no vector sets: %v", err)
				}
			}
		}
	}
	wantIncomparable(t, check(t, src, dst, verify.Config{}), `key "small", the bytes of a vectorset`, `key "large", the bytes of a vectorset`)
	dst.Do(t, "VREM", "small", "element-3")
	if r := check(t, src, dst, verify.Config{}); r.Total() != 1 || !strings.Contains(r.First[0].String(), `key "small", elements: source 30, target 29`) {
		t.Errorf("with an element less: %v", r.First)
	}
}

// HyperLogLogs are equal when they count the same, whatever count is cached in them and however
// they are encoded.
func TestHyperLogLogs(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			src, dst := redistest.Start(t, b), redistest.Start(t, b)
			for _, s := range []*redistest.Server{src, dst} {
				for i := range 200 {
					s.Do(t, "PFADD", "sparse", fmt.Sprint(i))
					s.Do(t, "PFADD", "dense", fmt.Sprint(i))
				}
				s.Do(t, "PFADD", "empty")
			}
			src.Do(t, "PFCOUNT", "sparse") // caches the count
			src.Do(t, "PFDEBUG", "TODENSE", "dense")
			if src.DoString(t, "GET", "dense") == dst.DoString(t, "GET", "dense") || src.DoString(t, "GET", "sparse") == dst.DoString(t, "GET", "sparse") {
				t.Fatal("the bytes are equal")
			}
			wantEqual(t, check(t, src, dst, verify.Config{}))
			dst.Do(t, "PFADD", "sparse", "more")
			dst.Do(t, "PFADD", "dense", "more")
			wantDifferences(t, check(t, src, dst, verify.Config{}), `value db 0 key "dense"`, `value db 0 key "sparse"`)
		})
	}
}
