package flash

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
)

// hmacSHA256 is HMAC-SHA256(K, M).
func hmacSHA256(key, message []byte) (sum [32]byte) {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	h.Sum(sum[:0])
	return sum
}

// macKey is an HMAC key as the two states of SHA-256 after its padded forms: 64 bytes, where crypto/hmac keeps half a
// kilobyte for each direction of each session.
type macKey struct {
	inner, outer [8]uint32
}

// The serialized state of crypto/sha256: magic, the chaining value, the buffer, the length.
const (
	stateMagic  = "sha\x03"
	stateBuffer = len(stateMagic) + 32
	stateLength = stateBuffer + sha256.BlockSize
	stateSize   = stateLength + 8
)

// digest is a SHA-256 that is set to the states of macKeys.
type digest struct {
	hash.Hash
	state [stateSize]byte
	sum   [sha256.Size]byte
}

func newDigest() *digest {
	d := &digest{Hash: sha256.New()}
	copy(d.state[:], stateMagic)
	binary.BigEndian.PutUint64(d.state[stateLength:], sha256.BlockSize)
	return d
}

// begin sets the digest to a state after one block.
func (d *digest) begin(words *[8]uint32) {
	for i, w := range words {
		binary.BigEndian.PutUint32(d.state[len(stateMagic)+4*i:], w)
	}
	if err := d.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(d.state[:]); err != nil {
		panic("BUG: flash: crypto/sha256 refuses its state: " + err.Error())
	}
}

// after is the state of SHA-256 after one block.
func after(block *[sha256.BlockSize]byte) (words [8]uint32) {
	h := sha256.New()
	h.Write(block[:])
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || len(state) != stateSize {
		panic("BUG: flash: crypto/sha256 has another state")
	}
	for i := range words {
		words[i] = binary.BigEndian.Uint32(state[len(stateMagic)+4*i:])
	}
	return words
}

// newMACKey prepares a key of 32 bytes (RFC 2104).
func newMACKey(key [32]byte) *macKey {
	var inner, outer [sha256.BlockSize]byte
	for i := range inner {
		inner[i], outer[i] = 0x36, 0x5c
	}
	for i, b := range key {
		inner[i] ^= b
		outer[i] ^= b
	}
	return &macKey{after(&inner), after(&outer)}
}

// appendHMAC appends the first size bytes of the HMAC of message to dst.
func (d *digest) appendHMAC(dst []byte, k *macKey, message []byte, size int) []byte {
	d.begin(&k.inner)
	d.Write(message)
	inner := d.Sum(d.sum[:0])
	d.begin(&k.outer)
	d.Write(inner)
	return append(dst, d.Sum(d.sum[:0])[:size]...)
}
