package netns

import (
	"encoding/binary"
	"net/netip"
)

// Protocol numbers and ICMP types, from IANA's registries.
const (
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17

	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpQuench       = 4
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpParameter    = 12
)

// packet is a view of an IPv4 packet. Its setters keep every checksum right by RFC 1624, so that they also work on the first
// fragment of a datagram and on the head of a packet in an ICMP error.
type packet struct {
	b       []byte // header and payload, cut to the total length; aliases what was parsed
	payload []byte // aliases b
	proto   byte
	first   bool // has a transport header: not a fragment, or the first one
	more    bool // more fragments follow
}

// parsePacket returns a view that aliases b. Quoted packets, in ICMP errors, may be cut short behind eight bytes of payload.
func parsePacket(b []byte, quoted bool) (packet, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return packet{}, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header || len(b) < header {
		return packet{}, false
	}
	if total <= len(b) {
		b = b[:total]
	} else if !quoted {
		return packet{}, false
	}
	frag := binary.BigEndian.Uint16(b[6:])
	p := packet{b: b, payload: b[header:], proto: b[9], first: frag&0x1fff == 0, more: frag&0x2000 != 0}
	if p.first {
		need := 8
		if p.proto == protoTCP && !quoted {
			need = 20
		}
		if len(p.payload) < need {
			return packet{}, false
		}
	}
	return p, true
}

func (p packet) src() netip.Addr { return netip.AddrFrom4([4]byte(p.b[12:16])) }
func (p packet) dst() netip.Addr { return netip.AddrFrom4([4]byte(p.b[16:20])) }
func (p packet) id() uint16      { return binary.BigEndian.Uint16(p.b[4:]) }

// source and destination are the transport addresses; an ICMP echo has its identifier on its asking side, and port 0 on the other.
func (p packet) source() netip.AddrPort {
	switch {
	case p.proto != protoICMP:
		return netip.AddrPortFrom(p.src(), binary.BigEndian.Uint16(p.payload))
	case p.payload[0] == icmpEcho:
		return netip.AddrPortFrom(p.src(), binary.BigEndian.Uint16(p.payload[4:]))
	}
	return netip.AddrPortFrom(p.src(), 0)
}

func (p packet) destination() netip.AddrPort {
	switch {
	case p.proto != protoICMP:
		return netip.AddrPortFrom(p.dst(), binary.BigEndian.Uint16(p.payload[2:]))
	case p.payload[0] == icmpEchoReply:
		return netip.AddrPortFrom(p.dst(), binary.BigEndian.Uint16(p.payload[4:]))
	}
	return netip.AddrPortFrom(p.dst(), 0)
}

func (p packet) isICMPError() bool {
	if p.proto != protoICMP || !p.first {
		return false
	}
	switch p.payload[0] {
	case icmpUnreachable, icmpQuench, icmpTimeExceeded, icmpParameter:
		return true
	}
	return false
}

// setSource and setDestination write an address and, if there is a transport header, its port or echo identifier.
func (p packet) setSource(a netip.AddrPort)      { p.set(12, 0, a) }
func (p packet) setDestination(a netip.AddrPort) { p.set(16, 2, a) }

func (p packet) set(addrAt, portAt int, a netip.AddrPort) {
	ip := a.Addr().As4()
	sum := p.checksum()
	adjust(p.b[10:12], p.b[addrAt:addrAt+4], ip[:])
	if sum != nil && p.proto != protoICMP { // ICMPv4 has no pseudo-header
		adjust(sum, p.b[addrAt:addrAt+4], ip[:])
	}
	copy(p.b[addrAt:], ip[:])
	if !p.first {
		return
	}
	if p.proto == protoICMP {
		switch kind := p.payload[0]; {
		case kind == icmpEcho && portAt == 0, kind == icmpEchoReply && portAt == 2:
			portAt = 4
		default:
			return
		}
	}
	port := binary.BigEndian.AppendUint16(nil, a.Port())
	if sum != nil {
		adjust(sum, p.payload[portAt:portAt+2], port)
		if p.proto == protoUDP && sum[0] == 0 && sum[1] == 0 {
			sum[0], sum[1] = 0xff, 0xff // zero means that there is none
		}
	}
	copy(p.payload[portAt:], port)
}

// checksum is the field of the transport checksum, or nil if there is none to keep.
func (p packet) checksum() []byte {
	at := 2
	switch p.proto {
	case protoUDP:
		at = 6
	case protoTCP:
		at = 16
	}
	if !p.first || len(p.payload) < at+2 {
		return nil
	}
	sum := p.payload[at : at+2]
	if p.proto == protoUDP && sum[0] == 0 && sum[1] == 0 {
		return nil
	}
	return sum
}

// adjust updates a checksum for a change of even-length bytes from old to new (RFC 1624 §3).
func adjust(sum, old, new []byte) {
	s := uint32(^binary.BigEndian.Uint16(sum))
	for i := 0; i+1 < len(old); i += 2 {
		s += uint32(^binary.BigEndian.Uint16(old[i:]))
		s += uint32(binary.BigEndian.Uint16(new[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(sum, ^uint16(s))
}

// fillICMPChecksum computes the checksum of an ICMP message from scratch.
func fillICMPChecksum(m []byte) {
	m[2], m[3] = 0, 0
	binary.BigEndian.PutUint16(m[2:], internetChecksum(m))
}

// internetChecksum is the complement of the one's complement sum of b (RFC 1071).
func internetChecksum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
