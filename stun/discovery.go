package stun

import (
	"encoding/binary"
	"net/netip"
)

// § means RFC 5780, NAT behaviour discovery.

// From the specification.
const (
	changeIP   = 0x04 // §7.2
	changePort = 0x02 // §7.2
)

// Ours to tune.
const (
	// maxPadding bounds PADDING in a reply, which is never longer than the request's anyway: two fragments are enough to see
	// whether fragments pass.
	maxPadding = 2048
)

// ChangeRequest is the value of CHANGE-REQUEST (§7.2), for Builder.Uint32.
func ChangeRequest(ip, port bool) (v uint32) {
	if ip {
		v |= changeIP
	}
	if port {
		v |= changePort
	}
	return v
}

// ResponsePort is the value of RESPONSE-PORT (§7.5), for Builder.Uint32.
func ResponsePort(port uint16) uint32 { return uint32(port) << 16 }

// Corner names one of the up to four sockets of a Discovery: the indices of its address and of its port. The zero value is
// the first address with the first port.
type Corner struct{ Addr, Port uint8 }

// Discovery is the server side of NAT behaviour discovery: up to two addresses of one family, each with up to two ports. An address or
// port that is not there is the zero value; Addrs[0] and Ports[0] must be there. It may be used by any number of
// goroutines as long as it is not changed.
type Discovery struct {
	Addrs [2]netip.Addr
	Ports [2]uint16
}

// At is the endpoint of a corner.
func (d *Discovery) At(c Corner) netip.AddrPort {
	return netip.AddrPortFrom(d.Addrs[c.Addr&1], d.Ports[c.Port&1])
}

// Full reports whether there are two addresses and two ports. Only then OTHER-ADDRESS is told.
func (d *Discovery) Full() bool { return d.Addrs[1].IsValid() && d.Ports[1] != 0 }

// Respond appends to out the answer to a request that came from remote to the corner at, and says from which corner it must
// leave and where it must go: to remote, but for the port that RESPONSE-PORT asks for. It returns out unchanged when there
// is no answer to give: m is not a Binding request, or has a FINGERPRINT that is wrong.
//
// A success has XOR-MAPPED-ADDRESS, MAPPED-ADDRESS (a client that compares them sees a NAT which rewrites payloads), OTHER-ADDRESS if d is
// Full, and RESPONSE-ORIGIN if d is Full or the request has CHANGE-REQUEST. CHANGE-REQUEST for an address or port that is not there is refused with 420 (§6.1), malformed
// attributes and PADDING together with RESPONSE-PORT with 400 (§7.6).
//
// On the wire, with IP and UDP headers, a reply is at most 2 times its request for IPv4 (48 to 96 bytes) and 2.42 times for IPv6
// (68 to 164); without a second address at most 1.5 times (48 to 72) and 1.85 times (76 to 140). PADDING is as long as the request's, up to 2048 bytes.
//
// Respond is pure and allocates nothing when out has room. Out must not be the memory of m.
//
// Deviation: §6.1 lets a server with one address refuse every CHANGE-REQUEST; this one changes the port if it has two, because
// that alone tells whether a filter looks at ports.
//
// Deviation: §7.3 wants RESPONSE-ORIGIN in every answer. A server with one address is not one of that section, and would
// answer IPv6 with more than twice the request.
//
// Deviation: §7.6 wants PADDING of a server's own choice of length; a request that a victim's address was put on would be a
// better amplifier with it.
func (d *Discovery) Respond(out []byte, m Message, at Corner, remote netip.AddrPort) (reply []byte, from Corner, to netip.AddrPort) {
	to = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if m.Type() != NewType(Binding, Request) {
		return out, at, to
	}
	fingerprint := m.CheckFingerprint()
	if fingerprint == FingerprintInvalid {
		return out, at, to
	}
	var list [maxUnknown]AttrType
	unknown := m.UnknownRequired(list[:0], discoveryKnows)
	q, ok := d.read(m, at)
	if ok && !d.At(q.from).IsValid() || ok && d.At(q.from).Port() == 0 {
		unknown = append(list[:0], AttrChangeRequest)
	}
	var b Builder
	switch {
	case len(unknown) > 0:
		b = Begin(out, NewType(Binding, Error), m.TransactionID())
		b.ErrorCode(CodeUnknownAttribute, "")
		b.UnknownAttributes(unknown)
		q.from = at
	case !ok:
		b = Begin(out, NewType(Binding, Error), m.TransactionID())
		b.ErrorCode(CodeBadRequest, "")
		q.from = at
	default:
		b = Begin(out, NewType(Binding, Success), m.TransactionID())
		b.XORAddress(AttrXORMappedAddress, to)
		b.Address(AttrMappedAddress, to)
		if d.Full() || m.Has(AttrChangeRequest) {
			b.Address(AttrResponseOrigin, d.At(q.from))
		}
		if d.Full() {
			b.Address(AttrOtherAddress, d.At(Corner{1 - at.Addr&1, 1 - at.Port&1}))
		}
		if q.padding > 0 {
			b.Attr(AttrPadding, zeros[:q.padding])
		}
		if q.port != 0 {
			to = netip.AddrPortFrom(to.Addr(), q.port)
		}
	}
	if fingerprint == FingerprintValid {
		b.Fingerprint()
	}
	return b.Bytes(), q.from, to
}

// discoveryRequest is what the attributes of §7 ask for.
type discoveryRequest struct {
	from    Corner
	port    uint16 // 0: the port of the request
	padding int
}

// read reports false if an attribute is malformed or two of them exclude each other.
func (d *Discovery) read(m Message, at Corner) (q discoveryRequest, ok bool) {
	q.from = Corner{at.Addr & 1, at.Port & 1}
	if m.Has(AttrChangeRequest) {
		v, ok := m.Uint32(AttrChangeRequest)
		if !ok {
			return q, false
		}
		if v&changeIP != 0 {
			q.from.Addr ^= 1
		}
		if v&changePort != 0 {
			q.from.Port ^= 1
		}
	}
	if v, has := m.Get(AttrResponsePort); has { // 2 bytes of port; the other 2 are padding or reserved
		if len(v) != 2 && len(v) != 4 {
			return q, false
		}
		if q.port = binary.BigEndian.Uint16(v); q.port == 0 || m.Has(AttrPadding) {
			return q, false
		}
	}
	if v, has := m.Get(AttrPadding); has {
		q.padding = min(len(v), maxPadding)
	}
	return q, true
}

var zeros [maxPadding]byte

func discoveryKnows(t AttrType) bool {
	return t == AttrChangeRequest || t == AttrResponsePort || t == AttrPadding || bindingKnows(t)
}
