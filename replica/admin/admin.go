// Package admin lets an operator look at a run and steer it, over a socket that speaks RESP, so that redis-cli and every client library can be used; and has the client for that.
//
// Goroutines: one accepts for each listener, one serves each connection, and one more looks, while a command runs, whether its client hangs up; [Server.Run] waits for them all.
// Commands of different connections run side by side, those of one one after another. Invariants: whatever is sent, it cannot hurt the run: requests, replies, connections and
// the time that they may take are bounded, nothing is read that was not announced within its limits, and a panic is not among the answers. It holds no data, and never speaks
// the replication protocol.
package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// Config is what a Server listens on, and what it does.
type Config struct {
	Socket   string // path of a Unix socket for this user; a stale one is replaced, so that the caller must know that no other process has it. Empty for none
	Addr     string // host:port; empty for none
	Password string // wanted of connections to Addr, which is refused without one
	Commands []Command
	Log      zerolog.Logger
}

// The bounds, for each listener or connection.
const (
	maxConns     = 32
	maxIdle      = 5 * time.Minute  // between two requests, and for one to arrive
	maxStranger  = 10 * time.Second // the same, before AUTH
	writeTimeout = 10 * time.Second
)

// Server is an admin socket, on one or two listeners.
type Server struct {
	commands map[string]Command
	password string
	log      zerolog.Logger
	doors    []*door
	ids      atomic.Int64
	conns    sync.WaitGroup

	idle, stranger time.Duration // tests want less
}

// door is one listener.
type door struct {
	net.Listener
	locked bool // AUTH comes first
	slots  chan struct{}
}

// Listen opens the listeners. Run serves and closes them. An error names the one that could not be opened; the others are closed then.
func Listen(c Config) (*Server, error) {
	s := &Server{commands: map[string]Command{}, password: c.Password, log: c.Log, idle: maxIdle, stranger: maxStranger}
	for _, command := range append(s.basics(), c.Commands...) {
		if _, twice := s.commands[command.Name]; twice {
			return nil, fmt.Errorf("the admin command %s is there twice", command.Name)
		}
		s.commands[command.Name] = command
	}
	if c.Addr != "" && c.Password == "" {
		return nil, errors.New("an admin address wants a password")
	}
	if c.Socket != "" {
		l, err := listenUnix(c.Socket)
		if err != nil {
			return nil, err
		}
		s.open(l, false)
	}
	if c.Addr != "" {
		l, err := net.Listen("tcp", c.Addr)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("listen on the admin address: %w", err)
		}
		s.open(l, true)
	}
	return s, nil
}

func (s *Server) open(l net.Listener, locked bool) {
	s.doors = append(s.doors, &door{Listener: l, locked: locked, slots: make(chan struct{}, maxConns)})
}

// maxPath is the longest path that a Unix socket may have.
const maxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// ErrSocket says that it is the Unix socket that could not be opened.
var ErrSocket = errors.New("make the admin socket")

// ErrTooLong says that a socket's path is longer than the system allows.
var ErrTooLong = fmt.Errorf("a socket's path may have %d bytes", maxPath)

// listenUnix makes the socket under another name, so that nobody else can connect before its mode says so, and puts it in the place of a stale one.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%w: %w, and %s has %d", ErrSocket, ErrTooLong, path, len(path))
	}
	hidden := filepath.Join(filepath.Dir(path), ".sock")
	if err := os.Remove(hidden); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrSocket, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSocket, err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(hidden, 0o600); err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrSocket, err), l.Close(), os.Remove(hidden))
	}
	return &unixSocket{l, path}, nil
}

// unixSocket takes its file away when it is closed.
type unixSocket struct {
	*net.UnixListener
	path string
}

func (u *unixSocket) Close() error {
	return errors.Join(u.UnixListener.Close(), os.Remove(u.path))
}

// Addrs are the addresses that it listens on.
func (s *Server) Addrs() []net.Addr {
	var list []net.Addr
	for _, d := range s.doors {
		list = append(list, d.Addr())
	}
	return list
}

func (s *Server) close() {
	for _, d := range s.doors {
		_ = d.Close() // nothing is lost with it
	}
}

// Run serves until ctx ends; then the commands under way are told so, and their replies written. It returns nil, or why a listener ended by itself.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, s.close)()
	ends := make(chan error, len(s.doors))
	for _, d := range s.doors {
		go func() { ends <- s.accept(ctx, d) }()
	}
	var err error
	for range s.doors {
		if end := <-ends; err == nil {
			err = end
		}
		cancel()
	}
	s.conns.Wait()
	return err
}

// accept takes connections until ctx ends.
func (s *Server) accept(ctx context.Context, d *door) error {
	for {
		nc, err := d.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = nc.Close()
			}
			return nil
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) { // no file left, say: that passes
				s.log.Debug().Err(err).Msg("accept on the admin socket")
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			return fmt.Errorf("accept on the admin socket: %w", err)
		}
		select {
		case d.slots <- struct{}{}:
		default:
			_ = nc.SetWriteDeadline(time.Now().Add(time.Millisecond)) // it fits into the socket's buffer
			_, _ = nc.Write([]byte("-ERR max number of clients reached\r\n"))
			_ = nc.Close()
			continue
		}
		s.conns.Go(func() {
			defer func() { <-d.slots }()
			c := &conn{Server: s, nc: nc, in: bufio.NewReaderSize(nc, maxLine), id: s.ids.Add(1), trusted: !d.locked}
			c.serve(ctx)
		})
	}
}
