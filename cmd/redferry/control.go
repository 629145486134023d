package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"redferry/applier"
	"redferry/replica"
	"redferry/replica/admin"
	"redferry/replica/metrics"
)

// socketFile is where a run listens for the commands of the operator.
func socketFile(dir string) string { return filepath.Join(dir, "redferry.sock") }

// adminFlags say where else a run takes commands.
type adminFlags struct {
	AdminAddr     string `placeholder:"HOST:PORT" help:"Take the operator's commands at this address, too, beside the socket redferry.sock in --dir."`
	AdminPassword string `placeholder:"PASSWORD" help:"The password that --admin-addr wants. Give it as a variable, or in the file of --config."`
}

func (f adminFlags) check() error {
	if (f.AdminAddr == "") == (f.AdminPassword == "") {
		return nil
	}
	return &replica.Stop{
		Kind: replica.Config, Reason: "--admin-addr and --admin-password want each other",
		Hint: "give both, the password as REDFERRY_ADMIN_PASSWORD; without them the socket in --dir serves this machine",
	}
}

// listen opens the admin socket. That the one in --dir cannot be opened is a warning; for an address that the operator has given it is an error.
func (f adminFlags) listen(home *applier.Home, commands []admin.Command, log zerolog.Logger) (*admin.Server, error) {
	c := admin.Config{Socket: socketFile(home.Dir()), Addr: f.AdminAddr, Password: f.AdminPassword, Commands: commands, Log: log}
	s, err := admin.Listen(c)
	if errors.Is(err, admin.ErrSocket) {
		log.Warn().Err(err).Msg("redferry pause, resume and status do not reach this run; another --dir may help")
		c.Socket = ""
		s, err = admin.Listen(c)
	}
	if err != nil {
		return nil, &replica.Stop{Kind: replica.Config, Reason: "--admin-addr " + f.AdminAddr, Err: err, Hint: "give an address of this machine that is free"}
	}
	return s, nil
}

// service is something that serves for as long as a run takes.
type service func(context.Context) error

// services are what the flags want beside a run. They are open, and serve once they run.
func (c *runCmd) services(home *applier.Home, controls admin.Controls, cutover admin.Command, log zerolog.Logger) ([]service, error) {
	var list []service
	if c.MetricsAddr != "" { // first, since an admin socket that is not served would stay behind
		m, err := metrics.Listen(c.MetricsAddr, controls.Report)
		if err != nil {
			return nil, &replica.Stop{Kind: replica.Config, Reason: "--metrics-addr " + c.MetricsAddr, Err: err, Hint: "give an address of this machine that is free"}
		}
		list = append(list, m.Run)
	}
	s, err := c.listen(home, append(controls.Commands(), cutover), log)
	if err != nil {
		return nil, err // the process ends, and what is open with it
	}
	return append(list, s.Run), nil
}

// beside runs services for as long as f takes, and waits for them.
func beside(ctx context.Context, log zerolog.Logger, f func() error, services ...service) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // also while a run that was told to stop drains
	var wg sync.WaitGroup
	for _, serve := range services {
		wg.Go(func() {
			if err := serve(serving); err != nil {
				log.Warn().Err(err).Msg("the run goes on without")
			}
		})
	}
	err := f()
	stop()
	wg.Wait()
	return err
}

// dialRun connects to the run of a migration on this machine.
func (h homeFlags) dialRun(ctx context.Context) (*admin.Client, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	dir, err := h.folder()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("find the state directory: %w", err)
	}
	return admin.Dial(ctx, socketFile(dir))
}

// notRunning makes of ErrNotRunning what an operator can do.
func (h homeFlags) notRunning(err error) error {
	if !errors.Is(err, admin.ErrNotRunning) {
		return err
	}
	return &replica.Stop{
		Kind: replica.Config, Reason: fmt.Sprintf("migration %q does not run on this machine, or has no admin socket", h.Name),
		Hint: "give the --name and --dir of its run, as the same user",
	}
}

// answerTime is how long a run may take to answer.
const answerTime = 10 * time.Second

// command gives a run one command.
func (h homeFlags) command(ctx context.Context, words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := h.dialRun(ctx)
	if err != nil {
		return "", h.notRunning(err)
	}
	defer c.Close()
	return c.Do(ctx, words...)
}

type pauseCmd struct{ homeFlags }

// Run pauses a run.
func (c *pauseCmd) Run(ctx context.Context, s *streams) error {
	if _, err := c.command(ctx, "PAUSE"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.out, "paused %q: what it receives goes into the spool until `redferry resume`, or until its process ends\n", c.Name)
	return err
}

type resumeCmd struct{ homeFlags }

// Run has a paused run go on.
func (c *resumeCmd) Run(ctx context.Context, s *streams) error {
	if _, err := c.command(ctx, "RESUME"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.out, "resumed %q\n", c.Name)
	return err
}

// reporter makes reports of a run.
func reporter(id admin.Identity, screen *screen) func() admin.Report {
	return func() admin.Report {
		r := admin.Report{Server: id, View: screen.now()}
		r.Why = redact(r.Why)
		return r
	}
}

// identity says which run this process is.
func (c *runCmd) identity(source, target replica.Endpoint, home *applier.Home) admin.Identity {
	return admin.Identity{
		Name: c.Name, Source: source.String(), Target: target.String(), Dir: home.Dir(), Version: versionText(), PID: os.Getpid(), Started: time.Now(),
	}
}
