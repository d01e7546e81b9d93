package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/stilenet/stile/rtmfp"
)

// Ours to tune.
const (
	// socketBuffer is the receive and the send buffer of each socket of a Server in bytes, if the system allows it.
	socketBuffer = 4 << 20
	// defaultStartupPerPrefix lets a large site behind one address connect at once, and answers of at most three times
	// 100 bytes make it 4 Mbit/s to a victim.
	defaultStartupPerPrefix = 2000
)

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	// Listen are the addresses, each an interface of every shard in this order. A port of 0 takes any.
	Listen []netip.AddrPort
	// Shards is how many goroutines share the work; 0 means one for each processor. Only Linux has more than one.
	Shards int
	// Endpoint configures the endpoint of a shard. Its Shard, Shards, CookieKey and Interfaces are set by the server.
	// One Identity may serve all.
	Endpoint func(shard int) rtmfp.Config
	// Handle is called with every event of a shard, on its goroutine. See Config.Handle.
	Handle func(shard int, now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event)
	// KeyingWorkers is as in Config, for all shards together.
	KeyingWorkers int
	// StartupPerPrefix is as in Config, for each shard; 0 means 2000, and less than 0 no bound.
	StartupPerPrefix int
}

// Server is Transports that share their addresses. Sessions are divided among them by their ID.
type Server struct {
	shards []*Transport
	pool   *keyingPool
	addrs  []netip.AddrPort
}

// Listen opens the sockets. Error: one that names the address.
func Listen(cfg ServerConfig) (_ *Server, err error) {
	if cfg.Endpoint == nil || cfg.Handle == nil || len(cfg.Listen) == 0 {
		return nil, errors.New("transport: ServerConfig.Listen, Endpoint and Handle are required")
	}
	n := cfg.Shards
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	if !canShare {
		n = 1
	}
	switch {
	case cfg.StartupPerPrefix == 0:
		cfg.StartupPerPrefix = defaultStartupPerPrefix
	case cfg.StartupPerPrefix < 0:
		cfg.StartupPerPrefix = 0
	}
	g := &Server{pool: newKeyingPool(cfg.KeyingWorkers)}
	conns := make([][]Interface, n)
	defer func() {
		if err != nil {
			for _, c := range conns {
				for _, i := range c {
					_ = i.Conn.Close()
				}
			}
		}
	}()
	for _, at := range cfg.Listen {
		if n > 1 { // sockets that share a port among shards would share it with those of another process, too
			c, err := listen(at, false)
			if err != nil {
				return nil, fmt.Errorf("transport: listen on %v: %w", at, err)
			}
			_ = c.Close()
		}
		for shard := range conns {
			c, err := listen(at, n > 1)
			if err != nil {
				return nil, fmt.Errorf("transport: listen on %v: %w", at, err)
			}
			conns[shard] = append(conns[shard], Interface{Conn: c})
			if shard == 0 {
				at = c.LocalAddr().(*net.UDPAddr).AddrPort()
				g.addrs = append(g.addrs, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
			}
		}
	}
	var cookieKey [32]byte
	_, _ = rand.Read(cookieKey[:]) // never fails
	for shard := range conns {
		ec := cfg.Endpoint(shard)
		ec.Shard, ec.Shards = uint32(shard), uint32(n)
		ec.CookieKey = cookieKey
		t, err := New(Config{
			Endpoint: ec, Interfaces: conns[shard], StartupPerPrefix: cfg.StartupPerPrefix,
			Handle: func(now time.Time, e *rtmfp.Endpoint, ev rtmfp.Event) { cfg.Handle(shard, now, e, ev) },
			pool:   g.pool, group: g, shard: uint32(shard),
		})
		if err != nil {
			return nil, err
		}
		g.shards = append(g.shards, t)
	}
	return g, nil
}

// listen opens a UDP socket. A shared one may be opened again by this process; at first it must be nobody else's.
func listen(at netip.AddrPort, shared bool) (*net.UDPConn, error) {
	network := "udp4"
	if at.Addr().Is6() && !at.Addr().Is4In6() {
		network = "udp6"
		if at.Addr() == netip.IPv6Unspecified() {
			network = "udp"
		}
	}
	lc := net.ListenConfig{}
	if shared {
		lc.Control = share
	}
	c, err := lc.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	u := c.(*net.UDPConn)
	_ = u.SetReadBuffer(socketBuffer) // less is what the system allows
	_ = u.SetWriteBuffer(socketBuffer)
	return u, nil
}

// Addrs are the addresses of the interfaces.
func (g *Server) Addrs() []netip.AddrPort { return g.addrs }

// Shards are the Transports.
func (g *Server) Shards() []*Transport { return g.shards }

// Serve runs all shards until ctx ends. It may be called once.
func (g *Server) Serve(ctx context.Context) error {
	var all sync.WaitGroup
	for _, t := range g.shards {
		all.Go(func() { _ = t.Serve(ctx) })
	}
	all.Wait()
	g.pool.close()
	return nil
}

// handOver gives a datagram to the shard of its session. That it costs a copy and an allocation does not matter: the system
// divides packets by their addresses, so only far ends that have moved need it.
func (g *Server) handOver(shard uint32, iface int, from netip.AddrPort, data []byte) {
	t := g.shards[shard]
	t.stats.taken.Add(1)
	b := &batch{slab: make([]byte, bufferSize), n: 1, link: iface}
	b.sizes[0], b.from[0] = copy(b.slab, data), from
	select {
	case t.in <- b:
	default:
		t.stats.dropped.Add(1)
	}
}
