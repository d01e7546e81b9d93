package nattest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemGateway is the next hop of the IPv4 default route, not valid if there is none.
func systemGateway() netip.Addr {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return netip.Addr{}
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 0; n < 1000 && lines.Scan(); n++ {
		words := strings.Fields(lines.Text()) // Iface Destination Gateway Flags RefCnt Use Metric Mask …
		if len(words) < 8 || words[1] != "00000000" || words[7] != "00000000" {
			continue
		}
		if b, err := hex.DecodeString(words[2]); err == nil && len(b) == 4 {
			var a [4]byte
			binary.LittleEndian.PutUint32(a[:], binary.BigEndian.Uint32(b)) // the number is host-endian
			if addr := netip.AddrFrom4(a); !addr.IsUnspecified() {
				return addr
			}
		}
	}
	return netip.Addr{}
}

const hopPoll = 5 * time.Millisecond

// systemHop sends a packet that dies after so many hops, and waits until ctx ends for the router's report. IP_RECVERR shows it to
// programs without privileges.
func systemHop(ctx context.Context, to netip.AddrPort, payload []byte, hops int) (netip.Addr, error) {
	family, level, recverr, ttl := unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL
	if to.Addr().Is6() {
		family, level, recverr, ttl = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, level, recverr, 1); err != nil {
		return netip.Addr{}, err
	}
	if err := unix.SetsockoptInt(fd, level, ttl, hops); err != nil {
		return netip.Addr{}, err
	}
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: as4(to.Addr())}
	if to.Addr().Is6() {
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	if err := unix.Sendto(fd, payload, 0, sa); err != nil {
		return netip.Addr{}, err
	}
	oob, b := make([]byte, 512), make([]byte, 512)
	for ctx.Err() == nil {
		_, n, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_ERRQUEUE)
		if err != nil {
			if _, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT); err == nil { // the packet reached the server
				return to.Addr(), nil
			}
			select {
			case <-time.After(hopPoll):
			case <-ctx.Done():
			}
			continue
		}
		if from, ok := offender(oob[:n]); ok {
			return from, nil
		}
	}
	return netip.Addr{}, ctx.Err()
}

func as4(a netip.Addr) (out [4]byte) {
	if a.Is4() {
		out = a.As4()
	}
	return out
}

// offender reads who reported Time Exceeded from the control messages of an error.
func offender(oob []byte) (netip.Addr, bool) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	const fixed = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	for _, m := range list {
		if len(m.Data) < fixed+8 {
			continue
		}
		origin, typ := m.Data[4], m.Data[5]
		sa := m.Data[fixed:] // the offender: a sockaddr
		switch {
		case origin == unix.SO_EE_ORIGIN_ICMP && typ == 11:
			return netip.AddrFrom4([4]byte(sa[4:8])), true
		case origin == unix.SO_EE_ORIGIN_ICMP6 && typ == 3 && len(sa) >= 24:
			return netip.AddrFrom16([16]byte(sa[8:24])), true
		}
	}
	return netip.Addr{}, false
}

// dontFragment makes a socket send with DF whatever the path MTU is believed to be.
func dontFragment(c net.PacketConn) error {
	return control(c, func(fd uintptr) error {
		six := addrPort(c.LocalAddr()).Addr().Is6()
		if six {
			return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		}
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
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
