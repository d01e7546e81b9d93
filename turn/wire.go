package turn

import (
	"encoding/binary"
	"time"

	"github.com/stilenet/stile/stun"
)

// From the specification.
const (
	// DefaultLifetime is the lifetime of an allocation that asks for none, and the shortest one (§6.2, §7.2).
	DefaultLifetime = 600 * time.Second
	// MaxLifetime is the longest lifetime that is given (§6.2).
	MaxLifetime = 3600 * time.Second
	// PermissionLifetime is fixed (§8).
	PermissionLifetime = 300 * time.Second
	// ChannelLifetime is fixed (§10).
	ChannelLifetime = 600 * time.Second

	reservationHold = 30 * time.Second  // §6.2: at least
	portQuarantine  = 120 * time.Second // §5: a relayed port rests before it is given to somebody else
	replayWindow    = 40 * time.Second  // rfc3489bis-15 §7.3.1: a retransmission gets the same answer

	// FirstChannel and LastChannel bound the channel numbers of draft-08 (§10). RFC 8656 has 0x4000 to 0x4FFF.
	FirstChannel uint16 = 0x4000
	LastChannel  uint16 = 0xFFFE

	channelHeader = 4  // bytes, §10.5: number and length
	protocolUDP   = 17 // REQUESTED-TRANSPORT, §13.7
	familyIPv4    = 1  // REQUESTED-ADDRESS-FAMILY and its kin, RFC 8656 §18.6
	familyIPv6    = 2

	maxPayload = 65535 - 20 - 8 // bytes of the longest UDP datagram over IPv4
)

// Headroom is how many bytes a receive buffer must have free in front of a peer's datagram, and Tailroom behind it, so
// that the core can put a header around the datagram where it lies: a Data indication to an IPv6 peer has 48 bytes of header and up to
// 3 of padding.
const (
	Headroom = 64
	Tailroom = 8
)

// ChannelData splits a ChannelData message (§10.4, §10.5). Over UDP the datagram may be longer than the length says,
// padded or not; the data aliases b. It reports false when b is too short or the number is no channel's.
func ChannelData(b []byte) (channel uint16, data []byte, ok bool) {
	if len(b) < channelHeader {
		return 0, nil, false
	}
	channel = binary.BigEndian.Uint16(b)
	size := int(binary.BigEndian.Uint16(b[2:]))
	if channel < FirstChannel || channel > LastChannel || size > len(b)-channelHeader {
		return 0, nil, false
	}
	return channel, b[channelHeader : channelHeader+size], true
}

// MaxFrame is the longest message on a stream: a STUN header and the longest body, or ChannelData with 65535 bytes and its padding.
const MaxFrame = stun.HeaderSize + 65535

// Frame reports the size in bytes, padding included, of the message that b begins with on a TCP connection: STUN messages
// and ChannelData follow each other without any other framing (§2.1), ChannelData padded to a multiple of 4 (§10.5).
// Zero means that more bytes are needed to tell. It reports false when no message can begin like this, after which
// the stream is useless.
func Frame(b []byte) (size int, ok bool) {
	if len(b) == 0 {
		return 0, true
	}
	if b[0]&0xC0 != 0 {
		if len(b) < channelHeader {
			return 0, true
		}
		return channelHeader + (int(binary.BigEndian.Uint16(b[2:]))+3)&^3, binary.BigEndian.Uint16(b) <= LastChannel
	}
	if len(b) < 8 {
		return 0, true
	}
	size = stun.HeaderSize + int(binary.BigEndian.Uint16(b[2:]))
	return size, size&3 == 0 && binary.BigEndian.Uint32(b[4:]) == stun.MagicCookie
}

// ports is what an Allocate asks of its port.
type ports struct {
	even, reserve, preserve bool
}

// parsePorts reads attribute 0x0018 in the forms it has had: EVEN-PORT of RFC 5766 (1 byte), REQUESTED-PROPS of
// draft-08 and -09 (4 bytes, flags E, R, P), REQUESTED-PROPS of -07 (4 bytes, 1 even, 2 pair), REQUESTED-PORT-PROPS of -04 to -06
// (14 zero bits, 2 bits, a port). code is 0, 400 for a malformed value or 508 for what cannot be satisfied.
func parsePorts(v []byte) (p ports, dialect Dialect, code int) {
	switch len(v) {
	case 1:
		return ports{even: true, reserve: v[0]&0x80 != 0}, DialectModern, 0
	case 4:
	default:
		return ports{}, DialectUnknown, stun.CodeBadRequest
	}
	if v[1]&3 != 0 || v[2] != 0 || v[3] != 0 { // -04 to -06
		if v[0] != 0 || v[1]&^3 != 0 {
			return ports{}, DialectLegacy, stun.CodeInsufficientPorts
		}
		switch v[1] & 3 {
		case 2:
			return ports{even: true}, DialectLegacy, 0
		case 3:
			return ports{even: true, reserve: true}, DialectLegacy, 0
		}
		return ports{}, DialectLegacy, stun.CodeInsufficientPorts // an odd port, or a certain one
	}
	if v[1] != 0 {
		return ports{}, DialectLegacy, stun.CodeInsufficientPorts
	}
	switch v[0] { // -07
	case 0x01:
		return ports{even: true}, DialectLegacy, 0
	case 0x02:
		return ports{even: true, reserve: true}, DialectLegacy, 0
	}
	p = ports{even: v[0]&0x80 != 0, reserve: v[0]&0x40 != 0, preserve: v[0]&0x20 != 0}
	if v[0]&0x1F != 0 || p.preserve || p.reserve && !p.even { // §6.2: what the server cannot satisfy or does not know
		return ports{}, DialectLegacy, stun.CodeInsufficientPorts
	}
	return p, DialectLegacy, 0
}
