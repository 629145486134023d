package redistest

import (
	"fmt"
	"strconv"
	"strings"
)

// StartCluster starts n primaries of that build as one cluster, with the slots shared evenly, and returns when each of them sees the whole
// cluster as well.
func StartCluster(t TB, b Build, n int, opts ...Option) []*Server {
	t.Helper()
	const slots = 16384
	nodes := make([]*Server, n)
	for i := range nodes {
		nodes[i] = Start(t, b, append([]Option{Cluster()}, opts...)...)
		add := []string{"CLUSTER", "ADDSLOTS"} // ADDSLOTSRANGE came with 7.0
		for slot := i * slots / n; slot < (i+1)*slots/n; slot++ {
			add = append(add, strconv.Itoa(slot))
		}
		nodes[i].Do(t, add...)
		nodes[i].Do(t, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for _, node := range nodes[1:] {
		nodes[0].Do(t, "CLUSTER", "MEET", node.opts.host, strconv.Itoa(node.port))
	}
	for _, node := range nodes {
		var state string
		if !within(patience, func() bool {
			state = node.DoString(t, "CLUSTER", "INFO")
			return strings.Contains(state, "cluster_state:ok") && strings.Contains(state, fmt.Sprintf("cluster_known_nodes:%d\r", n)) &&
				strings.Contains(state, fmt.Sprintf("cluster_size:%d\r", n))
		}) {
			t.Fatalf("the cluster does not form: %s", state)
		}
	}
	return nodes
}
