package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// source is the ordinary connection beside the link: once a connection is a replica's it may not run INFO or CONFIG (protocol 1.1).
type source struct {
	client rueidis.Client
	blind  bool // INFO is not permitted: go on without knowing the backlog
}

func dialSource(e Endpoint) (*source, error) {
	option := e.ClientOption()
	option.ClientName = "" // a name would need one more permission
	c, err := rueidis.NewClient(option)
	if err != nil {
		return nil, fmt.Errorf("connect to the source %s: %w", e, AuthStop("source", e, err))
	}
	return &source{client: c}, nil
}

// openSource finds the one server that an endpoint stands for, connects to it, and asks it for INFO. The server is there behind an error, too, where it was found.
func openSource(ctx context.Context, e Endpoint) (s *source, server Endpoint, info map[string]string, err error) {
	if server, err = e.Resolve(ctx); err != nil {
		return nil, server, nil, err
	}
	if s, err = dialSource(server); err != nil {
		return nil, server, nil, err
	}
	if info, err = s.info(ctx); err != nil {
		s.close()
		return nil, server, nil, err
	}
	return s, server, info, nil
}

func (s *source) close() { s.client.Close() }

// AuthStop turns a server's refusal of our name or password into the Stop that it is; other errors pass through. end is "source" or "target".
func AuthStop(end string, e Endpoint, err error) error {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return TLSStop(end, e, err)
	}
	text := re.Error()
	for _, prefix := range []string{"WRONGPASS", "NOAUTH", "ERR invalid password", "ERR AUTH", "ERR Client sent AUTH", "NOPERM", "DENIED"} {
		if strings.HasPrefix(text, prefix) {
			return &Stop{
				Kind: Config, Reason: fmt.Sprintf("the %s %s refuses this user", end, e), Err: err,
				Hint: "give a user and password in --" + end + " (user:password@ before its host) that has the rights which docs/operations.md lists",
			}
		}
	}
	return err
}

// SentinelStop names a sentinel that was given as a server, by what it says in INFO; nil for a server. end is "source" or "target".
func SentinelStop(end string, e Endpoint, info map[string]string) error {
	if info["redis_mode"] != "sentinel" && info["server_mode"] != "sentinel" {
		return nil
	}
	return &Stop{
		Kind: Config, Reason: fmt.Sprintf("the %s %s is a sentinel, and no server", end, e),
		Hint: fmt.Sprintf("--%s redis+sentinel://%s/NAME has it find the primary of that name", end, e.Addr),
	}
}

// info is the whole of INFO, or an empty map when it is not permitted.
func (s *source) info(ctx context.Context) (map[string]string, error) {
	text, err := s.client.Do(ctx, s.client.B().Info().Build()).ToString()
	if re, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(re.Error(), "NOPERM") {
		s.blind = true
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the source for INFO: %w", err)
	}
	return ParseInfo(text), nil
}

// errOtherHistory says that the source writes another history than the one that its link carries.
var errOtherHistory = errors.New("the source has begun another history")

// offset is the source's master_repl_offset now, in the history replID, and the size of its backlog, 0 without one: after a failover the same address may be another server's.
func (s *source) offset(ctx context.Context, replID string) (offset, backlog int64, err error) {
	text, err := s.client.Do(ctx, s.client.B().Info().Section("replication").Build()).ToString()
	if err != nil {
		return 0, 0, fmt.Errorf("ask the source for its offset: %w", err)
	}
	info := ParseInfo(text)
	if id := info["master_replid"]; id != replID {
		return 0, 0, fmt.Errorf("%w: that is %s, and the link follows %s", errOtherHistory, id, replID)
	}
	if offset, err = strconv.ParseInt(info["master_repl_offset"], 10, 64); err != nil {
		return 0, 0, fmt.Errorf("read the source's master_repl_offset: %w", err)
	}
	if info["repl_backlog_active"] == "1" {
		backlog, _ = strconv.ParseInt(info["repl_backlog_size"], 10, 64) // nothing is decided by it
	}
	return offset, backlog, nil
}

