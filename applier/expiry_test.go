package applier

import "testing"

// What is written for a moment, in each way of writing.
func TestExpiries(t *testing.T) {
	const year = 365 * 24 * 3600 * 1000
	const now, in260 = 1_800_000_000_000, 1_800_000_000_000 + 260*year
	shifted, settling := expiries{below: distant}, expiries{below: now + 1000}
	tests := []struct {
		name       string
		x          expiries
		ms         int64
		key, field int64
	}{
		{"as it is", expiries{}, now, now, now},
		{"as it is, far away", expiries{}, keyShift, keyShift, keyShift},
		{"shifted", shifted, now, now + keyShift, now + fieldShift},
		{"shifted, over already", shifted, 1, 1 + keyShift, 1 + fieldShift},
		{"shifted, in 260 years", shifted, in260, in260 + keyShift, in260 + fieldShift},
		{"shifted, distant", shifted, distant, distant, distant},
		{"shifted, the last that is", shifted, distant - 1, keyShift + distant - 1, fieldShift + distant - 1},
		{"shifted, one that looks like a shifted key", shifted, keyShift + 1, keyShift + distant, keyShift + 1},
		{"shifted, one that looks like a shifted field", shifted, fieldShift, fieldShift, fieldShift + distant},
		{"settling, near", settling, now + 999, now + 999 + keyShift, now + 999 + fieldShift},
		{"settling, far enough", settling, now + 1000, now + 1000, now + 1000},
		{"settling, one that looks like a shifted key", settling, keyShift + 1, keyShift + distant, keyShift + 1},
		{"settling, distant", settling, 1 << 60, 1 << 60, 1 << 60},
	}
	for _, test := range tests {
		if key, field := test.x.key(test.ms), test.x.field(test.ms); key != test.key || field != test.field {
			t.Errorf("%s: got %d for a key and %d for a field, want %d and %d", test.name, key, field, test.key, test.field)
		}
		if test.x == shifted && test.ms < distant != isShifted(test.x.key(test.ms), keyShift) {
			t.Errorf("%s: isShifted of what is written: %v", test.name, test.ms >= distant)
		}
	}
}
