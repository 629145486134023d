package replica

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Endpoint is a server to connect to, as its URL gives it: redis://, rediss:// or unix://. It may also stand for the primary among several
// servers, or for the one that sentinels know (redis+sentinel://); which that is now, [Endpoint.Resolve] tells.
type Endpoint struct {
	Network  string   // "tcp" or "unix"
	Addr     string   // host:port, or the socket's path; empty where there are Hosts
	Hosts    []string // host:port of each of several servers, or of the sentinels
	Master   string   // the name by which these sentinels know the primary; empty where Hosts are the servers
	Username string
	Password string
	TLS      *tls.Config // nil without TLS; without a ServerName, each host's own name is verified

	own   *ownConns       // which are noted there; nil where nobody wants to know
	until context.Context // that its connections end with; nil where they outlive every call, as a run's do
}

// Until is the same endpoint, whose connections all end with ctx. rueidis connects under no context of its caller's, and while it waits for a reply it looks at deadlines only:
// a server that hangs would keep a caller waiting that has given up.
func (e Endpoint) Until(ctx context.Context) Endpoint {
	e.until = ctx
	return e
}

// TLSFiles are the parts of a TLS set-up that do not fit into a URL.
type TLSFiles struct {
	CA         string // PEM file of the authorities to trust instead of the system's
	Cert, Key  string // PEM files of the client's certificate
	ServerName string // the name to verify instead of each host's own
	Insecure   bool   // do not verify the server
}

// ParseEndpoint reads a server's URL. The error names what is wrong with it and never contains the password.
func ParseEndpoint(raw string, files TLSFiles) (Endpoint, error) {
	urls, err := splitHosts(raw)
	if errors.Is(err, errTwoUsers) {
		return Endpoint{}, err
	}
	if err != nil { // its text quotes the URL or a piece of it, which may be one of the password
		return Endpoint{}, errors.New("not a URL of the form redis://host[:port][,host[:port]…] (percent-encode special characters of a password: / is %2F)")
	}
	u := urls[0]
	e := Endpoint{Network: "tcp", Username: u.User.Username()}
	e.Password, _ = u.User.Password()
	if u.RawQuery != "" || u.Fragment != "" {
		return Endpoint{}, errors.New("a URL takes no ?query or #fragment here")
	}
	if u.Scheme == "unix" {
		if u.Path == "" || u.Host != "" || u.User != nil && strings.Contains(u.Path, "@") { // with an @ the path may be a part of the password
			return Endpoint{}, errors.New("write a unix socket as unix:///path/to/redis.sock; in a password, / is %2F and @ is %40")
		}
		e.Network, e.Addr = "unix", u.Path
		return e, nil
	}
	if e.Hosts, e.Master, err = hosts(urls); err != nil {
		return Endpoint{}, err
	}
	if len(e.Hosts) == 1 && e.Master == "" {
		e.Addr, e.Hosts = e.Hosts[0], nil
	}
	if strings.HasPrefix(u.Scheme, "rediss") {
		if e.TLS, err = files.config(); err != nil {
			return Endpoint{}, err
		}
	} else if files != (TLSFiles{}) {
		return Endpoint{}, fmt.Errorf("TLS options are given, but the scheme is %s://; use %s://", u.Scheme, strings.Replace(u.Scheme, "redis", "rediss", 1))
	}
	return e, nil
}

var errTwoUsers = errors.New("user and password stand once, before the first host; in a password, @ is %40")

