package flash

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// PeerID is the fingerprint of a certificate: the SHA-256 of its canonical section (§4.3.2).
type PeerID [sha256.Size]byte

// ErrPeerID means that a string is not a peer ID.
var ErrPeerID = errors.New("flash: a peer ID has 64 hexadecimal digits")

// ParsePeerID parses 64 hexadecimal digits of either case. Error: ErrPeerID.
func ParsePeerID(s string) (PeerID, error) {
	var id PeerID
	if len(s) != hex.EncodedLen(len(id)) {
		return PeerID{}, ErrPeerID
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return PeerID{}, ErrPeerID
	}
	return id, nil
}

// String is the 64 lower-case hexadecimal digits that ActionScript showed.
func (id PeerID) String() string { return hex.EncodeToString(id[:]) }

// EPD is the Canonical Endpoint Discriminator that selects the holder of the peer ID alone (§4.4.4).
func (id PeerID) EPD() []byte {
	return append([]byte{1 + sha256.Size, epdFingerprint}, id[:]...)
}

// PeerIDOf returns the peer ID in a Canonical Endpoint Discriminator, such as rtmfp.Session.FarIdentity. ok is false if it
// is another kind of discriminator.
func PeerIDOf(canonical string) (id PeerID, ok bool) {
	if len(canonical) != 2+sha256.Size || canonical[0] != 1+sha256.Size || canonical[1] != epdFingerprint {
		return PeerID{}, false
	}
	return PeerID([]byte(canonical[2:])), true
}
