package natlab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// § means RFC 9293. The laboratory's TCP is a reliable byte stream over the same lossy paths: handshake, simultaneous
// open, cumulative acknowledgements, retransmission, a receive window, slow start, half-close and reset are there; options,
// selective acknowledgements, TIME-WAIT and sequence numbers of 32 bits are not.

// Ours to tune.
const (
	maxBacklog = 128 // connections that wait for Accept; more are dropped (Linux has 128 to 4096)
)

// tcpHost is the TCP of a host.
type tcpHost struct {
	listeners map[uint16][]*Listener
	conns     map[connKey]*TCPConn
	serial    uint64
}

type connKey struct{ local, remote netip.AddrPort }

func (t *tcpHost) init() {
	t.listeners = make(map[uint16][]*Listener)
	t.conns = make(map[connKey]*TCPConn)
}

func (t *tcpHost) closeAll() {
	for _, list := range t.listeners {
		for _, l := range list {
			l.shut()
		}
	}
	for _, c := range t.conns {
		c.fail(net.ErrClosed)
	}
	clear(t.listeners)
}

// Listener is a listening TCP socket of a Host.
type Listener struct {
	host  *Host
	local netip.AddrPort
	dual  bool
	ready chan *TCPConn
	once  sync.Once
	shutc chan struct{}
}

// Listen has the signature of net.ListenConfig.Listen. The network is "tcp", "tcp4" or "tcp6". The result is a *Listener.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	local, dual, err := h.bind(network, "tcp", address)
	if err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	if h.net.closed {
		return nil, opError("listen", network, nil, net.TCPAddrFromAddrPort(local), net.ErrClosed)
	}
	l := &Listener{host: h, local: local, dual: dual, ready: make(chan *TCPConn, maxBacklog), shutc: make(chan struct{})}
	free := func(port uint16) bool { return !slices.ContainsFunc(h.tcp.listeners[port], l.overlaps) }
	port, ok := local.Port(), free(local.Port())
	if port == 0 {
		port, ok = h.pick(free)
	}
	if !ok {
		return nil, opError("listen", network, nil, net.TCPAddrFromAddrPort(local), syscall.EADDRINUSE)
	}
	l.local = netip.AddrPortFrom(local.Addr(), port)
	h.tcp.listeners[port] = append(h.tcp.listeners[port], l)
	return l, nil
}

func (l *Listener) overlaps(o *Listener) bool {
	a, b := l.local.Addr(), o.local.Addr()
	if a.IsUnspecified() || b.IsUnspecified() {
		return a.Is6() == b.Is6() || l.dual || o.dual
	}
	return a == b
}

// Accept implements net.Listener; the result is a *TCPConn.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.shutc:
	default:
		select {
		case c := <-l.ready:
			return c, nil
		case <-l.shutc:
		}
	}
	return nil, opError("accept", "tcp", nil, l.Addr(), net.ErrClosed)
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.local) }

// Close implements net.Listener. Connections that nobody accepted are reset.
func (l *Listener) Close() error {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	select {
	case <-l.shutc:
		return opError("close", "tcp", nil, l.Addr(), net.ErrClosed)
	default:
	}
	port := l.local.Port()
	l.host.tcp.listeners[port] = slices.DeleteFunc(l.host.tcp.listeners[port], func(o *Listener) bool { return o == l })
	l.shut()
	for {
		select {
		case c := <-l.ready:
			c.abort()
		default:
			return nil
		}
	}
}

func (l *Listener) shut() { l.once.Do(func() { close(l.shutc) }) }

// DialContext has the signature of net.Dialer.DialContext, for TCP and UDP. A refused TCP connection gives ECONNREFUSED;
// where packets vanish, the dial ends with ctx, or with ETIMEDOUT after about two minutes.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if len(network) >= 3 && network[:3] == "udp" {
		c, err := h.DialUDP(ctx, network, "", address)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := h.DialTCP(ctx, network, "", address)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// DialTCP connects from a local address, which may be one that a Listener has, as for TCP hole punching. If both sides
