package nattest

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Socket options of Windows (ws2ipdef.h).
const (
	ipDontFragment   = 14
	ipv6DontFragment = 14
)

const maxAdapterBytes = 1 << 20

// systemGateway is the first IPv4 gateway of an adapter that is up, not valid if there is none.
func systemGateway() netip.Addr {
	size := uint32(16 << 10)
	for size <= maxAdapterBytes {
		b := make([]byte, size)
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&b[0]))
		err := windows.GetAdaptersAddresses(windows.AF_INET, windows.GAA_FLAG_INCLUDE_GATEWAYS, 0, first, &size)
		if err == windows.ERROR_BUFFER_OVERFLOW {
			size *= 2
			continue
		}
		if err != nil {
			return netip.Addr{}
		}
		for a := first; a != nil; a = a.Next {
			if a.OperStatus != windows.IfOperStatusUp {
				continue
			}
			for g := a.FirstGatewayAddress; g != nil; g = g.Next {
				if ip, ok := netip.AddrFromSlice(g.Address.IP()); ok && ip.Unmap().Is4() {
					return ip.Unmap()
				}
			}
		}
		break
	}
	return netip.Addr{}
}

func systemHop(context.Context, netip.AddrPort, []byte, int) (netip.Addr, error) {
	return netip.Addr{}, errHops
}

func dontFragment(c net.PacketConn) error {
	return control(c, func(fd uintptr) error {
		if addrPort(c.LocalAddr()).Addr().Is6() {
			return windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, ipv6DontFragment, 1)
		}
		return windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IP, ipDontFragment, 1)
	})
}

func shareAddress(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) {
		err = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
	}); e != nil {
		return e
	}
	return err
}
