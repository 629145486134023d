package replica

import (
	"strings"
	"testing"

	"redferry/internal/redistest"
)

func TestAuthWithRealServers(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.Password("secret"), redistest.Config(
			"user ferry on >ferrypass +psync +replconf +ping",
			"user nosync on >pass ~* +@all -psync",
			"user noping on >pass +psync +replconf",
			"user noconf on >pass +psync +ping",
		))
		tests := []struct {
			user, password string
			text           string // of the Stop; "" when it works
		}{
			{"", "secret", ""},
			{"default", "secret", ""},
			{"ferry", "ferrypass", ""},
			{"noping", "pass", ""},
			{"", "", "NOAUTH"},
			{"", "wrong", "WRONGPASS"},
			{"ferry", "wrong", "WRONGPASS"},
			{"nobody", "pass", "WRONGPASS"},
			{"nosync", "pass", "NOPERM"},
			{"noconf", "pass", "NOPERM"},
		}
		for _, test := range tests {
			t.Run(test.user+":"+test.password, func(t *testing.T) {
				e := endpoint(t, s.URL(), TLSFiles{})
				e.Username, e.Password = test.user, test.password
				l, err := Dial(t.Context(), LinkConfig{Endpoint: e})
				if err == nil {
					defer func() { _ = l.Close() }()
					_, err = l.Sync(t.Context(), Position{})
				}
				if test.text == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil {
					t.Fatal("it works")
				}
				if got := classify(t, err); got != (outcome{Stop: true}) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%v is %+v, want a Stop that has %s", err, got, test.text)
				}
			})
		}
	})
}

// A server whose PSYNC was renamed does not offer it under the new name either: it takes that for SYNC.
func TestRenamedPSYNC(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.Config("rename-command PSYNC XSYNC"))
		for _, name := range []string{"PSYNC", "XSYNC"} {
			_, err := dialServer(t, s, func(c *LinkConfig) { c.PSYNCCommand = name }).Sync(t.Context(), Position{})
			if err == nil || classify(t, err) != (outcome{Stop: true}) {
				t.Errorf("%s: %v, want a Stop", name, err)
			}
		}
	})
}

func TestTLS(t *testing.T) {
	eachBuild(t, func(t *testing.T, b redistest.Build) {
		s := redistest.Start(t, b, redistest.TLS())
		certs := s.Certificates()
		other := redistest.NewCertificates(t, t.TempDir())
		good := TLSFiles{CA: certs.CA, Cert: certs.ClientCert, Key: certs.ClientKey}
		tests := []struct {
			name  string
			files TLSFiles
			text  string // of the Stop; "" when it works
		}{
			{"mutual", good, ""},
			{"unverified", TLSFiles{Cert: good.Cert, Key: good.Key, Insecure: true}, ""},
			{"authority unknown", TLSFiles{Cert: good.Cert, Key: good.Key}, "certificate that we do not trust"},
			{"another authority", TLSFiles{CA: other.CA, Cert: good.Cert, Key: good.Key}, "certificate that we do not trust"},
			{"another name", TLSFiles{CA: good.CA, Cert: good.Cert, Key: good.Key, ServerName: "example.org"}, "for another name"},
			{"no client certificate", TLSFiles{CA: good.CA}, "does not accept our certificate"},
			{"a foreign client certificate", TLSFiles{CA: good.CA, Cert: other.ClientCert, Key: other.ClientKey}, "does not accept our certificate"},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				l, err := Dial(t.Context(), LinkConfig{Endpoint: endpoint(t, s.URL(), test.files)})
				if err == nil {
					defer func() { _ = l.Close() }()
				}
				if test.text == "" {
					if err != nil {
						t.Fatal(err)
					}
					at, _, _ := fullSync(t, l)
					stream := acked(t, l, at)
					s.Do(t, "SET", "k", "v")
					if got := until(t, stream, backlog(t, s).MasterOffset); len(got) != 1 {
						t.Errorf("the stream has %q, want one command", got)
					}
					return
				}
				if err == nil {
					t.Fatal("it works")
				}
				if got := classify(t, err); got != (outcome{Stop: true}) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%v is %+v, want a Stop that has %q", err, got, test.text)
				}
			})
		}
		t.Run("without TLS", func(t *testing.T) {
			_, err := Dial(t.Context(), LinkConfig{Endpoint: Endpoint{Network: "tcp", Addr: s.Addr()}})
			if err == nil || AsStop(err) != nil || !strings.Contains(err.Error(), "rediss://") {
				t.Errorf("error %v, want one worth another try that names rediss://", err)
			}
		})
	})
}
