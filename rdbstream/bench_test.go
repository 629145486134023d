package rdbstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
)

// workloads are RDBs of some MB, by what is in them.
func workloads() map[string][]byte {
	strings := newRDB("REDIS0011").raw(opSelectDB, 0)
	for i := range 100_000 {
		strings.key(TypeString, fmt.Sprintf("key:%08d", i)).str(fmt.Sprintf("value-%08d", i))
	}
	mixed := newRDB("REDIS0011").raw(opSelectDB, 0)
	for i := range 20_000 {
		mixed.raw(opExpireTimeMs).le(1700000000000).raw(TypeString, 0xc2, byte(i), byte(i>>8), 1, 0, 0xc1, byte(i), 3)
		mixed.key(TypeHashListpack, fmt.Sprintf("hash:%d", i)).str(string(randomBytes(200)))
		mixed.raw(opIdle).num(uint64(i)).key(TypeStreamListpacks3, fmt.Sprintf("stream:%d", i)).
			num(1).str("0123456789abcdef", string(randomBytes(100))).num(10, 1700000000000, 0, 1, 0, 0, 0, 10, 0)
	}
	sets := newRDB("REDIS0011").raw(opSelectDB, 0)
	for i := range 20 {
		sets.key(TypeSet, fmt.Sprintf("set:%d", i)).num(20_000)
		for j := range 20_000 {
			sets.str(fmt.Sprintf("member:%d", j))
		}
	}
	large := newRDB("REDIS0011").raw(opSelectDB, 0)
	for i := range 16 {
		large.key(TypeString, fmt.Sprintf("large:%d", i)).str(string(randomBytes(900 << 10)))
	}
	kilo := newRDB("REDIS0011").raw(opSelectDB, 0)
	for i := range 10_000 {
		kilo.key(TypeString, fmt.Sprintf("key:%d", i)).str(string(randomBytes(1000)))
	}
	return map[string][]byte{
		"small strings": strings.end(), "mixed with expiry": mixed.end(), "1 kB values": kilo.end(), "sets of 20k": sets.end(), "900 kB values": large.end(),
	}
}

func BenchmarkNext(b *testing.B) {
	for name, p := range workloads() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			src := bytes.NewReader(p)
			br := bufio.NewReaderSize(src, 256<<10)
			entries := 0
			var e Entry
			for b.Loop() {
				src.Reset(p)
				br.Reset(src)
				r := NewReader(br)
				var err error
				for ; err == nil; err = r.Next(&e) {
					entries++
				}
				if !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(entries)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func BenchmarkAppendDump(b *testing.B) {
	for _, n := range []int{16, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := &Entry{Type: TypeString, Value: randomBytes(n)}
			b.SetBytes(int64(DumpSize(e)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst, _ = AppendDump(dst[:0], e)
			}
		})
	}
}

// The hot path allocates nothing per entry, whether an entry lies whole in the buffer, straddles two fillings, or has to be decoded.
func TestAllocations(t *testing.T) {
	const each = 50
	p := newRDB("REDIS0011")
	for i := range 4000 {
		p.raw(opExpireTimeMs).le(1).raw(TypeString, 0xc1, byte(i), byte(i>>8)).str("int key")
		p.raw(TypeHashListpack, 0xc3, 5, 10, 0, 'a', 0xe0, 0, 0).str(string(randomBytes(300))) // an LZF key
		p.key(TypeSet, "set").num(3).str("a", "b", "c").raw(opAux).str("slot-info", "1,2,3")
	}
	for _, size := range []int{512, 64 << 10} {
		r := NewReader(bufio.NewReaderSize(bytes.NewReader(*p), size))
		var e Entry
		var dst []byte
		read := func() {
			for range each {
				if err := r.Next(&e); err != nil {
					t.Fatal(err)
				}
				if e.Kind == KindKey {
					dst, _ = AppendDump(dst[:0], &e)
				}
				if s := r.State(); s.Offset != e.End {
					t.Fatalf("state at %d, behind an entry that ends at %d", s.Offset, e.End)
				}
			}
		}
		for range 20 { // until the buffers have their size
			read()
		}
		if got := testing.AllocsPerRun(200, read); got != 0 {
			t.Errorf("buffer of %d: %v allocations for %d entries", size, got, each)
		}
	}
}
