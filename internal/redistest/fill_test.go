package redistest

import (
	"strings"
	"testing"
	"time"
)

// far are the keys that outlive any migration.
func far(keys []string) (n int) {
	for _, key := range keys {
		if strings.HasPrefix(key, "far:") {
			n++
		}
	}
	return n
}

func TestFillWithTTLs(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		t.Parallel()
		s := Start(t, b)
		Fill(t, s, FillOptions{Keys: 2000, Databases: 1, Volatile: 0.9, MinTTL: time.Minute, MaxTTL: 2 * time.Minute, Expired: 30})
		all := s.DoInt(t, "DBSIZE")
		wantFar, expired := 3, int64(30)
		if b.HasFieldTTL() {
			wantFar = 6
		}
		keys := s.DoStrings(t, "KEYS", "*")
		if got := far(keys); got != wantFar {
			t.Errorf("%d keys of far TTLs, want %d", got, wantFar)
		}
		if got := all - int64(len(keys)); got != expired {
			t.Errorf("%d keys are expired and not deleted, want %d", got, expired)
		}
		if b.HasFieldTTL() && s.DoInt(t, "HLEN", "expired:field:7") != 3 {
			t.Error("expired:field:7 has not its three fields, of which one has expired")
		}
		var ask [][]string
		for _, key := range keys {
			ask = append(ask, []string{"PTTL", key})
		}
		ttls, err := s.Pipeline(ask...) // at once: they get less meanwhile
		if err != nil {
			t.Fatal(err)
		}
		volatile := 0
		for i, key := range keys {
			ms, err := ttls[i].AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case strings.HasPrefix(key, "far:"):
				if want := int64(59 * 365 * 24 * 3600 * 1000); ms < want && ms >= 0 {
					t.Errorf("%s has a TTL of %d ms, want 60 years at least", key, ms)
				}
			case ms > 120_000 || ms >= 0 && ms < 30_000:
				t.Errorf("%s has a TTL of %d ms, want one or two minutes", key, ms)
			case ms >= 0:
				volatile++
			}
		}
		if volatile < 1700 || volatile > 1900 {
			t.Errorf("%d of %d keys have a TTL, want about nine tenths", volatile, len(keys))
		}
	})
}
