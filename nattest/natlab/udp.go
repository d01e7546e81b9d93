package natlab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// UDPConn is a UDP socket of a Host. It has the methods of net.UDPConn that do not name the operating system, and
// those that Linux offers by control messages: the address a datagram was sent to, and the address to send from.
// All methods may be called concurrently.
type UDPConn struct {
	host  *Host
	local netip.AddrPort
	dual  bool           // an IPv6 wildcard that takes IPv4 too
	peer  netip.AddrPort // valid if connected
	read  *deadline
	write *deadline
	ready chan struct{} // there is something in the queue
	shutc chan struct{} // closed by Close

	mu      sync.Mutex // guards the following; taken after Net.mu
	queue   []received
	queued  int // bytes
	limit   int // bytes
	dropped uint64
	ttl     int
	df      bool
	errors  bool // deliver ICMP errors although not connected
	shutd   bool
}

type received struct {
	from, to netip.AddrPort
	payload  []byte
	err      *ICMPError
}

// overhead is what a queued datagram costs beside its payload, about as in Linux, so that empty datagrams are bounded.
const overhead = 256

// ListenPacket has the signature of net.ListenConfig.ListenPacket. The network is "udp", "udp4" or "udp6"; the
// address may be a wildcard, one of the host's or a loopback address; port 0 picks an ephemeral port. The result is a
// *UDPConn. Errors wrap syscall.EADDRINUSE and syscall.EADDRNOTAVAIL as those of package net do.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	c, err := h.ListenUDP(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ListenUDP is ListenPacket with the type of its result.
func (h *Host) ListenUDP(ctx context.Context, network, address string) (*UDPConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	local, dual, err := h.bind(network, "udp", address)
	if err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	return h.open("listen", network, local, dual, netip.AddrPort{})
}

// DialUDP returns a connected socket: it hears the peer only, and its reads return the ICMP errors that its packets
// cause. An empty local address is chosen by the host.
func (h *Host) DialUDP(ctx context.Context, network, local, peer string) (*UDPConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, opError("dial", network, nil, nil, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	to, err := h.net.resolve(network, "udp", peer)
	if err == nil && !to.Addr().IsValid() {
		err = &net.AddrError{Err: "missing host", Addr: peer}
	}
	if err != nil {
		return nil, opError("dial", network, nil, nil, err)
	}
	from := netip.AddrPort{}
	if local != "" {
		if from, _, err = h.bind(network, "udp", local); err != nil {
			return nil, opError("dial", network, nil, nil, err)
		}
	}
	if !from.Addr().IsValid() || from.Addr().IsUnspecified() {
		src, ok := h.source(to.Addr())
		if !ok {
			return nil, opError("dial", network, nil, net.UDPAddrFromAddrPort(to), syscall.ENETUNREACH)
		}
		from = netip.AddrPortFrom(src, from.Port())
	}
	return h.open("dial", network, from, false, to)
}

func (h *Host) open(op, network string, local netip.AddrPort, dual bool, peer netip.AddrPort) (*UDPConn, error) {
	c := &UDPConn{host: h, local: local, dual: dual, peer: peer, read: newDeadline(), write: newDeadline(),
		ready: make(chan struct{}, 1), shutc: make(chan struct{}), limit: defaultReceiveBuffer, ttl: defaultTTL}
	if h.net.closed {
		return nil, opError(op, network, nil, net.UDPAddrFromAddrPort(local), net.ErrClosed)
	}
	free := func(port uint16) bool { return !slices.ContainsFunc(h.udp[port], c.overlaps) }
	port := local.Port()
	ok := free(port)
	if port == 0 {
		port, ok = h.pick(free)
	}
	if !ok {
		return nil, opError(op, network, nil, net.UDPAddrFromAddrPort(local), syscall.EADDRINUSE)
	}
	c.local = netip.AddrPortFrom(local.Addr(), port)
	h.udp[port] = append(h.udp[port], c)
	return c, nil
}

// overlaps reports whether two sockets cannot have the same port.
func (c *UDPConn) overlaps(o *UDPConn) bool {
	a, b := c.local.Addr(), o.local.Addr()
	if a.IsUnspecified() || b.IsUnspecified() {
		return a.Is6() == b.Is6() || c.dual || o.dual
	}
	return a == b
}

// takes reports how well a socket fits a datagram: 0 not, 1 wildcard, 2 its own address, 3 connected.
func (c *UDPConn) takes(local, peer netip.AddrPort) int {
	a := c.local.Addr()
	switch {
	case c.peer.IsValid():
		if c.peer == peer && a == local.Addr() {
			return 3
		}
		return 0
	case a == local.Addr():
		return 2
	case a.IsUnspecified() && (a.Is6() == local.Addr().Is6() || c.dual):
		return 1
	}
	return 0
}

func (h *Host) udpLookup(local, peer netip.AddrPort) *UDPConn {
	var best *UDPConn
	fit := 0
	for _, c := range h.udp[local.Port()] {
		if f := c.takes(local, peer); f > fit {
			best, fit = c, f
		}
	}
	return best
}

func (h *Host) udpIngress(now time.Time, p *Packet) {
	c := h.udpLookup(p.Dst, p.Src)
	if c == nil {
		h.refuse(now, p)
		return
	}
	if c.push(received{from: p.Src, to: p.Dst, payload: p.Payload}) {
		h.net.end(p, Delivered)
	} else {
		h.net.end(p, BufferFull)
	}
}

// push queues a datagram for the readers unless the buffer is full.
func (c *UDPConn) push(r received) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := overhead + len(r.payload)
	if c.queued+size > c.limit && len(c.queue) > 0 {
		c.dropped++
		return false
	}
	c.queued += size
	c.queue = append(c.queue, r)
	c.signal()
	return true
}

