package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"golang.org/x/sys/unix"

	"redferry/applier"
	"redferry/replica"
)

// end is what is known of either end.
type end struct {
	err     error  // why nothing is known: it could not be reached, or refused us
	addr    string // the server that answered
	version string // redis 7.0.15
	info    map[string]string
	modules []string // names; nil where it will not tell
	rights  rights
	skew    time.Duration // of its clock, ahead of this machine's
	hasSkew bool
	watched tristate // by sentinels
}

// tristate is an answer that a server may refuse.
type tristate uint8

const (
	unknown tristate = iota
	no
	yes
)

// source is what is known of the source.
type source struct {
	end
	blind    bool               // INFO is not permitted
	about    replica.SourceInfo // what a run takes it for
	refusal  error              // what a run would end with, or wait for
	config   map[string]string  // the settings of sourceSettings that it tells
	psync    tristate           // it knows the command
	rate     float64            // bytes of its stream a second; negative when unknown
	atMost   bool               // rate is an upper bound
	risk     replica.Risk       // of its buffer during the snapshot
	took     time.Duration      // its RDB is expected to take
	tookWhy  string             //
	sample   sample             // of its keys
	machine  *machine           // where it runs here; nil elsewhere
	backlog  replica.Backlog    // what it can repeat
	backless error              // why that is not known
}

// sourceSettings are the settings that checks read. They are asked for one by one: all of them would bring passwords.
var sourceSettings = [...]string{"repl-backlog-size", "repl-backlog-ttl", "repl-timeout", "min-replicas-to-write", "repl-diskless-sync"}

// machine is what this machine says that matters for a fork of a server on it. Negative: it does not say.
type machine struct {
	available  int64 // bytes of memory that are free for use
	overcommit int   // vm.overcommit_memory
}

func gatherSource(ctx context.Context, c Config) source {
	s := source{end: end{addr: c.Source.String()}, rate: -1}
	p, err := replica.ProbeSource(ctx, c.Source)
	if err != nil {
		s.err = err
		return s
	}
	defer p.Close()
	s.addr, s.info, s.blind = p.Server.String(), p.Info, p.Blind()
	if s.rate, s.atMost, err = p.WriteRate(ctx, c.RateSample); err != nil { // first, while nobody here asks for anything
		s.err = err
		return s
	}
	client := p.Client()
	s.about, s.refusal = p.Describe(ctx)
	s.skew, s.hasSkew = s.about.Skew, s.about.HasSkew
	s.version = versionOf(s.info)
	s.config = settings(ctx, client, sourceSettings[:])
	s.psync = knows(ctx, client, psyncName(c))
	s.modules = modules(ctx, client)
	s.watched = watched(ctx, client)
	s.rights = gatherRights(ctx, client, s.info, c.Source.Username, sourceRights(c))
	if s.risk, err = p.BufferRisk(ctx, s.rate, s.atMost); err != nil {
		s.risk = replica.Risk{Text: err.Error()}
	}
	s.took, s.tookWhy = p.TransferTime()
	s.backlog, s.backless = replica.ParseBacklog(s.info)
	s.machine = gatherMachine(p.Server)
	s.sample = gatherSample(ctx, client, s.info)
	return s
}

// target is what is known of the target.
type target struct {
	end
	probe  *applier.Probe
	found  applier.Traces // what it holds of the migration
	policy string         // by which it drops keys; empty when it drops none

	// What a run would end with.
	loops, unsupported, readOnly, expiry, data error
	databases                                  map[int]error // by database of the source
}

func gatherTarget(ctx context.Context, c Config) target {
	t := target{end: end{addr: c.Target.String()}}
	home, err := applier.PeekHome(c.Dir, c.Name)
	if err != nil {
		t.err = err
		return t
	}
	t.probe, t.err = applier.OpenProbe(ctx, applier.Config{
		Name: c.Name, Target: c.Target, Home: home, OnFullResync: c.OnFullResync, OnNotEmpty: c.OnNotEmpty, Expiry: c.Expiry, Status: &replica.Status{},
	})
	if t.err != nil {
		return t
	}
	client := t.probe.Client()
	t.addr, t.info, t.version = t.probe.Server.String(), t.probe.Info, versionOf(t.probe.Info)
	t.modules = modules(ctx, client)
	t.watched = watched(ctx, client)
	t.rights = gatherRights(ctx, client, t.info, c.Target.Username, targetRights(c))
	t.rights.lacking = lacks(ctx, client)
	t.found, t.policy = t.probe.Found, t.probe.Eviction()
	t.unsupported, t.readOnly, t.expiry = t.probe.Unsupported(), t.probe.ReadOnly(), t.probe.Expiry()
	if t.unsupported == nil {
		t.data = t.probe.Data(ctx)
	}
	return t
}

// ask puts the questions to the target that depend on what the source said.
func (t *target) ask(ctx context.Context, f *facts) {
	if t.probe == nil || t.err != nil {
		return
	}
	if t.skew, t.hasSkew = replica.ClockSkew(ctx, t.probe.Client()); f.source.err != nil {
		return
	}
	t.loops = t.probe.Loops(f.source.about)
	t.databases = map[int]error{}
	for _, d := range keyspace(f.source.info) {
		t.databases[d.Number] = t.probe.Database(ctx, d.Number)
	}
}

func (t *target) close() {
	if t.probe != nil {
		t.probe.Close()
	}
}

