package natlab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// From the specifications.
const (
	firstEphemeral = 49152 // RFC 6335 §6
	lastEphemeral  = 65535
)

// Ours to tune.
const (
	defaultTTL           = 64               // what Linux and macOS send
	maxReassemblies      = 64               // for each host; the oldest is given up
	reassemblyTimeout    = 30 * time.Second // Linux; RFC 8200 §4.5 says 60 s
	loopbackMTU          = 65536            // Linux
	defaultReceiveBuffer = 208 << 10        // bytes, Linux's net.core.rmem_default
)

// A Host is a computer with sockets. Its methods have the signatures of package net, so that code which takes
// net.ListenConfig.ListenPacket or net.Dialer.DialContext as a function runs in the laboratory unchanged.
type Host struct {
	net   *Net
	node  *node
	rand  *rand.Rand
	links []*Link
	addrs []hostAddr
	udp   map[uint16][]*UDPConn
	tcp   tcpHost
	parts map[partKey]*reassembly
	order []partKey // of parts, oldest first
	quiet bool
}

type hostAddr struct {
	addr netip.Addr
	link *Link
}

// Host adds a host with one link to the segment and the addresses (IPv4, IPv6 or both). It panics if the name or an
// address is taken or an address is not valid.
func (s *Segment) Host(name string, addrs ...string) *Host {
	s.net.mu.Lock()
	h := &Host{net: s.net, node: s.net.newNode(name, s), rand: s.net.rand("host " + name),
		udp: make(map[uint16][]*UDPConn), parts: make(map[partKey]*reassembly)}
	h.tcp.init()
	s.net.hosts[name] = h
	s.net.mu.Unlock()
	s.Attach(h, addrs...)
	return h
}

// Attach gives a host another link, to this segment, with addresses. The first link of a host has its default route.
func (s *Segment) Attach(h *Host, addrs ...string) *Link {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	l := s.net.newLink(fmt.Sprintf("%s#%d", h.node.name, len(h.links)), s, h.node)
	l.to = h
	h.links = append(h.links, l)
	for _, a := range addrs {
		addr := mustAddr(a)
		s.announce(addr, l)
		h.addrs = append(h.addrs, hostAddr{addr, l})
	}
	return l
}

func mustAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		panic(fmt.Sprintf("natlab: %q is not an address that a host can have", s))
	}
	return a
}

// Name returns the host's name.
func (h *Host) Name() string { return h.node.name }

// Link returns the host's first link.
func (h *Host) Link() *Link { return h.links[0] }

// Addrs returns the host's addresses, without loopback, in the order in which they were given.
func (h *Host) Addrs() []netip.Addr {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	var out []netip.Addr
	for _, a := range h.addrs {
		out = append(out, a.addr)
	}
	return out
}

// Addr returns the host's first address.
func (h *Host) Addr() netip.Addr { return h.Addrs()[0] }

// SetQuiet makes the host drop packets to closed ports without an ICMP error or a reset.
func (h *Host) SetQuiet(quiet bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.quiet = quiet
}

func (h *Host) has(a netip.Addr) bool {
	return a.IsLoopback() || slices.ContainsFunc(h.addrs, func(x hostAddr) bool { return x.addr == a })
}

func (h *Host) hasFamily(six bool) bool {
	return slices.ContainsFunc(h.addrs, func(x hostAddr) bool { return x.addr.Is6() == six })
}

// source chooses the address that packets to dst leave from: an address of the link on whose segment dst is, else of
// the first link that has one of the family.
func (h *Host) source(dst netip.Addr) (netip.Addr, bool) {
	if dst.IsLoopback() || h.has(dst) {
		return dst, true
	}
	for _, a := range h.addrs {
		if a.addr.Is6() == dst.Is6() && a.link.seg.table[dst] != nil && a.link.seg.gateway != nil {
			return a.addr, true
		}
	}
	for _, a := range h.addrs {
		if a.addr.Is6() == dst.Is6() {
			return a.addr, true
		}
	}
	return netip.Addr{}, false
}

// start sends a packet of a socket. It enters the books here and not in the socket's goroutine, so that their order
// does not depend on goroutines.
func (h *Host) start(now time.Time, p *Packet) {
	h.net.begin(now, p, h.node)
	h.egress(now, p)
}

// egress sends a packet that is in the books. A packet leaves by the link that has its source address.
func (h *Host) egress(now time.Time, p *Packet) {
	if h.has(p.Dst.Addr()) {
		h.net.at(now.Add(minHop), p, func(now time.Time, p *Packet) { h.ingress(now, p) })
		return
	}
	for _, a := range h.addrs {
		if a.addr == p.Src.Addr() {
			a.link.sendUp(now, p, true)
			return
		}
	}
	h.net.end(p, NoRoute)
}

// arrive implements endpoint.
func (h *Host) arrive(now time.Time, _ *Link, p *Packet) {
	if !h.has(p.Dst.Addr()) {
		h.net.end(p, NoRoute)
		return
	}
	h.ingress(now, p)
}