func (c *UDPConn) pushError(e *ICMPError) bool {
	c.mu.Lock()
	want := c.errors || c.peer.IsValid()
	c.mu.Unlock()
	return want && c.push(received{err: e})
}

func (c *UDPConn) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// pop waits for the next datagram or error.
func (c *UDPConn) pop() (received, error) {
	for {
		if c.isShut() {
			return received{}, net.ErrClosed
		}
		if c.read.passed() {
			return received{}, os.ErrDeadlineExceeded
		}
		c.mu.Lock()
		if len(c.queue) > 0 {
			r := c.queue[0]
			c.queue[0] = received{}
			c.queue = c.queue[1:]
			c.queued -= overhead + len(r.payload)
			if len(c.queue) > 0 {
				c.signal() // for the next reader
			}
			c.mu.Unlock()
			if r.err != nil {
				return r, r.err
			}
			return r, nil
		}
		c.mu.Unlock()
		select {
		case <-c.ready:
		case <-c.shutc:
		case <-c.read.done():
		}
	}
}

// ReadFromTo reads a datagram and reports its source and the local address it was sent to, which is of interest for
// a socket that is bound to a wildcard. Bytes that do not fit into b are lost.
func (c *UDPConn) ReadFromTo(b []byte) (n int, from, to netip.AddrPort, err error) {
	r, err := c.pop()
	if err != nil {
		return 0, netip.AddrPort{}, netip.AddrPort{}, opError("read", "udp", c.LocalAddr(), c.RemoteAddr(), err)
	}
	return copy(b, r.payload), r.from, r.to, nil
}

// ReadFromUDPAddrPort is as in net.UDPConn, except that IPv4 addresses are always in their 4-byte form.
func (c *UDPConn) ReadFromUDPAddrPort(b []byte) (n int, from netip.AddrPort, err error) {
	n, from, _, err = c.ReadFromTo(b)
	return n, from, err
}

// ReadFrom implements net.PacketConn; the address is a *net.UDPAddr.
func (c *UDPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, _, err := c.ReadFromTo(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// Read implements net.Conn.
func (c *UDPConn) Read(b []byte) (int, error) {
	n, _, _, err := c.ReadFromTo(b)
	return n, err
}

// WriteFromTo sends a datagram from one of the host's addresses; a zero from means the socket's own, or the one that
// the route suggests. It does not wait: what the link cannot take is dropped. Errors wrap net.ErrClosed,
// os.ErrDeadlineExceeded, syscall.EMSGSIZE, EADDRNOTAVAIL, ENETUNREACH, EAFNOSUPPORT and EDESTADDRREQ.
func (c *UDPConn) WriteFromTo(b []byte, from netip.Addr, to netip.AddrPort) (int, error) {
	if err := c.send(b, from, to); err != nil {
		return 0, opError("write", "udp", c.LocalAddr(), net.UDPAddrFromAddrPort(to), err)
	}
	return len(b), nil
}

func (c *UDPConn) send(b []byte, from netip.Addr, to netip.AddrPort) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	n := c.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	local := c.local.Addr()
	switch {
	case c.isShut():
		return net.ErrClosed
	case c.write.passed():
		return os.ErrDeadlineExceeded
	case !to.IsValid() || to.Addr().IsUnspecified() || to.Port() == 0:
		return syscall.EINVAL
	case len(b) > maxUDPPayloadBytes:
		return syscall.EMSGSIZE
	case to.Addr().Is6() != local.Is6() && !c.dual:
		return syscall.EAFNOSUPPORT
	case !local.IsUnspecified() && from.IsValid() && from != local:
		return syscall.EADDRNOTAVAIL
	case from.IsValid() && (!c.host.has(from) || from.Is6() != to.Addr().Is6()):
		return syscall.EADDRNOTAVAIL
	}
	if !from.IsValid() {
		from = local
	}
	if from.IsUnspecified() {
		var ok bool
		if from, ok = c.host.source(to.Addr()); !ok {
			return syscall.ENETUNREACH
		}
	}
	c.mu.Lock()
	ttl, df := c.ttl, c.df
	c.mu.Unlock()
	p := &Packet{Proto: UDP, Src: netip.AddrPortFrom(from, c.local.Port()), Dst: to, TTL: ttl, DF: df, Payload: slices.Clone(b)}
	n.from(rank{host: c.host.node.id + 1, proto: UDP, port: c.local.Port()}, p, c.host.start)
	return nil
}

// WriteToUDPAddrPort is as in net.UDPConn.
func (c *UDPConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if c.peer.IsValid() {
		return 0, opError("write", "udp", c.LocalAddr(), net.UDPAddrFromAddrPort(to), net.ErrWriteToConnected)
	}
	return c.WriteFromTo(b, netip.Addr{}, to)
}

// WriteTo implements net.PacketConn. It takes a *net.UDPAddr or any address whose string is IP and port.
func (c *UDPConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, err := addrPort(addr)
	if err != nil {
		return 0, opError("write", "udp", c.LocalAddr(), addr, err)
	}
	return c.WriteToUDPAddrPort(b, to)
}

func addrPort(addr net.Addr) (netip.AddrPort, error) {
	switch a := addr.(type) {
	case nil:
		return netip.AddrPort{}, syscall.EDESTADDRREQ
	case interface{ AddrPort() netip.AddrPort }: // *net.UDPAddr
		return a.AddrPort(), nil
	}
	to, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}, errors.Join(syscall.EINVAL, err)
	}
	return to, nil
}

