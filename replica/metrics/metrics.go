// Package metrics shows a run to Prometheus and to whoever asks over HTTP whether it lives and is in sync.
//
// Goroutines: those of net/http's server; [Server.Run] waits for it and for the requests under way. Invariants: it has a registry of its own; all figures are those of
// one [replica.View], so that they agree with each other and with status; what is not known is left out, never 0 or -1.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"redferry/replica"
	"redferry/replica/admin"
)

// Server answers at /metrics, /healthz and /readyz.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen opens the address. Run serves and closes it. report must be cheap: it is called for each request.
func Listen(addr string, report func() admin.Report) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(report), promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := report()
		code := http.StatusServiceUnavailable
		if ready(&r.View) {
			code = http.StatusOK
		}
		answer(w, code, fmt.Sprintf("%s: %s", r.State, r.Why))
	})
	const patience = 10 * time.Second
	return &Server{l, &http.Server{
		Handler: mux, ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}}, nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	closed := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(closed)
		soon, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.http.Shutdown(soon) != nil {
			_ = s.http.Close()
		}
	})()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	<-closed
	return nil
}

// ready tells whether the target is as good as the source.
func ready(v *replica.View) bool { return v.State == replica.InSync || v.State == replica.Settling }

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // who has left needs no answer
}

func registry(report func() admin.Report) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(report), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	return r
}
