//go:build linux

package netns

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firstIndex is above what the kernel numbers by itself in a host of a lab.
const firstIndex = 100_000

// End is one end of a link: a host, the name of the interface there, its addresses.
type End struct {
	host  *Host
	name  string
	addrs []string
	mtu   int
}

// At begins the description of a link's end: addresses with prefix lengths, such as 10.0.0.2/24 and 2001:db8:1::2/64.
func (h *Host) At(addrs ...string) End { return End{host: h, addrs: addrs} }

// Named sets the interface's name; without it, interfaces are eth0, eth1, … in the order they are made.
func (e End) Named(name string) End { e.name = name; return e }

// MTU sets the interface's MTU in bytes; without it, it is 1500.
func (e End) MTU(bytes int) End { e.mtu = bytes; return e }

func (e *End) complete() {
	if e.name == "" {
		e.name = fmt.Sprintf("eth%d", e.host.next)
		e.host.next++
	}
	if e.mtu == 0 {
		e.mtu = 1500
	}
	for i, a := range e.addrs { // an address without a length is the address alone
		if ip, err := netip.ParseAddr(a); err == nil {
			e.addrs[i] = netip.PrefixFrom(ip, ip.BitLen()).String()
		}
	}
}

// Link joins two hosts with a veth pair.
func (l *Lab) Link(a, b End) {
	l.tb.Helper()
	a.addrs, b.addrs = append([]string(nil), a.addrs...), append([]string(nil), b.addrs...)
	a.complete()
	b.complete()
	// Unlike the peer's, this end's index is a large number: when both ends have one index, the kernel takes them for one interface,
	// its news of the carrier waits up to a second in line, and so long no packet passes.
	l.nextIndex++
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.name, MTU: a.mtu, Index: firstIndex + l.nextIndex},
		PeerName:      b.name,
		PeerMTU:       uint32(b.mtu),
		PeerNamespace: netlink.NsFd(b.host.ns),
	}
	l.must(a.host.nl.LinkAdd(veth), "link %s:%s to %s:%s", a.host.name, a.name, b.host.name, b.name)
	a.up()
	b.up()
	a.host.awaitReady(a.name)
	b.host.awaitReady(b.name)
}

func (e End) up() {
	h := e.host
	h.lab.tb.Helper()
	link, err := h.nl.LinkByName(e.name)
	h.lab.must(err, "host %s: interface %s", h.name, e.name)
	h.lab.must(h.nl.LinkSetUp(link), "host %s: %s up", h.name, e.name)
	for _, a := range e.addrs {
		h.Addr(e.name, a)
	}
}

// readyTimeout is for a kernel that is busy dismantling many namespaces; otherwise an interface is ready in a millisecond.
const readyTimeout = 20 * time.Second

// awaitReady waits until an interface passes packets and answers for its addresses. Workers of the kernel bring up the carrier and
// join the groups of neighbour discovery some time after the calls that asked for it; a first packet before that costs a second.
func (h *Host) awaitReady(iface string) {
	h.lab.tb.Helper()
	for begin := time.Now(); ; time.Sleep(500 * time.Microsecond) {
		err := h.ready(iface)
		if err == nil {
			return
		}
		if time.Since(begin) > readyTimeout {
			h.lab.tb.Fatalf("netns: host %s: interface %s is not ready after %v: %v", h.name, iface, readyTimeout, err)
		}
	}
}

func (h *Host) ready(iface string) error {
	link, err := h.nl.LinkByName(iface)
	if err != nil {
		return err
	}
	if s := link.Attrs().OperState; s != netlink.OperUp {
		return fmt.Errorf("its state is %v", s)
	}
	addrs, err := h.nl.AddrList(link, netlink.FAMILY_V6)
	if err != nil || len(addrs) == 0 {
		return err
	}
	var joined []byte
	err = h.Do(func() (err error) {
		joined, err = os.ReadFile("/proc/thread-self/net/igmp6")
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range addrs {
		// A line is: index, interface, group in hexadecimal, …; the group of an address is ff02::1:ff and its last three bytes.
		group := fmt.Sprintf("ff0200000000000000000001ff%x", []byte(a.IP[13:]))
		found := false
		for line := range strings.Lines(string(joined)) {
			f := strings.Fields(line)
			found = found || len(f) > 2 && f[1] == iface && f[2] == group
		}
		if !found {
			return fmt.Errorf("it has not joined the solicited-node group of %v", a.IP)
		}
	}
	return nil
}

// Switch is a bridge in a namespace of its own.
type Switch struct {
	host   *Host
	bridge netlink.Link
}

// Switch adds a bridge and joins ends to it.
func (l *Lab) Switch(name string, ends ...End) *Switch {
	l.tb.Helper()
	h := l.Host(name)
	h.Sysctl("net.ipv6.conf.default.disable_ipv6", "1") // the switch itself has no addresses
	snooping := false                                   // it would lose IPv6 neighbour discovery: nobody queries here
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bridge"
	l.must(h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}), "switch %s", name)
	bridge, err := h.nl.LinkByName("bridge")
	l.must(err, "switch %s", name)
	l.must(h.nl.LinkSetUp(bridge), "switch %s up", name)
	s := &Switch{host: h, bridge: bridge}
	for _, e := range ends {
		s.Attach(e)
	}
	return s
}

// Attach joins one more end to the switch.
func (s *Switch) Attach(e End) {
	l := s.host.lab
	l.tb.Helper()
	port := s.host.At().Named(fmt.Sprintf("port%d", s.host.next)).MTU(e.mtu)
	s.host.next++
	l.Link(e, port)
	link, err := s.host.nl.LinkByName(port.name)
	l.must(err, "switch %s", s.host.name)
	l.must(s.host.nl.LinkSetMaster(link, s.bridge), "switch %s: attach %s", s.host.name, e.host.name)
	s.host.awaitReady("bridge")
}

// Host is the switch's namespace, for rules in nft's bridge family.
func (s *Switch) Host() *Host { return s.host }

// DisableOffload makes an interface send finished packets: checksums filled in, segments of at most the MTU. Between two ends of
// a veth pair the kernel otherwise leaves both to a card that does not exist, which only matters to what looks at the packets'
// bytes: AF_PACKET sockets, XDP programs.
func (h *Host) DisableOffload(iface string) {
	h.lab.tb.Helper()
	h.lab.must(h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// Segmentation depends on checksums, so it goes first.
		for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO, unix.ETHTOOL_STXCSUM} {
			value := struct{ cmd, data uint32 }{cmd: command}
			req := struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte // the kernel copies a whole ifreq
			}{data: unsafe.Pointer(&value)}
			copy(req.name[:unix.IFNAMSIZ-1], iface)
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
				return fmt.Errorf("ethtool command %#x: %w", command, errno)
			}
		}
		return nil
	}), "host %s: offloads of %s", h.name, iface)
}
