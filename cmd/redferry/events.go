package main

import (
	"fmt"
	"io"
	"time"

	"redferry/replica"
	"redferry/replica/events"
)

type eventsCmd struct {
	homeFlags
	Count int  `default:"20" help:"How many, of the last ones."`
	JSON  bool `name:"json" help:"Print one JSON object a line."`
}

// Run prints the last events.
func (c *eventsCmd) Run(s *streams) error {
	if err := within("events", limit{"--count", c.Count >= 1, "1 or more"}); err != nil {
		return err
	}
	list, path, err := c.last(c.Count)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return &replica.Stop{
			Kind: replica.Decide, Reason: fmt.Sprintf("this machine knows of nothing that happened to migration %q: no events in %s", c.Name, path),
			Hint: "give the --name and --dir of its run",
		}
	}
	for _, e := range list {
		if c.JSON {
			err = printJSON(s.out, e)
		} else {
			err = printEvent(s.out, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printEvent(w io.Writer, e events.Event) error {
	_, err := fmt.Fprintf(w, "%s  %-13s %s\n", e.Time.UTC().Format("2006-01-02 15:04:05.000 MST"), e.State, e.Why)
	return err
}

// last are a migration's last events, and where they are kept.
func (h homeFlags) last(count int) (list []events.Event, path string, err error) {
	if err := h.check(); err != nil {
		return nil, "", err
	}
	dir, err := h.folder()
	if err != nil {
		return nil, "", err
	}
	path = eventsFile(dir)
	list, err = events.Read(path, count)
	return list, path, err
}

// sinceText is how long ago a time was.
func sinceText(t time.Time) string { return short(max(0, time.Since(t))) }
