package stun

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// Builder appends one message to a buffer of the caller. The length field is right after every call, so that Bytes
// may be taken at any time. It allocates only when the buffer is too small, and is not safe for concurrent use.
//
// What does not fit into a message is our mistake and not a peer's, and panics: who copies a value of unknown size asks Fits first.
type Builder struct {
	buf   []byte
	start int
}

// Begin appends a header (§5) to out and returns the builder of that message.
func Begin(out []byte, t Type, id TransactionID) Builder {
	b := Builder{buf: out, start: len(out)}
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(t))
	b.buf = append(b.buf, 0, 0) // the length, see done
	b.buf = binary.BigEndian.AppendUint32(b.buf, MagicCookie)
	b.buf = append(b.buf, id[:]...)
	return b
}

// Bytes is out with the message behind it.
func (b *Builder) Bytes() []byte { return b.buf }

// Len is the size of the message so far in bytes, header included.
func (b *Builder) Len() int { return len(b.buf) - b.start }

// Fits reports whether an attribute with a value of size bytes can still be appended: a body has at most 65532 (§5).
func (b *Builder) Fits(size int) bool { return pad4(size) <= maxBody-4-(b.Len()-HeaderSize) }

// room appends an attribute header; its value comes next.
func (b *Builder) room(t AttrType, size int) {
	if !b.Fits(size) {
		panic("BUG: stun: a message with a body of more than 65532 bytes")
	}
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(t))
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(size))
}

// done pads the value and brings the length field up to date.
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
	if !addr.IsValid() {
		panic("BUG: stun: an address attribute without an address")
	}
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

// ErrorCode appends ERROR-CODE (§14.8): a code from 300 to 699 and a reason of fewer than 128 characters, as from Reason.
func (b *Builder) ErrorCode(code int, reason string) {
	if code < 300 || code > 699 {
		panic("BUG: stun: an error code outside 300 to 699")
	}
	b.room(AttrErrorCode, 4+len(reason))
	b.buf = append(b.buf, 0, 0, byte(code/100), byte(code%100))
	b.buf = append(b.buf, reason...)
	b.done()
}

// UnknownAttributes appends the list of types that were not understood (§14.13).
func (b *Builder) UnknownAttributes(types []AttrType) {
	b.room(AttrUnknownAttributes, 2*len(types))
	for _, t := range types {
		b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(t))
	}
	b.done()
}

// Integrity appends MESSAGE-INTEGRITY (§14.5) over everything before it. Only FINGERPRINT may follow.
func (b *Builder) Integrity(m *Mac) {
	sum := m.compute(b.buf[b.start:], b.Len())
	b.Attr(AttrMessageIntegrity, sum)
}

// Fingerprint appends FINGERPRINT (§14.7), the last attribute of a message.
func (b *Builder) Fingerprint() {
	binary.BigEndian.PutUint16(b.buf[b.start+2:], uint16(b.Len()-HeaderSize+8)) // the CRC covers the final length
	b.Uint32(AttrFingerprint, crc32.ChecksumIEEE(b.buf[b.start:])^fingerprintXOR)
}

// Reason is the reason phrase this package gives a code. Each has a length that is a multiple of 4, so that a parser which
// mishandles padding survives it.
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
