package stun

import "net/netip"

// Respond appends to out the answer to the Binding request in request, and returns out unchanged when there is none
// to give: not a STUN message, not a Binding request, or a FINGERPRINT that is wrong.
//
// remote is where the request came from and goes into XOR-MAPPED-ADDRESS; local is where it came to: the reply must leave from there.
// The reply is 12 bytes (IPv4) or 24 bytes (IPv6) longer than a bare request, 8 more with a FINGERPRINT, which a
// reply has if its request had one: 1.25 times the request on the wire for IPv4 (48 to 60 bytes with IP and UDP
// headers), 1.36 times for IPv6 (68 to 92).
//
// Respond is pure, allocates nothing when out has 64 bytes of room, and may be called by any number of goroutines.
func Respond(out, request []byte, local, remote netip.AddrPort) []byte {
	m, err := Parse(request)
	if err != nil || m.Type() != NewType(Binding, Request) {
		return out
	}
	return RespondMessage(out, m, local, remote)
}

// RespondMessage is Respond for a request that has been parsed and is known to be a Binding request.
func RespondMessage(out []byte, m Message, _, remote netip.AddrPort) []byte {
	fingerprint := m.CheckFingerprint()
	if fingerprint == FingerprintInvalid {
		return out
	}
	var list [8]AttrType
	unknown := m.UnknownRequired(list[:0], bindingKnows)
	var b Builder
	if len(unknown) > 0 {
		b = Begin(out, NewType(Binding, Error), m.TransactionID())
		b.ErrorCode(CodeUnknownAttribute, "")
		b.UnknownAttributes(unknown)
	} else {
		b = Begin(out, NewType(Binding, Success), m.TransactionID())
		b.XORAddress(AttrXORMappedAddress, remote)
	}
	if fingerprint == FingerprintValid {
		b.Fingerprint()
	}
	return b.Bytes()
}

// bindingKnows lists what a Binding request may carry: credentials are known and, on a server that asks for none,
// ignored (§6.3.1).
func bindingKnows(t AttrType) bool {
	switch t {
	case AttrUsername, AttrMessageIntegrity, AttrRealm, AttrNonce:
		return true
	}
	return false
}
