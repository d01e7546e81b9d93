package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/stilenet/stile/turn"
)

// Ours to tune, for the plain engine.
const (
	plainListenBuffer = 65535 // bytes: the longest datagram
	// plainRelayBuffer is the longest datagram of a peer that is relayed. Each relayed port has such a buffer, and RTMFP
	// and WebRTC stay under 1,500 bytes.
	plainRelayBuffer = 4096
	plainStreamQueue = 64               // frames waiting for a client that reads slowly; more are dropped
	streamIdle       = 30 * time.Second // a TCP connection without an allocation ends after that
	streamWrite      = 10 * time.Second // a client that takes nothing for that long is gone
	plainBugEvery    = 10 * time.Second // between two reports of a BUG
)

// plain is the engine on net.PacketConn: one core, one lock, a goroutine for each socket.
type plain struct {
	cfg       *Config
	udp       []*plainListener
	tcp       []net.Listener
	tcpIndex  []int // of cfg.Listeners
	readers   sync.WaitGroup
	mu        sync.Mutex // guards everything below
	core      *turn.Core
	stats     Stats
	relays    map[uint32]*plainRelay
	streams   map[uint32]*plainStream
	perClient map[netip.Addr]int
	last      uint32 // number of the newest stream
	closed    bool
	bugs      uint64 // not reported yet
	nextBug   time.Time
}

type plainListener struct {
	conn  packetConn
	index int
	local netip.AddrPort
}

type plainRelay struct {
	allocation uint32
	conn       net.PacketConn
}

type plainStream struct {
	conn    net.Conn
	out     chan []byte
	removed bool
}

func openPlain(ctx context.Context, cfg *Config, ledger *turn.Ledger) (_ engine, err error) {
	p := &plain{
		cfg: cfg, relays: make(map[uint32]*plainRelay), streams: make(map[uint32]*plainStream),
		perClient: make(map[netip.Addr]int),
	}
	defer func() {
		if err != nil {
			p.closeListeners()
		}
	}()
	for i, l := range cfg.Listeners {
		switch l.Network {
		case "udp":
			if err := p.openUDP(ctx, i, l.Address); err != nil {
				return nil, fmt.Errorf("%s: %v: %w", l.key(), l, err)
			}
		case "tcp":
			conn, err := p.listen(ctx, l.Address)
			if err != nil {
				return nil, fmt.Errorf("%s: %v: %w", l.key(), l, err)
			}
			p.tcp = append(p.tcp, conn)
			p.tcpIndex = append(p.tcpIndex, i)
		default:
			return nil, fmt.Errorf("%s: %v: the network must be udp or tcp", l.key(), l)
		}
	}
	p.core = turn.NewCore(time.Now(), coreConfig(cfg, ledger, 0, 1, p))
	return p, nil
}

// openUDP opens a UDP listener. A wildcard for both families becomes a socket for each: an IPv4 answer cannot be given its source
// address on an IPv6 socket everywhere.
func (p *plain) openUDP(ctx context.Context, index int, a netip.AddrPort) error {
	both := a.Addr() == netip.IPv6Unspecified()
	conn, err := p.listenPacket(ctx, a)
	if err == nil {
		p.udp = append(p.udp, &plainListener{conn: newPacketConn(conn), index: index, local: addrPort(conn.LocalAddr())})
		a = netip.AddrPortFrom(a.Addr(), addrPort(conn.LocalAddr()).Port())
	}
	if !both || err != nil && !errors.Is(err, syscall.EAFNOSUPPORT) {
		return err
	}
	conn, err = p.listenPacket(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()))
	if err == nil {
		p.udp = append(p.udp, &plainListener{conn: newPacketConn(conn), index: index, local: addrPort(conn.LocalAddr())})
	}
	return err
}

func (p *plain) listenPacket(ctx context.Context, a netip.AddrPort) (net.PacketConn, error) {
	network := "udp6"
	if a.Addr().Is4() {
		network = "udp4"
	}
	if p.cfg.ListenPacket != nil {
		return p.cfg.ListenPacket(ctx, network, a.String())
	}
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, network, a.String())
}

