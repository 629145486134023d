package replica

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

func TestParseEndpoint(t *testing.T) {
	tests := []struct {
		url           string
		network, addr string
		hosts         string // with spaces between
		master        string
		user, pass    string
		tls           bool
		text          string // in messages; addr where it is empty
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
		{url: "rediss://host", network: "tcp", addr: "host:6379", tls: true},
		{url: "rediss://user:secret@[::1]:1", network: "tcp", addr: "[::1]:1", user: "user", pass: "secret", tls: true},
		{url: "unix:///run/redis.sock", network: "unix", addr: "/run/redis.sock"},
		{url: "unix:///run/a%20b,c.sock", network: "unix", addr: "/run/a b,c.sock"},

		{url: "redis://a,b", network: "tcp", hosts: "a:6379 b:6379", text: "a:6379,b:6379"},
		{url: "redis://a:1,b,[::1]:2,[::2]/", network: "tcp", hosts: "a:1 b:6379 [::1]:2 [::2]:6379", text: "a:1,b:6379,[::1]:2,[::2]:6379"},
		{url: "redis://u:a,b:1@a:1,b:2", network: "tcp", hosts: "a:1 b:2", user: "u", pass: "a,b:1", text: "a:1,b:2"},
		{url: "rediss://:secret@a,b:2", network: "tcp", hosts: "a:6379 b:2", pass: "secret", tls: true, text: "a:6379,b:2"},
		{url: "redis+sentinel://a/mymaster", network: "tcp", hosts: "a:26379", master: "mymaster", text: "mymaster (Sentinel a:26379)"},
		{
			url: "redis+sentinel://u:p@a,b:1,[::1]/a.b-c_1", network: "tcp", hosts: "a:26379 b:1 [::1]:26379", master: "a.b-c_1", user: "u", pass: "p",
			text: "a.b-c_1 (Sentinel a:26379,b:1,[::1]:26379)",
		},
		{url: "rediss+sentinel://a/m", network: "tcp", hosts: "a:26379", master: "m", tls: true, text: "m (Sentinel a:26379)"},
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
			if hosts := strings.Join(e.Hosts, " "); hosts != test.hosts || e.Master != test.master {
				t.Errorf("got the hosts %q, master %q", hosts, e.Master)
			}
			if (e.TLS != nil) != test.tls {
				t.Errorf("got TLS %v", e.TLS)
			}
			if e.TLS != nil && (e.TLS.InsecureSkipVerify || e.TLS.ServerName != "") {
				t.Error("the server is not verified by its own name")
			}
			if want := cmp.Or(test.text, test.addr); e.String() != want {
				t.Errorf("in messages it is %q, want %q", e, want)
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
		{"redis://a,b/3", TLSFiles{}, "a database cannot be chosen"},
		{"redis://a,,b", TLSFiles{}, "no host before or behind a comma"},
		{"redis://a:1,", TLSFiles{}, "no host before or behind a comma"},
		{"redis://,a", TLSFiles{}, "no host before or behind a comma"},
		{"redis://a:1,b:x", TLSFiles{}, "not a URL"},
		{"redis://u:secret@a,u:secret@b", TLSFiles{}, "stand once, before the first host"},
		{"redis://[::1,b", TLSFiles{}, "not a URL"},
		{"redis://a,b?db=3", TLSFiles{}, "no ?query or #fragment"},
		{"redis://host?db=3", TLSFiles{}, "no ?query or #fragment"},
		{"redis://host#3", TLSFiles{}, "no ?query or #fragment"},
		{"redis+sentinel://host", TLSFiles{}, "ends in /NAME"},
		{"redis+sentinel://host/", TLSFiles{}, "ends in /NAME"},
		{"redis+sentinel://host/m/3", TLSFiles{}, "letters, digits"},
		{"redis+sentinel://user:12/34@host/m", TLSFiles{}, "/ is %2F"},
		{"redis+sentinel:///m", TLSFiles{}, "no host"},
		{"redis+sentinel://a,/m", TLSFiles{}, "no host before or behind a comma"},
		{"redis+sentinel://host/m", TLSFiles{Insecure: true}, "use rediss+sentinel://"},
		{"redis+sentinels://host/m", TLSFiles{}, `scheme "redis+sentinels"`},
		{"unix://run/redis.sock", TLSFiles{}, "unix:///path"},
		{"unix:", TLSFiles{}, "unix:///path"},
		{"unix://:@12/34@/r.sock", TLSFiles{}, "@ is %40"},
		{"redis://user:pa%ss@host", TLSFiles{}, "percent-encode"},
		{"redis://user:pa/ss@host", TLSFiles{}, "/ is %2F"},
		{"redis://user:12/34@host", TLSFiles{}, "/ is %2F"},
		{"redis://:secret", TLSFiles{}, "redis://host[:port][,host[:port]…]"},
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
	for _, seed := range []string{"s3cret", "123/456", "pass/word", "123?456", "123#456", "a%bcd", "1%zz", "xyz@w:1", "[::", "\x00zzz", "1 234", "\x7f123", "123,456", "üöä", ":::1", "1/mas", "a,b:c", "12,@34"} {
		for form := range uint8(12) {
			f.Add(seed, form)
		}
	}
	forms := []string{
		"redis://U:%s@H:1", "rediss://:%s@H", "redis://U:%s@H:x", "redis://U:%s@", "http://U:%s@H", "redis://:%s", "unix://:%s@/r.sock",
		"redis://U:%s@H,H:1", "redis://U:%s@H,H:x", "redis+sentinel://U:%s@H,H:1/M", "rediss+sentinel://:%s@H/M/x", "redis+sentinel://U:%s@H",
	}
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

// ownWords are what errors say of any URL, and messages of an endpoint; a password may happen to share three letters with them.
const ownWords = `not a URL of the form redis://host[:port][,host[:port]…] (percent-encode special characters of a password: / is %2F) ` +
	`a URL takes no ?query or #fragment here write a unix socket as unix:///path/to/redis.sock; in a password, / is %2F and @ is %40 user and password stand once, before the first host; in a password, @ is %40 scheme "http": use redis://, rediss:// (TLS), ` +
	`redis+sentinel://, rediss+sentinel:// or unix:// a URL has no path here: a database cannot be chosen, redferry moves all of them; in a password, / is %2F ` +
	"a Sentinel URL ends in /NAME, as in `sentinel monitor NAME …`: letters, digits, . - _ alone; in a password, / is %2F " +
	`no host before or behind a comma no host H:6379,H:1 H:6379,H:1 M (Sentinel H:26379,H:1) H:1 /r.sock`

// A server without TLS keeps silent when it is greeted in TLS: the error has to say more than that the time was over.
func TestDialTLSToSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e, err := ParseEndpoint("rediss://"+l.Addr().String(), TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := e.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "tls-port") {
		t.Errorf("silence: got %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Dial(t.Context()); err == nil || strings.Contains(err.Error(), "tls-port") {
		t.Errorf("nobody there: got %v", err)
	}
}