// dial each other, they get one connection (§3.5). An empty local address is chosen by the host.
func (h *Host) DialTCP(ctx context.Context, network, local, address string) (*TCPConn, error) {
	c, err := h.startDial(ctx, network, local, address)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.opened:
		return c, nil
	case <-c.failed:
		err = c.failure()
	case <-ctx.Done():
		err = ctx.Err()
		h.net.mu.Lock()
		c.fail(err)
		h.net.mu.Unlock()
	}
	return nil, opError("dial", network, nil, c.RemoteAddr(), err)
}

func (h *Host) startDial(ctx context.Context, network, local, address string) (*TCPConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	var from netip.AddrPort
	to, err := h.net.resolve(network, "tcp", address)
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err == nil && !to.Addr().IsValid():
		err = &net.AddrError{Err: "missing host", Addr: address}
	case h.net.closed:
		err = net.ErrClosed
	case err == nil && local != "":
		from, _, err = h.bind(network, "tcp", local)
	}
	if err != nil {
		return nil, opError("dial", network, nil, nil, err)
	}
	remote := net.TCPAddrFromAddrPort(to)
	if !from.Addr().IsValid() || from.Addr().IsUnspecified() {
		src, ok := h.source(to.Addr())
		if !ok {
			return nil, opError("dial", network, nil, remote, syscall.ENETUNREACH)
		}
		from = netip.AddrPortFrom(src, from.Port())
	}
	free := func(port uint16) bool {
		return h.tcp.conns[connKey{netip.AddrPortFrom(from.Addr(), port), to}] == nil
	}
	port, ok := from.Port(), free(from.Port())
	if port == 0 {
		port, ok = h.pick(func(port uint16) bool { return free(port) && len(h.tcp.listeners[port]) == 0 })
	}
	if !ok {
		return nil, opError("dial", network, nil, remote, syscall.EADDRINUSE)
	}
	c := h.newTCPConn(connKey{netip.AddrPortFrom(from.Addr(), port), to}, synSent)
	c.schedule(func(now time.Time) { c.sendSYN(now) })
	return c, nil
}

func (h *Host) tcpIngress(now time.Time, p *Packet) {
	key := connKey{p.Dst, p.Src}
	if c := h.tcp.conns[key]; c != nil {
		h.net.end(p, Delivered)
		c.receive(now, p)
		return
	}
	s := p.seg
	if l := h.listener(p.Dst); l != nil && s.syn && !s.ack {
		if len(l.ready) >= maxBacklog {
			h.net.end(p, BufferFull)
			return
		}
		h.net.end(p, Delivered)
		c := h.newTCPConn(key, synReceived)
		c.listener, c.peerID = l, s.id
		c.sendSYN(now)
		return
	}
	h.net.end(p, Refused)
	if !s.rst && !h.quiet {
		h.sendSegment(now, p.Dst, p.Src, &segment{rst: true, id: s.to, to: s.id}, nil)
	}
}

func (h *Host) listener(local netip.AddrPort) *Listener {
	var found *Listener
	for _, l := range h.tcp.listeners[local.Port()] {
		switch a := l.local.Addr(); {
		case a == local.Addr():
			return l
		case a.IsUnspecified() && (a.Is6() == local.Addr().Is6() || l.dual):
			found = l
		}
	}
	return found
}

// sendSegment sends from the loop.
func (h *Host) sendSegment(now time.Time, from, to netip.AddrPort, s *segment, payload []byte) {
	p := &Packet{Proto: TCP, Src: from, Dst: to, TTL: defaultTTL, DF: true, Payload: payload, seg: s}
	h.start(now, p)
}

// tcpError takes an ICMP error about a segment.
func (h *Host) tcpError(now time.Time, e *ICMPError) bool {
	c := h.tcp.conns[connKey{e.Src, e.Dst}]
	switch {
	case c == nil:
		return false
	case e.Type == PacketTooBig:
		c.shrink(now, e.MTU)
		return true
	case c.state == synSent && !errors.Is(e, syscall.EHOSTUNREACH):
		c.fail(e)
		return true
	}
	return false // soft errors end no connection (RFC 5461)
}
