package natlab

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// BoxConfig is what a box does. The zero value is a router.
type BoxConfig struct {
	// Outside lists the box's addresses on the outer segment. With NAT the IPv4 ones are the pool.
	Outside []string
	// Inside is the box's address on its inner segment: its ICMP errors to inside hosts come from it. Nothing listens there; a Host
	// inside may have the same address, to serve NAT-PMP or UPnP. Empty means that it has none.
	Inside string
	// NAT translates IPv4; nil means that inside addresses are visible outside. IPv6 is never translated.
	NAT *NATConfig
	// Firewall judges packets by their inside addresses; nil means none.
	Firewall *FirewallConfig
	// Firewall6 judges IPv6 in the place of Firewall; nil means that Firewall judges both.
	Firewall6 *FirewallConfig
}

// A Box is a router, NAT or firewall between a segment inside and one outside. Boxes inside boxes are chains of NATs.
type Box struct {
	net       *Net
	node      *node
	outside   *Link
	inside    *Segment
	own       []netip.Addr
	address   netip.Addr // inside, if it has one
	nat       *NAT
	firewalls [2]*Firewall // IPv4, IPv6
}

// Box adds a box whose outside is on the segment. It panics if the name or an address is taken, or if the configuration
// makes no sense.
func (s *Segment) Box(name string, cfg BoxConfig) *Box {
	n := s.net
	n.mu.Lock()
	defer n.mu.Unlock()
	b := &Box{net: n, node: n.newNode(name, s), inside: n.newSegment("inside " + name)}
	b.inside.gateway = b
	b.outside = n.newLink(name, s, b.node)
	b.outside.to = b
	if cfg.Inside != "" {
		b.address = mustAddr(cfg.Inside)
	}
	var pool []netip.Addr
	for _, a := range cfg.Outside {
		addr := mustAddr(a)
		s.announce(addr, b.outside)
		b.own = append(b.own, addr)
		if addr.Is4() {
			pool = append(pool, addr)
		}
	}
	if cfg.NAT != nil {
		b.nat = NewNAT(*cfg.NAT, pool, n.rand("nat "+name))
	}
	if cfg.Firewall != nil {
		b.firewalls[0] = NewFirewall(*cfg.Firewall)
		b.firewalls[1] = b.firewalls[0]
	}
	if cfg.Firewall6 != nil {
		b.firewalls[1] = NewFirewall(*cfg.Firewall6)
	}
	return b
}

// Inside returns the segment inside the box.
func (b *Box) Inside() *Segment { return b.inside }

// Outside returns the link to the outer segment.
func (b *Box) Outside() *Link { return b.outside }

// Mappings returns the number of live mappings of the box's NAT.
func (b *Box) Mappings() int {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	if b.nat == nil {
		return 0
	}
	return b.nat.Mappings(time.Now())
}

// Reboot makes NAT and firewall forget everything.
func (b *Box) Reboot() {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	if b.nat != nil {
		b.nat.Forget()
	}
	for _, f := range b.firewalls {
		if f != nil {
			clear(f.sessions)
		}
	}
}

// Forward makes a static mapping in the box's NAT, as NAT.Forward does.
func (b *Box) Forward(proto Proto, external, inside netip.AddrPort, lifetime time.Duration) bool {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	return b.mustNAT().Forward(time.Now(), proto, external, inside, lifetime)
}

// Unforward removes a static mapping. It reports whether there was one.
func (b *Box) Unforward(proto Proto, external netip.AddrPort) bool {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	return b.mustNAT().Unforward(proto, external)
}

func (b *Box) mustNAT() *NAT {
	if b.nat == nil {
		panic(fmt.Sprintf("natlab: %s has no NAT", b.node.name))
	}
	return b.nat
}

// hides reports whether an inside address cannot be seen outside.
func (b *Box) hides(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || (a.Is4() && b.nat != nil)
}

func (b *Box) firewall(p *Packet) *Firewall {
	if p.is6() {
		return b.firewalls[1]
	}
	return b.firewalls[0]
}

// fromInside takes a packet from the inner segment.
func (b *Box) fromInside(now time.Time, p *Packet) {
	n := b.net
	p.trace.visit(b.node, p)
	if p.TTL <= 1 { // before the NAT: a packet that dies here leaves no mapping
		b.discard(now, p, TTLExpired, TimeExceeded)
		return
	}
	p.TTL--
	if f := b.firewall(p); f != nil {
		if drop, reject := f.FromInside(now, *p); drop != InFlight {
			typ := ICMPUnknown
			if reject {
				typ = AdminProhibited
			}
			b.discard(now, p, drop, typ)
			return
		}
	}
	hairpin := false
	if b.nat != nil && !p.is6() {
		q, turn, drop := b.nat.FromInside(now, *p)
		if drop != InFlight {
			n.end(p, drop)
			return
		}
		*p, hairpin = q, turn
	}
	switch {
	case hairpin:
		b.inside.route(now, nil, p)
	case slices.Contains(b.own, p.Dst.Addr()):
		b.discard(now, p, Refused, PortUnreachable)
	default:
		b.outside.sendUp(now, p, false)
	}
}

// discard ends a packet from inside and reports it to its sender.
func (b *Box) discard(now time.Time, p *Packet, d Disposition, typ ICMPType) {
	b.net.end(p, d)
	if typ == ICMPUnknown {
		return
	}
	if e := b.net.icmp(now, b.node, p, typ, 0); e != nil {
		if b.address.IsValid() && b.address.Is6() == p.is6() && typ != PortUnreachable {
			e.Src, e.Err.From = netip.AddrPortFrom(b.address, 0), b.address
		}
		b.inside.route(now, nil, e)
	}
}

// arrive implements endpoint: it takes a packet from the outer segment.
func (b *Box) arrive(now time.Time, _ *Link, p *Packet) {
	n := b.net
	before := *p
	switch {
	case b.nat != nil && !p.is6():
		if !b.nat.Owns(p.Dst.Addr()) {
			n.end(p, NoRoute)
			return
		}
		q, drop := b.nat.FromOutside(now, *p)
		if drop != InFlight {
			n.end(p, drop)
			return
		}
		*p = q
	case slices.Contains(b.own, p.Dst.Addr()):
		n.end(p, Refused)
		return
	}
	if f := b.firewall(p); f != nil {
		if drop := f.FromOutside(now, *p); drop != InFlight {
			n.end(p, drop)
			return
		}
	}
	if p.TTL <= 1 {
		n.end(p, TTLExpired)
		if e := n.icmp(now, b.node, &before, TimeExceeded, 0); e != nil {
			b.outside.sendUp(now, e, false)
		}
		return
	}
	p.TTL--
	b.inside.route(now, nil, p)
}

// reflect implements endpoint: an error about a packet that could not enter the outer link.
func (b *Box) reflect(now time.Time, l *Link, p *Packet) { b.arrive(now, l, p) }
