package applier

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// target is what the target said of itself when it was last connected to. It belongs to the goroutine that connects.
type target struct {
	runID   string
	replID  string
	history string
	role    string
	primary string // of a target that is a replica
	cluster bool
	version string
	scripts bool  // has function libraries (7.0)
	maxBulk int64 // proto-max-bulk-len: a longer argument makes the server close the connection
	lfu     bool  // its eviction policy uses RESTORE's FREQ
	lru     bool  // … IDLETIME

	noPXAT   bool   // SET cannot take a moment (before 6.2)
	idmp     bool   // has XIDMPRECORD (Redis 8.6.2)
	msetex   bool   // has MSETEX (Redis 8.4, Valkey 9.1)
	eviction string // its maxmemory-policy, where that evicts anything

	hasImportMode bool   // Valkey 8.1
	importMode    string // yes or no; empty where it will not tell

	databases map[int]bool // probed, and there
}

// defaultMaxBulk is proto-max-bulk-len where the server will not tell it.
const defaultMaxBulk = 512 << 20

// connect opens a client to the target and asks it who it is. Each connection of the client goes to the server that is the target when it is
// opened: a failover needs no more than a new connection.
func (a *Applier) connect(ctx context.Context) error {
	a.disconnect()
	o := a.Target.ClientOption()
	o.ClientName = clientName(a.Name)
	o.ConnWriteTimeout = a.Timeout
	o.WriteBufferEachConn = 64 << 10
	o.ReadBufferEachConn = 64 << 10
	dial := o.DialCtxFn
	o.DialCtxFn = func(ctx context.Context, dst string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
		conn, err := dial(ctx, dst, d, c)
		if err == nil {
			a.reached(conn.RemoteAddr().String())
		}
		return conn, err
	}
	client, err := rueidis.NewClient(o)
	if err != nil {
		if client != nil {
			client.Close()
		}
		return fmt.Errorf("connect to the target %s: %w", a.Target, replica.AuthStop("target", a.Target, err))
	}
	a.client = client
	text, err := client.Do(ctx, client.B().Info().Build()).ToString()
	if err != nil {
		return fmt.Errorf("ask the target %s for INFO: %w", a.Target, replica.AuthStop("target", a.Target, err))
	}
	info := replica.ParseInfo(text)
	if err := replica.SentinelStop("target", a.Target, info); err != nil {
		return err
	}
	if info["loading"] == "1" {
		return errors.New("the target is loading its dataset")
	}
	a.target.read(info)
	a.target.readConfig(ctx, client)
	return nil
}

// reached says which of several servers is the target now, when it is another one than before.
func (a *Applier) reached(addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.Target.Hosts) > 0 && addr != a.server {
		a.server = addr
		a.Log.Info().Str("target", a.Target.String()).Str("server", addr).Msg("this server is the target now")
	}
}

func (a *Applier) disconnect() {
	if a.conn != nil {
		a.conn.close()
		a.conn = nil
	}
	if a.client != nil {
		a.client.Close()
		a.client = nil
	}
}

func (t *target) read(info map[string]string) {
	t.runID, t.replID, t.history, t.role = info["run_id"], info["master_replid"], history(info), info["role"]
	t.primary = info["master_host"] + ":" + info["master_port"]
	t.cluster = info["cluster_enabled"] == "1"
	t.version = info["redis_version"] // Valkey gives the Redis version that it is compatible with
	t.scripts, t.noPXAT = t.since(7, 0), !t.since(6, 2)
	t.idmp = t.since(8, 6) && info["valkey_version"] == "" && t.version != "8.6.0" && t.version != "8.6.1"
	t.msetex = t.since(9, 1) || t.since(8, 4) && info["valkey_version"] == ""
	if v := info["valkey_version"]; v != "" {
		t.version = v
		t.hasImportMode = t.since(8, 1)
	}
	t.databases = map[int]bool{}
	policy := info["maxmemory_policy"]
	t.lfu, t.lru = strings.HasSuffix(policy, "-lfu"), strings.HasSuffix(policy, "-lru")
	if t.eviction = policy; policy == "noeviction" || info["maxmemory"] == "0" {
		t.eviction = ""
	}
}

// since tells whether the target's version is this one or later.
func (t *target) since(major, minor int) bool {
	return replica.VersionAtLeast(t.version, major, minor)
}

func (t *target) readConfig(ctx context.Context, c rueidis.CoreClient) {
	get := func(name string) string { // CONFIG is often not permitted; the defaults serve
		m, err := c.Do(ctx, c.B().ConfigGet().Parameter(name).Build()).AsStrMap()
		if err != nil {
			return ""
		}
		return m[name]
	}
	t.maxBulk = defaultMaxBulk
	if n, err := strconv.ParseInt(get("proto-max-bulk-len"), 10, 64); err == nil && n > 0 {
		t.maxBulk = n
	}
	t.importMode = get("import-mode")
}

