package natlab

import (
	"fmt"
	"net/netip"
	"syscall"
)

// Proto is the transport protocol of a packet.
type Proto uint8

// The protocols of the laboratory.
const (
	ProtoUnknown Proto = iota
	UDP
	TCP
	ICMP // errors only; there is no echo
)

func (p Proto) String() string {
	switch p {
	case UDP:
		return "udp"
	case TCP:
		return "tcp"
	case ICMP:
		return "icmp"
	default:
		return "unknown"
	}
}

// Sizes in bytes, from the specifications.
const (
	ipv4HeaderBytes    = 20    // RFC 791, without options
	ipv6HeaderBytes    = 40    // RFC 8200
	ipv6FragmentBytes  = 8     // RFC 8200 §4.5
	udpHeaderBytes     = 8     // RFC 768
	tcpHeaderBytes     = 20    // RFC 9293, without options
	icmpErrorBytes     = 36    // ICMP header, IP header and 8 bytes of the packet that caused it
	maxUDPPayloadBytes = 65507 // the largest payload of an IPv4 UDP datagram
)

// A Packet is what links carry and what NATs and firewalls judge. A Packet is passed by value; Payload is never
// modified after the packet was sent (a NAT that rewrites it makes a copy).
type Packet struct {
	Proto   Proto
	Src     netip.AddrPort
	Dst     netip.AddrPort
	TTL     int  // hops that the packet may still take
	DF      bool // IPv4: do not fragment
	Payload []byte

	// Fragment says that this is a part of a datagram. The ports are known in every fragment, as in a box
	// that reassembles virtually.
	Fragment *Fragment

	// Err is set in ICMP packets.
	Err *ICMPError

	seg   *segment // TCP only
	trace *trace
}

// A Fragment is the position of a part of a datagram.
type Fragment struct {
	ID     uint32 // the same in all parts of a datagram
	Offset int    // bytes from the start of the transport payload
	More   bool   // false in the last part
}

// is6 reports whether the packet is an IPv6 packet.
func (p *Packet) is6() bool { return p.Dst.Addr().Is6() }

// Size is the packet's length on the wire in bytes, IP header included.
func (p *Packet) Size() int {
	size := ipv4HeaderBytes
	if p.is6() {
		size = ipv6HeaderBytes
	}
	switch {
	case p.Fragment != nil && p.Fragment.Offset > 0: // the transport header is in the first part
	case p.Proto == UDP:
		size += udpHeaderBytes
	case p.Proto == TCP:
		size += tcpHeaderBytes
	case p.Proto == ICMP:
		size += icmpErrorBytes
	}
	if p.Fragment != nil && p.is6() {
		size += ipv6FragmentBytes
	}
	return size + len(p.Payload)
}

// ICMPType says what an ICMP error reports.
type ICMPType uint8

// The ICMP errors of the laboratory.
const (
	ICMPUnknown      ICMPType = iota
	PortUnreachable           // nobody listens on the port
	AdminProhibited           // a firewall refused the packet
	TimeExceeded              // the TTL ran out
	PacketTooBig              // a link's MTU is smaller than the packet, and it must not be fragmented
	DestUnreachable           // no route, or no such host
	icmpTypeSentinel          // one past the last
)

func (t ICMPType) String() string {
	names := [icmpTypeSentinel]string{"unknown", "port unreachable", "administratively prohibited", "time exceeded",
		"packet too big", "destination unreachable"}
	if t < icmpTypeSentinel {
		return names[t]
	}
	return "unknown"
}

// ICMPError is an error that the network reported for a packet that a socket sent. Reads of a connected socket
// return it, and reads of any socket after ReportErrors(true). errors.Is finds the errno that Linux gives for it:
// ECONNREFUSED, EACCES, EHOSTUNREACH or EMSGSIZE.
type ICMPError struct {
	Type ICMPType
	From netip.Addr // who reports; the lab's own dummy 192.0.0.8 or 100::8 where the hop has no address
	MTU  int        // bytes, for PacketTooBig

	// The packet that caused the error, as its sender knows it.
	Proto Proto
	Src   netip.AddrPort
	Dst   netip.AddrPort
}

func (e *ICMPError) Error() string {
	return fmt.Sprintf("%v to %v: %v (from %v)", e.Proto, e.Dst, e.Type, e.From)
}

// Unwrap returns the errno that a Linux socket would report.
func (e *ICMPError) Unwrap() error {
	switch e.Type {
	case PortUnreachable:
		return syscall.ECONNREFUSED
	case AdminProhibited:
		return syscall.EACCES
	case PacketTooBig:
		return syscall.EMSGSIZE
	default:
		return syscall.EHOSTUNREACH
	}
}

// Timeout is false: an ICMP error is an answer. With Temporary it makes ICMPError a net.Error.
func (e *ICMPError) Timeout() bool { return false }

// Temporary is true: the socket goes on working.
func (e *ICMPError) Temporary() bool { return true }

// Disposition says what became of a packet. Every packet gets exactly one, and Stats counts them.
type Disposition uint8

// The dispositions.
const (
	InFlight        Disposition = iota // not yet decided
	Delivered                          // handed to a socket
	Reported                           // an ICMP error that was handed to a socket
	Fragmented                         // replaced by its fragments
	Reassembled                        // a fragment that became part of a datagram
	Lost                               // by a link's Loss
	LinkDown                           // the link was down
	QueueFull                          // a link's bounded queue was full
	TooBig                             // larger than the MTU and not to be fragmented
	NoRoute                            // no such address, or no way there
	TTLExpired                         // ran out of hops
	Refused                            // no socket listens there
	BufferFull                         // the socket's receive buffer was full
	Blocked                            // a firewall's rule forbids it
	Filtered                           // a NAT or firewall knows no session that admits it
	NoMapping                          // a NAT has no mapping for the destination
	NoPort                             // a NAT has no free external port
	OverQuota                          // the subscriber has all the mappings it may have
	NoHairpin                          // a NAT does not turn packets round
	FragmentDropped                    // a NAT drops fragments, or a reassembly timed out or was evicted
	Ignored                            // an ICMP error that nobody waits for
	NetClosed                          // still on its way when the network was closed
	dispositionSentinel
)

func (d Disposition) String() string {
	names := [dispositionSentinel]string{"in flight", "delivered", "reported", "fragmented", "reassembled", "lost", "link down", "queue full",
		"too big", "no route", "TTL expired", "refused", "buffer full", "blocked", "filtered", "no mapping", "no port", "over quota",
		"no hairpin", "fragment dropped", "ignored", "net closed"}
	if d < dispositionSentinel {
		return names[d]
	}
	return "unknown"
}
