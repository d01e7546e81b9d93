package nattest

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// systemGateway is the next hop of the IPv4 default route, not valid if there is none.
func systemGateway() netip.Addr {
	rib, err := route.FetchRIB(unix.AF_INET, route.RIBTypeRoute, 0)
	if err != nil {
		return netip.Addr{}
	}
	list, err := route.ParseRIB(route.RIBTypeRoute, rib)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range list {
		r, ok := m.(*route.RouteMessage)
		if !ok || len(r.Addrs) <= unix.RTAX_GATEWAY || r.Flags&unix.RTF_GATEWAY == 0 {
			continue
		}
		dst, ok := r.Addrs[unix.RTAX_DST].(*route.Inet4Addr)
		if !ok || dst.IP != [4]byte{} {
			continue
		}
		if hop, ok := r.Addrs[unix.RTAX_GATEWAY].(*route.Inet4Addr); ok {
			return netip.AddrFrom4(hop.IP)
		}
	}
	return netip.Addr{}
}

func systemHop(context.Context, netip.AddrPort, []byte, int) (netip.Addr, error) {
	return netip.Addr{}, errHops
}

func dontFragment(c net.PacketConn) error {
	return control(c, func(fd uintptr) error {
		if addrPort(c.LocalAddr()).Addr().Is6() {
			return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
		}
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_DONTFRAG, 1)
	})
}

func shareAddress(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	}); e != nil {
		return e
	}
	return err
}
