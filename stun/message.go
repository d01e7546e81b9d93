package stun

import (
	"encoding/binary"
	"errors"
)

// From the specification.
const (
	HeaderSize  = 20         // bytes, §5
	MagicCookie = 0x2112A442 // §5
	DefaultPort = 3478       // §8.1; TURN runs on it as well
	maxBody     = 0xFFFC     // bytes, the largest multiple of 4 in the 16-bit length field of §5
)

// Ours to tune.
const (
	// MaxAttributes bounds the walk over one message. The longest request a TURN client sends has about ten
	// attributes; a CreatePermission may name more peers, so there is room for them.
	MaxAttributes = 128
)

// Errors of Parse. They carry no detail: they are drop reasons, counted and not printed for each packet.
var (
	ErrShort      = errors.New("stun: shorter than a header")
	ErrNotSTUN    = errors.New("stun: the first two bits or the magic cookie are not STUN's")
	ErrLength     = errors.New("stun: the length field does not match the datagram")
	ErrAttribute  = errors.New("stun: an attribute or its padding ends after the message")
	ErrAttributes = errors.New("stun: more than 128 attributes")
)

// Class is the class of a message (§5).
type Class uint16

// The classes as they stand in the type field: C1 is bit 8, C0 is bit 4.
const (
	Request    Class = 0x0000
	Indication Class = 0x0010
	Success    Class = 0x0100
	Error      Class = 0x0110
)

// Method is the 12-bit method of a message (§5).
type Method uint16

// Methods of STUN and TURN; the names are those of RFC 8656. CreatePermission does not exist in draft-08.
const (
	Binding          Method = 0x001
	Allocate         Method = 0x003
	Refresh          Method = 0x004
	Send             Method = 0x006
	Data             Method = 0x007
	CreatePermission Method = 0x008
	ChannelBind      Method = 0x009
)

// Type is the 16-bit type field: method bits spread around class bits (§5, figure 3).
type Type uint16

// NewType joins a method and a class.
func NewType(m Method, c Class) Type {
	return Type(m&0x00F | m&0x070<<1 | m&0xF80<<2 | Method(c))
}

// Method reports the method bits of the type.
func (t Type) Method() Method { return Method(t&0x00F | t&0x0E0>>1 | t&0x3E00>>2) }

// Class reports the class bits of the type.
func (t Type) Class() Class { return Class(t & 0x0110) }

// TransactionID is the 96-bit transaction identifier.
type TransactionID [12]byte

// AttrType is the type of an attribute. Types below 0x8000 must be understood by the receiver.
type AttrType uint16

// Required reports whether a receiver that does not know the attribute must refuse the message (§14).
func (t AttrType) Required() bool { return t < 0x8000 }

// Message is a view of one STUN message. It aliases the bytes given to Parse and is valid as long as they are not
// changed. The zero Message is not valid. It may be read by any number of goroutines.
type Message struct {
	raw []byte // header and body, nothing after it
	end int    // offset after the last attribute that counts: the end, or the end of MESSAGE-INTEGRITY
}

// IsMessage reports whether b begins like a STUN message. TURN tells STUN from ChannelData by these two bits.
func IsMessage(b []byte) bool {
	return len(b) >= HeaderSize && b[0]&0xC0 == 0 && binary.BigEndian.Uint32(b[4:]) == MagicCookie
}

// Parse checks the framing of b, which must hold one message and nothing else, and returns a view of it.
// It allocates nothing. Attributes are checked for their bounds only, not for their values.
//
// The errors are ErrShort, ErrNotSTUN, ErrLength, ErrAttribute and ErrAttributes.
//
// Deviation: §5 wants a length that is a multiple of 4. Some clients of draft-08's time leave the last attribute
// unpadded; such a message is taken if that attribute ends exactly with the datagram. Half a padding is refused.
//
// Deviation: §9 excepts MESSAGE-INTEGRITY-SHA256 from the attributes that do not count after MESSAGE-INTEGRITY.
// This package does not check it, so there it does not count either; anywhere else it is unknown and required.
func Parse(b []byte) (Message, error) {
	if len(b) < HeaderSize {
		return Message{}, ErrShort
	}
	if b[0]&0xC0 != 0 || binary.BigEndian.Uint32(b[4:]) != MagicCookie {
		return Message{}, ErrNotSTUN
	}
	// What is longer than maxBody has an unpadded attribute, and no padding would fit: Builder could not write it again.
	if body := len(b) - HeaderSize; body != int(binary.BigEndian.Uint16(b[2:])) || body > maxBody {
		return Message{}, ErrLength
	}
	m := Message{raw: b, end: len(b)}
	at, n := HeaderSize, 0
	for at < len(b) {
		if n++; n > MaxAttributes {
			return Message{}, ErrAttributes
		}
		if len(b)-at < 4 {
			return Message{}, ErrAttribute
		}
		typ := AttrType(binary.BigEndian.Uint16(b[at:]))
		size := int(binary.BigEndian.Uint16(b[at+2:]))
		left := len(b) - at - 4
		if size > left || size < left && left < pad4(size) {
			return Message{}, ErrAttribute
		}
		at += 4 + min(pad4(size), left)
		// §9: attributes after MESSAGE-INTEGRITY are not protected by it and must be ignored, FINGERPRINT apart.
		if typ == AttrMessageIntegrity && m.end == len(b) {
			m.end = at
		}
	}
	return m, nil
}

func pad4(n int) int { return (n + 3) &^ 3 }

// Raw is the whole message as it was parsed.
func (m Message) Raw() []byte { return m.raw }

// Type is the type field.
func (m Message) Type() Type { return Type(binary.BigEndian.Uint16(m.raw)) }

// Method is the method of the message.
func (m Message) Method() Method { return m.Type().Method() }

// Class is the class of the message.
func (m Message) Class() Class { return m.Type().Class() }

// TransactionID is a copy of the transaction identifier.
func (m Message) TransactionID() (id TransactionID) {
	copy(id[:], m.raw[8:HeaderSize])
	return id
}

// Get returns the value of the first attribute of the type, without padding, as a part of the message. Later ones
// of the same type do not count, nor do attributes after MESSAGE-INTEGRITY other than FINGERPRINT (§14, §9).
func (m Message) Get(want AttrType) ([]byte, bool) {
	end := m.end
	if want == AttrFingerprint {
		end = len(m.raw)
	}
	for it := (Attrs{b: m.raw[HeaderSize:end]}); it.Next(); {
		if it.Type == want {
			return it.Value, true
		}
	}
	return nil, false
}

// Has reports whether Get would find the attribute.
func (m Message) Has(want AttrType) bool {
	_, ok := m.Get(want)
	return ok
}

// Attrs walks over the attributes that count, in the order of the message. It shows every duplicate, and FINGERPRINT only
// where no MESSAGE-INTEGRITY stands before it: CheckFingerprint is the way to look at that one.
func (m Message) Attrs() Attrs { return Attrs{b: m.raw[HeaderSize:m.end]} }

// Attrs is a cursor over attributes: call Next, and as long as it reports true read Type and Value, which aliases the message.
type Attrs struct {
	Type  AttrType
	Value []byte
	b     []byte
}

// Next moves to the next attribute and reports whether there is one.
func (a *Attrs) Next() bool {
	if len(a.b) < 4 {
		return false
	}
	size := int(binary.BigEndian.Uint16(a.b[2:]))
	left := len(a.b) - 4
	if size > left {
		return false
	}
	a.Type = AttrType(binary.BigEndian.Uint16(a.b))
	a.Value = a.b[4 : 4+size : 4+size]
	a.b = a.b[4+min(pad4(size), left):]
	return true
}
