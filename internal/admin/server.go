package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

// Config is what a Server is made of.
type Config struct {
	Listen    netip.AddrPort // admin.listen
	TokenFile string         // admin.token_file; made, mode 0600, when it is absent
	Cert, Key string         // admin.tls: PEM files; both or none
	Service   Service

	// Audit is told what somebody did through the API. Nil: nobody is.
	Audit func(Action)
	// Problem is told what went wrong in net/http: failed handshakes, panics of a handler. Nil: nobody is.
	Problem func(line string)
}

// Action is a change or a trace that was asked for with the token.
type Action struct {
	Name    string // kill, trace, drain, reload, add key, revoke key
	Remote  string // address and port of who asked
	Session string // empty: not about one
	Err     error  // why it failed
}

// Server is the listener. Open makes one.
type Server struct {
	cfg         Config
	addr        netip.AddrPort // as bound
	listener    net.Listener
	secret      secret
	certificate *certificate // nil without TLS
	limits      timeouts
	busy        chan struct{} // one for each request that reads the data plane
	started     time.Time
}

// timeouts are Server's own so that tests can be quick.
type timeouts struct {
	header, request, write, idle time.Duration
	call                         time.Duration // of one function of the Service
	shutdown                     time.Duration
}

// Ours to tune.
var defaultTimeouts = timeouts{
	header:   5 * time.Second,  // a client that takes longer holds one of maxConnections for nothing
	request:  10 * time.Second, // body included
	write:    30 * time.Second, // the longest page of sessions over a slow line; of a trace, each write
	idle:     30 * time.Second,
	call:     5 * time.Second, // the data plane answers between two packets
	shutdown: 2 * time.Second, // then connections are cut
}

// Ours to tune.
const (
	maxConnections = 64      // more wait in the system's queue; the timeouts end those that do nothing
	maxHeaderBytes = 8 << 10 // a token is 71 bytes
	maxBusy        = 4       // requests that copy sessions or counters; more wait, then get 503
)

// Open makes the token file if needed and opens the listener, so that a mistake is known before anything is served. Serve must follow, or
// Close. Errors name the key of the configuration.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, limits: defaultTimeouts, busy: make(chan struct{}, maxBusy), started: time.Now()}
	a := cfg.Listen.Addr()
	switch {
	case !a.IsValid():
		return nil, errors.New("admin.listen: no address: write one such as 127.0.0.1:9478")
	case (cfg.Cert == "") != (cfg.Key == ""):
		return nil, errors.New("admin.tls: only one of cert and key: write both or none")
	case cfg.Cert == "" && !a.Unmap().IsLoopback():
		return nil, fmt.Errorf("admin.listen: %s can be reached by others and has no TLS: name admin.tls.cert and admin.tls.key, or listen on 127.0.0.1", cfg.Listen)
	}
	if cfg.Cert != "" {
		var err error
		if s.certificate, err = loadCertificate(cfg.Cert, cfg.Key); err != nil {
			return nil, err
		}
	}
	token, err := makeToken(cfg.TokenFile)
	if err != nil {
		return nil, err
	}
	s.secret = newSecret(token)
	var lc net.ListenConfig
	if s.listener, err = lc.Listen(ctx, "tcp", cfg.Listen.String()); err != nil {
		return nil, fmt.Errorf("admin.listen: %w: end the program that has the port, or name another address", err)
	}
	bound := s.listener.Addr().(*net.TCPAddr).AddrPort()
	s.addr = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
	return s, nil
}

// Addr is the address that the listener has: the port is a real one where Config had 0.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Describe says where the listener is and who may use it.
func (s *Server) Describe() string {
	if s.certificate != nil {
		return fmt.Sprintf("https://%s, with the token in %s", s.addr, s.cfg.TokenFile)
	}
	return fmt.Sprintf("http://%s, open for reading on this machine; changes need the token in %s", s.addr, s.cfg.TokenFile)
}

// Close closes the listener of a server that never came to Serve.
func (s *Server) Close() error { return s.listener.Close() }

