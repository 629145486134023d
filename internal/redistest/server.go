package redistest

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Server is a real server, running or stopped. It keeps its port, its folder and its configuration over restarts. Its methods are safe for
// concurrent use, but only one goroutine may kill, stop or restart it at a time.
type Server struct {
	*Database // of database 0, for the Do methods
	Build     Build
	Dir       string // working directory: RDB and AOF files are in it

	opts options
	port int
	tls  *Certificates // nil without TLS
	env  []string      // nil for the test's own

	mu        sync.Mutex
	process   *Process
	databases map[int]*Database
}

type options struct {
	config   []string
	password string
	host     string
	tls      bool
	unix     string
	cluster  bool
	clock    time.Duration

	sentinel     bool
	certificates *Certificates // of another server, to use instead of new ones
}

// Option is a setting of [Start].
type Option func(*options)

// Config adds lines to the server's configuration file, as in redis.conf: "repl-backlog-size 1mb", "user alice on >secret ~* +@all".
// They come last, so they win over the defaults.
func Config(lines ...string) Option {
	return func(o *options) { o.config = append(o.config, lines...) }
}

// Password sets requirepass; [Server.URL] and the clients use it.
func Password(password string) Option { return func(o *options) { o.password = password } }

// IPv6 listens on ::1 instead of 127.0.0.1.
func IPv6() Option { return func(o *options) { o.host = "::1" } }

// TLS serves nothing but TLS, with a new authority; clients need a certificate of it. See [Server.Certificates].
func TLS() Option { return func(o *options) { o.tls = true } }

// Unix listens on a unix socket, too. See [Server.Socket].
func Unix() Option { return func(o *options) { o.unix = "redis.sock" } }

// ReplicaOf starts the server as a replica of another one of the same test (without TLS).
func ReplicaOf(primary *Server) Option {
	host, port, _ := net.SplitHostPort(primary.Addr())
	lines := []string{"replicaof " + host + " " + port}
	if primary.opts.password != "" {
		lines = append(lines, "masterauth "+primary.opts.password)
	}
	return Config(lines...)
}

// Cluster starts the server in cluster mode, without slots; [StartCluster] makes a whole cluster.
func Cluster() Option { return func(o *options) { o.cluster = true } }

// Start runs a server of that build on a free loopback port and returns when it answers. It persists nothing, its replication starts
// without delays, and DEBUG is allowed. It is killed in the test's cleanup; a failed test prints the tail of its log.
func Start(t TB, b Build, opts ...Option) *Server {
	t.Helper()
	s := &Server{Build: b, Dir: t.TempDir(), opts: options{host: "127.0.0.1"}, databases: map[int]*Database{}}
	for _, o := range opts {
		o(&s.opts)
	}
	s.Database = &Database{s: s}
	s.databases[0] = s.Database
	if s.opts.unix != "" {
		dir, err := os.MkdirTemp("", "sock") // a test's own folder can be too long a path for a socket
		if err != nil {
			t.Fatalf("make a folder for the socket: %v", err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		s.opts.unix = filepath.Join(dir, s.opts.unix)
	}
	if s.tls = s.opts.certificates; s.opts.tls && s.tls == nil {
		s.tls = NewCertificates(t, s.Dir)
	}
	if s.opts.clock != 0 {
		var err error
		if s.env, err = clockEnv(s.Dir, s.opts.clock); err != nil {
			t.Skipf("no server with another clock here: %v", err)
		}
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("%s at %s, end of its log:\n%s", b.Name, s.Addr(), s.LogTail())
		}
	})
	var err error
	for range 5 { // somebody who does not ask us may take the port between our look and the server's bind
		var release io.Closer
		s.port, release = freePort()
		t.Cleanup(func() { _ = release.Close() })
		if err = os.WriteFile(s.configFile(), []byte(s.config()), 0o600); err != nil {
			break
		}
		if err = s.launch(); err == nil {
			return s
		}
	}
	t.Fatalf("start %s: %v", b.Name, err)
	return nil
}

func (s *Server) configFile() string { return filepath.Join(s.Dir, "server.conf") }
func (s *Server) logFile() string    { return filepath.Join(s.Dir, "server.log") }

// config is the text of the configuration file.
func (s *Server) config() string {
	var c strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&c, format+"\n", args...) }
	line("bind %s", s.opts.host)
	line("dir %q", s.Dir)
	line("logfile %q", s.logFile())
	line("loglevel notice")
	line(`save ""`)
	line("appendonly no")
	line("repl-diskless-sync-delay 0")
	line("repl-ping-replica-period 1")
	if s.Build.Has70() { // 6.0 has no such setting and allows DEBUG always
		line("enable-debug-command yes")
	}
	if s.tls == nil {
		line("port %d", s.port)
	} else {
		line("port 0\ntls-port %d", s.port)
		line("tls-cert-file %q\ntls-key-file %q\ntls-ca-cert-file %q", s.tls.ServerCert, s.tls.ServerKey, s.tls.CA)
	}
	if s.opts.unix != "" {
		line("unixsocket %q", s.opts.unix)
	}
	if s.opts.password != "" {
		line("requirepass %s", s.opts.password)
	}
	if s.opts.cluster {
		line("cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 30000")
	}
	for _, l := range s.opts.config {
		line("%s", l)
	}
	return c.String()
}

