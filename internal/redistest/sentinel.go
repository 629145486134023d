package redistest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Master is the name by which the sentinels of [StartSentinels] know their primary.
const Master = "mymaster"

// StartSentinels starts n sentinels of the primary's build, with its TLS, that fail it over when most of them miss it for half a second. It
// returns when each of them knows the primary, its connected replicas and the other sentinels, so attach the replicas first.
func StartSentinels(t TB, primary *Server, n int, opts ...Option) []*Server {
	t.Helper()
	lines := []string{
		fmt.Sprintf("sentinel monitor %s %s %d %d", Master, primary.opts.host, primary.port, n/2+1),
		"sentinel down-after-milliseconds " + Master + " 500",
		"sentinel failover-timeout " + Master + " 4000",
	}
	if primary.opts.password != "" {
		lines = append(lines, "sentinel auth-pass "+Master+" "+primary.opts.password)
	}
	if primary.tls != nil {
		lines = append(lines, "tls-replication yes")
	}
	sentinel := func(o *options) { o.sentinel, o.tls, o.certificates = true, primary.tls != nil, primary.tls }
	replicas := primary.Info(t, "replication")["connected_slaves"]
	sentinels := make([]*Server, n)
	for i := range sentinels {
		sentinels[i] = Start(t, primary.Build, append([]Option{sentinel, Config(lines...)}, opts...)...)
	}
	for _, s := range sentinels {
		var state map[string]string
		if !within(patience, func() bool {
			m := s.Do(t, "SENTINEL", "MASTER", Master)
			state, _ = m.AsStrMap()
			return state["flags"] == "master" && state["num-slaves"] == replicas && state["num-other-sentinels"] == strconv.Itoa(n-1)
		}) {
			t.Fatalf("the sentinel at %s does not find all that it should watch: %v", s.Addr(), state)
		}
	}
	return sentinels
}

// AwaitMaster waits until the sentinel names the server as the primary. A sentinel cuts the clients of a server that it promotes, so ours
// connect to it anew.
func AwaitMaster(t TB, sentinel, server *Server) {
	t.Helper()
	var named string
	if !within(patience, func() bool {
		addr := sentinel.DoStrings(t, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", Master)
		named = net.JoinHostPort(addr[0], addr[1])
		return named == server.Addr()
	}) {
		t.Fatalf("the sentinel at %s names %s, want %s", sentinel.Addr(), named, server.Addr())
	}
	server.closeClients()
}

// SentinelURL is how a client is told of the primary behind sentinels; userinfo is "user:password@", or empty.
func SentinelURL(userinfo string, sentinels ...*Server) string {
	scheme := "redis"
	if sentinels[0].tls != nil {
		scheme = "rediss"
	}
	return fmt.Sprintf("%s+sentinel://%s%s/%s", scheme, userinfo, Addrs(sentinels...), Master)
}

// Addrs are the servers' host:port with commas between, as in a URL of several hosts.
func Addrs(servers ...*Server) string {
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s.Addr()
	}
	return strings.Join(addrs, ",")
}
