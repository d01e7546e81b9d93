package stun

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// Builder appends one message to a buffer of the caller. The length field is right after every call, so that Bytes
// may be taken at any time. It allocates only when the buffer is too small.
type Builder struct {
	buf   []byte
	start int
}

// Begin appends a header to out and returns the builder of that message.
func Begin(out []byte, t Type, id TransactionID) Builder {
	b := Builder{buf: out, start: len(out)}
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(t))
	b.buf = binary.BigEndian.AppendUint32(b.buf, MagicCookie&0xFFFF0000>>16) // length 0, and the upper half of the cookie
	b.buf = binary.BigEndian.AppendUint16(b.buf, MagicCookie&0xFFFF)
	b.buf = append(b.buf, id[:]...)
	return b
}

// Bytes is out with the message behind it.
func (b *Builder) Bytes() []byte { return b.buf }

// Len is the size of the message so far in bytes, header included.
func (b *Builder) Len() int { return len(b.buf) - b.start }

// room appends an attribute header and reports where its value begins. A message over 64 KiB is our mistake.
func (b *Builder) room(t AttrType, size int) {
	if b.Len()+4+pad4(size)-HeaderSize > maxBody {
		panic("BUG: stun: a message of more than 65535 bytes")
	}
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(t))
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(size))
}

func (b *Builder) done() {
	for len(b.buf)&3 != b.start&3 {
		b.buf = append(b.buf, 0)
	}
	binary.BigEndian.PutUint16(b.buf[b.start+2:], uint16(b.Len()-HeaderSize))
}

// Attr appends an attribute, padded with zeros to a multiple of 4.
func (b *Builder) Attr(t AttrType, value []byte) {
	b.room(t, len(value))
	b.buf = append(b.buf, value...)
	b.done()
}

// String appends an attribute whose value is text.
func (b *Builder) String(t AttrType, value string) {
	b.room(t, len(value))
	b.buf = append(b.buf, value...)
	b.done()
}

// Uint32 appends an attribute of four bytes.
func (b *Builder) Uint32(t AttrType, v uint32) {
	b.room(t, 4)
	b.buf = binary.BigEndian.AppendUint32(b.buf, v)
	b.done()
}

// XORAddress appends an address XOR-ed with the cookie and the transaction ID of this message (§14.2).
// An IPv4-mapped IPv6 address is written as the IPv4 address.
func (b *Builder) XORAddress(t AttrType, a netip.AddrPort) {
	at := b.address(t, a)
	binary.BigEndian.PutUint16(b.buf[at+2:], a.Port()^MagicCookie>>16)
	for i := range b.buf[at+4:] {
		b.buf[at+4+i] ^= b.buf[b.start+4+i]
	}
}

// Address appends an address in the clear (§14.1).
func (b *Builder) Address(t AttrType, a netip.AddrPort) { b.address(t, a) }

func (b *Builder) address(t AttrType, a netip.AddrPort) (at int) {
	addr := a.Addr().Unmap()
	if addr.Is4() {
		b.room(t, 8)
		at = len(b.buf)
		v := addr.As4()
		b.buf = append(b.buf, 0, familyIPv4, byte(a.Port()>>8), byte(a.Port()))
		b.buf = append(b.buf, v[:]...)
	} else {
		b.room(t, 20)
		at = len(b.buf)
		v := addr.As16()
		b.buf = append(b.buf, 0, familyIPv6, byte(a.Port()>>8), byte(a.Port()))
		b.buf = append(b.buf, v[:]...)
	}
	b.done()
	return at
}

// ErrorCode appends ERROR-CODE (§14.8). The reasons of this package have lengths that are multiples of 4, so that a
// parser which mishandles padding survives them.
func (b *Builder) ErrorCode(code int, reason string) {
	b.room(AttrErrorCode, 4+len(reason))
	b.buf = append(b.buf, 0, 0, byte(code/100), byte(code%100))
	b.buf = append(b.buf, reason...)
	b.done()
}

// UnknownAttributes appends the list of types that were not understood (§14.9).
func (b *Builder) UnknownAttributes(types []AttrType) {
	b.room(AttrUnknownAttributes, 2*len(types))
	for _, t := range types {
		b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(t))
	}
	b.done()
}

// Integrity appends MESSAGE-INTEGRITY over everything before it. Only FINGERPRINT may follow.
func (b *Builder) Integrity(m *Mac) {
	sum := m.compute(b.buf[b.start:], b.Len())
	b.Attr(AttrMessageIntegrity, sum)
}

// Fingerprint appends FINGERPRINT, the last attribute of a message.
func (b *Builder) Fingerprint() {
	binary.BigEndian.PutUint16(b.buf[b.start+2:], uint16(b.Len()-HeaderSize+8)) // §14.7: the CRC covers the final length
	b.Uint32(AttrFingerprint, crc32.ChecksumIEEE(b.buf[b.start:])^fingerprintXOR)
}

// Reason is the reason phrase this package gives a code; each has a length that is a multiple of 4.
func Reason(code int) string {
	switch code {
	case CodeTryAlternate:
		return "Try Alternate Server"
	case CodeBadRequest:
		return "Bad Request."
	case CodeUnauthenticated:
		return "Unauthenticated."
	case CodeForbidden:
		return "Forbidden..."
	case CodeUnknownAttribute:
		return "Unknown Attribute..."
	case CodeAllocationMismatch:
		return "Allocation Mismatch."
	case CodeStaleNonce:
		return "Stale Nonce."
	case CodeFamilyNotSupported:
		return "Address Family not Supported"
	case CodeWrongCredentials:
		return "Wrong Credentials..."
	case CodeUnsupportedProtocol:
		return "Unsupported Transport Protocol.."
	case CodePeerFamilyMismatch:
		return "Peer Address Family Mismatch"
	case CodeQuotaReached:
		return "Allocation Quota Reached"
	case CodeServerError:
		return "Server Error"
	case CodeInsufficientPorts:
		return "Insufficient Capacity..."
	}
	return "Unspecified."
}
