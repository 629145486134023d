package redistest

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Database runs commands in one database of a server, for set-up and checks. Commands run once: there are no retries. Do fails the test
// when the server answers with an error or not at all; TryDo gives the error instead.
type Database struct {
	s *Server
	n int

	mu     sync.Mutex     // its own, not the server's: dialling a frozen server takes until it is thawed
	client rueidis.Client // nil until needed, and after the server was killed
}

// DB is the server's database n.
func (s *Server) DB(n int) *Database {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.databases[n] == nil {
		s.databases[n] = &Database{s: s, n: n}
	}
	return s.databases[n]
}

// Client connects to database n of the server, RESP2, no retries, no cache. The caller closes it.
func (s *Server) Client(n int) (rueidis.Client, error) {
	return rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.Addr()}, Password: s.opts.password, SelectDB: n,
		ForceSingleClient: true, PipelineMultiplex: -1, // one connection
		AlwaysRESP2: true, DisableCache: true, DisableRetry: true,
		ConnWriteTimeout: time.Minute, // of a whole DoMulti; a frozen or busy server is no error here
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			return s.dial()
		},
	})
}

// Rueidis is the database's client. It is closed when the server is killed or stopped, so it is asked for anew rather than kept.
func (d *Database) Rueidis() (rueidis.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client == nil {
		client, err := d.s.Client(d.n)
		if err != nil {
			return nil, err
		}
		d.client = client
	}
	return d.client, nil
}

func (s *Server) closeClients() {
	s.mu.Lock()
	databases := slices.Collect(maps.Values(s.databases))
	s.mu.Unlock()
	for _, d := range databases {
		d.mu.Lock()
		if d.client != nil {
			d.client.Close()
			d.client = nil
		}
		d.mu.Unlock()
	}
}

// Pipeline sends all commands at once and gives their replies.
func (d *Database) Pipeline(cmds ...[]string) ([]rueidis.RedisResult, error) {
	client, err := d.Rueidis()
	if err != nil {
		return nil, err
	}
	built := make(rueidis.Commands, len(cmds))
	for i, args := range cmds {
		built[i] = client.B().Arbitrary(args...).Build()
	}
	return client.DoMulti(context.Background(), built...), nil
}

func (d *Database) do(args []string) (rueidis.RedisMessage, error) {
	results, err := d.Pipeline(args)
	if err != nil {
		return rueidis.RedisMessage{}, err
	}
	return results[0].ToMessage()
}

// TryDo runs a command and gives its error: the server's reply, or the connection's. A nil reply is none.
func (d *Database) TryDo(args ...string) error {
	_, err := d.do(args)
	if rueidis.IsRedisNil(err) {
		return nil
	}
	return err
}

// Do runs a command and gives its reply, which may be nil.
func (d *Database) Do(t TB, args ...string) rueidis.RedisMessage {
	t.Helper()
	m, err := d.do(args)
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%.200q in database %d of %s: %v", args, d.n, d.s.Build.Name, err)
	}
	return m
}

// DoInt is Do for a command that answers with an integer.
func (d *Database) DoInt(t TB, args ...string) int64 {
	t.Helper()
	m := d.Do(t, args...)
	n, err := m.AsInt64()
	if err != nil {
		t.Fatalf("%.200q: %v", args, err)
	}
	return n
}

// DoString is Do for a command that answers with a string; nil gives the empty one.
func (d *Database) DoString(t TB, args ...string) string {
	t.Helper()
	m := d.Do(t, args...)
	text, err := m.ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%.200q: %v", args, err)
	}
	return text
}

// DoStrings is Do for a command that answers with an array of strings.
func (d *Database) DoStrings(t TB, args ...string) []string {
	t.Helper()
	m := d.Do(t, args...)
	texts, err := m.AsStrSlice()
	if err != nil {
		t.Fatalf("%.200q: %v", args, err)
	}
	return texts
}
