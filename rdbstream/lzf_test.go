package rdbstream

import (
	"bytes"
	"strings"
	"testing"
)

func TestLZF(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		size     uint64
		want     string // empty: an error
	}{
		{"literals", "\x02abc", 3, "abc"},
		{"overlapping reference", "\x00a\xe0\x00\x00", 10, "aaaaaaaaaa"},
		{"overlap of a period of two", "\x01ab\x60\x01", 7, "abababa"},
		{"short reference", "\x02abc\x20\x02", 6, "abcabc"},
		{"longest reference", "\x00a\xe0\xff\x00", 265, strings.Repeat("a", 265)},
		{"literals cut off", "\x02ab", 3, ""},
		{"reference cut off", "\x00a\x20", 4, ""},
		{"long reference cut off", "\x00a\xe0", 4, ""},
		{"long reference's distance cut off", "\x00a\xe0\x00", 10, ""},
		{"reference before the beginning", "\x00a\x20\x01", 4, ""},
		{"longer than it says", "\x02abc", 2, ""},
		{"reference longer than it says", "\x00a\xe0\x00\x00", 9, ""},
		{"shorter than it says", "\x02abc", 4, ""},
		{"claims terabytes", "\x02abc", 1 << 40, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := appendLZF([]byte("before"), []byte(tc.in), tc.size)
			if tc.want == "" {
				if err == nil {
					t.Errorf("got %q, want an error", got)
				}
				return
			}
			if want := "before" + tc.want; string(got) != want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// slowLZF decompresses byte by byte, without any check: for what is known to be right.
func slowLZF(p []byte) (out []byte) {
	for len(p) > 0 {
		n := int(p[0]) + 1
		if n <= 32 {
			out, p = append(out, p[1:1+n]...), p[1+n:]
			continue
		}
		high := int(p[0] & 31)
		n = int(p[0]>>5) + 2
		if n == 9 {
			n, p = n+int(p[1]), p[1:]
		}
		distance := high<<8 + int(p[1]) + 1
		for range n {
			out = append(out, out[len(out)-distance])
		}
		p = p[2:]
	}
	return out
}

// FuzzLZF: whatever comes in, there is no panic, never more than was asked for, and what is accepted is right.
func FuzzLZF(f *testing.F) {
	f.Add([]byte("\x02abc\x20\x02"), uint64(6))
	f.Add([]byte("\x00a\xe0\xff\x00"), uint64(265))
	f.Add([]byte("\x01ab\x60\x01"), uint64(7))
	f.Fuzz(func(t *testing.T, p []byte, size uint64) {
		got, err := appendLZF(nil, p, size)
		if uint64(len(got)) > size {
			t.Fatalf("%d bytes of %d", len(got), size)
		}
		if err == nil && (uint64(len(got)) != size || !bytes.Equal(got, slowLZF(p))) {
			t.Fatalf("got %q, want %q", got, slowLZF(p))
		}
	})
}
