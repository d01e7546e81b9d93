package flash

import (
	"crypto/sha256"
	"errors"
	"math"

	"github.com/stilenet/stile/rtmfp"
)

// The options of a certificate (§4.3.3).
const (
	certHostname   = 0x00
	certAncillary  = 0x0a
	certRandomness = 0x0e
	certEphemeral  = 0x15
	certStatic     = 0x1d
)

// randomnessSize is that of extra randomness in certificates and components: the block of SHA-256 (§4.5.2.2), which is also
// what Flash sends.
const randomnessSize = 64

// What parsers return beside the errors of package rtmfp.
var (
	ErrRepeated    = errors.New("flash: an option occurs twice")
	ErrFingerprint = errors.New("flash: a fingerprint is not 32 bytes long")
	ErrMixedKeys   = errors.New("flash: a certificate has static and ephemeral keys")
)

// Certificate is the canonical section of a certificate (§4.3).
//
//	zero or more options: 00 hostname | 0a | 0e randomness | 15 group:vlu | 1d group:vlu publicKey
//	optionally a marker, and more options, which mean nothing
type Certificate struct {
	Hostname         []byte // nil if absent
	AcceptsAncillary bool
	Ephemeral        []Group // groups supported for ephemeral keys; those that are not implemented are left out
	Static           []PublicKey
}

// PublicKey is a public key in a group.
type PublicKey struct {
	Group Group
	Key   []byte // big-endian
}

// AppendCertificate appends the canonical section of c in the order of the Flash era, which old peers hard-code. randomness
// is extra randomness, or nil.
func AppendCertificate(b []byte, c Certificate, randomness []byte) []byte {
	if c.Hostname != nil {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: certHostname, Value: c.Hostname})
	}
	if c.AcceptsAncillary {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: certAncillary})
	}
	if randomness != nil {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: certRandomness, Value: randomness})
	}
	for _, g := range c.Ephemeral {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: certEphemeral, Value: rtmfp.AppendVLU(nil, uint64(g))})
	}
	for _, k := range c.Static {
		b = appendKey(b, certStatic, k)
	}
	return b
}

// appendKey appends an option with a group and a public key.
func appendKey(b []byte, kind uint64, k PublicKey) []byte {
	return rtmfp.AppendOption(b, rtmfp.Option{Type: kind, Value: append(rtmfp.AppendVLU(nil, uint64(k.Group)), k.Key...)})
}

// parseKey parses what appendKey appends. The group is 0 if it is not implemented.
func parseKey(value []byte) (PublicKey, error) {
	id, key, err := rtmfp.ParseVLU(value)
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKey{implemented(id), key}, nil
}

// implemented is the group with the number, or 0 if it is none of ours.
func implemented(id uint64) Group {
	if id <= math.MaxUint16 && groupByID(Group(id)) != nil {
		return Group(id)
	}
	return 0
}

// ParseCertificate parses a certificate. The results alias b. Options of unknown types are passed over. What follows the
// canonical section must be well formed. Errors: rtmfp.ErrTruncated, rtmfp.ErrRange, ErrRepeated, ErrMixedKeys.
func ParseCertificate(b []byte) (c Certificate, err error) {
	canonical := true
	static, ephemeral := false, false
	for len(b) > 0 {
		var o rtmfp.Option
		var marker bool
		if o, marker, b, err = rtmfp.ParseOption(b); err != nil {
			return Certificate{}, err
		}
		if marker {
			canonical = false
		}
		if !canonical {
			continue
		}
		switch o.Type {
		case certHostname:
			if c.Hostname != nil {
				return Certificate{}, ErrRepeated
			}
			c.Hostname = o.Value
		case certAncillary:
			c.AcceptsAncillary = true
		case certEphemeral:
			id, _, err := rtmfp.ParseVLU(o.Value)
			if err != nil {
				return Certificate{}, err
			}
			ephemeral = true
			if g := implemented(id); g != 0 && len(c.Ephemeral) < len(groups) {
				c.Ephemeral = append(c.Ephemeral, g)
			}
		case certStatic:
			k, err := parseKey(o.Value)
			if err != nil {
				return Certificate{}, err
			}
			static = true
			if k.Group != 0 && len(c.Static) < len(groups) {
				c.Static = append(c.Static, k)
			}
		}
	}
	if static && ephemeral {
		return Certificate{}, ErrMixedKeys
	}
	return c, nil
}

// FingerprintOf computes the peer ID of a certificate: all of it if it does not parse.
func FingerprintOf(cert []byte) PeerID {
	for rest := cert; len(rest) > 0; {
		_, marker, after, err := rtmfp.ParseOption(rest)
		if err != nil {
			break
		}
		if marker {
			return sha256.Sum256(cert[:len(cert)-len(rest)])
		}
		rest = after
	}
	return sha256.Sum256(cert)
}

// staticKey returns the certificate's static key in a group.
func (c Certificate) staticKey(g Group) []byte {
	for _, k := range c.Static {
		if k.Group == g {
			return k.Key
		}
	}
	return nil
}

// supports reports whether a key can be agreed on in a group.
func (c Certificate) supports(g Group) bool {
	for _, e := range c.Ephemeral {
		if e == g {
			return true
		}
	}
	return c.staticKey(g) != nil
}
