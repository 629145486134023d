package applier_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/tidwall/redcon"

	"redferry/internal/redistest"
)

// replay sends raw commands to a server and fails the test when one of them is refused.
func replay(t *testing.T, s *redistest.Server, raw []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw = redcon.AppendArray(raw, 2)
	raw = redcon.AppendBulkString(raw, "ECHO")
	raw = redcon.AppendBulkString(raw, "end of replay")
	if _, err := conn.Write(raw); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(fmt.Errorf("replay: %w", err))
		}
		if strings.HasPrefix(line, "-") {
			t.Errorf("replay: %s", line)
		}
		if strings.HasPrefix(line, "end of replay") {
			return
		}
	}
}
