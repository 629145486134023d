package replica

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"redferry/internal/redistest"
)

// wantServer fails the test unless the endpoint stands for this server now, and a connection leads there.
func wantServer(t *testing.T, e Endpoint, want *redistest.Server) {
	t.Helper()
	got, err := e.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Addr != want.Addr() || got.String() != got.Addr || got.Hosts != nil || got.Master != "" || got.Password != e.Password || got.TLS != e.TLS {
		t.Errorf("got %s %+v, want %s", got, got, want.Addr())
	}
	conn, err := e.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if conn.RemoteAddr().String() != want.Addr() {
		t.Errorf("a connection leads to %s, want %s", conn.RemoteAddr(), want.Addr())
	}
}

// wantUnresolved fails the test unless Resolve gives an error with all of this. A transient one is no Stop.
func wantUnresolved(t *testing.T, e Endpoint, transient bool, texts ...string) {
	t.Helper()
	got, err := e.Resolve(t.Context())
	if err == nil {
		t.Fatalf("got %s", got)
	}
	stop, said := AsStop(err), err.Error()
	if stop != nil {
		said += " (" + stop.Hint + ")"
	}
	if (stop == nil) != transient || stop != nil && stop.Kind != Config {
		t.Errorf("got the Stop %+v of %v", stop, err)
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("got %s, want %q", said, text)
		}
	}
	if e.Password != "" && strings.Contains(said, e.Password) || strings.ContainsAny(said, "\r\n") {
		t.Errorf("got %q", said)
	}
	if _, err := e.Dial(t.Context()); err == nil {
		t.Error("a connection leads somewhere")
	}
}

func TestResolveOne(t *testing.T) {
	for _, raw := range []string{"redis://nowhere.invalid", "unix:///nowhere.sock"} {
		e := endpoint(t, raw, TLSFiles{})
		if got, err := e.Resolve(t.Context()); err != nil || got.Addr != e.Addr || got.Network != e.Network {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestResolveServers(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			primary := redistest.Start(t, b)
			second := redistest.Start(t, b, redistest.ReplicaOf(primary))
			dead := redistest.FreeAddr(t)
			list := endpoint(t, fmt.Sprintf("redis://%s,%s,%s", dead, second.Addr(), primary.Addr()), TLSFiles{})
			wantServer(t, list, primary)

			primary.Kill()
			wantServer(t, list, second) // better than nothing
			second.Do(t, "REPLICAOF", "NO", "ONE")
			wantServer(t, list, second)
			primary.Restart(t)
			wantServer(t, list, second) // of two primaries the first
			second.Kill()
			wantServer(t, list, primary)
			primary.Kill()
			wantUnresolved(t, list, true, "none of the servers", dead+": ", primary.Addr()+": ", second.Addr()+": ", "connection refused")
		})
	}
}

// What a server says that knows us, but not enough, or not at all.
func TestResolveServersWithUsers(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	users := redistest.Config("user ferry on >secret ~* +@all", "user blind on >secret ~* +ping")
	primary := redistest.Start(t, b, redistest.Password("other"), users)
	second := redistest.Start(t, b, redistest.Password("other"), users, redistest.ReplicaOf(primary))
	hosts := redistest.Addrs(second, primary)
	wantServer(t, endpoint(t, "redis://ferry:secret@"+hosts, TLSFiles{}), primary)
	wantServer(t, endpoint(t, "redis://:other@"+hosts, TLSFiles{}), primary)
	wantServer(t, endpoint(t, "redis://blind:secret@"+hosts, TLSFiles{}), second)
	wantServer(t, endpoint(t, "redis://ferry:wrong@"+hosts, TLSFiles{}), second) // who says so itself:
	_, err := dialSource(endpoint(t, "redis://ferry:wrong@"+hosts, TLSFiles{}))
	if stop := AsStop(err); stop == nil || stop.Kind != Config || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("got %v", err)
	}

	open := redistest.Start(t, b)
	wantServer(t, endpoint(t, "redis://ferry:secret@"+redistest.Addrs(open, second, primary), TLSFiles{}), primary) // the first refuses AUTH
}

// A host that takes connections and says nothing costs its time, and the others are asked all the same; the end of the context ends it at once.
func TestResolvePastASilentHost(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Latest(t))
	frozen := redistest.Start(t, redistest.Latest(t))
	frozen.Freeze()
	list := endpoint(t, "redis://"+redistest.Addrs(frozen, s), TLSFiles{})
	began := time.Now()
	wantServer(t, list, s)
	if took := time.Since(began); took > 10*hostTimeout {
		t.Errorf("it took %v", took)
	}
	wantUnresolved(t, endpoint(t, "redis://"+redistest.Addrs(frozen)+","+redistest.FreeAddr(t), TLSFiles{}), true, frozen.Addr()+": no answer within 3s", "connection refused")

	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, io.ErrNoProgress)
	defer cancel()
	began = time.Now()
	if _, err := list.Resolve(ctx); err != io.ErrNoProgress || time.Since(began) >= hostTimeout {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// Each host is verified by its own name, unless one is given for all. The certificate knows localhost and 127.0.0.1.
func TestResolveServersWithTLS(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Latest(t), redistest.TLS(), redistest.Config("bind 127.0.0.1 127.0.0.2"))
	c := s.Certificates()
	strange := fmt.Sprintf("127.0.0.2:%d", s.Port())
	list := "rediss://" + strange + "," + s.Addr()
	files := TLSFiles{CA: c.CA, Cert: c.ClientCert, Key: c.ClientKey}
	wantServer(t, endpoint(t, list, files), s)
	files.ServerName = "localhost"
	if got, err := endpoint(t, list, files).Resolve(t.Context()); err != nil || got.Addr != strange {
		t.Errorf("by another name: got %s, %v", got, err)
	}
}

