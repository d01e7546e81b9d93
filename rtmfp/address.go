package rtmfp

import (
	"encoding/binary"
	"net/netip"
)

// Origin says how an address became known (§2.1.5).
type Origin uint8

// The origins.
const (
	OriginUnknown  Origin = iota // unknown, unspecified or other
	OriginReported               // its owner said that it is the address of an interface
	OriginObserved               // seen as the source of a packet (a reflexive address)
	OriginRelay                  // a relay, proxy or introducer
)

func (o Origin) String() string {
	return [...]string{"unknown", "reported", "observed", "relay"}[o&3]
}

// Address is an Internet socket address with its origin (§2.1.5).
//
//	inet6:1 reserved:5 origin:2 ipAddress[4 or 16] port:16
type Address struct {
	Origin   Origin
	AddrPort netip.AddrPort
}

// maxAddressSize is the size of an encoded IPv6 address.
const maxAddressSize = 1 + 16 + 2

// AppendAddress appends a. The zone is lost; an IPv4-mapped address stays an IPv6 one; an invalid address becomes 0.0.0.0.
func AppendAddress(b []byte, a Address) []byte {
	ip := a.AddrPort.Addr()
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	flags := byte(a.Origin) & 3
	if ip.Is4() {
		v4 := ip.As4()
		b = append(append(b, flags), v4[:]...)
	} else {
		v6 := ip.As16()
		b = append(append(b, flags|0x80), v6[:]...)
	}
	return binary.BigEndian.AppendUint16(b, a.AddrPort.Port())
}

// ParseAddress parses the address that b begins with. rest aliases b. Error: ErrTruncated.
func ParseAddress(b []byte) (a Address, rest []byte, err error) {
	if len(b) == 0 {
		return Address{}, nil, ErrTruncated
	}
	n := 4
	if b[0]&0x80 != 0 {
		n = 16
	}
	if len(b)-1 < n+2 {
		return Address{}, nil, ErrTruncated
	}
	ip, _ := netip.AddrFromSlice(b[1 : 1+n])
	return Address{
		Origin:   Origin(b[0] & 3),
		AddrPort: netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[1+n:])),
	}, b[1+n+2:], nil
}
