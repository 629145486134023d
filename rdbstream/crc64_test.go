package rdbstream

import (
	"fmt"
	"testing"
)

func TestCRC64(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     uint64
	}{
		{"nothing", "", 0},
		{"check value of crc64.c", "123456789", 0xe9c6d914c4b8d9ca},
	} {
		if got := CRC64(0, []byte(tc.in)); got != tc.want {
			t.Errorf("%s: got %x, want %x", tc.name, got, tc.want)
		}
	}
}

// Every length takes another way through the loops of 16, 8 and 1 bytes; bit by bit there is only one.
func TestCRC64AgainstBitwise(t *testing.T) {
	data := make([]byte, 100)
	for i := range data {
		data[i] = byte(i*i + 7*i)
	}
	for n := range data {
		for split := 0; split <= n; split += 5 {
			want := uint64(0)
			for _, b := range data[:n] {
				want ^= uint64(b)
				for range 8 {
					want = want>>1 ^ jones*(want&1)
				}
			}
			if got := CRC64(CRC64(0, data[:split]), data[split:n]); got != want {
				t.Fatalf("%d bytes split at %d: got %x, want %x", n, split, got, want)
			}
		}
	}
}

func BenchmarkCRC64(b *testing.B) {
	for _, n := range []int{16, 100, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := randomBytes(n)
			b.SetBytes(int64(n))
			for b.Loop() {
				CRC64(0, p)
			}
		})
	}
}