func TestResolveSentinel(t *testing.T) {
	t.Parallel()
	for _, b := range redistest.Servers(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			primary := redistest.Start(t, b)
			second := redistest.Start(t, b, redistest.ReplicaOf(primary))
			eventually(t, "it is there", func() bool { return second.Info(t, "replication")["master_link_status"] == "up" })
			sentinels := redistest.StartSentinels(t, primary, 1)
			url := redistest.SentinelURL("", sentinels...)
			e := endpoint(t, strings.Replace(url, "://", "://"+redistest.FreeAddr(t)+",", 1), TLSFiles{})
			wantServer(t, e, primary)

			wantUnresolved(t, endpoint(t, strings.Replace(url, redistest.Master, "other", 1), TLSFiles{}), false,
				sentinels[0].Addr()+` knows no master "other"`, "it knows mymaster")

			primary.Kill()
			wantUnresolved(t, e, true, "none of the sentinels", "it names "+primary.Addr()+": ", "connection refused")
			eventually(t, "it is there", func() bool { got, err := e.Resolve(t.Context()); return err == nil && got.Addr == second.Addr() })
			wantServer(t, e, second)

			sentinels[0].Kill()
			wantUnresolved(t, e, true, "none of the sentinels", sentinels[0].Addr()+": ")
		})
	}
}

// During a failover a sentinel may name a server that is no primary any more; another one may know better.
func TestResolveSentinelWithAStaleAnswer(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	first, other := redistest.Start(t, b), redistest.Start(t, b)
	stale, fresh := redistest.StartSentinels(t, first, 1), redistest.StartSentinels(t, other, 1)
	first.Do(t, "REPLICAOF", "127.0.0.1", strconv.Itoa(other.Port())) // which its sentinel lets stand for 20 s
	wantUnresolved(t, endpoint(t, redistest.SentinelURL("", stale...), TLSFiles{}), true, "it names "+first.Addr()+", which is not a primary (yet)")
	wantServer(t, endpoint(t, redistest.SentinelURL("", stale[0], fresh[0]), TLSFiles{}), other)
}

func TestResolveSentinelWithUsers(t *testing.T) {
	t.Parallel()
	b := redistest.Latest(t)
	primary := redistest.Start(t, b, redistest.Password("secret"), redistest.Config("user ferry on >secret ~* +@all"))
	open := redistest.StartSentinels(t, primary, 1)
	closed := redistest.StartSentinels(t, primary, 1, redistest.Password("secret"), redistest.Config("user ferry on >secret +@all"))
	other := redistest.StartSentinels(t, primary, 1, redistest.Password("other"))
	for _, user := range []string{":secret@", "ferry:secret@"} {
		for _, sentinels := range [][]*redistest.Server{open, closed, slices.Concat(other, closed)} {
			wantServer(t, endpoint(t, redistest.SentinelURL(user, sentinels...), TLSFiles{}), primary)
		}
	}
	wantUnresolved(t, endpoint(t, redistest.SentinelURL("ferry:secret@", other...), TLSFiles{}), false,
		other[0].Addr()+" refuses this user", "WRONGPASS", "the same as the server's")
	wantUnresolved(t, endpoint(t, redistest.SentinelURL("", closed...), TLSFiles{}), false, closed[0].Addr()+" refuses this user", "NOAUTH")
	wantServer(t, endpoint(t, redistest.SentinelURL("ferry:wrong@", open...), TLSFiles{}), primary) // who refuses it itself
}

func TestResolveSentinelWithTLS(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Latest(t), redistest.TLS())
	c := s.Certificates()
	url := redistest.SentinelURL("", redistest.StartSentinels(t, s, 1)...)
	wantServer(t, endpoint(t, url, TLSFiles{CA: c.CA, Cert: c.ClientCert, Key: c.ClientKey}), s)
	_, err := endpoint(t, url, TLSFiles{Cert: c.ClientCert, Key: c.ClientKey}).Resolve(t.Context())
	if stop := AsStop(TLSStop("source", Endpoint{}, err)); stop == nil || !strings.Contains(stop.Reason, "do not trust") {
		t.Errorf("got %v", err)
	}
}
