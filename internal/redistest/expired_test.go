package redistest

import "testing"

func TestAwaitExpiredFields(t *testing.T) {
	each(t, func(t *testing.T, b Build) {
		if !b.HasFieldTTL() {
			t.Skip("not known to this version")
		}
		s := Start(t, b)
		s.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
		s.DB(3).Do(t, "HSET", "load:hash:1", "f", "1", "g", "2")
		s.DB(3).Do(t, "HPEXPIRE", "load:hash:1", "1", "FIELDS", "1", "f")
		if !within(patience, func() bool { return expiredField(t, s) == "db3 load:hash:1" }) {
			t.Error("it does not see the field that has expired")
		}
		s.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "1")
		AwaitExpiredFields(t, s)
		if s.DB(3).DoInt(t, "HLEN", "load:hash:1") != 1 {
			t.Error("the field is still there")
		}
	})
}