// reflect implements endpoint.
func (h *Host) reflect(now time.Time, _ *Link, p *Packet) { h.ingress(now, p) }

func (h *Host) ingress(now time.Time, p *Packet) {
	if p.Fragment != nil {
		if p = h.reassemble(now, p); p == nil {
			return
		}
	}
	switch p.Proto {
	case UDP:
		h.udpIngress(now, p)
	case TCP:
		h.tcpIngress(now, p)
	case ICMP:
		h.icmpIngress(now, p)
	default:
		panic(fmt.Sprintf("BUG: natlab: packet with protocol %d", p.Proto))
	}
}

// refuse ends a packet that nobody listens for.
func (h *Host) refuse(now time.Time, p *Packet) {
	h.net.end(p, Refused)
	if h.quiet {
		return
	}
	if e := h.net.icmp(now, h.node, p, PortUnreachable, 0); e != nil {
		h.egress(now, e)
	}
}

func (h *Host) icmpIngress(now time.Time, p *Packet) {
	taken := false
	switch p.Err.Proto {
	case UDP:
		if c := h.udpLookup(p.Err.Src, p.Err.Dst); c != nil {
			taken = c.pushError(p.Err)
		}
	case TCP:
		taken = h.tcpError(now, p.Err)
	}
	if taken {
		h.net.end(p, Reported)
	} else {
		h.net.end(p, Ignored)
	}
}

func (h *Host) closeAll() {
	for len(h.order) > 0 {
		h.giveUp(h.order[0])
	}
	for _, conns := range h.udp {
		for _, c := range conns {
			c.shut()
		}
	}
	clear(h.udp)
	h.tcp.closeAll()
}

// opError wraps an error as package net does.
func opError(op, network string, source, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: network, Source: source, Addr: addr, Err: err}
}

// family says which addresses a network name admits.
func family(network, proto string) (four, six bool, err error) {
	switch network {
	case proto:
		return true, true, nil
	case proto + "4":
		return true, false, nil
	case proto + "6":
		return false, true, nil
	}
	return false, false, net.UnknownNetworkError(network)
}

// resolve reads an address as package net does. A host may be given by its name in the laboratory. The result's
// address is not valid if the host part is empty.
func (n *Net) resolve(network, proto, address string) (netip.AddrPort, error) {
	four, six, err := family(network, proto)
	if err != nil {
		return netip.AddrPort{}, err
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return netip.AddrPort{}, &net.AddrError{Err: "natlab knows no service names: give a port number", Addr: address}
	}
	admits := func(a netip.Addr) bool { return (a.Is4() && four) || (a.Is6() && six) }
	if host == "" {
		return netip.AddrPortFrom(netip.Addr{}, uint16(port)), nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		if !admits(a) {
			return netip.AddrPort{}, &net.AddrError{Err: "no suitable address found", Addr: host}
		}
		return netip.AddrPortFrom(a, uint16(port)), nil
	}
	candidates := []hostAddr{{addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})}, {addr: netip.IPv6Loopback()}}
	if host != "localhost" {
		candidates = nil
		if h := n.hosts[host]; h != nil {
			candidates = h.addrs
		}
	}
	for _, c := range candidates {
		if admits(c.addr) {
			return netip.AddrPortFrom(c.addr, uint16(port)), nil
		}
	}
	return netip.AddrPort{}, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// LookupNetIP has the signature of net.Resolver.LookupNetIP. It knows the names of the laboratory's hosts.
func (h *Host) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	four, six, err := family(network, "ip")
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if o := h.net.hosts[host]; o != nil {
		for _, a := range o.addrs {
			if (a.addr.Is4() && four) || (a.addr.Is6() && six) {
				out = append(out, a.addr)
			}
		}
	}
	if out == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, nil
}

// bind decides about the local address of a socket: dual means that an unspecified IPv6 address takes IPv4 too.
func (h *Host) bind(network, proto, address string) (local netip.AddrPort, dual bool, err error) {
	local, err = h.net.resolve(network, proto, address)
	if err != nil {
		return local, false, err
	}
	four, six, _ := family(network, proto)
	addr := local.Addr()
	switch {
	case !addr.IsValid() && six && (!four || h.hasFamily(true)):
		addr, dual = netip.IPv6Unspecified(), four
	case !addr.IsValid():
		addr = netip.IPv4Unspecified()
	case addr == netip.IPv6Unspecified():
		dual = four
	case addr.IsUnspecified():
	case !h.has(addr):
		return local, false, syscall.EADDRNOTAVAIL
	}
	return netip.AddrPortFrom(addr, local.Port()), dual, nil
}

// pick chooses a free ephemeral port.
func (h *Host) pick(free func(uint16) bool) (uint16, bool) {
	const count = lastEphemeral - firstEphemeral + 1
	first := h.rand.IntN(count)
	for i := range count {
		if port := uint16(firstEphemeral + (first+i)%count); free(port) {
			return port, true
		}
	}
	return 0, false
}
