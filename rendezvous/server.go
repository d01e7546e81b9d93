package rendezvous

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/stilenet/stile/rtmfp"
	"github.com/stilenet/stile/rtmfp/flash"
	"github.com/stilenet/stile/rtmfp/transport"
)

// ServerConfig is what a Server is made of. Listen and Registry are required.
type ServerConfig struct {
	Registry *Registry
	// Listen are the addresses of the sockets. An unspecified IPv6 address stands for every address of both families.
	Listen []netip.AddrPort
	// Shards is how many goroutines share the work; 0 means one for each processor.
	Shards int
	// Groups are the Diffie-Hellman groups; none means 2, 5 and 14.
	Groups []flash.Group
	// StartupPerPrefix is how many startup packets a second of an IPv4 /24 or IPv6 /56 are processed by each shard; less than 0 is no
	// bound, 0 the default of package transport. Each is answered with at most three times its bytes.
	StartupPerPrefix int
	// Check are addresses of this host for the connectivity check, up to three. The first is the one that clients connect to.
	Check []AddressPair
	// OnEvents gets what happens, and owns the slice. It is called on the goroutines of the shards, so it must not block.
	OnEvents func([]Event)
	// ListenPacket opens sockets of another network than the system's; then there is one shard.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	// Random is for tests; nil means crypto/rand.
	Random io.Reader
}

// Server is the shell of the service: the cores of the shards on the transports that own their sockets. Its methods may be
// called from any goroutine.
type Server struct {
	cfg    ServerConfig
	server *transport.Server // nil with ListenPacket
	shards []*shard
	probes [CheckSockets]net.PacketConn
	id     *flash.Identity
	done   chan struct{}
}

// shard is a core on its transport.
type shard struct {
	s     *Server
	core  *Core
	t     *transport.Transport
	armed time.Time // when fire is due; zero if it is not
	timer *time.Timer
}

// Open opens the sockets. Serve must follow, or Close. Errors wrap those of the system.
func Open(ctx context.Context, cfg ServerConfig) (_ *Server, err error) {
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	s := &Server{cfg: cfg, done: make(chan struct{})}
	s.id, err = flash.NewIdentity(flash.IdentityConfig{Random: cfg.Random, Server: true, Groups: cfg.Groups, Now: time.Now})
	if err != nil {
		return nil, fmt.Errorf("rendezvous: %w", err)
	}
	var transports []*transport.Transport
	handle := func(n int, now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) {
		x := s.shards[n]
		x.core.Attach(e)
		x.core.Handle(now, ev)
		x.after(now)
	}
	if cfg.ListenPacket == nil {
		n := shardCount(cfg.Shards)
		s.server, err = transport.Listen(transport.ServerConfig{
			Listen: cfg.Listen, Shards: n, StartupPerPrefix: cfg.StartupPerPrefix, Handle: handle,
			Endpoint: func(int) rtmfp.Config { return EndpointConfig(cfg.Registry, s.id, cfg.Random, n) },
		})
		if err != nil {
			return nil, err
		}
		transports = s.server.Shards()
	} else if transports, err = s.openElsewhere(ctx, handle); err != nil {
		return nil, err
	}
	check, err := s.openProbes(ctx)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	for n, t := range transports {
		s.shards = append(s.shards, &shard{s: s, t: t, core: NewCore(Config{
			Registry: cfg.Registry, Identity: s.id, Random: cfg.Random, Shard: n, Shards: len(transports), Check: check,
		})})
	}
	return s, nil
}

// shardCount is how many shards package transport makes: only Linux divides packets among sockets.
func shardCount(n int) int {
	switch {
	case runtime.GOOS != "linux":
		return 1
	case n <= 0:
		return runtime.GOMAXPROCS(0)
	}
	return n
}

// openElsewhere makes one transport on the sockets of another network.
func (s *Server) openElsewhere(ctx context.Context, handle func(int, time.Time, *rtmfp.Endpoint, rtmfp.Event)) ([]*transport.Transport, error) {
	var links []transport.Interface
	for _, at := range s.cfg.Listen {
		c, err := s.cfg.ListenPacket(ctx, "udp", at.String())
		if err != nil {
			for _, l := range links {
				_ = l.Conn.Close()
			}
			return nil, fmt.Errorf("rendezvous: listen on %v: %w", at, err)
		}
		links = append(links, transport.Interface{Conn: c})
	}
	t, err := transport.New(transport.Config{
		Endpoint: EndpointConfig(s.cfg.Registry, s.id, s.cfg.Random, 1), Interfaces: links, StartupPerPrefix: max(0, s.cfg.StartupPerPrefix),
		Handle: func(now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) { handle(0, now, e, ev) },
	})
	return []*transport.Transport{t}, err
}

