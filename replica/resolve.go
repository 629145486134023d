package replica

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/redis/rueidis"
)

// hostTimeout is what one server or sentinel is given to say what it is, from the connection on: the next one may know more.
const hostTimeout = 3 * time.Second

// Resolve tells which one server this endpoint stands for now; of a single server that is itself, and costs nothing.
//
// Of several, the first that says it is a primary; when none does, the first that can be reached; and when all of those refuse us, the first of
// these, so that the caller hears from it what is wrong. Of sentinels, the primary that the first of them names which has one to show. The error
// says of each host why it cannot serve; it has a [Stop] in its chain where trying again cannot help.
func (e Endpoint) Resolve(ctx context.Context) (Endpoint, error) {
	switch {
	case len(e.Hosts) == 0:
		return e, nil
	case e.Master != "":
		return e.askSentinels(ctx)
	}
	return e.askServers(ctx)
}

// at is one host of the endpoint, or the server that a sentinel names.
func (e Endpoint) at(addr string) Endpoint {
	e.Addr, e.Hosts, e.Master = addr, nil, ""
	return e
}

func (e Endpoint) askServers(ctx context.Context) (Endpoint, error) {
	var reachable, refusing []Endpoint
	none := &unusable{of: "servers"}
	for _, host := range e.Hosts {
		server := e.at(host)
		role, err := server.role(ctx)
		switch {
		case ctx.Err() != nil:
			return Endpoint{}, context.Cause(ctx)
		case role == rolePrimary:
			return server, nil
		case err == nil:
			reachable = append(reachable, server)
		case refuses(server, err):
			refusing = append(refusing, server)
		default:
			none.add(host, err)
		}
	}
	if found := append(reachable, refusing...); len(found) > 0 {
		return found[0], nil
	}
	return Endpoint{}, none
}

func (e Endpoint) askSentinels(ctx context.Context) (Endpoint, error) {
	none := &unusable{of: "sentinels"}
	for _, host := range e.Hosts {
		server, err := e.askSentinel(ctx, host)
		switch {
		case ctx.Err() != nil:
			return Endpoint{}, context.Cause(ctx)
		case err == nil:
			return server, nil
		}
		none.add(host, err)
	}
	return Endpoint{}, none
}

