package replica

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redferry/internal/redistest"
)

func TestParseEndpoint(t *testing.T) {
	tests := []struct {
		url           string
		network, addr string
		user, pass    string
		tls           string // the name to verify; "" without TLS
	}{
		{url: "redis://host:7000", network: "tcp", addr: "host:7000"},
		{url: "redis://host", network: "tcp", addr: "host:6379"},
		{url: "redis://host/", network: "tcp", addr: "host:6379"},
		{url: "redis://10.0.0.1:1", network: "tcp", addr: "10.0.0.1:1"},
		{url: "redis://[::1]:7000", network: "tcp", addr: "[::1]:7000"},
		{url: "redis://[fe80::1%25eth0]", network: "tcp", addr: "[fe80::1%eth0]:6379"},
		{url: "REDIS://host", network: "tcp", addr: "host:6379"},
		{url: "redis://:secret@host", network: "tcp", addr: "host:6379", pass: "secret"},
		{url: "redis://user:secret@host:1", network: "tcp", addr: "host:1", user: "user", pass: "secret"},
		{url: "redis://user@host", network: "tcp", addr: "host:6379", user: "user"},
		{url: "redis://u%40x:p%40%3A%2F%3F%23%25%20%C3%BC@host", network: "tcp", addr: "host:6379", user: "u@x", pass: "p@:/?#% ü"},
		{url: "redis://user:a:b@host", network: "tcp", addr: "host:6379", user: "user", pass: "a:b"},
		{url: "redis://user:+$&,;=!~*'()@host", network: "tcp", addr: "host:6379", user: "user", pass: "+$&,;=!~*'()"},
		{url: "rediss://host", network: "tcp", addr: "host:6379", tls: "host"},
		{url: "rediss://user:secret@[::1]:1", network: "tcp", addr: "[::1]:1", user: "user", pass: "secret", tls: "::1"},
		{url: "unix:///run/redis.sock", network: "unix", addr: "/run/redis.sock"},
		{url: "unix:///run/a%20b.sock", network: "unix", addr: "/run/a b.sock"},
	}
	for _, test := range tests {
		t.Run(test.url, func(t *testing.T) {
			e, err := ParseEndpoint(test.url, TLSFiles{})
			if err != nil {
				t.Fatal(err)
			}
			if e.Network != test.network || e.Addr != test.addr || e.Username != test.user || e.Password != test.pass {
				t.Errorf("got %s %s, user %q, password %q", e.Network, e.Addr, e.Username, e.Password)
			}
			name := ""
			if e.TLS != nil {
				name = e.TLS.ServerName
				if e.TLS.InsecureSkipVerify {
					t.Error("the server is not verified")
				}
			}
			if name != test.tls {
				t.Errorf("it verifies %q, want %q", name, test.tls)
			}
			if e.String() != test.addr {
				t.Errorf("in messages it is %q, want %q", e, test.addr)
			}
		})
	}
}

