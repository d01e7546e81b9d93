package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"github.com/stilenet/stile/internal/admin"
	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/internal/metrics"
	"github.com/stilenet/stile/rendezvous"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/turn"
)

// meeting is the rendezvous of this process with its keys and its ID exchange. A nil one is none: its methods do nothing.
type meeting struct {
	registry  *rendezvous.Registry
	server    *rendezvous.Server
	keys      *rendezvous.KeyFile
	directory *rendezvous.Directory
	listener  net.Listener // of the directory; nil: there is none
}

// keyFileName is the file of developer keys in state.dir.
const keyFileName = "keys.db"

// openMeeting opens the sockets and the file of keys, or returns nil if the configuration has no rendezvous.
func (s *server) openMeeting(ctx context.Context) (_ *meeting, err error) {
	cfg := s.cfg
	if len(cfg.Rendezvous.Listen) == 0 {
		return nil, nil
	}
	for _, a := range cfg.Rendezvous.Addresses {
		if !s.host.has(a.Local) {
			return nil, fmt.Errorf("config: rendezvous.addresses: %v is not an address of this machine: name one of %v, or PUBLIC=LOCAL when a firewall "+
				"translates %v to one of them", a.Local, s.host.global(), a.Local)
		}
	}
	m := new(meeting)
	if m.registry, err = rendezvous.NewRegistry(time.Now(), rand.Reader, meetingRules(cfg, s.relays)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = m.close()
		}
	}()
	m.registry.Keys.SetRequired(cfg.Rendezvous.Keys.Required)
	if m.keys, err = rendezvous.OpenKeyFile(filepath.Join(cfg.State.Dir, keyFileName), m.registry.Keys); err != nil {
		return nil, fmt.Errorf("state.dir: %w", err)
	}
	rc := rendezvous.ServerConfig{
		Registry: m.registry, StartupPerPrefix: cfg.Rendezvous.Limits.StartupPerPrefix, OnEvents: s.events.PutRendezvous,
	}
	if rc.StartupPerPrefix == 0 {
		rc.StartupPerPrefix = -1
	}
	for _, l := range cfg.Rendezvous.Listen {
		addr := l.Addr
		if !addr.IsValid() {
			addr = netip.IPv6Unspecified()
		}
		rc.Listen = append(rc.Listen, netip.AddrPortFrom(addr, l.Port))
	}
	for _, g := range cfg.Rendezvous.DHGroups {
		rc.Groups = append(rc.Groups, flash.Group(g))
	}
	for _, a := range cfg.Rendezvous.Addresses {
		rc.Check = append(rc.Check, rendezvous.AddressPair{Public: a.Public, Local: a.Local})
	}
	if m.server, err = rendezvous.Open(ctx, rc); err != nil {
		key := "rendezvous.listen"
		if strings.Contains(err.Error(), "connectivity check") {
			key = "rendezvous.addresses"
		}
		return nil, meetingError(key, "rendezvous.listen: [] for no rendezvous", err)
	}
	m.directory = m.server.Directory()
	if l := cfg.Rendezvous.Directory.Listen; !l.Off() {
		if m.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", l.String()); err != nil {
			return nil, meetingError("rendezvous.directory.listen", `rendezvous.directory.listen: "" for no ID exchange`, err)
		}
	}
	return m, nil
}

