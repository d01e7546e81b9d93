package flash

import (
	"errors"

	"github.com/stilenet/stile/rtmfp"
)

// The options of a Session Keying Component (§4.5.2).
const (
	keyingEphemeral   = 0x0d
	keyingRandomness  = 0x0e
	keyingHMAC        = 0x1a
	keyingGroupSelect = 0x1d
	keyingSequence    = 0x1e
)

// Flags of a negotiation (§4.5.2.4, §4.5.2.5).
const (
	flagSendAlways    = 4 // SND
	flagSendOnRequest = 2 // SOR
	flagRequest       = 1 // REQ
)

// The lengths of an HMAC (§4.5.2.4).
const (
	minHMAC = 4
	maxHMAC = 32
)

// component is a Session Keying Component (§4.5).
//
//	zero or more options: 0d group:vlu publicKey | 0e randomness | 1d group:vlu | 1a flags:8 hmacLength:vlu | 1e flags:8
type component struct {
	ephemeral     *PublicKey // its Group is 0 if it is not implemented
	selected      Group      // 0 if absent or not implemented
	hasSelected   bool
	randomness    []byte
	hmac          byte // flags
	hmacLength    int
	sequence      byte // flags
	negotiateHMAC bool // the options are present
	negotiateSeq  bool
}

// Errors of keying.
var (
	ErrHMACLength = errors.New("flash: impossible HMAC length")
	ErrGroup      = errors.New("flash: no Diffie-Hellman group in common")
	ErrKeying     = errors.New("flash: keying component without the options it must have")
	ErrUnverified = errors.New("flash: the far end sends no HMAC or sequence number though it must")
)

// appendInitiatorComponent appends a component in the order that a Flash initiator uses; old peers hard-code its length.
func appendInitiatorComponent(b []byte, c component) []byte {
	if c.ephemeral != nil {
		b = appendKey(b, keyingEphemeral, *c.ephemeral)
	}
	if c.hasSelected {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: keyingGroupSelect, Value: rtmfp.AppendVLU(nil, uint64(c.selected))})
	}
	if c.randomness != nil {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: keyingRandomness, Value: c.randomness})
	}
	return c.appendNegotiations(b)
}

// appendResponderComponent appends a component in the order of a Flash-era responder: old initiators look for the public
// key at the eleventh byte, and take all that follows for it.
func appendResponderComponent(b []byte, c component) []byte {
	b = c.appendNegotiations(b)
	if c.randomness != nil {
		b = rtmfp.AppendOption(b, rtmfp.Option{Type: keyingRandomness, Value: c.randomness})
	}
	if c.ephemeral != nil {
		b = appendKey(b, keyingEphemeral, *c.ephemeral)
	}
	return b
}

func (c component) appendNegotiations(b []byte) []byte {
	b = rtmfp.AppendOption(b, rtmfp.Option{Type: keyingHMAC, Value: rtmfp.AppendVLU([]byte{c.hmac}, uint64(c.hmacLength))})
	return rtmfp.AppendOption(b, rtmfp.Option{Type: keyingSequence, Value: []byte{c.sequence}})
}

// parseComponent parses a component. The results alias b. Errors: rtmfp.ErrTruncated, rtmfp.ErrRange, ErrRepeated,
// ErrHMACLength.
func parseComponent(b []byte) (c component, err error) {
	for len(b) > 0 {
		var o rtmfp.Option
		var marker bool
		if o, marker, b, err = rtmfp.ParseOption(b); err != nil {
			return component{}, err
		}
		if marker {
			continue
		}
		switch o.Type {
		case keyingEphemeral:
			if c.ephemeral != nil {
				return component{}, ErrRepeated
			}
			k, err := parseKey(o.Value)
			if err != nil {
				return component{}, err
			}
			c.ephemeral = &k
		case keyingRandomness:
			c.randomness = o.Value
		case keyingGroupSelect:
			if c.hasSelected {
				return component{}, ErrRepeated
			}
			id, _, err := rtmfp.ParseVLU(o.Value)
			if err != nil {
				return component{}, err
			}
			c.selected, c.hasSelected = implemented(id), true
		case keyingHMAC:
			if c.negotiateHMAC {
				return component{}, ErrRepeated
			}
			if len(o.Value) == 0 {
				return component{}, rtmfp.ErrTruncated
			}
			n, _, err := rtmfp.ParseVLU(o.Value[1:])
			if err != nil {
				return component{}, err
			}
			c.hmac, c.negotiateHMAC = o.Value[0], true
			sends := c.hmac&(flagSendAlways|flagSendOnRequest) != 0
			if sends && (n < minHMAC || n > maxHMAC) {
				return component{}, ErrHMACLength
			}
			if sends {
				c.hmacLength = int(n)
			}
		case keyingSequence:
			if c.negotiateSeq {
				return component{}, ErrRepeated
			}
			if len(o.Value) == 0 {
				return component{}, rtmfp.ErrTruncated
			}
			c.sequence, c.negotiateSeq = o.Value[0], true
		}
	}
	return c, nil
}
