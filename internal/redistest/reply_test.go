package redistest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"
)

// A reply of words is what a server's would be.
func TestReplyOf(t *testing.T) {
	t.Parallel()
	whole := ReplyOf(`( a :-12 ~ "b\x20c" ( ) ( :1 ( d ) ) !ERR`)
	list, err := whole.ToArray()
	if err != nil || len(list) != 7 {
		t.Fatalf("%d elements, %v; want 7", len(list), err)
	}
	if text, err := list[0].ToString(); err != nil || text != "a" {
		t.Errorf("got %q, %v", text, err)
	}
	if n, err := list[1].ToInt64(); err != nil || n != -12 {
		t.Errorf("got %d, %v", n, err)
	}
	if !list[2].IsNil() {
		t.Error("nil is none")
	}
	if text, err := list[3].ToString(); err != nil || text != "b c" {
		t.Errorf("got %q, %v", text, err)
	}
	nested, err := list[5].ToAny()
	if diff := cmp.Diff([]any{int64(1), []any{"d"}}, nested); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	if re, ok := rueidis.IsRedisErr(list[6].Error()); !ok || re.Error() != "ERR" {
		t.Errorf("got %v", list[6].Error())
	}
	if none := ReplyOf(""); !none.IsNil() {
		t.Error("no words are no nil")
	}
}