// refuse names a target that cannot be written to at all.
func (t *target) refuse(src replica.SourceInfo, e replica.Endpoint, first bool) error {
	for _, err := range []error{t.loops(src, e), t.unsupported(e), t.readOnly(e, first)} {
		if err != nil {
			return err
		}
	}
	return nil
}

// loops names a target that is the source, or its replica, or its primary.
func (t *target) loops(src replica.SourceInfo, e replica.Endpoint) error {
	switch {
	case t.runID != "" && t.runID == src.RunID:
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("source %s and target %s are the same server", src.Addr, e),
			Hint: "check --source and --target",
		}
	case t.replID != "" && t.replID == src.ReplID:
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("source %s and target %s share replication ID %s: one replicates the other", src.Addr, e, t.replID),
			Hint: "give another target, or detach it first with REPLICAOF NO ONE",
		}
	case src.Primary != "" && src.Primary == e.Addr: // whose link is not up (yet), or they would share it
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("the source %s is a replica of the target %s", src.Addr, e),
			Hint: "check --source and --target, or detach the source first with REPLICAOF NO ONE",
		}
	}
	return nil
}

// unsupported names a target of a kind that redferry cannot write to.
func (t *target) unsupported(e replica.Endpoint) error {
	if !t.cluster {
		return nil
	}
	return &replica.Stop{
		Kind: replica.Config, Reason: fmt.Sprintf("the target %s is in cluster mode, which is not supported yet", e),
		Hint: "docs/limitations.md says what is planned",
	}
}

// readOnly names a target that is a replica. That ends a run at its first start only, and where the target stands alone in the URL: else there is a failover to wait out.
func (t *target) readOnly(e replica.Endpoint, first bool) error {
	if t.role == "master" {
		return nil
	}
	why := fmt.Sprintf("the target %s is a replica of %s and takes no writes", e, t.primary)
	if !first || len(e.Hosts) > 0 {
		return errors.New(why)
	}
	return &replica.Stop{Kind: replica.Decide, Reason: why, Hint: "give the primary's address, or promote it with REPLICAOF NO ONE"}
}

// newSnapshot is what to do when the snapshot that is here has what the source has no more.
const newSnapshot = "`redferry reset` makes the next run begin with a new snapshot"

// probe makes sure that the target has a database, before anything relies on it: a SELECT refused inside EXEC would let the next write fall
// into the database selected before.
func (a *Applier) probe(ctx context.Context, db int) error {
	if db == 0 || a.target.databases[db] {
		return nil
	}
	c, release := a.client.Dedicate() // SELECT is state of its connection
	defer release()
	results := c.DoMulti(ctx, c.B().Select().Index(int64(db)).Build(), c.B().Select().Index(0).Build())
	err := replica.AuthStop("target", a.Target, results[0].Error())
	if replica.AsStop(err) != nil {
		return err
	}
	if re, ok := rueidis.IsRedisErr(err); ok && !passing(re) {
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("the source uses database %d, and the target refuses it", db), Err: re,
			Hint: "raise `databases` in the target's configuration, and run the same command again; once the source does without it, " + newSnapshot,
		}
	}
	if err = errors.Join(err, results[1].Error()); err != nil {
		return fmt.Errorf("probe database %d of the target: %w", db, err)
	}
	a.target.databases[db] = true
	return nil
}

// foreign counts what the target holds that is not this migration's own, keys and function libraries, and says where it is.
func (a *Applier) foreign(ctx context.Context) (n int64, where string, err error) {
	text, err := a.client.Do(ctx, a.client.B().Info().Section("keyspace").Build()).ToString()
	if err != nil {
		return 0, "", fmt.Errorf("ask the target what it holds: %w", err)
	}
	own, err := a.client.Do(ctx, a.client.B().Exists().Key(checkpoint.Keys(a.Name)...).Build()).AsInt64()
	if err != nil {
		return 0, "", fmt.Errorf("ask the target what it holds: %w", err)
	}
	there, err := replica.Keyspace(replica.ParseInfo(text))
	if err != nil {
		return 0, "", fmt.Errorf("ask the target what it holds: %w", err)
	}
	var parts []string
	for _, d := range there {
		if d.Number == 0 {
			d.Keys -= own
		}
		if d.Keys > 0 {
			n += d.Keys
			parts = append(parts, fmt.Sprintf("db%d: %d keys", d.Number, d.Keys))
		}
	}
	if a.target.scripts {
		libraries, err := a.client.Do(ctx, a.client.B().Arbitrary("FUNCTION", "LIST").Build()).ToArray()
		if err != nil {
			return 0, "", fmt.Errorf("ask the target for its functions: %w", replica.AuthStop("target", a.Target, err))
		}
		if len(libraries) > 0 {
			n += int64(len(libraries))
			parts = append(parts, fmt.Sprintf("function libraries: %d", len(libraries)))
		}
	}
	sort.Strings(parts)
	return n, strings.Join(parts, ", "), nil
}