// meetingError names the key and the remedy of what commonly keeps a socket from opening.
func meetingError(key, off string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: %w: another program has the port: end it, choose another one in %s, or write %s", key, err, key, off)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%s: %w: this user may not open it: choose a port above 1023 in %s, or give the process CAP_NET_BIND_SERVICE", key, err, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: %w: the address is not one of this machine: correct %s", key, err, key)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// meetingRules turns the configuration into what the cores judge by.
func meetingRules(cfg *config.Config, relays []turn.RelayAddress) rendezvous.Rules {
	l := cfg.Rendezvous.Limits
	r := rendezvous.Rules{
		Keepalive: cfg.Rendezvous.Keepalive,
		Limits: rendezvous.Limits{
			Sessions: l.Sessions, PerAddress: l.PerAddress, HandshakesPerPrefix: l.HandshakesPerPrefix,
			IntroductionsPerPrefix: l.IntroductionsPerPrefix, IntroductionsPerPeer: l.IntroductionsPerPeer, DirectoryPerPrefix: l.DirectoryPerPrefix,
		},
	}
	for _, a := range relays {
		r.Relays = append(r.Relays, rendezvous.AddressPair{Public: a.Public, Local: a.Local})
	}
	return r
}

// services are what clients of the own TURN proxy reach in every profile: the sockets of the rendezvous, also by the public form of
// their addresses, which the proxy translates.
func (m *meeting) services(cfg *config.Config, relays []turn.RelayAddress) (out []netip.AddrPort) {
	if m == nil {
		return nil
	}
	for _, a := range m.server.Addrs() {
		out = append(out, a)
		for _, r := range relays {
			if a.Addr() == r.Local && r.Public != r.Local {
				out = append(out, netip.AddrPortFrom(r.Public, a.Port()))
			}
		}
		for _, r := range cfg.Rendezvous.Addresses {
			if a.Addr() == r.Local && r.Public != r.Local {
				out = append(out, netip.AddrPortFrom(r.Public, a.Port()))
			}
		}
	}
	return out
}

// describe says in words what is served.
func (m *meeting) describe(cfg *config.Config) (service, exchange string) {
	if m == nil {
		return "none (rendezvous.listen is empty)", ""
	}
	var urls []string
	for _, a := range m.server.Addrs() {
		host := a.Addr().String()
		if a.Addr().IsUnspecified() {
			host = ""
		} else if a.Addr().Is6() {
			host = "[" + host + "]"
		}
		urls = append(urls, fmt.Sprintf("udp://%s:%d", host, a.Port()))
	}
	service = strings.Join(urls, "  ")
	switch n := m.registry.Keys.Len(); {
	case cfg.Rendezvous.Keys.Required:
		service += fmt.Sprintf(", with one of %s keys", number(n))
	default:
		service += ", every path is welcome"
	}
	service += fmt.Sprintf("; at most %s sessions", number(cfg.Rendezvous.Limits.Sessions))
	if n := len(cfg.Rendezvous.Addresses); n > 0 {
		service += fmt.Sprintf("; connectivity check with %d of 3 addresses", n)
	}
	if m.listener != nil {
		exchange = "http://" + m.listener.Addr().String() + ", unauthenticated"
		if strings.HasPrefix(m.listener.Addr().String(), "[::]:") {
			exchange = fmt.Sprintf("http://:%d, unauthenticated", m.listener.Addr().(*net.TCPAddr).Port)
		}
	}
	return service, exchange
}

// notes are what an administrator should know.
func (m *meeting) notes(cfg *config.Config) (out []string) {
	if m == nil {
		return nil
	}
	n := m.registry.Keys.Len()
	switch {
	case cfg.Rendezvous.Keys.Required && n == 0:
		out = append(out, "rendezvous.keys.required is true and there is no key, so no client can connect: make one with `stile keys add NAME`")
	case !cfg.Rendezvous.Keys.Required && n > 0:
		out = append(out, "there are developer keys, but rendezvous.keys.required is false, so clients without one are served as well")
	}
	return out
}

// serve runs the service and the directory until ctx ends.
func (m *meeting) serve(ctx context.Context, group *sync.WaitGroup, failed chan<- error) {
	if m == nil {
		return
	}
	group.Go(func() {
		failed <- m.server.Serve(ctx)
		_ = m.keys.Close() // nothing is written after
	})
	group.Go(func() { tidy(ctx) })
	if m.listener != nil {
		group.Go(func() { failed <- serveDirectory(ctx, m.listener, m.directory) })
	}
}

// Ours to tune.
const (
	directoryConnections = 1024             // at once; more wait in the system's queue
	directoryPerAddress  = 64               // connections of one address
	directoryTimeout     = 5 * time.Second  // to send a request, and to take an answer
	directoryIdle        = 15 * time.Second // between requests
	directoryHeader      = 4 << 10
	directoryGrace       = time.Second
)

// serveDirectory answers HTTP until ctx ends.
func serveDirectory(ctx context.Context, l net.Listener, d http.Handler) error {
	srv := &http.Server{
		Handler: d, ReadHeaderTimeout: directoryTimeout, ReadTimeout: directoryTimeout, WriteTimeout: directoryTimeout, IdleTimeout: directoryIdle,
		MaxHeaderBytes: directoryHeader, ErrorLog: silentLog,
	}
	ended := make(chan error, 1)
	go func() {
		ended <- srv.Serve(limitAddresses(netutil.LimitListener(l, directoryConnections), directoryPerAddress))
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("rendezvous.directory.listen: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), directoryGrace)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		_ = srv.Close()
	}
	<-ended
	return nil
}

// drain refuses new clients.
func (m *meeting) drain(ctx context.Context) error {
	if m == nil {
		return nil
	}
	return m.server.SetDraining(ctx, true)
}

func (m *meeting) alive(ctx context.Context) error {
	if m == nil {
		return nil
	}
	return m.server.Alive(ctx)
}

// reload puts the configuration in force that may change while the service runs.
func (m *meeting) reload(cfg *config.Config, relays []turn.RelayAddress) error {
	if m == nil {
		return nil
	}
	if err := m.keys.Reopen(); err != nil {
		return fmt.Errorf("state.dir: %w", err)
	}
	m.registry.SetRules(meetingRules(cfg, relays))
	m.registry.Keys.SetRequired(cfg.Rendezvous.Keys.Required)
	return nil
}

// close lets go of what was opened, of a meeting that never came to serve.
func (m *meeting) close() error {
	if m == nil {
		return nil
	}
	var errs []error
	if m.server != nil {
		errs = append(errs, m.server.Close())
	}
	if m.listener != nil {
		errs = append(errs, m.listener.Close())
	}
	if m.keys != nil {
		errs = append(errs, m.keys.Close())
	}
	return errors.Join(errs...)
}

// admin is what the administrator's listener offers of it; nil without one.
func (m *meeting) admin() *admin.Rendezvous {
	if m == nil {
		return nil
	}
	return &admin.Rendezvous{
		Sessions: m.server.Sessions, Kill: m.server.Kill, Keys: m.registry.Keys.Uses,
		AddKey: func(_ context.Context, k rendezvous.Key) (string, error) { return m.keys.Add(time.Now(), k) },
		RevokeKey: func(ctx context.Context, name string) error {
			if err := m.keys.Revoke(name); err != nil {
				return err
			}
			return m.server.KeysChanged(ctx)
		},
	}
}

// metrics is what is shown to Prometheus; nil without one.
func (m *meeting) metrics() *metrics.Rendezvous {
	if m == nil {
		return nil
	}
	r := &metrics.Rendezvous{Stats: m.server.Stats, Registry: m.registry}
	if m.listener != nil {
		r.Directory = m.directory
	}
	return r
}

// status is the rendezvous at a glance; nil without one.
func (m *meeting) status(ctx context.Context, cfg *config.Config) (*admin.RendezvousStatus, error) {
	if m == nil {
		return nil, nil
	}
	stats, err := m.server.Stats(ctx)
	if err != nil {
		return nil, err
	}
	st := &admin.RendezvousStatus{
		KeysRequired: m.registry.Keys.Required(), Keys: m.registry.Keys.Len(), Shards: m.server.Shards(), Peers: m.registry.Peers(),
		Most: cfg.Rendezvous.Limits.Sessions, Names: m.registry.Names.Len(),
	}
	for _, a := range m.server.Addrs() {
		st.Listeners = append(st.Listeners, "udp://"+a.String())
	}
	for _, a := range cfg.Rendezvous.Addresses {
		st.Addresses = append(st.Addresses, a.String())
	}
	if m.listener != nil {
		st.Directory = m.listener.Addr().String()
	}
	counts := m.directory.Counts()
	st.Fill(&stats, counts[:])
	return st, nil
}