// splitHosts parses a URL with each of its hosts alone: package url reads one. All else is the same in all of them.
func splitHosts(raw string) ([]*url.URL, error) {
	_, rest, _ := strings.Cut(raw, "://")
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if strings.Count(authority, "@") > 1 && strings.Contains(authority, ",") {
		return nil, errTwoUsers
	}
	list := authority[strings.LastIndexByte(authority, '@')+1:]
	before, after := raw[:len(raw)-len(rest)+len(authority)-len(list)], rest[len(authority):]
	var urls []*url.URL
	for host := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(before + host + after)
		if err != nil {
			return nil, err
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// hosts checks what is special to a scheme, and gives host:port of each host, and the master's name of a Sentinel URL.
func hosts(urls []*url.URL) (list []string, master string, err error) {
	port := "6379"
	switch u := urls[0]; u.Scheme {
	case "redis", "rediss":
		if u.Path != "" && u.Path != "/" { // not quoted: it begins inside a password that has a slash
			return nil, "", errors.New("a URL has no path here: a database cannot be chosen, redferry moves all of them; in a password, / is %2F")
		}
	case "redis+sentinel", "rediss+sentinel":
		port, master = "26379", strings.TrimPrefix(u.Path, "/")
		if master == "" || strings.Trim(master, masterLetters) != "" { // not quoted, either
			return nil, "", errors.New("a Sentinel URL ends in /NAME, as in `sentinel monitor NAME …`: letters, digits, . - _ alone; in a password, / is %2F")
		}
	default:
		return nil, "", fmt.Errorf("scheme %q: use redis://, rediss:// (TLS), redis+sentinel://, rediss+sentinel:// or unix://", u.Scheme)
	}
	for _, u := range urls {
		switch {
		case u.Hostname() == "" && len(urls) > 1:
			return nil, "", errors.New("no host before or behind a comma")
		case u.Hostname() == "":
			return nil, "", errors.New("no host")
		}
		list = append(list, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)))
	}
	return list, master, nil
}

// masterLetters are what Sentinel allows in the name of a master.
const masterLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_"

func (f TLSFiles) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName, InsecureSkipVerify: f.Insecure}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("read the CA file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in CA file %s", f.CA)
		}
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("a client certificate needs both its certificate and its key file")
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("load the client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// String names the server, or all that it may be, in messages: no user, no password.
func (e Endpoint) String() string {
	switch {
	case e.Master != "":
		return e.Master + " (Sentinel " + strings.Join(e.Hosts, ",") + ")"
	case len(e.Hosts) > 0:
		return strings.Join(e.Hosts, ",")
	}
	return e.Addr
}

// Dial opens a connection, with TLS where the endpoint has it, to the server that it stands for now. Names are resolved anew each time.
func (e Endpoint) Dial(ctx context.Context) (net.Conn, error) {
	if e.until == nil {
		return e.dial(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.until, cancel)()
	conn, err := e.dial(ctx)
	if err == nil {
		context.AfterFunc(e.until, func() { _ = conn.Close() })
	}
	return conn, err
}

func (e Endpoint) dial(ctx context.Context) (net.Conn, error) {
	server, err := e.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := server.dialOne(ctx)
	if err == nil && e.own != nil {
		conn = e.own.track(conn)
	}
	return conn, err
}

// dialOne connects to a single server.
func (e Endpoint) dialOne(ctx context.Context) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	if e.TLS == nil {
		return d.DialContext(ctx, e.Network, e.Addr)
	}
	conn, err := (&tls.Dialer{NetDialer: d, Config: e.TLS}).DialContext(ctx, e.Network, e.Addr)
	if op := new(net.OpError); errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &op) { // a server without TLS waits for the end of a line
		return nil, fmt.Errorf("it does not answer to TLS; rediss:// wants its tls-port: %w", err)
	}
	return conn, err
}

// ClientOption is a rueidis client's set-up for this endpoint: one plain connection at a time, RESP2, no caching, and no retries of its own, because a
// write whose reply was lost must be answered by the checkpoint. Each of its connections goes to the server that the endpoint stands for when it is opened.
func (e Endpoint) ClientOption() rueidis.ClientOption {
	return rueidis.ClientOption{
		InitAddress:           []string{e.String()}, // only its name: Dial knows where to go
		Username:              e.Username,
		Password:              e.Password,
		ClientName:            "redferry",
		ClientSetInfo:         rueidis.DisableClientSetInfo,
		ForceSingleClient:     true,
		AlwaysRESP2:           true,
		DisableCache:          true,
		DisableRetry:          true,
		DisableAutoPipelining: true,
		DialCtxFn: func(ctx context.Context, _ string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
			return e.Dial(ctx)
		},
	}
}
