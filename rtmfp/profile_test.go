package rtmfp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
)

// plainIdentity is a Cryptography Profile without cryptography. A certificate is "cert:NAME" with padding, an Endpoint
// Discriminator "id:NAME" or "any". A sealed packet is a CRC over the key, a sequence number and the plain packet.
type plainIdentity struct {
	name            string
	padding         int  // bytes added to the certificate and the component
	unauthenticated bool // ciphers say that they verify nothing secret
}

func (p *plainIdentity) DefaultCipher() Cipher { return &plainCipher{} }

func (p *plainIdentity) Certificate() []byte {
	return []byte("cert:" + p.name + ":" + strings.Repeat("p", p.padding))
}

func certificateName(cert []byte) (string, bool) {
	name, _, ok := strings.Cut(strings.TrimPrefix(string(cert), "cert:"), ":")
	return name, ok && bytes.HasPrefix(cert, []byte("cert:"))
}

func (p *plainIdentity) Authentic(cert []byte) bool {
	_, ok := certificateName(cert)
	return ok
}

func (p *plainIdentity) Selects(epd, cert []byte) bool {
	name, ok := certificateName(cert)
	return ok && (string(epd) == "any" || string(epd) == "id:"+name)
}

func (p *plainIdentity) SelectsNear(epd []byte) bool { return p.Selects(epd, p.Certificate()) }

func (p *plainIdentity) CanonicalEPD(cert []byte) []byte {
	name, _ := certificateName(cert)
	return []byte("id:" + name)
}

func (p *plainIdentity) Sign(message []byte) []byte {
	sum := sha256.Sum256(append(p.Certificate(), message...))
	return sum[:8]
}

func (p *plainIdentity) Verify(cert, message, signature []byte) bool {
	return bytes.Equal((&plainIdentity{name: must(certificateName(cert)), padding: paddingOf(cert)}).Sign(message), signature)
}

func must(name string, _ bool) string { return name }

func paddingOf(cert []byte) int { return len(cert) - 1 - bytes.LastIndexByte(cert, ':') }

func (p *plainIdentity) NearPrevails(farCert []byte) bool {
	return bytes.Compare(farCert, p.Certificate()) >= 0
}

func (p *plainIdentity) Overrides(old, cert []byte) bool { return bytes.Equal(old, cert) }

func (p *plainIdentity) Initiate(farCert []byte) (Initiation, error) {
	return &plainInitiation{p, []byte("skic:" + p.name + strings.Repeat("i", p.padding))}, nil
}

func (p *plainIdentity) Respond(farCert, skic []byte) ([]byte, SessionKeys, error) {
	if !bytes.HasPrefix(skic, []byte("skic:")) {
		return nil, nil, errors.New("not a component")
	}
	skrc := []byte("skrc:" + p.name)
	return skrc, p.keys(skic, skrc, skrc, skic), nil
}

type plainInitiation struct {
	p    *plainIdentity
	skic []byte
}

func (i *plainInitiation) Component() []byte { return i.skic }

func (i *plainInitiation) Combine(skrc []byte) (SessionKeys, error) {
	if !bytes.HasPrefix(skrc, []byte("skrc:")) {
		return nil, errors.New("not a component")
	}
	return i.p.keys(i.skic, skrc, i.skic, skrc), nil
}

func (p *plainIdentity) keys(skic, skrc, near, far []byte) SessionKeys {
	return &plainCipher{key: crc32.ChecksumIEEE(append(bytes.Clone(skic), skrc...)) | 1, near: near, far: far, authenticated: !p.unauthenticated}
}

type plainCipher struct {
	key           uint32 // 0 is the Default Session Key, without sequence numbers
	next          uint64
	highest, seen uint64 // the last 64 numbers
	near, far     []byte
	authenticated bool
	rests         int
}

func (c *plainCipher) Rest() { c.rests++ }

const plainOverhead = 12

func (c *plainCipher) Seal(dst, plain []byte) []byte {
	at := len(dst)
	c.next++
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, c.next)
	dst = append(dst, plain...)
	binary.BigEndian.PutUint32(dst[at:], crc32.ChecksumIEEE(dst[at+4:])^c.key)
	return dst
}

func (c *plainCipher) Open(packet []byte) ([]byte, error) {
	if len(packet) < plainOverhead || binary.BigEndian.Uint32(packet) != crc32.ChecksumIEEE(packet[4:])^c.key {
		return nil, ErrIntegrity
	}
	if n := binary.BigEndian.Uint64(packet[4:]); c.key != 0 {
		switch {
		case n > c.highest:
			c.seen = c.seen<<(n-c.highest) | 1
			c.highest = n
		case c.highest-n >= 64 || c.seen>>(c.highest-n)&1 == 1:
			return nil, ErrReplay
		default:
			c.seen |= 1 << (c.highest - n)
		}
	}
	return packet[plainOverhead:], nil
}

func (c *plainCipher) MaxPlain(size int) int { return size - plainOverhead }
func (c *plainCipher) Authenticated() bool   { return c.authenticated }
func (c *plainCipher) NearNonce() []byte     { return c.near }
func (c *plainCipher) FarNonce() []byte      { return c.far }
