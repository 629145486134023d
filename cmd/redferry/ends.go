package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"redferry/applier"
	"redferry/applier/checkpoint"
	"redferry/replica"
)

// tlsFlags are one end's TLS files.
type tlsFlags struct {
	CA         string `name:"ca" placeholder:"PEM" help:"Trust these authorities instead of the system's."`
	Cert       string `name:"cert" placeholder:"PEM" help:"The client's certificate."`
	Key        string `name:"key" placeholder:"PEM" help:"The client's key."`
	ServerName string `name:"server-name" placeholder:"NAME" help:"Verify this name instead of the host's own."`
	Insecure   bool   `name:"insecure" help:"Do not verify the server."`
}

func (f tlsFlags) files() replica.TLSFiles {
	return replica.TLSFiles{CA: f.CA, Cert: f.Cert, Key: f.Key, ServerName: f.ServerName, Insecure: f.Insecure}
}

// targetTLS are the TLS files of commands that ask a target.
type targetTLS struct {
	TargetTLS tlsFlags `embed:"" prefix:"target-tls-" group:"TLS to the target:"`
}

// targetFlags are what every command needs that cannot do without a target.
type targetFlags struct {
	Target string `required:"" placeholder:"URL" help:"The server to write to: redis://[user[:password]@]host:port, rediss:// for TLS, unix:///path. Of several, host:port,host:port…, the primary; redis+sentinel://host:port,…/master asks sentinels for it."`
	targetTLS
}

// urlForms are the URLs of an end.
const urlForms = "redis://[user[:password]@]host:port[,host:port…], rediss:// for TLS, redis+sentinel://[user[:password]@]host:port[,…]/master, unix:///path"

// endpoint reads the URL of one end, "source" or "target".
func endpoint(end, raw string, f tlsFlags) (replica.Endpoint, error) {
	e, err := replica.ParseEndpoint(raw, f.files())
	if err == nil {
		return e, nil
	}
	if !printable(raw) {
		err = errors.New("not a URL: percent-encode special characters of the user and the password (/ is %2F, @ is %40, # is %23, ? is %3F, % is %25)")
	}
	return e, &replica.Stop{Kind: replica.Config, Reason: "--" + end, Err: err, Hint: urlForms}
}

// printable tells whether an error about a URL may quote parts of it: only when it is certain which part is the password.
func printable(raw string) bool {
	if !strings.Contains(raw, "@") {
		return true
	}
	_, rest, _ := strings.Cut(raw, "://")
	authority, behind := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, behind = rest[:i], rest[i:]
	}
	return strings.Contains(authority, "@") && !strings.Contains(behind, "@")
}

// nameFlag is which migration.
type nameFlag struct {
	Name string `default:"default" help:"The migration's name: one source, one target."`
}

func (n nameFlag) check() error {
	if err := checkpoint.CheckName(n.Name); err != nil {
		return &replica.Stop{Kind: replica.Config, Reason: "--name", Err: err}
	}
	return nil
}

// homeFlags name a migration and where its state is.
type homeFlags struct {
	nameFlag
	Dir string `placeholder:"DIR" help:"Where state lives, under the migration's name. Default: $$STATE_DIRECTORY, $$XDG_STATE_HOME/redferry or ~/.local/state/redferry."`
}

// open locks the migration's directory for this process. The Home is the caller's to close.
func (h homeFlags) open() (*applier.Home, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	dir, err := h.root()
	if err != nil {
		return nil, err
	}
	home, err := applier.OpenHome(dir, h.Name)
	if err != nil && replica.AsStop(err) == nil { // a directory that cannot be made or written
		return nil, &replica.Stop{Kind: replica.Config, Reason: "no place for state", Err: err, Hint: "give another --dir"}
	}
	return home, err
}

// folder is the migration's directory, which may not be there.
func (h homeFlags) folder() (string, error) {
	root, err := h.root()
	return filepath.Join(root, h.Name), err
}

func (h homeFlags) root() (string, error) {
	if h.Dir != "" {
		return h.Dir, nil
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" { // systemd's, which may list several
		return dir, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "redferry"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", &replica.Stop{Kind: replica.Config, Reason: fmt.Sprintf("no place for state: %v", err), Hint: "give --dir"}
	}
	return filepath.Join(home, ".local", "state", "redferry"), nil
}
