package redistest

import (
	"strconv"
	"strings"
)

// AwaitExpiredFields waits until a server has deleted, and told its replicas of, all fields of a load's hashes whose time is over; it is for after a load. A command may give an
// expiry time to a field that has expired and is still there: the server finds nothing to do, and its replicas do it. Until they hear of the field's end they are not equal.
func AwaitExpiredFields(t TB, s *Server) {
	t.Helper()
	var left string
	if !within(patience, func() bool { left = expiredField(t, s); return left == "" }) {
		t.Fatalf("%s does not delete the fields that have expired of %s", s.Build.Name, left)
	}
}

// expiredField names a hash of a load with a field that has expired and was not deleted: to count a hash's fields is to count it, to list them is not. Empty for none.
func expiredField(t TB, s *Server) string {
	t.Helper()
	if !s.Build.HasFieldTTL() {
		return ""
	}
	for name := range s.Info(t, "keyspace") {
		number, isDB := strings.CutPrefix(name, "db")
		n, err := strconv.Atoi(number)
		if !isDB || err != nil {
			continue
		}
		hashes := append(s.DB(n).DoStrings(t, "KEYS", "load:hash:*"), s.DB(n).DoStrings(t, "KEYS", "load:wide:*")...)
		var ask [][]string
		for _, key := range hashes {
			ask = append(ask, []string{"HLEN", key}, []string{"HKEYS", key})
		}
		replies, err := s.DB(n).Pipeline(ask...)
		if err != nil {
			t.Fatalf("look for fields that have expired: %v", err)
		}
		for i, key := range hashes {
			count, _ := replies[2*i].AsInt64() // another type by now: none
			if fields, _ := replies[2*i+1].AsStrSlice(); count > int64(len(fields)) {
				return name + " " + key
			}
		}
	}
	return ""
}
