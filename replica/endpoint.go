package replica

import (
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

// Endpoint is a server to connect to, as its URL gives it: redis://, rediss:// or unix://.
type Endpoint struct {
	Network  string // "tcp" or "unix"
	Addr     string // host:port, or the socket's path
	Username string
	Password string
	TLS      *tls.Config // nil without TLS
}

// TLSFiles are the parts of a TLS set-up that do not fit into a URL.
type TLSFiles struct {
	CA         string // PEM file of the authorities to trust instead of the system's
	Cert, Key  string // PEM files of the client's certificate
	ServerName string // the name to verify instead of the URL's host
	Insecure   bool   // do not verify the server
}

// ParseEndpoint reads a server's URL. The error names what is wrong with it and never contains the password.
func ParseEndpoint(raw string, files TLSFiles) (Endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil { // its text quotes the URL or a piece of it, which may be one of the password
		return Endpoint{}, errors.New("not a URL of the form redis://[user[:password]@]host[:port] (percent-encode special characters of a password: / is %2F)")
	}
	e := Endpoint{Network: "tcp", Username: u.User.Username()}
	e.Password, _ = u.User.Password()
	if u.RawQuery != "" || u.Fragment != "" {
		return Endpoint{}, errors.New("a URL takes no ?query or #fragment here")
	}
	switch u.Scheme {
	case "unix":
		if u.Path == "" || u.Host != "" {
			return Endpoint{}, errors.New("write a unix socket as unix:///path/to/redis.sock")
		}
		e.Network, e.Addr = "unix", u.Path
		return e, nil
	case "redis", "rediss":
	case "redis+sentinel":
		return Endpoint{}, errors.New("redis+sentinel:// is not supported yet; give the primary's own address")
	default:
		return Endpoint{}, fmt.Errorf("scheme %q: use redis://, rediss:// (TLS) or unix://", u.Scheme)
	}
	if u.Path != "" && u.Path != "/" { // not quoted: it begins inside a password that has a slash
		return Endpoint{}, errors.New("a URL has no path here: a database cannot be chosen, redferry moves all of them; in a password, / is %2F")
	}
	if strings.Contains(u.Host, ",") {
		return Endpoint{}, errors.New("several host:port are not supported yet; give one")
	}
	host, port := u.Hostname(), u.Port()
	if host == "" {
		return Endpoint{}, errors.New("no host")
	}
	if port == "" {
		port = "6379"
	}
	e.Addr = net.JoinHostPort(host, port)
	if u.Scheme == "rediss" {
		if e.TLS, err = files.config(host); err != nil {
			return Endpoint{}, err
		}
	} else if files != (TLSFiles{}) {
		return Endpoint{}, errors.New("TLS options are given, but the scheme is redis://; use rediss://")
	}
	return e, nil
}

func (f TLSFiles) config(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: f.Insecure}
	if f.ServerName != "" {
		c.ServerName = f.ServerName
	}
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

// String names the server in messages: no user, no password.
func (e Endpoint) String() string { return e.Addr }

// Dial opens a connection, with TLS where the endpoint has it. Names are resolved anew each time.
func (e Endpoint) Dial(ctx context.Context) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	if e.TLS != nil {
		return (&tls.Dialer{NetDialer: d, Config: e.TLS}).DialContext(ctx, e.Network, e.Addr)
	}
	return d.DialContext(ctx, e.Network, e.Addr)
}

// ClientOption is a rueidis client's set-up for this endpoint: one plain connection at a time, RESP2, no caching, and no retries of its own, because a
// write whose reply was lost must be answered by the checkpoint.
func (e Endpoint) ClientOption() rueidis.ClientOption {
	return rueidis.ClientOption{
		InitAddress:           []string{e.Addr},
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
