package flash

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"

	"github.com/stilenet/stile/rtmfp"
)

// defaultKey is the Default Session Key (§4.1).
const defaultKey = "Adobe Systems 02"

// The AES block.
const blockSize = aes.BlockSize

// cbc is AES-128-CBC as crypto/cipher makes it, which can begin again with another initialization vector.
type cbc interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

// zeroIV is the initialization vector of every packet (§4.7.1).
var zeroIV [blockSize]byte

// half is the keys of one direction. It implements half of rtmfp.Cipher.
type half struct {
	mac       *macKey // nil: a checksum
	macLength int
	mode      cbc // nil until it is needed, and after Rest
	next      uint64
	key       [blockSize]byte
	sequences bool // session sequence numbers are in use
}

// keys is an rtmfp.SessionKeys. The key schedules, most of its memory, exist only while there is traffic: see Rest.
type keys struct {
	send, receive half
	digest        *digest // of HMACs; nil until it is needed, and after Rest
	window        uint64  // bit n: receive.next-1-n was received
	near, far     [32]byte
}

var _ rtmfp.SessionKeys = (*keys)(nil)

func newDefaultCipher() *keys {
	k := new(keys)
	copy(k.send.key[:], defaultKey)
	copy(k.receive.key[:], defaultKey)
	return k
}

// NearNonce is NEAR_NONCE (§4.6.5).
func (k *keys) NearNonce() []byte { return k.near[:] }

// FarNonce is FAR_NONCE (§4.6.5).
func (k *keys) FarNonce() []byte { return k.far[:] }

// Authenticated reports whether received packets have an HMAC, and sequence numbers to tell them from copies.
func (k *keys) Authenticated() bool { return k.receive.mac != nil && k.receive.sequences }

// Rest frees what the next packet will make again: more than 1 KiB of a session that is silent.
func (k *keys) Rest() { k.send.mode, k.receive.mode, k.digest = nil, nil, nil }

func (k *keys) appendHMAC(dst []byte, h *half, blocks []byte) []byte {
	if k.digest == nil {
		k.digest = newDigest()
	}
	return k.digest.appendHMAC(dst, h.mac, blocks, h.macLength)
}

// MaxPlain reports the size of the longest plain packet that Seal makes at most size bytes of.
func (k *keys) MaxPlain(size int) int {
	h := &k.send
	n := size - h.macLength
	n -= n % blockSize
	if h.sequences {
		// As long as the number will be for the next thousands of packets, so that what was measured stays right for a while.
		n -= max(3, rtmfp.SizeVLU(h.next+1<<12))
	}
	if h.mac == nil {
		n -= 2
	}
	return max(0, n)
}

func mode(key *[blockSize]byte, encrypt bool) cbc {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("BUG: flash: " + err.Error())
	}
	m := cipher.NewCBCDecrypter(block, zeroIV[:])
	if encrypt {
		m = cipher.NewCBCEncrypter(block, zeroIV[:])
	}
	c, ok := m.(cbc)
	if !ok {
		panic("BUG: flash: crypto/cipher's CBC cannot set its initialization vector")
	}
	return c
}

// Seal appends the encrypted packet to dst (§4.7.2).
func (k *keys) Seal(dst, plain []byte) []byte {
	h := &k.send
	if h.mode == nil {
		h.mode = mode(&h.key, true)
	}
	at := len(dst)
	if h.sequences {
		dst = rtmfp.AppendVLU(dst, h.next)
		h.next++
	}
	sum := len(dst)
	if h.mac == nil {
		dst = append(dst, 0, 0)
	}
	dst = append(dst, plain...)
	for (len(dst)-at)%blockSize != 0 {
		dst = append(dst, 0xff)
	}
	if h.mac == nil {
		binary.BigEndian.PutUint16(dst[sum:], checksum(dst[sum+2:]))
	}
	h.mode.SetIV(zeroIV[:])
	h.mode.CryptBlocks(dst[at:], dst[at:])
	if h.mac != nil {
		dst = k.appendHMAC(dst, h, dst[at:])
	}
	return dst
}

// Open verifies and decrypts a packet in place (§4.7.3).
func (k *keys) Open(packet []byte) ([]byte, error) {
	h := &k.receive
	if len(packet) < blockSize+h.macLength || (len(packet)-h.macLength)%blockSize != 0 {
		return nil, rtmfp.ErrIntegrity
	}
	blocks := packet[:len(packet)-h.macLength]
	if h.mac != nil {
		var sum [maxHMAC]byte
		got := k.appendHMAC(sum[:0], h, blocks)
		if subtle.ConstantTimeCompare(got, packet[len(blocks):]) != 1 {
			return nil, rtmfp.ErrIntegrity
		}
	}
	if h.mode == nil {
		h.mode = mode(&h.key, false)
	}
	h.mode.SetIV(zeroIV[:])
	h.mode.CryptBlocks(blocks, blocks)
	plain := blocks
	var sequence uint64
	if h.sequences {
		var err error
		if sequence, plain, err = rtmfp.ParseVLU(plain); err != nil {
			return nil, rtmfp.ErrIntegrity
		}
	}
	if h.mac == nil {
		if len(plain) < 2 || binary.BigEndian.Uint16(plain) != checksum(plain[2:]) {
			return nil, rtmfp.ErrIntegrity
		}
		plain = plain[2:]
	}
	if h.sequences && !k.admit(sequence) {
		return nil, rtmfp.ErrReplay
	}
	return plain, nil
}

// windowSize is how far packets may be reordered; §4.7.3.3 asks for 32 or more.
const windowSize = 64

// admit notes a sequence number. It reports false for one that was seen, or is below the window (§4.7.3.3).
func (k *keys) admit(n uint64) bool {
	h := &k.receive
	if n == ^uint64(0) {
		return false // nothing can follow it
	}
	if n >= h.next {
		shift := n + 1 - h.next
		if shift >= windowSize {
			k.window = 0
		} else {
			k.window <<= shift
		}
		k.window |= 1
		h.next = n + 1
		return true
	}
	age := h.next - 1 - n
	if age >= windowSize || k.window>>age&1 == 1 {
		return false
	}
	k.window |= 1 << age
	return true
}

// checksum is the simple checksum (§4.7.3.1). An odd last byte is the low byte of its word, unlike in RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint64
	for len(b) >= 8 {
		v := binary.BigEndian.Uint64(b)
		sum += v>>32 + v&0xffffffff
		b = b[8:]
	}
	for len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