// Serve answers until ctx ends, then ends traces, lets other answers finish for 2 s and closes all. It returns nil when ctx was the reason.
func (s *Server) Serve(ctx context.Context) error {
	// Handlers outlive ctx for the time of the shutdown, traces do not.
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	srv := &http.Server{
		Handler:           s.handler(ctx),
		BaseContext:       func(net.Listener) context.Context { return base },
		Protocols:         protocols,
		ReadHeaderTimeout: s.limits.header,
		ReadTimeout:       s.limits.request,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(problems{s.cfg.Problem}, "", 0),
	}
	l := netutil.LimitListener(s.listener, maxConnections)
	if s.certificate != nil {
		l = tls.NewListener(l, s.certificate.config())
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		srv.Close()
		return fmt.Errorf("admin: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), s.limits.shutdown)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		srv.Close()
	}
	<-failed
	return nil
}

// problems gives lines of net/http to a function.
type problems struct{ f func(string) }

// Write implements io.Writer.
func (p problems) Write(b []byte) (int, error) {
	if p.f != nil {
		p.f(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// access says who may use a route.
type access uint8

const (
	probe  access = iota + 1 // everybody who reaches the listener
	look                     // everybody on this host; with TLS, who has the token
	change                   // who has the token
)

// route is what one path does, by method. HEAD goes where GET does.
type route struct {
	path    string
	methods map[string]endpoint
}

type endpoint struct {
	access access
	serve  func(http.ResponseWriter, *http.Request) error
}

// handler routes. ending ends traces.
func (s *Server) handler(ending context.Context) http.Handler {
	get := func(a access, f func(http.ResponseWriter, *http.Request) error) map[string]endpoint {
		return map[string]endpoint{http.MethodGet: {a, f}, http.MethodHead: {a, f}}
	}
	post := func(f func(http.ResponseWriter, *http.Request) error) map[string]endpoint {
		return map[string]endpoint{http.MethodPost: {change, f}}
	}
	api := http.NewServeMux()
	for _, r := range []route{
		{"/healthz", get(probe, s.healthz)},
		{"/readyz", get(probe, s.readyz)},
		{"/metrics", get(look, s.metrics)},
		{"/api/v1/status", get(look, s.one(s.status))},
		{"/api/v1/sessions", get(look, s.one(s.sessions))},
		{"/api/v1/sessions/{id}", map[string]endpoint{http.MethodDelete: {change, s.kill}}},
		{"/api/v1/sessions/{id}/trace", post(s.traceSession(ending))},
		{"/api/v1/trace", post(s.traceNext(ending))},
		{"/api/v1/drain", post(s.drain)},
		{"/api/v1/reload", post(s.reload)},
		{"/api/v1/rendezvous/sessions", get(look, s.one(s.rtmfpSessions))},
		{"/api/v1/rendezvous/keys", map[string]endpoint{
			http.MethodGet: {look, s.keys}, http.MethodHead: {look, s.keys}, http.MethodPost: {change, s.addKey},
		}},
		{"/api/v1/rendezvous/keys/{name}", map[string]endpoint{http.MethodDelete: {change, s.revokeKey}}},
	} {
		api.Handle(r.path, s.dispatch(r))
	}
	api.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fail(w, notFound()) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		switch err := s.foreign(r); {
		case err != nil:
			h.Set("Connection", "close")
			fail(w, err)
		case r.ContentLength != 0: // net/http notices that a client goes only after its body
			h.Set("Connection", "close")
			fail(w, &Error{http.StatusRequestEntityTooLarge, "the request has a body", "send none: everything is in the path and the query"})
		case r.URL.Path != path.Clean(r.URL.Path): // the mux would redirect
			fail(w, notFound())
		default:
			api.ServeHTTP(w, r)
		}
	})
}

func notFound() *Error {
	return &Error{http.StatusNotFound, "there is nothing here", "see /api/v1/status, /api/v1/sessions, /healthz, /readyz and /metrics"}
}

func (s *Server) dispatch(route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, ok := route.methods[r.Method]
		if !ok {
			var allowed []string
			for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete} {
				if _, ok := route.methods[m]; ok {
					allowed = append(allowed, m)
				}
			}
			list := strings.Join(allowed, ", ")
			w.Header().Set("Allow", list)
			fail(w, &Error{http.StatusMethodNotAllowed, route.path + " does not take " + r.Method, "use " + list})
			return
		}
		if e.access == change || e.access == look && s.certificate != nil {
			if err := s.authorized(r); err != nil {
				w.Header().Set("WWW-Authenticate", `Bearer realm="stile"`)
				fail(w, err)
				return
			}
		}
		if err := e.serve(w, r); err != nil {
			fail(w, err)
		}
	})
}

// one lets at most maxBusy requests copy what the data plane has at once.
func (s *Server) one(f func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), s.limits.call)
		defer cancel()
		select {
		case s.busy <- struct{}{}:
			defer func() { <-s.busy }()
			return f(w, r)
		case <-ctx.Done():
			return &Error{http.StatusServiceUnavailable, "too many requests at once", "ask again later"}
		}
	}
}
