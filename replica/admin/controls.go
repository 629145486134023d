package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"redferry/replica"
	"redferry/replica/events"
)

// Controls are a run's handles.
type Controls struct {
	Report   func() Report
	Gate     *replica.Gate
	Events   string // the file
	Settings []Setting
	Shutdown func() // as SIGTERM; returns at once
}

// Setting is a flag that may change while the run goes on.
type Setting struct {
	Name string // the flag's
	Get  func() string
	Set  func(text string) error
}

const (
	someEvents = 100    // that EVENTS gives
	maxEvents  = 10_000 // the most that it can be asked for
)

// Commands are the admin commands of a run.
func (c Controls) Commands() []Command {
	return []Command{
		{Name: "INFO", Args: "[section …]", Arity: -1, Help: "Tell how the run does, as lines.", Run: c.info},
		{Name: "STATUS", Arity: 1, Help: "Tell how the run does, as JSON.", Run: c.status},
		{Name: "PAUSE", Arity: 1, Help: "Stop applying to the target; receiving into the spool goes on.", Run: func(context.Context, []string) (any, error) {
			c.Gate.Pause()
			return OK, nil
		}},
		{Name: "RESUME", Arity: 1, Help: "Go on applying.", Run: func(context.Context, []string) (any, error) {
			c.Gate.Resume()
			return OK, nil
		}},
		{Name: "EVENTS", Args: "[count]", Arity: -1, Help: "Tell the last changes of state, oldest first, each as JSON.", Run: c.events},
		{Name: "CONFIG", Args: "GET pattern … | SET name value …", Arity: -3, Help: "See or change flags that may change while the run goes on.", Run: c.config},
		{Name: "SHUTDOWN", Arity: -1, Help: "End the run as SIGTERM does: write what was read, and exit with 0.", Run: func(context.Context, []string) (any, error) {
			c.Shutdown()
			return OK, nil
		}},
	}
}

func (c Controls) info(_ context.Context, sections []string) (any, error) {
	r := c.Report()
	if len(sections) == 0 {
		return info(&r, ""), nil
	}
	var parts []string
	for _, s := range sections {
		if text := info(&r, s); text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, "\r\n"), nil
}

func (c Controls) status(context.Context, []string) (any, error) {
	text, err := json.Marshal(c.Report())
	return string(text), err
}

func (c Controls) events(_ context.Context, args []string) (any, error) {
	count := someEvents
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 || n > maxEvents {
			return nil, fmt.Errorf("ERR count is not between 1 and %d", maxEvents)
		}
		count = n
	}
	list, err := events.Read(c.Events, count)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, e := range list {
		text, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		out = append(out, string(text))
	}
	return out, nil
}

func (c Controls) config(_ context.Context, args []string) (any, error) {
	switch sub := strings.ToUpper(args[0]); {
	case sub == "GET":
		return c.get(args[1:])
	case sub == "SET" && len(args)%2 == 1:
		for i := 1; i < len(args); i += 2 {
			if err := c.set(args[i], args[i+1]); err != nil {
				return nil, err
			}
		}
		return OK, nil
	}
	return nil, fmt.Errorf("ERR CONFIG GET pattern … or CONFIG SET name value …; what is there: %s", c.names())
}

func (c Controls) get(patterns []string) (any, error) {
	found := Map{}
	for _, s := range c.Settings {
		for _, p := range patterns {
			ok, err := path.Match(strings.ToLower(p), s.Name)
			if err != nil {
				return nil, fmt.Errorf("ERR the pattern '%.64s': %w", printable(p), err)
			}
			if ok {
				found = append(found, Pair{s.Name, s.Get()})
				break
			}
		}
	}
	return found, nil
}

func (c Controls) set(name, value string) error {
	for _, s := range c.Settings {
		if strings.EqualFold(s.Name, name) {
			if err := s.Set(value); err != nil {
				return fmt.Errorf("ERR CONFIG SET %s: %w", s.Name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("ERR '%.64s' cannot change while a run goes on: what can is %s", printable(name), c.names())
}

func (c Controls) names() string {
	var names []string
	for _, s := range c.Settings {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// DurationText reads a duration of 0 or more.
func DurationText(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("'%.32s' is no duration: write 5s or 1m", printable(text))
	}
	return d, nil
}
