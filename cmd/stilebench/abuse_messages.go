package main

import (
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"

	"github.com/stilenet/stile/stun"
)

// Messages of attackers. Each begins a transaction of its own.

func newID() (id stun.TransactionID) {
	_, _ = rand.Read(id[:])
	return id
}

// attr is one attribute of a request that is made up.
type attr struct {
	typ   stun.AttrType
	value []byte
}

var udpTransport = attr{stun.AttrRequestedTransport, []byte{17, 0, 0, 0}}

func request(method stun.Method, attrs ...attr) []byte {
	return message(stun.NewType(method, stun.Request), newID(), attrs...)
}

func message(t stun.Type, id stun.TransactionID, attrs ...attr) []byte {
	b := stun.Begin(nil, t, id)
	for _, a := range attrs {
		if a.typ == stun.AttrXORPeerAddress {
			b.Attr(a.typ, xorWith(a.value, id))
			continue
		}
		b.Attr(a.typ, a.value)
	}
	return b.Bytes()
}

// peerAttr names a peer in exactly this form: an IPv4-mapped address stays an IPv6 address. message XORs it.
func peerAttr(to netip.AddrPort) attr {
	family := byte(1)
	if to.Addr().Is6() {
		family = 2
	}
	v := []byte{0, family}
	v = binary.BigEndian.AppendUint16(v, to.Port())
	return attr{stun.AttrXORPeerAddress, append(v, to.Addr().AsSlice()...)}
}

func xorWith(value []byte, id stun.TransactionID) []byte {
	key := binary.BigEndian.AppendUint32(nil, stun.MagicCookie)
	key = append(key, id[:]...)
	v := append([]byte(nil), value...)
	v[2], v[3] = v[2]^key[0], v[3]^key[1]
	for i := range v[4:] {
		v[4+i] ^= key[i]
	}
	return v
}

func dataAttr(b []byte) attr { return attr{stun.AttrData, b} }
func lifetimeAttr(seconds uint32) attr {
	return attr{stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, seconds)}
}
func channelAttr(number uint16) attr {
	return attr{stun.AttrChannelNumber, []byte{byte(number >> 8), byte(number), 0, 0}}
}

func sendTo(to netip.AddrPort, data []byte) []byte {
	return message(stun.NewType(stun.Send, stun.Indication), newID(), peerAttr(to), dataAttr(data))
}

// channelData is padded, as streams want it.
func channelData(number uint16, data []byte) []byte {
	b := []byte{byte(number >> 8), byte(number), byte(len(data) >> 8), byte(len(data))}
	b = append(b, data...)
	for len(b)&3 != 0 {
		b = append(b, 0)
	}
	return b
}

// smuggled wraps TURN messages into an HTTP request that a web page may send without asking, with its body behind what the
// words of the request line say when they are read as ChannelData: "POST" is channel 0x504F with 0x5354 bytes.
func smuggled(host string, messages []byte) []byte {
	body := make([]byte, 0, 32<<10)
	head := "POST / HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: "
	const bodySize = 30000
	head += "30000\r\nOrigin: http://attacker.example\r\n\r\n"
	skip := 4 + 0x5354 - len(head) // where the next message begins
	for len(body) < skip {
		body = append(body, 'A')
	}
	body = append(body, messages...)
	for len(body) < bodySize {
		body = append(body, 'A')
	}
	return append([]byte(head), body...)
}

// mutants makes n malformed messages out of good ones: cut, lengthened, with lying lengths, looping attributes, flipped bits.
func mutants(rng *mathrand.Rand, seeds [][]byte, n int) (out [][]byte) {
	for len(out) < n {
		b := append([]byte(nil), seeds[rng.IntN(len(seeds))]...)
		switch rng.IntN(7) {
		case 0:
			b = b[:rng.IntN(len(b)+1)]
		case 1:
			for range 1 + rng.IntN(8) {
				if len(b) > 0 {
					b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
				}
			}
		case 2:
			if len(b) >= 4 {
				binary.BigEndian.PutUint16(b[2:], uint16(rng.Uint32()))
			}
		case 3: // as many empty attributes as fit
			b = message(stun.NewType(stun.Method(1+rng.IntN(9)), stun.Request), newID())
			for len(b) < 1400 {
				b = binary.BigEndian.AppendUint32(b, uint32(rng.IntN(0x30))<<16)
			}
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stun.HeaderSize))
		case 4: // an attribute longer than the message
			if len(b) >= 24 {
				binary.BigEndian.PutUint16(b[22:], 0xFFFF)
			}
		case 5: // the longest datagram
			b = append(b, make([]byte, 60000-len(b))...)
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stun.HeaderSize))
		case 6:
			b = make([]byte, rng.IntN(100))
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
		}
		out = append(out, b)
	}
	return out
}
