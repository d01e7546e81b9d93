package dataplane

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr is a struct sockaddr_in or sockaddr_in6 as the kernel reads and writes it.
type sockaddr [unix.SizeofSockaddrInet6]byte

// put writes a in the family of the socket, an IPv4 address on an IPv6 socket in its mapped form, and returns the size in
// bytes. scope is the interface of a link-local address.
func (s *sockaddr) put(a netip.AddrPort, inet6 bool, scope int) uint32 {
	binary.BigEndian.PutUint16(s[2:], a.Port())
	if !inet6 {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		ip := a.Addr().As4()
		*(*[4]byte)(s[4:]) = ip
		*(*[20]byte)(s[8:]) = [20]byte{} // of an address before, which regroup would take for a difference
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	*(*[4]byte)(s[4:]) = [4]byte{}
	*(*[16]byte)(s[8:]) = a.Addr().As16()
	*(*[4]byte)(s[24:]) = [4]byte{}
	if scope != 0 && a.Addr().IsLinkLocalUnicast() {
		binary.NativeEndian.PutUint32(s[24:], uint32(scope))
	}
	return unix.SizeofSockaddrInet6
}

// get reads an address, unmapped and without a zone.
func (s *sockaddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// control is a buffer for the control messages of one datagram: packet information (40 bytes at most) or the original destination (48), and
// the drop counter (24); or packet information and the segment size (24). The kernel wants it aligned like a size_t.
type control [72 / unsafe.Sizeof(uint64(0))]uint64

const controlSize = int(unsafe.Sizeof(control{}))

func (c *control) bytes() *[controlSize]byte { return (*[controlSize]byte)(unsafe.Pointer(c)) }

// facts is what control messages say of a received datagram.
type facts struct {
	local     netip.Addr     // the address it came to, unmapped; invalid when unknown
	target    netip.AddrPort // the address and port it came to, where the socket asks for both
	ifIndex   int
	drops     uint32 // datagrams that this socket has lost so far
	saysDrops bool
}

// parse reads the first size bytes.
func (c *control) parse(size int) (f facts) {
	b := c.bytes()[:min(size, controlSize)]
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(b) {
			return f
		}
		data := b[unix.CmsgLen(0):n]
		switch {
		case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// ipi_spec_dst, not ipi_addr: of a broadcast it is the address to answer from.
			f.local = netip.AddrFrom4([4]byte(data[4:8]))
			f.ifIndex = int(int32(binary.NativeEndian.Uint32(data)))
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			f.local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
			f.ifIndex = int(int32(binary.NativeEndian.Uint32(data[16:])))
		case h.Level == unix.SOL_IP && h.Type == unix.IP_ORIGDSTADDR && len(data) >= unix.SizeofSockaddrInet4:
			f.target = netip.AddrPortFrom(netip.AddrFrom4([4]byte(data[4:8])), binary.BigEndian.Uint16(data[2:]))
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_ORIGDSTADDR && len(data) >= unix.SizeofSockaddrInet6:
			f.target = netip.AddrPortFrom(netip.AddrFrom16([16]byte(data[8:24])), binary.BigEndian.Uint16(data[2:]))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			f.drops, f.saysDrops = binary.NativeEndian.Uint32(data), true
		}
		n = unix.CmsgSpace(n - unix.CmsgLen(0))
		if n >= len(b) {
			return f
		}
		b = b[n:]
	}
	return f
}

// putSource makes the datagram leave from local, and returns the size in bytes. Which interface it leaves by is the
// routing table's choice but for link-local addresses, which mean nothing without one.
func (c *control) putSource(local netip.Addr, inet6 bool, ifIndex int) int {
	b := c.bytes()
	h := (*unix.Cmsghdr)(unsafe.Pointer(c))
	if !inet6 {
		h.Level, h.Type = unix.SOL_IP, unix.IP_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		data := b[unix.CmsgLen(0):]
		clear(data[:unix.SizeofInet4Pktinfo])
		ip := local.As4()
		copy(data[4:8], ip[:])
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	h.Level, h.Type = unix.SOL_IPV6, unix.IPV6_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	data := b[unix.CmsgLen(0):]
	ip := local.As16()
	copy(data[:16], ip[:])
	if !local.IsLinkLocalUnicast() {
		ifIndex = 0
	}
	binary.NativeEndian.PutUint32(data[16:], uint32(ifIndex))
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// putSegment appends to the first at bytes that the kernel is to cut the data into datagrams of size bytes.
func (c *control) putSegment(at, size int) int {
	b := c.bytes()[at:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return at + unix.CmsgSpace(2)
}
