package dataplane

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// packetConn is a datagram socket that tells which local address a datagram came to, and sends from one.
type packetConn interface {
	// ReadFromTo reports local as invalid and ifIndex as 0 where the system does not tell.
	ReadFromTo(b []byte) (n int, local netip.Addr, ifIndex int, from netip.AddrPort, err error)
	WriteFrom(b []byte, local netip.Addr, to netip.AddrPort) error
	Close() error
}

// newPacketConn asks a wildcard socket of the system for the addresses; any other socket has one, or, simulated, is asked itself.
func newPacketConn(conn net.PacketConn) packetConn {
	if c, ok := conn.(simulatedConn); ok {
		return simulated{c}
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok || !addrPort(udp.LocalAddr()).Addr().IsUnspecified() {
		return oneAddress{conn}
	}
	if udp.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
		p4 := ipv4.NewPacketConn(udp)
		if p4.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true) != nil {
			return oneAddress{conn}
		}
		return &wildcard4{udp, p4}
	}
	p6 := ipv6.NewPacketConn(udp)
	if p6.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true) != nil {
		return oneAddress{conn}
	}
	return &wildcard6{udp, p6}
}

// oneAddress is a socket whose local address is the only one it has.
type oneAddress struct{ net.PacketConn }

func (c oneAddress) ReadFromTo(b []byte) (n int, local netip.Addr, ifIndex int, from netip.AddrPort, err error) {
	n, from, err = readFrom(c.PacketConn, b)
	return n, netip.Addr{}, 0, from, err
}

func (c oneAddress) WriteFrom(b []byte, _ netip.Addr, to netip.AddrPort) error {
	_, err := writeTo(c.PacketConn, b, to)
	return err
}

// simulatedConn is what a socket of the simulator has for this.
type simulatedConn interface {
	ReadFromTo(b []byte) (n int, from, to netip.AddrPort, err error)
	WriteFromTo(b []byte, from netip.Addr, to netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

type simulated struct{ simulatedConn }

func (c simulated) ReadFromTo(b []byte) (n int, local netip.Addr, ifIndex int, from netip.AddrPort, err error) {
	n, from, to, err := c.simulatedConn.ReadFromTo(b)
	return n, to.Addr(), 0, from, err
}

func (c simulated) WriteFrom(b []byte, local netip.Addr, to netip.AddrPort) error {
	_, err := c.WriteFromTo(b, local, to)
	return err
}

type wildcard4 struct {
	*net.UDPConn
	p *ipv4.PacketConn
}

func (c *wildcard4) ReadFromTo(b []byte) (n int, local netip.Addr, ifIndex int, from netip.AddrPort, err error) {
	n, cm, addr, err := c.p.ReadFrom(b)
	if cm != nil {
		local, _ = netip.AddrFromSlice(cm.Dst)
		ifIndex = cm.IfIndex
	}
	return n, local.Unmap(), ifIndex, addrPort(addr), err
}

func (c *wildcard4) WriteFrom(b []byte, local netip.Addr, to netip.AddrPort) error {
	_, err := c.p.WriteTo(b, &ipv4.ControlMessage{Src: local.AsSlice()}, net.UDPAddrFromAddrPort(to))
	return err
}

type wildcard6 struct {
	*net.UDPConn
	p *ipv6.PacketConn
}

func (c *wildcard6) ReadFromTo(b []byte) (n int, local netip.Addr, ifIndex int, from netip.AddrPort, err error) {
	n, cm, addr, err := c.p.ReadFrom(b)
	if cm != nil {
		local, _ = netip.AddrFromSlice(cm.Dst)
		ifIndex = cm.IfIndex
	}
	return n, local.Unmap(), ifIndex, addrPort(addr), err
}

func (c *wildcard6) WriteFrom(b []byte, local netip.Addr, to netip.AddrPort) error {
	_, err := c.p.WriteTo(b, &ipv6.ControlMessage{Src: local.AsSlice()}, net.UDPAddrFromAddrPort(to))
	return err
}

// readFrom reads without allocating where the socket can.
func readFrom(c net.PacketConn, b []byte) (int, netip.AddrPort, error) {
	if u, ok := c.(interface {
		ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	}); ok {
		n, from, err := u.ReadFromUDPAddrPort(b)
		return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
	}
	n, from, err := c.ReadFrom(b)
	return n, addrPort(from), err
}

func writeTo(c net.PacketConn, b []byte, to netip.AddrPort) (int, error) {
	if u, ok := c.(interface {
		WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	}); ok {
		return u.WriteToUDPAddrPort(b, to)
	}
	return c.WriteTo(b, net.UDPAddrFromAddrPort(to))
}