// openProbes opens the sockets of the connectivity check: the first for the address that clients connect to, whichever that is if
// none is configured.
func (s *Server) openProbes(ctx context.Context) (check CheckConfig, err error) {
	listen := s.cfg.ListenPacket
	if listen == nil {
		listen = new(net.ListenConfig).ListenPacket
	}
	pairs := s.cfg.Check
	if len(pairs) == 0 {
		a := s.cfg.Listen[0].Addr()
		pairs = []AddressPair{{Public: a, Local: a}}
	}
	for n, p := range pairs[:min(len(pairs), int(CheckSockets))] {
		at := netip.AddrPortFrom(p.Local, 0)
		if CheckSocket(n) == CheckIntroduction {
			// What comes here was not asked for, so that a firewall needs a rule with this port.
			at = netip.AddrPortFrom(p.Local, IntroductionPort(s.cfg.Listen[0].Port()))
		}
		c, err := listen(ctx, "udp", at.String())
		if err != nil {
			return CheckConfig{}, fmt.Errorf("rendezvous: connectivity check: listen on %v: %w", at, err)
		}
		s.probes[n], check.Sockets[n] = c, true
		if CheckSocket(n) == CheckIntroduction {
			bound, err := netip.ParseAddrPort(c.LocalAddr().String())
			if err != nil {
				return CheckConfig{}, fmt.Errorf("rendezvous: connectivity check: %w", err)
			}
			check.Introduction = netip.AddrPortFrom(p.Public, bound.Port())
		}
	}
	return check, nil
}

// IntroductionPort is the port, on the third address of the connectivity check, that answers to introductions come to: the one
// after the listener's.
func IntroductionPort(listener uint16) uint16 {
	if listener == 0 || listener == 65535 {
		return 0
	}
	return listener + 1
}

// Addrs are the addresses of the sockets: ports are real ones where the configuration had 0.
func (s *Server) Addrs() []netip.AddrPort {
	if s.server != nil {
		return s.server.Addrs()
	}
	return s.cfg.Listen
}

// Shards reports how many there are.
func (s *Server) Shards() int { return len(s.shards) }

// Close closes the sockets of a server that never came to Serve.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return s.Serve(ctx)
}

// Serve serves until ctx ends, then tells all clients and closes the sockets. It may be called once.
func (s *Server) Serve(ctx context.Context) error {
	defer close(s.done)
	var readers sync.WaitGroup
	for n, c := range s.probes {
		if c != nil {
			readers.Go(func() { s.readProbes(CheckSocket(n), c) })
		}
	}
	var err error
	if s.server != nil {
		err = s.server.Serve(ctx)
	} else if len(s.shards) > 0 {
		err = s.shards[0].t.Serve(ctx)
	}
	for _, x := range s.shards {
		if x.timer != nil {
			x.timer.Stop()
		}
	}
	for _, c := range s.probes {
		if c != nil {
			_ = c.Close()
		}
	}
	readers.Wait()
	return err
}

// readProbes takes the answers of connectivity checks.
func (s *Server) readProbes(socket CheckSocket, c net.PacketConn) {
	cipher := s.id.DefaultCipher()
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// An ICMP error of a client that does not answer, or worse: then the pause keeps this from spinning.
			select {
			case <-s.done:
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		a, err := netip.ParseAddrPort(from.String())
		if err != nil {
			continue
		}
		if p, ok := ParseProbeReply(cipher, len(s.shards), socket, a, buf[:n]); ok {
			s.post(p)
		}
	}
}

// post gives a message to its shard.
func (s *Server) post(p Post) {
	x := s.shards[p.Shard]
	// A shard that is too busy, or has ended, loses it; initiators send again.
	_ = x.t.Post(func(now time.Time, e *rtmfp.Endpoint) {
		x.core.Attach(e)
		x.core.Deliver(now, p)
		x.after(now)
	})
}

// after takes out what the core has left. It runs on the shard's goroutine, as all of the shard does.
func (x *shard) after(now time.Time) {
	for _, p := range x.core.Posts() {
		x.s.post(p)
	}
	for _, p := range x.core.Probes() {
		if c := x.s.probes[p.Socket]; c != nil {
			_, _ = c.WriteTo(p.Data, net.UDPAddrFromAddrPort(p.To)) // it is sent again
		}
	}
	if events := x.core.Events(); len(events) > 0 && x.s.cfg.OnEvents != nil {
		x.s.cfg.OnEvents(events)
	}
	at, ok := x.core.NextTimer()
	if !ok || !x.armed.IsZero() && !at.Before(x.armed) {
		return
	}
	x.armed = at
	wait := max(0, at.Sub(now))
	if x.timer == nil {
		x.timer = time.AfterFunc(wait, x.fire)
		return
	}
	x.timer.Reset(wait)
}

