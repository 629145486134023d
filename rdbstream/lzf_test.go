package rdbstream

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hdt3213/rdb/lzf"
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

func FuzzLZF(f *testing.F) {
	f.Add([]byte("\x02abc\x20\x02"), uint64(6))
	f.Add([]byte("\x00a\xe0\xff\x00"), uint64(265))
	f.Fuzz(func(t *testing.T, p []byte, size uint64) {
		// Whatever it is: no panic, and no more than was asked for.
		got, err := appendLZF(nil, p, size)
		if uint64(len(got)) > size {
			t.Fatalf("%d bytes of %d", len(got), size)
		}
		if err == nil && uint64(len(got)) != size {
			t.Fatalf("%d bytes, not %d", len(got), size)
		}
		if len(p) == 0 || size > 1<<20 {
			return
		}
		// What a compressor makes of it becomes the same again.
		packed, err := lzf.Compress(p)
		if err != nil {
			return
		}
		back, err := appendLZF(nil, packed, uint64(len(p)))
		if err != nil || !bytes.Equal(back, p) {
			t.Fatalf("got %q, %v, want %q", back, err, p)
		}
	})
}