// launch starts the process and waits until it answers PING, which a server that still loads its data does not.
func (s *Server) launch() error {
	cmd := exec.Command(s.Build.Path, s.configFile())
	if s.opts.sentinel {
		cmd.Args = append(cmd.Args, "--sentinel")
	}
	cmd.Dir, cmd.Env = s.Dir, s.env
	var said bytes.Buffer // before it has opened its log
	cmd.Stdout, cmd.Stderr = &said, &said
	p, err := startProcess(cmd)
	if err != nil {
		return err
	}
	var ping error
	up := within(patience, func() bool {
		select {
		case <-p.Exited():
			return true
		default:
			ping = s.ping()
			return ping == nil
		}
	})
	select {
	case <-p.Exited():
		return fmt.Errorf("it ended: %s%s", said.String(), s.LogTail())
	default:
	}
	if !up {
		p.Kill()
		return fmt.Errorf("it does not answer: %w", ping)
	}
	s.mu.Lock()
	s.process = p
	s.mu.Unlock()
	return nil
}

// ping asks on a connection of its own.
func (s *Server) ping() error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	want := "+PONG\r\n"
	ask := "PING\r\n"
	if s.opts.password != "" {
		ask = "AUTH " + s.opts.password + "\r\n" + ask
		want = "+OK\r\n" + want
	}
	if _, err = conn.Write([]byte(ask)); err != nil {
		return err
	}
	var got []byte
	buf := make([]byte, 256)
	for len(got) < len(want) {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		got = append(got, buf[:n]...)
		if !strings.HasPrefix(want, string(got)) {
			return fmt.Errorf("it says %q", got)
		}
	}
	return nil
}

func (s *Server) dial() (net.Conn, error) {
	d := &net.Dialer{Timeout: patience}
	if s.tls != nil {
		return tls.DialWithDialer(d, "tcp", s.Addr(), s.tls.ClientConfig())
	}
	return d.Dial("tcp", s.Addr())
}

// Addr is host:port.
func (s *Server) Addr() string { return net.JoinHostPort(s.opts.host, strconv.Itoa(s.port)) }

// Port is the TCP port, TLS or not.
func (s *Server) Port() int { return s.port }

// Socket is the path of the unix socket, empty without [Unix].
func (s *Server) Socket() string { return s.opts.unix }

// Certificates are the files of a server with [TLS], nil otherwise.
func (s *Server) Certificates() *Certificates { return s.tls }

// URL is how a client is told of the server: redis:// or rediss://, with the password.
func (s *Server) URL() string { return s.URLAt(s.Addr()) }

// URLAt is [Server.URL] by another address: a proxy's.
func (s *Server) URLAt(addr string) string {
	u := url.URL{Scheme: "redis", Host: addr}
	if s.tls != nil {
		u.Scheme = "rediss"
	}
	if s.opts.password != "" {
		u.User = url.UserPassword("", s.opts.password)
	}
	return u.String()
}

func (s *Server) running() *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// Process is the running server's process; Freeze and Thaw are its methods.
func (s *Server) Process() *Process { return s.running() }

// Pid is the process ID of the server, or of its last process.
func (s *Server) Pid() int { return s.running().Pid() }

// Freeze stops the server with SIGSTOP.
func (s *Server) Freeze() { s.running().Freeze() }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() { s.running().Thaw() }

// Kill ends the server with SIGKILL, and the clients of the Do methods with it.
func (s *Server) Kill() {
	if p := s.running(); p != nil {
		p.Kill()
	}
	s.closeClients()
}

// Stop ends the server with SHUTDOWN and these arguments, NOSAVE without any, and waits until it is gone.
func (s *Server) Stop(t TB, args ...string) {
	t.Helper()
	if len(args) == 0 {
		args = []string{"NOSAVE"}
	}
	err := s.TryDo(append([]string{"SHUTDOWN"}, args...)...)
	if _, wait := s.running().ExitCode(patience); wait != nil {
		t.Fatalf("stop %s: %v", s.Build.Name, errors.Join(err, wait))
	}
	s.closeClients()
}

// Restart starts the server again on the same port, in the same folder and with the same configuration file; a running one is killed first.
func (s *Server) Restart(t TB) {
	t.Helper()
	s.Kill()
	if err := s.launch(); err != nil {
		t.Fatalf("restart %s: %v", s.Build.Name, err)
	}
}

// Log is all that the server has logged.
func (s *Server) Log() string {
	text, _ := os.ReadFile(s.logFile())
	return string(text)
}

// LogTail is the end of the server's log, at most 4 kB.
func (s *Server) LogTail() string {
	text := s.Log()
	return text[max(0, len(text)-4096):]
}

// Info reads a section of INFO: field → value.
func (s *Server) Info(t TB, section string) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(s.DoString(t, "INFO", section)) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// Offset is the server's master_repl_offset.
func (s *Server) Offset(t TB) int64 {
	t.Helper()
	n, err := strconv.ParseInt(cmp.Or(s.Info(t, "replication")["master_repl_offset"], "none"), 10, 64)
	if err != nil {
		t.Fatalf("master_repl_offset of %s: %v", s.Build.Name, err)
	}
	return n
}
