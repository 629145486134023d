package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Command is what an operator can give.
type Command struct {
	Name  string // in capitals
	Args  string // as HELP and COMMAND DOCS show them: "[section]"; may be empty
	Arity int    // as in Redis: how many words with the name; of -n, n at least
	Help  string // one sentence
	// Run carries it out. It is called from many goroutines, one for each connection, and may take its time: other connections go on. ctx ends when the server does, and, with
	// ErrHungUp as its cause, when the client hangs up. An error's text may begin with a word in capitals, as Redis' errors do.
	Run func(ctx context.Context, args []string) (any, error)

	basic func(c *conn, args []string) (any, error) // in place of Run: of a connection
}

// Usage is the name with the arguments.
func (c *Command) Usage() string { return strings.TrimSpace(c.Name + " " + c.Args) }

// basics are the commands that any client needs to get on with a server.
func (s *Server) basics() []Command {
	ok := func(*conn, []string) (any, error) { return OK, nil }
	return []Command{
		{Name: "PING", Args: "[text]", Arity: -1, Help: "Answer.", basic: func(_ *conn, args []string) (any, error) {
			if len(args) > 0 {
				return args[0], nil
			}
			return Simple("PONG"), nil
		}},
		{Name: "AUTH", Args: "[user] password", Arity: -2, Help: "Give the password of --admin-password.", basic: func(c *conn, args []string) (any, error) {
			user := "default"
			if len(args) > 1 {
				user = args[0]
			}
			return OK, c.authenticate(user, args[len(args)-1])
		}},
		{Name: "HELLO", Args: "[version [AUTH user password] [SETNAME name]]", Arity: -1, Help: "Choose the protocol.", basic: (*conn).hello},
		{Name: "CLIENT", Args: "SETINFO|SETNAME|ID|GETNAME …", Arity: -2, Help: "What client libraries say of themselves.", basic: (*conn).client},
		{Name: "SELECT", Args: "0", Arity: 2, Help: "There is no data, and so one database is as good as another.", basic: ok},
		{Name: "COMMAND", Args: "[COUNT|LIST|INFO|DOCS [name …]|HELP]", Arity: -1, Help: "Describe the commands for a program; HELP does for people.", basic: (*conn).describe},
		{Name: "HELP", Arity: -1, Help: "List the commands. redis-cli has a HELP of its own: give it COMMAND HELP.", basic: func(c *conn, _ []string) (any, error) { return c.help(), nil }},
		{Name: "QUIT", Arity: -1, Help: "Close the connection.", basic: func(c *conn, _ []string) (any, error) {
			c.closing = true
			return OK, nil
		}},
	}
}

func (s *Server) sorted() []Command {
	var list []Command
	for _, c := range s.commands {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Command) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (c *conn) help() any {
	list := []any{Simple("redferry's admin socket:")}
	for _, command := range c.sorted() {
		list = append(list, Simple(command.Usage()), Simple("    "+command.Help))
	}
	return list
}

func (c *conn) hello(args []string) (any, error) {
	resp3 := c.resp3
	if len(args) > 0 {
		switch args[0] {
		case "2", "3":
			resp3 = args[0] == "3"
		default:
			return nil, errors.New("NOPROTO unsupported protocol version")
		}
		args = args[1:]
	}
	name := c.name
	for len(args) > 0 {
		switch option := strings.ToUpper(args[0]); {
		case option == "AUTH" && len(args) >= 3:
			if c.password != "" { // the same client may be given a password for the TCP address only
				if err := c.authenticate(args[1], args[2]); err != nil {
					return nil, err
				}
			}
			args = args[3:]
		case option == "SETNAME" && len(args) >= 2:
			name, args = args[1], args[2:]
		default:
			return nil, fmt.Errorf("ERR Syntax error in HELLO option '%.64s'", printable(args[0]))
		}
	}
	if !c.trusted {
		return nil, errors.New("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time")
	}
	c.resp3, c.name = resp3, name
	proto := 2
	if resp3 {
		proto = 3
	}
	return Map{
		{"server", "redferry"}, {"version", "7.0.0"}, // whose protocol it speaks
		{"proto", proto}, {"id", c.id}, {"mode", "standalone"}, {"role", "master"}, {"modules", []any{}},
	}, nil
}

func (c *conn) client(args []string) (any, error) {
	switch sub := strings.ToUpper(args[0]); {
	case sub == "ID":
		return c.id, nil
	case sub == "GETNAME":
		return c.name, nil
	case sub == "SETNAME" && len(args) == 2:
		c.name = args[1]
		return OK, nil
	case sub == "SETINFO" || sub == "NO-EVICT" || sub == "NO-TOUCH":
		return OK, nil
	}
	return nil, fmt.Errorf("ERR unknown subcommand '%.64s': CLIENT has SETINFO, SETNAME, GETNAME and ID here", printable(args[0]))
}

// describe is COMMAND: without subcommand it is what redis-cli before 7.0 asks for, and DOCS what it asks for since.
func (c *conn) describe(args []string) (any, error) {
	list, sub := c.sorted(), "INFO"
	if len(args) > 0 {
		sub = strings.ToUpper(args[0])
		if sub == "HELP" {
			return c.help(), nil
		}
		if names := args[1:]; len(names) > 0 {
			list = slices.DeleteFunc(list, func(k Command) bool {
				return !slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, k.Name) })
			})
		}
	}
	var all []any
	var docs Map
	for _, k := range list {
		name := strings.ToLower(k.Name)
		switch sub {
		case "COUNT":
			return len(c.commands), nil
		case "LIST":
			all = append(all, name)
		case "INFO":
			all = append(all, []any{name, k.Arity, []any{Simple("noscript")}, 0, 0, 0, []any{}, []any{}, []any{}, []any{}})
		case "DOCS":
			docs = append(docs, Pair{name, Map{{"summary", k.Help}, {"since", "1.0.0"}, {"group", "redferry"}}})
		default:
			return nil, fmt.Errorf("ERR unknown subcommand '%.64s': COMMAND has COUNT, LIST, INFO, DOCS and HELP here", printable(args[0]))
		}
	}
	if sub == "DOCS" {
		return docs, nil
	}
	return all, nil
}
