package applier

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"redferry/applier/checkpoint"
	"redferry/internal/redistest"
	"redferry/replica"
)

// fillShifted gives a server so many keys with a shifted expiry, an hour from now.
func fillShifted(t redistest.TB, s *redistest.Server, keys int) {
	due := float64(time.Now().Add(time.Hour).UnixMilli())
	for i := 0; i < keys; i += 10_000 {
		s.Do(t, "EVAL", `for i = ARGV[1], ARGV[1] + 9999 do
			redis.call('SET', 'some:key:' .. i, 'value')
			redis.call('PEXPIREAT', 'some:key:' .. i, string.format('%.0f', 2^52 + ARGV[2] + i))
		end`, "0", strconv.Itoa(i), strconv.FormatFloat(due, 'f', 0, 64))
	}
}

// BenchmarkSettle settles a million keys, on each server: go test ./applier -run '^$' -bench 'Settle$' -benchtime 1x
func BenchmarkSettle(b *testing.B) {
	const keys = 1_000_000
	for _, build := range redistest.Servers(b) {
		b.Run(build.Name, func(b *testing.B) {
			s := redistest.Start(b, build)
			client, err := s.Client(0)
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			s.Do(b, "HSET", checkpoint.OwnerKey("test"), "epoch", "7")
			var first, second, cpu float64
			for b.Loop() {
				b.StopTimer()
				fillShifted(b, s, keys)
				x := &settler{}
				began, used := time.Now(), cpuTime(b, s)
				x.report = func(at Settling) {
					if at.Pass == 2 && at.Looked == 0 {
						first, cpu = time.Since(began).Seconds(), cpuTime(b, s)-used
					}
				}
				b.StartTimer()
				if err := x.run(context.Background(), client, &owner{name: "test", epoch: 7}); err != nil || x.at.Settled != keys {
					b.Fatalf("%+v, %v", x.at, err)
				}
				second = time.Since(began).Seconds() - first
			}
			b.ReportMetric(keys/first, "settled/s")
			b.ReportMetric(keys/second, "looked/s")
			b.ReportMetric(cpu*1e6/keys, "cpu-µs/settled")
		})
	}
}

// BenchmarkSettleBesideStream tells what settling does to a stream that the target cannot carry out fast enough: the same commands are applied in turn without and with a
// pass beside them, which never comes to its end. go test ./applier -run '^$' -bench SettleBesideStream -benchtime 9x
func BenchmarkSettleBesideStream(b *testing.B) {
	const keys = 1_000_000
	for _, build := range redistest.Servers(b) {
		b.Run(build.Name, func(b *testing.B) {
			s := redistest.Start(b, build)
			a := streaming(b, s.Addr())
			var alone, beside []float64
			var rate float64
			for b.Loop() {
				fillShifted(b, s, keys)
				alone = append(alone, a.flood(b).Seconds())

				ctx, stop := context.WithCancel(b.Context())
				done := make(chan error)
				began := time.Now()
				go func() { done <- a.Settle(ctx, 0) }()
				beside = append(beside, a.flood(b).Seconds())
				stop()
				if err := <-done; !errors.Is(err, context.Canceled) {
					b.Fatalf("settling has ended with %v", err)
				}
				rate = float64(a.Status.Settled.Load()) / time.Since(began).Seconds()
			}
			slices.Sort(alone)
			slices.Sort(beside)
			without, with := alone[len(alone)/2], beside[len(beside)/2]
			b.ReportMetric(floodCommands/without, "commands/s-alone")
			b.ReportMetric(floodCommands/with, "commands/s-beside")
			b.ReportMetric(100*(with/without-1), "%-slower")
			b.ReportMetric(rate, "settled/s")
			b.Logf("s alone %.2f, beside %.2f", alone, beside)
		})
	}
}

const floodCommands = 1_000_000

// flood applies commands as fast as the target takes them, and tells how long that took.
func (s *stream) flood(b *testing.B) time.Duration {
	began := time.Now()
	for i := range floodCommands {
		if err := s.set(b.Context(), i*7919%100_000); err != nil {
			b.Fatal(err)
		}
	}
	if err := replica.Reach(b.Context(), s, s.at.Offset); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

// cpuTime is the processor time that a server has used, in seconds.
func cpuTime(t redistest.TB, s *redistest.Server) float64 {
	info := s.Info(t, "cpu")
	user, err1 := strconv.ParseFloat(info["used_cpu_user"], 64)
	sys, err2 := strconv.ParseFloat(info["used_cpu_sys"], 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatalf("read the server's processor time: %v", err)
	}
	return user + sys
}
