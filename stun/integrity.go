package stun

import (
	"crypto/hmac"
	"crypto/md5"  //nolint:gosec // the long-term key of §9.2.2 is defined with MD5
	"crypto/sha1" //nolint:gosec // MESSAGE-INTEGRITY is defined with SHA-1, §14.5
	"encoding/binary"
	"hash"
	"hash/crc32"
)

const (
	integritySize  = sha1.Size // bytes, §14.5
	fingerprintXOR = 0x5354554E
)

// LongTermKey is the key of a user (§9.2.2): MD5(username ":" realm ":" password). It holds for as long as the
// password does, so a server computes it once. All three are taken as they are: OpaqueString or SASLprep is the caller's.
func LongTermKey(username, realm, password string) []byte {
	sum := md5.Sum([]byte(username + ":" + realm + ":" + password)) //nolint:gosec // §9.2.2
	return sum[:]
}

// Mac computes MESSAGE-INTEGRITY for one key again and again without allocating. It is not safe for concurrent use.
type Mac struct {
	h   hash.Hash
	sum [integritySize]byte
	len [2]byte
}

// NewMac prepares the key: that of LongTermKey, or the bytes of the password for short-term credentials (§9.1.1).
func NewMac(key []byte) *Mac { return &Mac{h: hmac.New(sha1.New, key)} }

// compute is the HMAC over b up to at, with the length field that counts up to the end of MESSAGE-INTEGRITY (§14.5).
func (m *Mac) compute(b []byte, at int) []byte {
	m.h.Reset()
	m.h.Write(b[:2])
	binary.BigEndian.PutUint16(m.len[:], uint16(at-HeaderSize+4+integritySize))
	m.h.Write(m.len[:])
	m.h.Write(b[4:at])
	return m.h.Sum(m.sum[:0])
}

// Check reports whether the first MESSAGE-INTEGRITY of the message was made with this key, in constant time.
func (m *Mac) Check(msg Message) bool {
	at, ok := msg.offset(AttrMessageIntegrity)
	if !ok || binary.BigEndian.Uint16(msg.raw[at+2:]) != integritySize { // Parse has seen that the value is there
		return false
	}
	return hmac.Equal(m.compute(msg.raw, at), msg.raw[at+4:at+4+integritySize])
}

// offset is where the first attribute of the type begins.
func (m Message) offset(want AttrType) (int, bool) {
	for it := (Attrs{b: m.raw[HeaderSize:]}); len(it.b) > 0; {
		at := len(m.raw) - len(it.b)
		if !it.Next() {
			break
		}
		if it.Type == want {
			return at, true
		}
	}
	return 0, false
}

// Fingerprint says what the FINGERPRINT of the message is.
type Fingerprint uint8

// The states of a FINGERPRINT; the zero value is not one of them.
const (
	FingerprintAbsent  Fingerprint = iota + 1
	FingerprintValid               // present, last, right
	FingerprintInvalid             // present, but not last or not right: not a STUN message, drop it (§6.3)
)

// CheckFingerprint examines FINGERPRINT (§14.7): the last attribute, the CRC-32 of everything before it. A second one makes
// the first not the last.
func (m Message) CheckFingerprint() Fingerprint {
	at, ok := m.offset(AttrFingerprint)
	if !ok {
		return FingerprintAbsent
	}
	if len(m.raw)-at != 8 || binary.BigEndian.Uint16(m.raw[at+2:]) != 4 {
		return FingerprintInvalid
	}
	if binary.BigEndian.Uint32(m.raw[at+4:]) != crc32.ChecksumIEEE(m.raw[:at])^fingerprintXOR {
		return FingerprintInvalid
	}
	return FingerprintValid
}
