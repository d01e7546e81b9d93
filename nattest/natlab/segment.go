package natlab

import (
	"fmt"
	"net/netip"
	"time"
)

// Ours to tune: enough hops between any two public hosts that a low TTL can end between them, few enough that the
// usual 64 is never short.
const defaultInternetHops = 4

// Dummy addresses of hops that have none of their own (RFC 7600 §4.8, RFC 6666).
var (
	dummyHop4 = netip.MustParseAddr("192.0.0.8")
	dummyHop6 = netip.MustParseAddr("100::8")
)

// A Segment is where links meet: the internet, or the network inside a box. It takes no time to cross. An address
// that no link of the segment has belongs to the outside: the packet goes to the segment's box, if it has one.
type Segment struct {
	net     *Net
	name    string
	hops    int
	table   map[netip.Addr]*Link
	gateway *Box // nil for the internet
}

func (n *Net) newSegment(name string) *Segment {
	return &Segment{net: n, name: name, table: make(map[netip.Addr]*Link)}
}

// SetHops sets by how much crossing the segment lowers the TTL of a packet: 4 for the internet, 0 for the inside of
// a box (which itself lowers it by 1).
func (s *Segment) SetHops(hops int) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.hops = hops
}

// announce makes addr reachable through l, in this segment and further out as long as no NAT hides it.
func (s *Segment) announce(addr netip.Addr, l *Link) {
	if old := s.table[addr]; old != nil {
		panic(fmt.Sprintf("natlab: %v is taken in %s by %s", addr, s.name, old.name))
	}
	s.table[addr] = l
	if b := s.gateway; b != nil && !b.hides(addr) {
		b.outside.seg.announce(addr, b.outside)
	}
}

// forward moves a packet that came over a link of the segment, or from the segment's box if from is nil.
func (s *Segment) forward(now time.Time, from *Link, p *Packet) {
	if s.hops > 0 {
		if p.TTL <= s.hops {
			s.net.end(p, TTLExpired)
			if e := s.net.icmp(now, nil, p, TimeExceeded, 0); e != nil {
				if from == nil {
					s.gateway.fromInside(now, e)
				} else {
					from.sendDown(now, e)
				}
			}
			return
		}
		p.TTL -= s.hops
	}
	s.route(now, from, p)
}

// route finds the next link of a packet that came over from, or from the box if from is nil.
func (s *Segment) route(now time.Time, from *Link, p *Packet) {
	if to := s.table[p.Dst.Addr()]; to != nil && to != from {
		to.sendDown(now, p)
		return
	}
	if s.gateway != nil && from != nil && !p.Dst.Addr().IsLinkLocalUnicast() {
		s.gateway.fromInside(now, p)
		return
	}
	s.net.end(p, NoRoute)
}

// icmp returns the error packet for p, or nil if p must not cause one: errors about errors and about fragments
// other than the first are never sent (RFC 1122 §3.2.2).
func (n *Net) icmp(now time.Time, at *node, p *Packet, typ ICMPType, mtu int) *Packet {
	if p.Proto == ICMP || (p.Fragment != nil && p.Fragment.Offset > 0) {
		return nil
	}
	from := dummyHop4
	if p.is6() {
		from = dummyHop6
	}
	if typ == PortUnreachable {
		from = p.Dst.Addr()
	}
	e := &Packet{Proto: ICMP, Src: netip.AddrPortFrom(from, 0), Dst: netip.AddrPortFrom(p.Src.Addr(), 0), TTL: defaultTTL,
		Err: &ICMPError{Type: typ, From: from, MTU: mtu, Proto: p.Proto, Src: p.Src, Dst: p.Dst}}
	n.begin(now, e, at)
	return e
}
