package rtmfp

import "errors"

// What a Cipher's Open may return; anything else counts as ErrIntegrity.
var (
	// ErrIntegrity means that a packet fails its integrity or authenticity test (§2.2.3).
	ErrIntegrity = errors.New("rtmfp: packet fails its integrity test")
	// ErrReplay means that a packet is authentic but was received before, or is too old to know (§2.2.3).
	ErrReplay = errors.New("rtmfp: packet is a duplicate")
)

// Cipher encrypts and verifies packets according to a Cryptography Profile (§2.2.3). Only the owner of the core calls it.
type Cipher interface {
	// Seal appends the encrypted packet to dst. The plain packet may be changed. It never fails.
	Seal(dst, plain []byte) []byte
	// Open verifies and decrypts a packet in place; plain aliases it. Errors: ErrIntegrity, ErrReplay.
	Open(packet []byte) (plain []byte, err error)
	// MaxPlain reports the size of the longest plain packet that Seal makes at most size bytes of.
	MaxPlain(size int) int
	// Authenticated reports whether Open verifies with a secret that only the two ends know. Without one an address
	// change cannot be told from a hijack (§5).
	Authenticated() bool
}

// Rester is a Cipher that holds memory which it can make again: key schedules. The endpoint calls Rest of a session's keys when no
// packet has been sealed or opened for two seconds.
type Rester interface{ Rest() }

// SessionKeys is the Cipher of a session with its nonces (§3.5).
type SessionKeys interface {
	Cipher
	NearNonce() []byte // the far end's far nonce
	FarNonce() []byte  // the far end's near nonce
}

// Initiation is the initiator's half of a key negotiation.
type Initiation interface {
	// Component is the Session Key Initiator Component, SKIC (§2.3.7).
	Component() []byte
	// Combine makes the keys of the session from the Session Key Responder Component, or refuses the latter.
	Combine(skrc []byte) (SessionKeys, error)
}

// Identity is the near identity with the functions that a Cryptography Profile has for it (§3.2). Byte slices are only
// read; who keeps one beyond the call copies it. Verify, Sign, Respond and Initiation.Combine are called by Keying.Run, which may be on another
// goroutine than everything else; they must be safe for that.
type Identity interface {
	// DefaultCipher returns the cipher of the Default Session Key (§2.2.3).
	DefaultCipher() Cipher
	// Certificate returns the near certificate.
	Certificate() []byte
	// Authentic tests a certificate.
	Authentic(cert []byte) bool
	// Selects tests whether an Endpoint Discriminator selects a certificate.
	Selects(epd, cert []byte) bool
	// SelectsNear tests whether an Endpoint Discriminator selects the local endpoint.
	SelectsNear(epd []byte) bool
	// CanonicalEPD makes the Canonical Endpoint Discriminator of a certificate.
	CanonicalEPD(cert []byte) []byte
	// Verify tests the signature of message by the owner of cert.
	Verify(cert, message, signature []byte) bool
	// Sign signs message as the near identity.
	Sign(message []byte) []byte
	// NearPrevails says which end is the initiator in glare (§3.5.1.3). The far end must come to the opposite result.
	NearPrevails(farCert []byte) bool
	// Overrides tests whether a new session from the holder of cert replaces an existing one with the holder of old.
	Overrides(old, cert []byte) bool
	// Initiate begins a key negotiation with the owner of a responder's certificate.
	Initiate(farCert []byte) (Initiation, error)
	// Respond makes the Session Key Responder Component and the keys of the session from the initiator's certificate
	// and component, or refuses them.
	Respond(farCert, skic []byte) (skrc []byte, keys SessionKeys, err error)
}