// askSentinel asks one sentinel for the primary, and the primary whether it is one: during a failover a sentinel may still name the old one.
func (e Endpoint) askSentinel(ctx context.Context, host string) (Endpoint, error) {
	sentinel := e.at(host)
	sentinel.Username, sentinel.Password = "", "" // most have none, and refuse AUTH
	ask := func() (rueidis.RedisMessage, error) {
		return sentinel.ask(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", e.Master)
	}
	reply, err := ask()
	if isRedisErr(err) && refuses(sentinel, err) && e.Password != "" {
		sentinel = e.at(host)
		reply, err = ask()
	}
	switch {
	case rueidis.IsRedisNil(err):
		return Endpoint{}, sentinel.unknownMaster(ctx, e.Master)
	case isRedisErr(err) && refuses(sentinel, err):
		return Endpoint{}, &Stop{
			Kind: Config, Reason: fmt.Sprintf("the sentinel %s refuses this user", host), Err: err,
			Hint: "a sentinel that wants a password is given the URL's user and password: they must be the same as the server's, with the right +sentinel",
		}
	case err != nil:
		return Endpoint{}, err
	}
	addr, err := primaryAddr(&reply)
	if err != nil {
		return Endpoint{}, err
	}
	server := e.at(addr)
	role, err := server.role(ctx)
	switch {
	case err != nil && !refuses(server, err): // one that refuses us tells the caller itself
		return Endpoint{}, fmt.Errorf("it names %s: %w", server, err)
	case role == roleReplica:
		return Endpoint{}, fmt.Errorf("it names %s, which is not a primary (yet)", server)
	}
	return server, nil
}

// primaryAddr reads the address that a sentinel names.
func primaryAddr(reply *rueidis.RedisMessage) (string, error) {
	addr, err := reply.AsStrSlice()
	if err != nil || len(addr) != 2 {
		return "", fmt.Errorf("it answers with %d texts instead of an address", len(addr))
	}
	host, port := addr[0], addr[1]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsFunc(host, notInHost) {
		return "", fmt.Errorf("it names %.100q, port %.20q, which is no address", host, port)
	}
	return net.JoinHostPort(host, port), nil
}

// notInHost tells a character that no host's name and no IP address has.
func notInHost(r rune) bool {
	return r <= ' ' || r == unicode.ReplacementChar || strings.ContainsRune("/@[]\"\\", r) || !unicode.IsPrint(r)
}

// masterNames reads the names of the primaries that a sentinel knows, in their order.
func masterNames(reply *rueidis.RedisMessage) (names []string) {
	masters, _ := reply.ToArray()
	for _, m := range masters {
		if fields, _ := m.AsStrMap(); fields["name"] != "" {
			names = append(names, fields["name"])
		}
	}
	slices.Sort(names)
	return names
}

// unknownMaster is the end of a search by a name that the sentinel does not have.
func (e Endpoint) unknownMaster(ctx context.Context, name string) error {
	hint := "look for the name in its configuration: sentinel monitor NAME …"
	if reply, err := e.ask(ctx, "SENTINEL", "MASTERS"); err == nil {
		hint = "it knows none at all"
		if names := masterNames(&reply); len(names) > 0 {
			hint = "it knows " + strings.Join(names, ", ")
		}
	}
	return &Stop{Kind: Config, Reason: fmt.Sprintf("the sentinel %s knows no master %q", e, name), Hint: hint}
}

// What a server says that it is.
const (
	rolePrimary = "master"
	roleReplica = "slave"
	roleHidden  = ""
)

// role asks a server what it is. One that answers, but not that, is there all the same.
func (e Endpoint) role(ctx context.Context) (string, error) {
	reply, err := e.ask(ctx, "INFO", "replication")
	if re, ok := rueidis.IsRedisErr(err); ok && (strings.HasPrefix(re.Error(), "NOPERM") || !refuses(e, err)) {
		return roleHidden, nil
	}
	if err != nil {
		return roleHidden, err
	}
	text, err := reply.ToString()
	return ParseInfo(text)["role"], err
}

// ask runs one command on a connection of its own.
func (e Endpoint) ask(ctx context.Context, command ...string) (rueidis.RedisMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, hostTimeout, fmt.Errorf("no answer within %v", hostTimeout))
	defer cancel()
	option := e.Until(ctx).ClientOption()
	option.ClientName = ""                                             // a name would need one more permission
	option.DisableAutoPipelining, option.PipelineMultiplex = false, -1 // one connection
	var reply rueidis.RedisMessage
	client, err := rueidis.NewClient(option)
	if err == nil {
		defer client.Close()
		reply, err = client.Do(ctx, client.B().Arbitrary(command...).Build()).ToMessage()
	}
	if err != nil && ctx.Err() != nil { // else it would say that its connection is closed
		err = context.Cause(ctx)
	}
	return reply, err
}

// refuses tells whether an error is a server's refusal of our name, password or certificate, or ours of its certificate.
func refuses(e Endpoint, err error) bool { return AsStop(AuthStop("server", e, err)) != nil }

func isRedisErr(err error) bool {
	_, ok := rueidis.IsRedisErr(err)
	return ok
}

// unusable says of every host why it cannot serve. Its chain has all the reasons.
type unusable struct {
	of      string // "servers" or "sentinels"
	reasons []error
}

func (u *unusable) add(host string, err error) {
	u.reasons = append(u.reasons, fmt.Errorf("%s: %w", host, err))
}

func (u *unusable) Error() string {
	texts := make([]string, len(u.reasons))
	for i, r := range u.reasons {
		texts[i] = r.Error()
	}
	return "none of the " + u.of + " can serve (" + strings.Join(texts, "; ") + ")"
}

func (u *unusable) Unwrap() []error { return u.reasons }