func TestParseEndpointRefused(t *testing.T) {
	certs := redistest.NewCertificates(t, t.TempDir())
	noPEM := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(noPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		url   string
		files TLSFiles
		want  string // contained
	}{
		{"", TLSFiles{}, `scheme ""`},
		{"host:6379", TLSFiles{}, `scheme "host"`},
		{"http://host", TLSFiles{}, `scheme "http"`},
		{"redis://", TLSFiles{}, "no host"},
		{"redis://:7000", TLSFiles{}, "no host"},
		{"redis://host:x", TLSFiles{}, "not a URL"},
		{"redis://host/3", TLSFiles{}, "a database cannot be chosen"},
		{"redis://a,b", TLSFiles{}, "several host:port"},
		{"redis://a:1,b:2", TLSFiles{}, "several host:port"},
		{"redis://host?db=3", TLSFiles{}, "no ?query or #fragment"},
		{"redis://host#3", TLSFiles{}, "no ?query or #fragment"},
		{"redis+sentinel://host/master", TLSFiles{}, "redis+sentinel"},
		{"unix://run/redis.sock", TLSFiles{}, "unix:///path"},
		{"unix:", TLSFiles{}, "unix:///path"},
		{"redis://user:pa%ss@host", TLSFiles{}, "percent-encode"},
		{"redis://user:pa/ss@host", TLSFiles{}, "/ is %2F"},
		{"redis://user:12/34@host", TLSFiles{}, "/ is %2F"},
		{"redis://:secret", TLSFiles{}, "redis://[user[:password]@]host[:port]"},
		{"redis://host", TLSFiles{Insecure: true}, "use rediss://"},
		{"redis://host", TLSFiles{CA: certs.CA}, "use rediss://"},
		{"rediss://host", TLSFiles{CA: filepath.Join(t.TempDir(), "missing")}, "read the CA file"},
		{"rediss://host", TLSFiles{CA: noPEM}, "no certificate in CA file"},
		{"rediss://host", TLSFiles{Cert: certs.ClientCert}, "needs both"},
		{"rediss://host", TLSFiles{Key: certs.ClientKey}, "needs both"},
		{"rediss://host", TLSFiles{Cert: noPEM, Key: certs.ClientKey}, "load the client certificate"},
	}
	for _, test := range tests {
		t.Run(test.url, func(t *testing.T) {
			e, err := ParseEndpoint(test.url, test.files)
			if err == nil {
				t.Fatalf("got %s", e)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestParseEndpointTLSFiles(t *testing.T) {
	certs := redistest.NewCertificates(t, t.TempDir())
	e, err := ParseEndpoint("rediss://host:1", TLSFiles{CA: certs.CA, Cert: certs.ClientCert, Key: certs.ClientKey, ServerName: "other", Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	if c := e.TLS; c.RootCAs == nil || len(c.Certificates) != 1 || c.ServerName != "other" || !c.InsecureSkipVerify {
		t.Errorf("got %+v", c)
	}
}

// Whatever is wrong with a URL, the error does not tell a piece of the password, nor does an endpoint in a message.
func FuzzParseEndpoint(f *testing.F) {
	for _, seed := range []string{"s3cret", "123/456", "pass/word", "123?456", "123#456", "a%bcd", "1%zz", "xyz@w:1", "[::", "\x00zzz", "1 234", "\x7f123", "123,456", "üöä", ":::1"} {
		for form := range uint8(7) {
			f.Add(seed, form)
		}
	}
	forms := []string{"redis://U:%s@H:1", "rediss://:%s@H", "redis://U:%s@H:x", "redis://U:%s@", "http://U:%s@H", "redis://:%s", "unix://:%s@/r.sock"}
	f.Fuzz(func(t *testing.T, password string, form uint8) {
		for _, text := range []string{password, url.QueryEscape(password), url.PathEscape(password)} {
			form := forms[int(form)%len(forms)]
			raw := strings.Replace(form, "%s", text, 1)
			e, err := ParseEndpoint(raw, TLSFiles{})
			said := e.String()
			if err != nil {
				said = err.Error()
			} else if form == "redis://:%s" {
				continue // no password: it was taken for a host or a port
			}
			for i := range max(0, len(password)-2) {
				if piece := password[i : i+3]; strings.Contains(said, piece) && !strings.Contains(ownWords, piece) {
					t.Errorf("%q: %q tells %q of the password", raw, said, piece)
				}
			}
		}
	})
}

// ownWords are what errors say of any URL; a password may happen to share three letters with them.
const ownWords = `not a URL of the form redis://[user[:password]@]host[:port] (percent-encode special characters of a password: / is %2F) ` +
	`a URL takes no ?query or #fragment here write a unix socket as unix:///path/to/redis.sock scheme "http": use redis://, rediss:// (TLS) or unix:// ` +
	`a URL has no path here: a database cannot be chosen, redferry moves all of them; in a password, / is %2F ` +
	`several host:port are not supported yet; give one no host H:6379 H:1 /r.sock`
