package turn

import "net/netip"

// The prefixes whose addresses carry an IPv4 address inside.
var (
	prefixIPv4Compatible = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1, deprecated
	prefixIPv4Translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 §2.1, SIIT
	prefixNAT64          = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 §2.1
	prefixNAT64Local     = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	prefixTeredo         = netip.MustParsePrefix("2001::/32")       // RFC 4380 §4
	prefix6to4           = netip.MustParsePrefix("2002::/16")       // RFC 3056 §2
)

// canonical is an address in the one form in which it is judged: IPv4-mapped addresses are IPv4 addresses, and every
// IPv4 address that some host or router on the way could take out of an IPv6 address is listed beside it.
type canonical struct {
	addr  netip.Addr
	inner [maxInner]netip.Addr
	count int
}

// maxInner is the number of IPv4 addresses in one IPv6 address at most: four readings of a local-use NAT64 address,
// and an ISATAP interface identifier.
const maxInner = 5

// canonicalize reads a, which is valid and has no zone. nat64Bits is the length of the local-use NAT64 prefix, or 0 if
// it is not known; then every length that RFC 8215 leaves is read.
//
// An IPv6 prefix that a network chose for itself cannot be told from an ordinary one: 6rd (RFC 5969), and NAT64 with a
// prefix of the network's own (RFC 6052 §2.2). Where the server can reach such a translator, turn.peers.deny must
// name its prefix.
func canonicalize(a netip.Addr, nat64Bits int) (c canonical) {
	c.addr = a.Unmap()
	if c.addr.Is4() {
		return c
	}
	b := c.addr.As16()
	switch {
	case prefixIPv4Compatible.Contains(c.addr):
		// :: and ::1 are addresses of their own.
		if b[12]|b[13]|b[14] != 0 || b[15] > 1 {
			c.add([4]byte(b[12:]))
		}
	case prefixIPv4Translated.Contains(c.addr), prefixNAT64.Contains(c.addr):
		c.add([4]byte(b[12:]))
	case prefixNAT64Local.Contains(c.addr):
		for _, bits := range [...]int{48, 56, 64, 96} {
			if nat64Bits == 0 || nat64Bits == bits {
				c.add(embeddedAt(b, bits))
			}
		}
	case prefixTeredo.Contains(c.addr):
		// Server, flags, and the client's port and address with every bit inverted.
		c.add([4]byte(b[4:]))
		c.add([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case prefix6to4.Contains(c.addr):
		c.add([4]byte(b[2:]))
	}
	// ISATAP (RFC 5214 §6.1): the interface identifier is 00-00-5E-FE, with the universal bit either way, and the address.
	if b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		c.add([4]byte(b[12:]))
	}
	return c
}

func (c *canonical) add(b [4]byte) {
	c.inner[c.count] = netip.AddrFrom4(b)
	c.count++
}

// embeddedAt takes the IPv4 address out of b at a prefix length of RFC 6052 §2.2; octet 8 is skipped.
func embeddedAt(b [16]byte, bits int) (v4 [4]byte) {
	at := bits / 8
	for i := range v4 {
		if at == 8 {
			at++
		}
		v4[i] = b[at]
		at++
	}
	return v4
}
