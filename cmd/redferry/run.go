package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
)

// tlsFlags are one end's TLS files.
type tlsFlags struct {
	CA         string `name:"ca" placeholder:"PEM" help:"Trust these authorities instead of the system's."`
	Cert       string `name:"cert" placeholder:"PEM" help:"The client's certificate."`
	Key        string `name:"key" placeholder:"PEM" help:"The client's key."`
	ServerName string `name:"server-name" placeholder:"NAME" help:"Verify this name instead of the URL's host."`
	Insecure   bool   `name:"insecure" help:"Do not verify the server."`
}

func (f tlsFlags) files() replica.TLSFiles {
	return replica.TLSFiles{CA: f.CA, Cert: f.Cert, Key: f.Key, ServerName: f.ServerName, Insecure: f.Insecure}
}

// endpoint reads the URL of one end, "source" or "target".
func endpoint(end, url string, f tlsFlags) (replica.Endpoint, error) {
	e, err := replica.ParseEndpoint(url, f.files())
	if err != nil {
		return e, &replica.Stop{Kind: replica.Config, Reason: "--" + end, Err: err, Hint: "redis://[user[:password]@]host:port, rediss:// for TLS, unix:///path"}
	}
	return e, nil
}

// targetFlags are what every command needs that asks a target.
type targetFlags struct {
	Target    string   `required:"" placeholder:"URL" help:"The server to write to: redis://[user[:password]@]host:port, rediss:// for TLS, unix:///path."`
	TargetTLS tlsFlags `embed:"" prefix:"target-tls-" group:"TLS to the target:"`
}

// homeFlags name a migration and where its state is.
type homeFlags struct {
	Name string `default:"default" help:"The migration's name: one source, one target."`
	Dir  string `placeholder:"DIR" help:"Where state lives, under the migration's name. Default: $$STATE_DIRECTORY, $$XDG_STATE_HOME/redferry or ~/.local/state/redferry."`
}

func (h homeFlags) open() (*applier.Home, error) {
	if err := checkpoint.CheckName(h.Name); err != nil {
		return nil, &replica.Stop{Kind: replica.Config, Reason: "--name", Err: err}
	}
	dir, err := h.dir()
	if err != nil {
		return nil, err
	}
	return applier.OpenHome(dir, h.Name)
}

func (h homeFlags) dir() (string, error) {
	if h.Dir != "" {
		return h.Dir, nil
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "redferry"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", &replica.Stop{Kind: replica.Config, Reason: "no place for state", Err: err, Hint: "give --dir"}
	}
	return filepath.Join(home, ".local", "state", "redferry"), nil
}

type runCmd struct {
	Source    string   `required:"" placeholder:"URL" help:"The server to replicate from."`
	SourceTLS tlsFlags `embed:"" prefix:"source-tls-" group:"TLS to the source:"`
	targetFlags
	homeFlags

	StopAt            string            `placeholder:"caught-up|OFFSET" help:"End, with exit code 0, once the target has all that the source had when redferry was in sync for the first time, or all up to this replication offset."`
	OnFullResync      string            `enum:"refuse,flush,merge" default:"refuse" help:"When a full resync is needed and the target holds data of this migration: stop with exit code 3, empty the target first, or load over what is there (${enum})."`
	OnTargetNotEmpty  string            `enum:"refuse,flush,merge" default:"refuse" help:"When the target holds anything at the first start (${enum})."`
	OnError           string            `enum:"stop,continue" default:"stop" help:"When the target refuses a write for good: stop with exit code 4, or keep it in rejected.resp and go on (${enum})."`
	Takeover          bool              `help:"Replace a process that owns this migration and lives."`
	Publish           bool              `default:"true" negatable:"" help:"Forward PUBLISH and SPUBLISH."`
	Ack               string            `enum:"durable,liveness" default:"durable" help:"What to acknowledge to the source: what is in the target, or offset 0, for a source whose clients use WAIT or FAILOVER (${enum})."`
	PsyncCommand      string            `placeholder:"NAME" help:"The source's name for PSYNC, if it was renamed."`
	RenamedCommand    map[string]string `placeholder:"NEW=USUAL" help:"A command that the source has under another name, as NEW=USUAL; may be repeated."`
	AnnouncePort      int               `default:"0" help:"The port to announce to the source. Nothing that speaks Redis may listen there."`
	SnapshotPipelines int               `default:"3" help:"Connections that load the snapshot."`
	TargetTimeout     time.Duration     `default:"1m" help:"How long one round trip to the target may take, however large."`
	logFlags
}

// Run replicates until it is told to stop.
func (c *runCmd) Run(ctx context.Context, s *streams) error {
	source, err := endpoint("source", c.Source, c.SourceTLS)
	if err != nil {
		return err
	}
	target, err := endpoint("target", c.Target, c.TargetTLS)
	if err != nil {
		return err
	}
	stopAt, err := parseStopAt(c.StopAt)
	if err != nil {
		return err
	}
	home, err := c.open()
	if err != nil {
		return err
	}
	defer home.Close()

	status := &replica.Status{}
	screen := c.screen(s, status)
	log := screen.log
	log.Info().Str("source", source.String()).Str("target", target.String()).Str("name", c.Name).Str("dir", home.Dir()).Str("version", version()).Msg("redferry starts")

	a := applier.New(applier.Config{
		Name: c.Name, Target: target, Home: home,
		OnFullResync: applier.Choice(c.OnFullResync), OnNotEmpty: applier.Choice(c.OnTargetNotEmpty),
		Takeover: c.Takeover, KeepGoing: c.OnError == "continue", DropPublish: !c.Publish, Rename: renames(c.RenamedCommand),
		Pipelines: c.SnapshotPipelines, Timeout: c.TargetTimeout, Status: status, Log: log,
	})
	err = replica.Run(ctx, replica.RunConfig{
		Source: source, ListeningPort: c.AnnouncePort, PSYNCCommand: c.PsyncCommand, AckLiveness: c.Ack == "liveness",
		StopAt: stopAt, Status: status, Log: log,
	}, a)
	a.Close()
	screen.end(ctx, err)
	return err
}

func parseStopAt(text string) (replica.StopAt, error) {
	switch text {
	case "":
		return replica.StopAt{}, nil
	case "caught-up":
		return replica.StopAt{CaughtUp: true}, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return replica.StopAt{}, &replica.Stop{
			Kind: replica.Config, Reason: fmt.Sprintf("--stop-at %q", text), Err: errors.New("neither caught-up nor an offset above 0"),
		}
	}
	return replica.StopAt{Offset: n}, nil
}

func renames(m map[string]string) applier.RenameMap {
	out := applier.RenameMap{}
	for renamed, usual := range m {
		out[strings.ToUpper(renamed)] = strings.ToUpper(usual)
	}
	return out
}

// level reads --log-level; the flag's enum has checked it.
func level(text string) zerolog.Level {
	l, err := zerolog.ParseLevel(text)
	if err != nil {
		return zerolog.InfoLevel
	}
	return l
}