// busyPause is how long a timer waits for a shard that is too busy to take it.
const busyPause = 50 * time.Millisecond

// fire has the shard do what is due. It runs on a goroutine of the timer.
func (x *shard) fire() {
	err := x.t.Post(func(now time.Time, e *rtmfp.Endpoint) {
		x.core.Attach(e)
		x.armed = time.Time{}
		x.core.Tick(now)
		x.after(now)
	})
	if errors.Is(err, transport.ErrBusy) {
		time.AfterFunc(busyPause, x.fire)
	}
}

// ask runs a function on a shard and returns what it returns. If ctx ends first, the function may still be called. Errors:
// ErrClosed, that of ctx, and transport.ErrBusy.
func ask[T any](ctx context.Context, x *shard, f func(now time.Time, c *Core) T) (T, error) {
	var v, zero T
	err := x.t.Do(ctx, func(now time.Time, e *rtmfp.Endpoint) {
		x.core.Attach(e)
		v = f(now, x.core)
		x.after(now)
	})
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, transport.ErrClosed):
		return zero, ErrClosed
	}
	return zero, err
}

// Stats returns what all shards have counted. Errors: ErrClosed, that of ctx.
func (s *Server) Stats(ctx context.Context) (all Stats, err error) {
	for _, x := range s.shards {
		one, err := ask(ctx, x, func(_ time.Time, c *Core) Stats { return c.Stats() })
		if err != nil {
			return Stats{}, err
		}
		all.Add(&one)
		t := x.t.Stats()
		all.Read += t.Read
		all.Limited += t.Limited
		all.Long += t.Long
		all.Busy += t.Dropped
		all.Unsent += t.Unsent
	}
	return all, nil
}

// Sessions lists all clients. Errors: ErrClosed, that of ctx.
func (s *Server) Sessions(ctx context.Context) (all []Session, err error) {
	for _, x := range s.shards {
		some, err := ask(ctx, x, func(_ time.Time, c *Core) []Session { return c.Sessions(nil) })
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Kill ends a client's session. Errors: ErrClosed, that of ctx.
func (s *Server) Kill(ctx context.Context, id SessionID) (found bool, err error) {
	x := s.shards[int(uint64(id)%uint64(len(s.shards)))]
	return ask(ctx, x, func(now time.Time, c *Core) bool { return c.Kill(now, id) })
}

// Addresses returns the addresses of a peer; none if it is not here. See Core.Addresses.
func (s *Server) Addresses(ctx context.Context, id PeerID) []netip.Addr {
	n, ok := s.cfg.Registry.Shard(id)
	if !ok {
		return nil
	}
	found, err := ask(ctx, s.shards[n], func(_ time.Time, c *Core) []netip.Addr { return c.Addresses(id) })
	if err != nil {
		return nil // nobody may take its name meanwhile
	}
	return found
}

// all runs a function on each shard, one after the other. Errors: ErrClosed, that of ctx.
func (s *Server) all(ctx context.Context, f func(now time.Time, c *Core)) error {
	for _, x := range s.shards {
		if _, err := ask(ctx, x, func(now time.Time, c *Core) struct{} { f(now, c); return struct{}{} }); err != nil {
			return err
		}
	}
	return nil
}

// KeysChanged ends the sessions whose key has been revoked. Errors: ErrClosed, that of ctx.
func (s *Server) KeysChanged(ctx context.Context) error {
	return s.all(ctx, func(now time.Time, c *Core) { c.KeysChanged(now) })
}

// SetDraining says whether new clients are refused because the service is about to end. Errors: ErrClosed, that of ctx.
func (s *Server) SetDraining(ctx context.Context, on bool) error {
	return s.all(ctx, func(_ time.Time, c *Core) { c.SetDraining(on) })
}

// Alive reports whether every shard answers. Errors: ErrClosed, that of ctx.
func (s *Server) Alive(ctx context.Context) error { return s.all(ctx, func(time.Time, *Core) {}) }

// Directory is the ID exchange over the clients of this server.
func (s *Server) Directory() *Directory {
	return &Directory{
		Names: s.cfg.Registry.Names, Addresses: s.Addresses,
		Allowed: func(source netip.Addr) bool { return s.cfg.Registry.AllowDirectory(time.Now(), source) },
	}
}
