package stun

import "encoding/binary"

// Find reports where the value of the first attribute of the type lies in the message, in bytes from its beginning,
// for a caller that moves the value within its buffer. It finds what Get finds, FINGERPRINT apart.
func (m Message) Find(want AttrType) (offset, size int, ok bool) {
	for at := HeaderSize; m.end-at >= 4; {
		size = int(binary.BigEndian.Uint16(m.raw[at+2:]))
		if AttrType(binary.BigEndian.Uint16(m.raw[at:])) == want {
			return at + 4, size, true
		}
		at += 4 + pad4(size)
	}
	return 0, 0, false
}
