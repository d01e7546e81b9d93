//go:build e2e

package dataplane

import (
	"encoding/binary"
	"net/netip"
)

// wireFrame is a UDP datagram on an Ethernet, as the reference reads and writes it.
type wireFrame struct {
	to, from      [6]byte
	vlan          uint16 // 0: no tag
	protocol      uint16 // of the tag
	source, dest  netip.AddrPort
	payload       []byte
	hasChecksum   bool
	validChecksum bool
	id            uint16 // IPv4
}

// build makes the frame, with the checksums computed over all of it.
func (f wireFrame) build() []byte {
	b := append(append([]byte(nil), f.to[:]...), f.from[:]...)
	inet6 := f.dest.Addr().Is6()
	proto := uint16(0x0800)
	if inet6 {
		proto = 0x86DD
	}
	if f.vlan != 0 {
		b = binary.BigEndian.AppendUint16(b, f.protocol)
		b = binary.BigEndian.AppendUint16(b, f.vlan)
	}
	b = binary.BigEndian.AppendUint16(b, proto)
	size := 8 + len(f.payload)
	if inet6 {
		b = append(b, 0x60, 0, 0, 0, byte(size>>8), byte(size), 17, 64)
		b = append(b, f.source.Addr().AsSlice()...)
		b = append(b, f.dest.Addr().AsSlice()...)
	} else {
		at := len(b)
		b = append(b, 0x45, 0, byte((size+20)>>8), byte(size+20), byte(f.id>>8), byte(f.id), 0, 0, 64, 17, 0, 0)
		b = append(b, f.source.Addr().AsSlice()...)
		b = append(b, f.dest.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(b[at+10:], ^referenceSum(b[at:at+20]))
	}
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, f.source.Port())
	b = binary.BigEndian.AppendUint16(b, f.dest.Port())
	b = append(b, byte(size>>8), byte(size), 0, 0)
	b = append(b, f.payload...)
	if f.hasChecksum {
		sum := ^referenceUDP(f.source.Addr(), f.dest.Addr(), b[at:])
		if sum == 0 {
			sum = 0xFFFF
		}
		binary.BigEndian.PutUint16(b[at+6:], sum)
	}
	return b
}

// readFrame reads what the kernel would bring to a socket. It reports false for everything else.
func readFrame(b []byte) (f wireFrame, ok bool) {
	if len(b) < 14 {
		return f, false
	}
	copy(f.to[:], b)
	copy(f.from[:], b[6:])
	proto, at := binary.BigEndian.Uint16(b[12:]), 14
	if (proto == 0x8100 || proto == 0x88A8) && len(b) >= 18 {
		f.protocol, f.vlan = proto, binary.BigEndian.Uint16(b[14:])&0xFFF
		proto, at = binary.BigEndian.Uint16(b[16:]), 18
	}
	b = b[at:]
	var from, to netip.Addr
	switch proto {
	case 0x0800:
		if len(b) < 20 || b[0] != 0x45 || b[9] != 17 || binary.BigEndian.Uint16(b[6:])&0x3FFF != 0 || referenceSum(b[:20]) != 0xFFFF {
			return f, false
		}
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < 28 || size > len(b) {
			return f, false
		}
		f.id = binary.BigEndian.Uint16(b[4:])
		from, to, b = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[20:size]
	case 0x86DD:
		if len(b) < 40 || b[0]>>4 != 6 || b[6] != 17 {
			return f, false
		}
		size := int(binary.BigEndian.Uint16(b[4:]))
		if size < 8 || size+40 > len(b) {
			return f, false
		}
		from, to, b = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[40:40+size]
	default:
		return f, false
	}
	f.source = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b))
	f.dest = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:]))
	size := int(binary.BigEndian.Uint16(b[4:]))
	if size < 8 || size > len(b) {
		return f, false
	}
	f.payload = b[8:size]
	f.hasChecksum = b[6]|b[7] != 0
	f.validChecksum = !f.hasChecksum || referenceUDP(from, to, b[:size]) == 0xFFFF
	return f, true
}

// referenceUDP adds up pseudo-header and datagram (RFC 768, RFC 8200 §8.1).
func referenceUDP(from, to netip.Addr, datagram []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(datagram)))
	pseudo = append(pseudo, 0, 0, 0, 17)
	return referenceSum(append(pseudo, datagram...))
}

// referenceSum is the ones' complement sum of RFC 1071.
func referenceSum(b []byte) uint16 {
	sum := 0
	for i := range b {
		if i&1 == 0 {
			sum += int(b[i]) << 8
		} else {
			sum += int(b[i])
		}
	}
	for sum > 0xFFFF {
		sum = sum&0xFFFF + sum>>16
	}
	return uint16(sum)
}