// conn is a connection of its own to the target, for one goroutine.
type conn struct {
	rueidis.DedicatedClient
	release func()
	fence   string // the fence key's value when it was opened
	history string // of the target then
	info    map[string]string

	roundTrip time.Duration   // that its opening took
	scripts   map[string]bool // that the target has, by their SHA1, as far as it was asked
}

func (c *conn) close() {
	c.Close() // a connection whose replies were not all read must not go back to the pool
	c.release()
}

// dial opens a connection and makes sure that this process may still write: its epoch stands, and transactions are permitted. After doubt about
// what an earlier connection carried it begins a new generation of the fence.
func (a *Applier) dial(ctx context.Context, doubt bool) (*conn, error) {
	// With a deadline rueidis writes and reads on this goroutine, from the first command on; one that could only be cancelled would make it
	// start goroutines for the connection.
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	dedicated, release := a.client.Dedicate()
	c := &conn{DedicatedClient: dedicated, release: release}
	b, began := c.B(), time.Now()
	results := c.DoMulti(ctx,
		b.ClientSetname().ConnectionName(a.owner.clientName()).Build(),
		b.Info().Build(),
		b.Watch().Key(checkpoint.Key(a.Name)).Build(),
		b.Multi().Build(),
		b.Eval().Script(admitScript).Numkeys(2).Key(checkpoint.OwnerKey(a.Name), checkpoint.FenceKey(a.Name)).
			Arg(strconv.FormatInt(a.owner.epoch, 10), flag(doubt)).Build(),
		b.Exec().Build(),
	)
	c.roundTrip = time.Since(began)
	if err := a.admitted(ctx, c, results); err != nil {
		c.close()
		return nil, err
	}
	if err := a.importSource(ctx, c); err != nil {
		c.close()
		return nil, err
	}
	a.owner.seen(c.fence)
	return c, nil
}

// history is another one when a target was restarted or has failed over, and so may have lost something. Its replication ID would change with its first
// replica, too.
func history(info map[string]string) string { return info["run_id"] + " " + info["second_repl_offset"] }

// admitted reads dial's replies.
func (a *Applier) admitted(ctx context.Context, c *conn, results []rueidis.RedisResult) error {
	for _, r := range results[1:] {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return fmt.Errorf("open a connection to the target: %w", lackStop(a.Target, err))
		}
	}
	text, _ := results[1].ToString()
	info := replica.ParseInfo(text)
	if info["role"] != "master" {
		return fmt.Errorf("the target %s is a replica of %s:%s now and takes no writes", a.Target, info["master_host"], info["master_port"])
	}
	if id := info["master_replid"]; id != "" && id == a.rec.ReplID { // INFO, before, may have been another server's, or not permitted
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("the target %s writes the history %s itself, which it is to be given: it is the same server as the source", a.Target, id),
			Hint: "check --source and --target",
		}
	}
	epoch, fence, err := parseAdmission(results[5].ToMessage())
	if err != nil {
		return fmt.Errorf("open a connection to the target: %w", replica.AuthStop("target", a.Target, err))
	}
	switch {
	case epoch > a.owner.epoch:
		return a.owner.overtaken(ctx, c)
	case epoch < a.owner.epoch:
		return errLost
	}
	c.fence = fence
	c.history, c.info = history(info), info
	return nil
}

// parseAdmission reads the reply to the EXEC around admitScript: the owner's epoch, 0 without one, and the fence's value.
func parseAdmission(exec rueidis.RedisMessage, err error) (epoch int64, fence string, _ error) {
	if rueidis.IsRedisNil(err) {
		return 0, "", errors.New("the checkpoint changed just now")
	}
	var replies []rueidis.RedisMessage
	if err == nil {
		replies, err = exec.ToArray()
	}
	if err != nil {
		return 0, "", err
	}
	if len(replies) != 1 {
		return 0, "", fmt.Errorf("it answered a transaction of one command with %d replies", len(replies))
	}
	pair, err := replies[0].AsStrSlice()
	if err != nil {
		return 0, "", err
	}
	if len(pair) != 2 {
		return 0, "", fmt.Errorf("read the owner's epoch: %d values instead of 2", len(pair))
	}
	if pair[0] == "" {
		return 0, pair[1], nil
	}
	if epoch, err = strconv.ParseInt(pair[0], 10, 64); err != nil || epoch < 0 {
		return 0, "", fmt.Errorf("read the owner's epoch: it is %.40q", pair[0])
	}
	return epoch, pair[1], nil
}
