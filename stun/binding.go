package stun

import "net/netip"

// Ours to tune.
const (
	// maxUnknown bounds UNKNOWN-ATTRIBUTES in a reply: with it the longest reply to a Binding request has 56 bytes.
	maxUnknown = 8
)

// Respond appends to out the answer to the Binding request in request, and returns out unchanged when there is none
// to give: not a STUN message, not a Binding request, or a FINGERPRINT that is wrong (§6.3, §12).
//
// remote is where the request came from and goes into XOR-MAPPED-ADDRESS; an IPv4-mapped IPv6 address is answered as IPv4.
// local is where it came to: the reply must leave from there.
//
// A reply is at most 12 bytes (remote is IPv4) or 24 bytes (IPv6) longer than its request. On the wire, with IP and UDP headers, that is at
// most 1.25 times the request for IPv4 (48 to 60 bytes) and 1.36 times for IPv6 (68 to 92). FINGERPRINT adds 8 bytes to a
// reply if and only if the request had one, and credentials in a request are not answered with any.
//
// Respond is pure, allocates nothing when out has 64 bytes of room, and may be called by any number of goroutines. Out may
// be the memory of request, which is overwritten then.
func Respond(out, request []byte, local, remote netip.AddrPort) []byte {
	m, err := Parse(request)
	if err != nil || m.Type() != NewType(Binding, Request) {
		return out
	}
	return RespondMessage(out, m, local, remote)
}

// RespondMessage is Respond for a request that has been parsed and is known to be a Binding request.
//
// Deviation: §6.3.1.1 and §14.14 want SOFTWARE in a response; it would make the reply a better amplifier and tell an attacker what runs.
//
// Deviation: §6.3.1 lists every unknown attribute in a 420; this lists the first 8.
func RespondMessage(out []byte, m Message, _, remote netip.AddrPort) []byte {
	fingerprint := m.CheckFingerprint()
	if fingerprint == FingerprintInvalid {
		return out
	}
	var list [maxUnknown]AttrType
	unknown := m.UnknownRequired(list[:0], bindingKnows)
	var b Builder
	if len(unknown) > 0 {
		b = Begin(out, NewType(Binding, Error), m.TransactionID())
		b.ErrorCode(CodeUnknownAttribute, "") // a phrase would cost more than the factor of a success
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

// bindingKnows lists the required attributes of §14 that this package knows. In a Binding request to a server that asks for no
// credentials none of them is expected, and each is ignored (§6.3). CHANGE-REQUEST and its kin are not among them: a server
// without a second address refuses them with 420 (RFC 5780 §6.1).
func bindingKnows(t AttrType) bool {
	switch t {
	case AttrMappedAddress, AttrUsername, AttrMessageIntegrity, AttrErrorCode, AttrUnknownAttributes, AttrRealm, AttrNonce,
		AttrXORMappedAddress:
		return true
	}
	return false
}