func (p *plain) listen(ctx context.Context, a netip.AddrPort) (net.Listener, error) {
	if p.cfg.Listen != nil {
		return p.cfg.Listen(ctx, "tcp", a.String())
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", a.String())
}

func (p *plain) closeListeners() {
	for _, l := range p.udp {
		l.conn.Close()
	}
	for _, l := range p.tcp {
		l.Close()
	}
}

func (p *plain) shards() int { return 1 }

func (p *plain) warnings() []string { return nil }

func (p *plain) addStats(s *Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Streams = len(p.streams)
	s.StreamsRefused, s.StreamsBroken = p.stats.StreamsRefused, p.stats.StreamsBroken
	s.SendErrors, s.StreamDrops, s.Panics = p.stats.SendErrors, p.stats.StreamDrops, p.stats.Panics
}

func (p *plain) do(_ context.Context, _ int, f func(time.Time, *turn.Core)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	err := errBug
	p.guarded(func() {
		f(time.Now(), p.core)
		err = nil
	})
	return err
}

// guarded runs f, and sends what it led to. The lock is held.
func (p *plain) guarded(f func()) {
	defer p.guard()
	f()
	p.drain()
}

func (p *plain) serve(ctx context.Context) error {
	for _, l := range p.udp {
		p.readers.Go(func() { p.readListener(l) })
	}
	for i, l := range p.tcp {
		p.readers.Go(func() { p.accept(l, p.tcpIndex[i]) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.mu.Lock()
			p.core.Shutdown(time.Now())
			p.drain()
			p.closed = true
			for n, s := range p.streams {
				p.removeStream(n, s)
			}
			p.mu.Unlock()
			p.closeListeners()
			p.readers.Wait()
			return nil
		case <-tick.C:
			p.mu.Lock()
			if p.core.Busy() {
				p.guarded(func() { p.core.Tick(time.Now()) })
			}
			p.mu.Unlock()
		}
	}
}

// drain sends what the core has left. The lock is held.
func (p *plain) drain() {
	for _, o := range p.core.Outputs() {
		switch o.Kind {
		case turn.ToPeer:
			if r := p.relays[o.Allocation]; r == nil {
				p.stats.SendErrors++
			} else if _, err := writeTo(r.conn, o.Data, o.Peer); err != nil {
				p.stats.SendErrors++
			}
		case turn.ToClient:
			p.toClient(&o)
		case turn.ToShard:
			panic("BUG: dataplane: plain has one shard")
		}
	}
	if events := p.core.TakeEvents(); len(events) > 0 && p.cfg.OnEvents != nil {
		p.cfg.OnEvents(events)
	}
	p.core.Reset()
}

func (p *plain) toClient(o *turn.Output) {
	if o.Source.Stream != 0 {
		s := p.streams[o.Source.Stream]
		if s == nil {
			return
		}
		select {
		case s.out <- append([]byte(nil), o.Data...):
		default:
			p.stats.StreamDrops++
		}
		return
	}
	for _, l := range p.udp {
		if l.index == int(o.Source.Listener) && (l.local.Addr().Is4() == o.Source.Client.Addr().Is4()) {
			if err := l.conn.WriteFrom(o.Data, o.Source.Server.Addr(), o.Source.Client); err != nil {
				p.stats.SendErrors++
			}
			return
		}
	}
}

// guard recovers a BUG in the core: its allocations end, and a fresh core goes on (see socket's shard.guarded). The lock is held.
func (p *plain) guard() {
	v := recover()
	if v == nil {
		return
	}
	now := time.Now()
	p.stats.Panics++
	for i := range p.relays {
		p.CloseRelay(i)
	}
	for n, s := range p.streams {
		p.removeStream(n, s)
	}
	p.core = p.core.Successor(now)
	events := p.core.TakeEvents()
	if p.bugs++; !now.Before(p.nextBug) {
		events = append(events, turn.Event{Kind: turn.EventBug, At: now, Count: p.bugs, Err: fmt.Errorf("%v\n%s", v, debug.Stack())})
		p.bugs, p.nextBug = 0, now.Add(plainBugEvery)
	}
	if len(events) > 0 && p.cfg.OnEvents != nil {
		p.cfg.OnEvents(events)
	}
}

func (p *plain) readListener(l *plainListener) {
	buf := make([]byte, turn.Headroom+plainListenBuffer+turn.Tailroom)
	for {
		n, local, ifIndex, from, err := l.conn.ReadFromTo(buf[turn.Headroom : turn.Headroom+plainListenBuffer])
		if err != nil {
			if passing(err) {
				continue
			}
			return
		}
		if !local.IsValid() {
			local = l.local.Addr()
		}
		src := turn.Source{
			Client: from, Server: netip.AddrPortFrom(local.Unmap(), l.local.Port()), Listener: uint16(l.index), Interface: ifIndex,
		}
		p.fromClient(&src, turn.Packet{Buf: buf, At: turn.Headroom, Len: n})
	}
}

func (p *plain) fromClient(src *turn.Source, pkt turn.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.guarded(func() { p.core.FromClient(time.Now(), src, pkt) })
}

// OpenRelay implements turn.Opener. The lock is held.
func (p *plain) OpenRelay(allocation uint32, local netip.AddrPort) error {
	conn, err := p.listenPacket(context.Background(), local)
	if errors.Is(err, syscall.EADDRINUSE) {
		return turn.ErrPortTaken
	}
	if err != nil {
		return fmt.Errorf("dataplane: open the relayed port %v: %w", local, err)
	}
	r := &plainRelay{allocation: allocation, conn: conn}
	p.relays[allocation] = r
	p.readers.Go(func() { p.readRelay(r) })
	return nil
}

// CloseRelay implements turn.Opener. The lock is held.
func (p *plain) CloseRelay(allocation uint32) {
	if r := p.relays[allocation]; r != nil {
		delete(p.relays, allocation)
		r.conn.Close()
	}
}

func (p *plain) readRelay(r *plainRelay) {
	buf := make([]byte, turn.Headroom+plainRelayBuffer+1+turn.Tailroom)
	for {
		n, from, err := readFrom(r.conn, buf[turn.Headroom:turn.Headroom+plainRelayBuffer+1])
		if err != nil {
			if passing(err) {
				continue
			}
			return
		}
		p.mu.Lock()
		switch {
		case p.closed || p.relays[r.allocation] != r:
		case n > plainRelayBuffer:
			p.stats.SendErrors++
		default:
			p.guarded(func() {
				p.core.FromPeer(time.Now(), r.allocation, from, turn.Packet{Buf: buf, At: turn.Headroom, Len: n})
			})
		}
		p.mu.Unlock()
	}
}

// passing reports whether a read error leaves the socket usable: an ICMP error of an earlier datagram, as Linux and
// Windows report them on unconnected sockets too.
func passing(err error) bool {
	return !errors.Is(err, net.ErrClosed) && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EMSGSIZE))
}
