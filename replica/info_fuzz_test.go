package replica

import (
	"encoding/json"
	"testing"
)

// What a server says of itself is read without a panic, whatever it is, and what is read of it is within its bounds.
func FuzzServerWords(f *testing.F) {
	f.Add("role:master\r\nmaster_replid:" + "0123456789012345678901234567890123456789" + "\r\nmaster_repl_offset:7\r\n" +
		"repl_backlog_active:1\r\nrepl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:7\r\n" +
		"db0:keys=12,expires=3,avg_ttl=0\r\ndb1:keys=1,expires=1,avg_ttl=0,subexpiry=1\r\nredis_version:7.0.15\r\n")
	f.Add("id=3 addr=127.0.0.1:1 name=sentinel-x flags=S db=0\nid=4 addr=127.0.0.1:2 name= flags=xb\n")
	f.Add("db0:keys=-1,expires=9223372036854775808")
	f.Fuzz(func(t *testing.T, text string) {
		info := ParseInfo(text)
		if b, err := ParseBacklog(info); err == nil {
			b.Has(Position{ReplID: b.ReplID, Offset: 7})
		}
		there, err := Keyspace(info)
		for _, d := range there {
			if err == nil && (d.Number < 0 || d.Keys < 0) {
				t.Errorf("%q: database %d has %d keys", text, d.Number, d.Keys)
			}
		}
		isClient(text)
		canStopWrites(text)
	})
}

// The note of a cutover, of a file that was cut or of a hostile target, is an error or one that can be gone by.
func FuzzCutoverNote(f *testing.F) {
	f.Add(`{"addr":"h:1","run_id":"x","refuses":true,"min_replicas_to_write":"0","min_replicas_max_lag":"10","paused":true}`, "1000000")
	f.Add(`{"refuses":true}`, "")
	f.Add(`[]`, "0")
	f.Fuzz(func(t *testing.T, text, now string) {
		note, err := parseCutoverNote(text)
		if err != nil {
			return
		}
		_ = note.byHand()
		was := note.without(map[string]string{minReplicas: now, maxLag: now})
		if len(was) != 2 {
			t.Errorf("%q: %v", text, was)
		}
		again, err := json.Marshal(note)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := parseCutoverNote(string(again)); err != nil || second.MinReplicas != note.MinReplicas {
			t.Errorf("%q becomes %q: %v", text, again, err)
		}
	})
}