// ClockSkew is how far a server's clock is ahead of this machine's, taken to have been read in the midst of the round trip. ok is false when the server does
// not tell its time.
func ClockSkew(ctx context.Context, c rueidis.CoreClient) (skew time.Duration, ok bool) {
	asked := time.Now()
	parts, err := c.Do(ctx, c.B().Time().Build()).AsIntSlice()
	if err != nil || len(parts) != 2 {
		return 0, false
	}
	return time.Unix(parts[0], parts[1]*1000).Sub(asked.Add(time.Since(asked) / 2)), true
}

// readTimeout is the source's repl-timeout: as long as a real replica would wait for a byte. 0 when it will not tell.
func (s *source) readTimeout(ctx context.Context) time.Duration {
	m, err := s.client.Do(ctx, s.client.B().ConfigGet().Parameter("repl-timeout").Build()).AsStrMap()
	if err != nil {
		return 0 // CONFIG is often not permitted; the default serves
	}
	return secondsText(m["repl-timeout"])
}

// secondsText is a time that a server gives in seconds; 0 where it is none, or one that no server has: these end at 2^31.
func secondsText(text string) time.Duration {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n <= 0 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// commands is the source's table of key positions, or nil: COMMAND is often not permitted, and a built-in table serves then.
func (s *source) commands(ctx context.Context) map[string]KeySpec {
	list, err := s.client.Do(ctx, s.client.B().Command().Build()).ToArray()
	if err != nil {
		return nil
	}
	return keySpecs(list)
}

// mostPlaces is more than any command has of arguments by their places.
const mostPlaces = 1 << 30

// keySpecs reads the reply to COMMAND. What is no command is left out, and so is one that has its keys where no command can: its keys are then not known.
func keySpecs(list []rueidis.RedisMessage) map[string]KeySpec {
	table := make(map[string]KeySpec, len(list))
	for _, entry := range list { // name, arity, flags, first, last, step, …
		fields, err := entry.ToArray()
		if err != nil || len(fields) < 6 {
			continue
		}
		name, noName := fields[0].ToString()
		flags, _ := fields[2].AsStrSlice()
		first, noFirst := fields[3].AsInt64()
		last, noLast := fields[4].AsInt64()
		step, noStep := fields[5].AsInt64()
		if errors.Join(noName, noFirst, noLast, noStep) != nil || name == "" ||
			first < 0 || first > mostPlaces || last < -mostPlaces || last > mostPlaces || step < 0 || step > mostPlaces {
			continue
		}
		table[strings.ToLower(name)] = KeySpec{
			First: int(first), Last: int(last), Step: int(step), Movable: slices.Contains(flags, "movablekeys"),
		}
	}
	return table
}

// describe makes the SourceInfo of an INFO, and refuses what a link cannot serve yet.
func (s *source) describe(ctx context.Context, e Endpoint, info map[string]string) (SourceInfo, error) {
	si := SourceInfo{
		Addr: e.String(), RunID: info["run_id"], Version: info["redis_version"], Server: "redis",
		ReplID: info["master_replid"], Role: info["role"], Commands: s.commands(ctx),
	}
	if v := info["valkey_version"]; v != "" {
		si.Server, si.Version = "valkey", v
	}
	if si.Role == roleReplica {
		si.Primary = net.JoinHostPort(info["master_host"], info["master_port"])
	}
	si.Skew, si.HasSkew = ClockSkew(ctx, s.client)
	if err := SentinelStop("source", e, info); err != nil {
		return si, err
	}
	if info["loading"] == "1" {
		return si, errors.New("the source is loading its dataset")
	}
	if info["cluster_enabled"] == "1" {
		text, err := s.client.Do(ctx, s.client.B().ClusterInfo().Build()).ToString()
		if err != nil {
			return si, fmt.Errorf("ask the source for CLUSTER INFO: %w", err)
		}
		n, err := strconv.Atoi(ParseInfo(text)["cluster_size"])
		if err != nil {
			return si, fmt.Errorf("read the source's CLUSTER INFO: its cluster_size: %w", err)
		}
		if n > 1 {
			return si, &Stop{
				Kind: Config, Reason: fmt.Sprintf("the source is a cluster of %d shards, and only one shard can be a source yet", n),
				Hint: "docs/limitations.md says what is planned",
			}
		}
	}
	return si, nil
}
