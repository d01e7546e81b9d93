package stun

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Attributes of STUN, of TURN (draft-08 and RFC 8656 share the numbers) and of RFC 5780. Where draft-08 has another
// name it stands behind.
const (
	AttrMappedAddress      AttrType = 0x0001
	AttrChangeRequest      AttrType = 0x0003 // RFC 5780
	AttrUsername           AttrType = 0x0006
	AttrMessageIntegrity   AttrType = 0x0008
	AttrErrorCode          AttrType = 0x0009
	AttrUnknownAttributes  AttrType = 0x000A
	AttrChannelNumber      AttrType = 0x000C
	AttrLifetime           AttrType = 0x000D
	AttrBandwidth          AttrType = 0x0010 // draft-07 and earlier
	AttrXORPeerAddress     AttrType = 0x0012 // PEER-ADDRESS
	AttrData               AttrType = 0x0013
	AttrRealm              AttrType = 0x0014
	AttrNonce              AttrType = 0x0015
	AttrXORRelayedAddress  AttrType = 0x0016 // RELAY-ADDRESS
	AttrRequestedFamily    AttrType = 0x0017 // REQUESTED-ADDRESS-FAMILY, RFC 8656
	AttrEvenPort           AttrType = 0x0018 // REQUESTED-PROPS in draft-08, with 4 bytes
	AttrRequestedTransport AttrType = 0x0019
	AttrDontFragment       AttrType = 0x001A // RFC 8656
	AttrXORMappedAddress   AttrType = 0x0020
	AttrReservationToken   AttrType = 0x0022
	AttrPadding            AttrType = 0x0026 // RFC 5780
	AttrResponsePort       AttrType = 0x0027 // RFC 5780
	AttrICMPDraft09        AttrType = 0x0030 // draft-09
	AttrAdditionalFamily   AttrType = 0x8000 // ADDITIONAL-ADDRESS-FAMILY, RFC 8656
	AttrAddressErrorCode   AttrType = 0x8001 // RFC 8656
	AttrICMP               AttrType = 0x8004 // RFC 8656
	AttrSoftware           AttrType = 0x8022 // SERVER in draft-08's base
	AttrAlternateServer    AttrType = 0x8023
	AttrFingerprint        AttrType = 0x8028
	AttrResponseOrigin     AttrType = 0x802B // RFC 5780
	AttrOtherAddress       AttrType = 0x802C // RFC 5780
)

// Error codes of STUN and TURN.
const (
	CodeTryAlternate        = 300
	CodeBadRequest          = 400
	CodeUnauthenticated     = 401
	CodeForbidden           = 403
	CodeUnknownAttribute    = 420
	CodeAllocationMismatch  = 437
	CodeStaleNonce          = 438
	CodeFamilyNotSupported  = 440
	CodeWrongCredentials    = 441
	CodeUnsupportedProtocol = 442
	CodePeerFamilyMismatch  = 443
	CodeQuotaReached        = 486
	CodeServerError         = 500
	CodeInsufficientPorts   = 508
)

const (
	familyIPv4 = 0x01
	familyIPv6 = 0x02
)

// XORAddress decodes the value of an XOR-ed address attribute of this message (§14.2). It reports false unless the family is
// known and the length is the family's. An IPv4-mapped IPv6 address is returned as it stands: what it means is for the
// caller's policy to say.
func (m Message) XORAddress(value []byte) (netip.AddrPort, bool) {
	return decodeAddress(value, (*[16]byte)(m.raw[4:HeaderSize])) // §14.2: cookie and transaction ID, as they stand in the header
}

// Address decodes the value of an address attribute that is not XOR-ed (§14.1), otherwise as XORAddress does.
func Address(value []byte) (netip.AddrPort, bool) { return decodeAddress(value, &[16]byte{}) }

// decodeAddress reads figure 5 or 6; the first byte is ignored by §14.1.
func decodeAddress(value []byte, key *[16]byte) (netip.AddrPort, bool) {
	if len(value) < 4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(value[2:]) ^ binary.BigEndian.Uint16(key[:])
	switch family, addr := value[1], value[4:]; {
	case family == familyIPv4 && len(addr) == 4:
		a := [4]byte(addr)
		for i := range a {
			a[i] ^= key[i]
		}
		return netip.AddrPortFrom(netip.AddrFrom4(a), port), true
	case family == familyIPv6 && len(addr) == 16:
		a := [16]byte(addr)
		for i := range a {
			a[i] ^= key[i]
		}
		return netip.AddrPortFrom(netip.AddrFrom16(a), port), true
	}
	return netip.AddrPort{}, false
}

// GetXORAddress finds the attribute and decodes it. It reports false when it is missing or malformed.
func (m Message) GetXORAddress(t AttrType) (netip.AddrPort, bool) {
	v, ok := m.Get(t)
	if !ok {
		return netip.AddrPort{}, false
	}
	return m.XORAddress(v)
}

// Uint32 finds an attribute of exactly four bytes. It reports false when it is missing or has another length.
func (m Message) Uint32(t AttrType) (uint32, bool) {
	v, ok := m.Get(t)
	if !ok || len(v) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(v), true
}

// ErrorCode returns the code (300 to 699) and the reason phrase of an error response (§14.8). The phrase aliases the message and
// is the peer's text of any length and any bytes.
func (m Message) ErrorCode() (code int, reason []byte, ok bool) {
	v, ok := m.Get(AttrErrorCode)
	if !ok || len(v) < 4 || v[2]&7 < 3 || v[2]&7 > 6 || v[3] > 99 {
		return 0, nil, false
	}
	return int(v[2]&7)*100 + int(v[3]), v[4:], true
}

// UnknownRequired appends to dst the types of the comprehension-required attributes that known refuses, each once
// and no more than fit in cap(dst), so that a caller with an array on its stack allocates nothing. With no room in dst the
// answer is empty whatever the message holds. Attributes that do not count (see Get) are not looked at.
func (m Message) UnknownRequired(dst []AttrType, known func(AttrType) bool) []AttrType {
	for it := m.Attrs(); len(dst) < cap(dst) && it.Next(); {
		if it.Type.Required() && !known(it.Type) && !slices.Contains(dst, it.Type) {
			dst = append(dst, it.Type)
		}
	}
	return dst
}
