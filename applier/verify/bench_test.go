package verify_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"redferry/applier/verify"
	"redferry/internal/redistest"
)

// BenchmarkFull compares KEYS small keys (100,000), a tenth of them strings with a TTL and the rest hashes. keys/s counts each key once.
func BenchmarkFull(b *testing.B) {
	src, dst, n := benchTwins(b)
	for b.Loop() {
		report, err := verify.Run(context.Background(), verify.Config{Source: endpoint(b, src.URL()), Target: endpoint(b, dst.URL())})
		if err != nil || !report.Equal() {
			b.Fatalf("%v: %v", err, report.First)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}

// BenchmarkCount is what a cutover does by default while nobody can write to the source.
func BenchmarkCount(b *testing.B) {
	src, dst, _ := benchTwins(b)
	for b.Loop() {
		report, err := verify.Run(context.Background(), verify.Config{Source: endpoint(b, src.URL()), Target: endpoint(b, dst.URL()), Mode: verify.Count})
		if err != nil || !report.Equal() {
			b.Fatalf("%v: %v", err, report.First)
		}
	}
}

// BenchmarkOneByOne is the usual other way, on the same data: SCAN, and for each key and side one round trip each for TYPE, PTTL and DUMP. It looks at the first 20,000 keys.
func BenchmarkOneByOne(b *testing.B) {
	src, dst, n := benchTwins(b)
	n = min(n, 20_000)
	for b.Loop() {
		for i := range n {
			key := fmt.Sprintf("hash:%d", i)
			if i%10 == 0 {
				key = fmt.Sprintf("string:%d", i)
			}
			var dumps [2]string
			for side, s := range []*redistest.Server{src, dst} {
				s.Do(b, "TYPE", key)
				s.Do(b, "PTTL", key)
				dumps[side] = s.DoString(b, "DUMP", key)
			}
			if dumps[0] != dumps[1] {
				b.Fatalf("%s differs", key)
			}
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}

func benchTwins(b *testing.B) (src, dst *redistest.Server, n int) {
	b.Helper()
	if n, _ = strconv.Atoi(os.Getenv("KEYS")); n == 0 {
		n = 100_000
	}
	build := redistest.Latest(b)
	if name := os.Getenv("SERVER"); name != "" {
		build = redistest.ServerNamed(b, name)
	}
	src, dst = twins(b, build, func(s *redistest.Server) { fillPlain(b, s, n) })
	return src, dst, n
}