// Write implements net.Conn for a connected socket.
func (c *UDPConn) Write(b []byte) (int, error) {
	if !c.peer.IsValid() {
		return 0, opError("write", "udp", c.LocalAddr(), nil, syscall.EDESTADDRREQ)
	}
	return c.WriteFromTo(b, netip.Addr{}, c.peer)
}

// LocalAddr returns the address the socket is bound to, a *net.UDPAddr.
func (c *UDPConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

// LocalAddrPort is LocalAddr as a value.
func (c *UDPConn) LocalAddrPort() netip.AddrPort { return c.local }

// RemoteAddr returns the peer of a connected socket, else nil.
func (c *UDPConn) RemoteAddr() net.Addr {
	if !c.peer.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(c.peer)
}

// SetTTL sets the TTL (IPv6: hop limit) of the packets sent from now on; 0 means the default of 64.
func (c *UDPConn) SetTTL(hops int) error {
	if hops < 0 || hops > 255 {
		return opError("set", "udp", c.LocalAddr(), nil, syscall.EINVAL)
	}
	if hops == 0 {
		hops = defaultTTL
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ttl = hops
	return nil
}

// SetDF sets the Don't Fragment bit of the packets sent from now on. A packet that is too big for a link is then
// dropped, and an ICMPError with the MTU is reported; without it, and for IPv6 on the host's own link, it is fragmented.
func (c *UDPConn) SetDF(df bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.df = df
}

// SetReadBuffer sets the size of the receive buffer in bytes. A datagram counts its payload and 256; one always fits.
func (c *UDPConn) SetReadBuffer(bytes int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = bytes
	return nil
}

// SetWriteBuffer does nothing: what is sent is on the link at once.
func (c *UDPConn) SetWriteBuffer(int) error { return nil }

// ReportErrors makes the reads of a socket that is not connected return the ICMP errors that its packets cause, as
// *ICMPError inside *net.OpError, in order with the datagrams (Linux: IP_RECVERR). Connected sockets always do.
func (c *UDPConn) ReportErrors(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errors = on
}

// Dropped returns the number of datagrams and errors that found the receive buffer full.
func (c *UDPConn) Dropped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

// SetDeadline implements net.PacketConn.
func (c *UDPConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.PacketConn. It also applies to reads that are waiting.
func (c *UDPConn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.read, t) }

// SetWriteDeadline implements net.PacketConn.
func (c *UDPConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(c.write, t) }

func (c *UDPConn) setDeadline(d *deadline, t time.Time) error {
	if c.isShut() {
		return opError("set", "udp", c.LocalAddr(), nil, net.ErrClosed)
	}
	d.set(t)
	return nil
}

// Close closes the socket. Waiting readers return net.ErrClosed.
func (c *UDPConn) Close() error {
	n := c.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.isShut() {
		return opError("close", "udp", c.LocalAddr(), nil, net.ErrClosed)
	}
	port := c.local.Port()
	c.host.udp[port] = slices.DeleteFunc(c.host.udp[port], func(o *UDPConn) bool { return o == c })
	if len(c.host.udp[port]) == 0 {
		delete(c.host.udp, port)
	}
	c.shut()
	return nil
}

func (c *UDPConn) shut() {
	c.mu.Lock()
	shut := c.shutd
	c.shutd = true
	c.queue, c.queued = nil, 0
	c.mu.Unlock()
	if !shut {
		close(c.shutc)
		c.read.set(time.Time{})
		c.write.set(time.Time{})
	}
}

func (c *UDPConn) isShut() bool {
	select {
	case <-c.shutc:
		return true
	default:
		return false
	}
}