// home is what is known of the place for state.
type home struct {
	dir      string // the directory, or the nearest one above it that is there
	free     int64  // bytes; negative when unknown
	writable error
}

func gatherHome(dir string) home {
	h := home{dir: dir, free: -1}
	if abs, err := filepath.Abs(dir); err == nil {
		h.dir = abs
	}
	for {
		info, err := os.Stat(h.dir)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(h.dir) != h.dir {
			h.dir = filepath.Dir(h.dir)
			continue
		}
		switch {
		case err != nil:
			h.writable = err
		case !info.IsDir():
			h.writable = fmt.Errorf("%s is not a directory", h.dir)
		default:
			h.writable = unix.Access(h.dir, unix.W_OK|unix.X_OK)
		}
		break
	}
	var st unix.Statfs_t
	if unix.Statfs(h.dir, &st) == nil {
		h.free = int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // their types differ between systems
	}
	return h
}

// gatherMachine looks at this machine when the server is on it.
func gatherMachine(e replica.Endpoint) *machine {
	if !here(e) {
		return nil
	}
	m := &machine{available: -1, overcommit: -1}
	if text, err := os.ReadFile("/proc/sys/vm/overcommit_memory"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			m.overcommit = n
		}
	}
	text, _ := os.ReadFile("/proc/meminfo") // not there on every system
	if kb, ok := number(strings.TrimSuffix(strings.TrimSpace(replica.ParseInfo(string(text))["MemAvailable"]), " kB")); ok {
		m.available = kb << 10
	}
	return m
}

// here tells whether a server listens at an address of this machine.
func here(e replica.Endpoint) bool {
	if e.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(e.Addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, ours := net.ParseIP(host), false
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && ip != nil && n.IP.Equal(ip) {
			ours = true
		}
	}
	return ours || ip != nil && ip.IsLoopback()
}

// settings asks for each of these settings; those that it does not tell are missing.
func settings(ctx context.Context, c rueidis.Client, names []string) map[string]string {
	cmds := make(rueidis.Commands, len(names))
	for i, name := range names {
		cmds[i] = c.B().ConfigGet().Parameter(name).Build()
	}
	found := map[string]string{}
	for i, r := range c.DoMulti(ctx, cmds...) {
		if m, err := r.AsStrMap(); err == nil {
			if value, ok := m[names[i]]; ok {
				found[names[i]] = value
			}
		}
	}
	return found
}

// knows tells whether a server has a command.
func knows(ctx context.Context, c rueidis.Client, name string) tristate {
	return known(c.Do(ctx, c.B().Arbitrary("COMMAND", "INFO", name).Build()).ToMessage())
}

// known reads the reply to COMMAND INFO of one command.
func known(reply rueidis.RedisMessage, err error) tristate {
	var list []rueidis.RedisMessage
	if err == nil {
		list, err = reply.ToArray()
	}
	switch {
	case err != nil || len(list) != 1:
		return unknown
	case list[0].IsNil():
		return no
	}
	if fields, err := list[0].ToArray(); err != nil || len(fields) == 0 { // an empty one in the place of nil
		return no
	}
	return yes
}

// modules are the names of those that are loaded.
func modules(ctx context.Context, c rueidis.Client) []string {
	list, err := c.Do(ctx, c.B().ModuleList().Build()).ToArray()
	if err != nil {
		return nil
	}
	return moduleNames(list)
}

// moduleNames reads the reply to MODULE LIST; it is not nil.
func moduleNames(list []rueidis.RedisMessage) []string {
	names := []string{}
	for _, m := range list {
		fields, err := m.AsMap()
		if err != nil {
			continue
		}
		name := fields["name"]
		if text, err := name.ToString(); err == nil {
			names = append(names, text)
		}
	}
	return names
}

// watched tells whether sentinels are connected: they all listen on one channel. Where that may not
// be asked for, their connections' names tell.
func watched(ctx context.Context, c rueidis.Client) tristate {
	if there := listeners(c.Do(ctx, c.B().PubsubNumsub().Channel("__sentinel__:hello").Build()).ToMessage()); there != unknown {
		return there
	}
	list, err := c.Do(ctx, c.B().ClientList().Build()).ToString()
	switch {
	case err != nil:
		return unknown
	case strings.Contains(list, " name=sentinel-"):
		return yes
	}
	return no
}

// listeners reads the reply to PUBSUB NUMSUB of one channel: whether it has some.
func listeners(reply rueidis.RedisMessage, err error) tristate {
	var pair []rueidis.RedisMessage
	if err == nil {
		pair, err = reply.ToArray()
	}
	if err != nil || len(pair) != 2 {
		return unknown
	}
	n, err := pair[1].AsInt64()
	switch {
	case err != nil:
		return unknown
	case n > 0:
		return yes
	}
	return no
}

// versionOf names a server and its version; empty when it does not tell.
func versionOf(info map[string]string) string {
	if v := info["valkey_version"]; v != "" {
		return "valkey " + v
	}
	if v := info["redis_version"]; v != "" {
		return "redis " + v
	}
	return ""
}

// number reads a field of INFO or a setting.
func number(text string) (n int64, ok bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// keyspace is what is in which database. A line of INFO that cannot be read is left out: check shows what it can.
func keyspace(info map[string]string) []replica.Database {
	there, _ := replica.Keyspace(info)
	return there
}
