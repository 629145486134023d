package verify

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"redferry/replica"
)

// replyTimeout is how long a server may take for one pipeline.
const replyTimeout = time.Minute

// conn is a connection to one end. It belongs to one goroutine at a time.
type conn struct {
	end       string // source or target, for messages
	endpoint  replica.Endpoint
	client    rueidis.Client
	dedicated rueidis.DedicatedClient
	release   func()
	cut       func() // ends what is left of its connections
	db        int    // that is selected

	runID    string
	info     map[string]string
	has70    bool // PEXPIRETIME, functions, a stream's counters
	has72    bool // a group's entries-read is replicated
	fieldTTL bool // expiries of hash fields
	cluster  bool
}

// dial opens a connection and asks the server who it is.
func dial(ctx context.Context, end string, e replica.Endpoint) (*conn, error) {
	c := &conn{end: end, endpoint: e}
	ctx, c.cut = context.WithCancel(ctx)
	o := e.Until(ctx).ClientOption()
	o.ConnWriteTimeout = replyTimeout
	o.ReadBufferEachConn, o.WriteBufferEachConn = 64<<10, 64<<10
	client, err := rueidis.NewClient(o)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		c.cut()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("the %s %s does not answer: %w", end, e, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the %s %s: %w", end, e, replica.AuthStop(end, e, err))
	}
	c.client = client
	c.dedicated, c.release = client.Dedicate() // SELECT and WATCH are state of a connection
	if err := c.ask(ctx); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() {
	c.dedicated.Close()
	c.release()
	c.client.Close()
	c.cut()
}

func (c *conn) ask(ctx context.Context) error {
	// DUMP is a look at a key, which must not make it look used where keys are evicted by that. Servers before 7.2 do not know this, and users may not have the right.
	ctx2, cancel := context.WithTimeout(ctx, replyTimeout)
	_ = c.dedicated.Do(ctx2, c.cmd("CLIENT", "NO-TOUCH", "ON")).Error()
	cancel()
	replies, err := c.do(ctx, 0, c.cmd("INFO"))
	if err != nil {
		return err
	}
	text, err := replies[0].ToString()
	if err != nil {
		return fmt.Errorf("ask the %s %s for INFO: %w", c.end, c.endpoint, err)
	}
	c.info = replica.ParseInfo(text)
	if c.info["loading"] == "1" {
		return fmt.Errorf("the %s %s is loading its dataset", c.end, c.endpoint)
	}
	c.runID, c.cluster = c.info["run_id"], c.info["cluster_enabled"] == "1"
	valkey := c.info["valkey_version"]
	at := func(major, minor int) bool { return replica.VersionAtLeast(c.info["redis_version"], major, minor) }
	c.has70, c.has72 = valkey != "" || at(7, 0), valkey != "" || at(7, 2)
	c.fieldTTL = valkey == "" && at(7, 4) || valkey != "" && replica.VersionAtLeast(valkey, 9, 0)
	if !c.cluster {
		return nil
	}
	if replies, err = c.do(ctx, 0, c.cmd("CLUSTER", "INFO")); err != nil {
		return err
	}
	if text, err = replies[0].ToString(); err != nil {
		return fmt.Errorf("ask the %s %s for CLUSTER INFO: %w", c.end, c.endpoint, err)
	}
	if n, err := strconv.Atoi(replica.ParseInfo(text)["cluster_size"]); err == nil && n > 1 {
		return &replica.Stop{
			Kind: replica.Config, Reason: fmt.Sprintf("the %s %s is a cluster of %d shards, and only one shard can be compared yet", c.end, c.endpoint, n),
			Hint: "docs/limitations.md says what is planned",
		}
	}
	return nil
}

func (c *conn) cmd(words ...string) rueidis.Completed {
	return c.dedicated.B().Arbitrary(words...).Build()
}

// do runs commands in a database, in one pipeline, and gives their replies. What a reply says of its key may be an error still, see about; any other is returned.
func (c *conn) do(ctx context.Context, db int, cmds ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	if len(cmds) == 0 {
		return nil, nil
	}
	// With a deadline rueidis writes and reads on this goroutine.
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	if c.db != db {
		if err := c.dedicated.Do(ctx, c.cmd("SELECT", strconv.Itoa(db))).Error(); err != nil {
			return nil, c.failed(ctx, fmt.Errorf("SELECT %d: %w", db, err))
		}
		c.db = db
	}
	replies := c.dedicated.DoMulti(ctx, cmds...)
	for _, r := range replies {
		if err := r.Error(); err != nil && !about(err) {
			return nil, c.failed(ctx, err)
		}
	}
	return replies, nil
}

// about tells an error that is about a key, which has changed since it was looked at.
func about(err error) bool {
	if rueidis.IsRedisNil(err) {
		return true
	}
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	text := re.Error()
	return strings.HasPrefix(text, "WRONGTYPE") || strings.HasPrefix(text, "NOGROUP") || strings.Contains(text, "no such key")
}

func (c *conn) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return fmt.Errorf("ask the %s %s: %w", c.end, c.endpoint, replica.AuthStop(c.end, c.endpoint, err))
}

// both does the same with both sides at the same time.
func both(a, b func() error) error {
	done := make(chan error, 1)
	go func() { done <- a() }()
	err := b()
	if other := <-done; other != nil {
		return other
	}
	return err
}

// clock reads the reply to TIME, in Unix ms.
func clock(r rueidis.RedisResult) (int64, error) {
	parts, err := r.AsIntSlice()
	if err != nil || len(parts) != 2 {
		return 0, fmt.Errorf("read the reply to TIME: %d values: %w", len(parts), err)
	}
	return parts[0]*1000 + parts[1]/1000, nil
}
