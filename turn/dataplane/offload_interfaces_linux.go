package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// interfaces is where the program runs, and how frames leave.
type interfaces struct {
	all  []*attachment
	ways map[uint32]offloadWay // as the program has them
	at   map[offloadPlace]offloadMAC

	routes    []netlink.Route // as they were at routesAt, with so many links
	routesAt  time.Time
	linkCount int
}

// attachment is the program at one interface.
type attachment struct {
	index  int
	name   string
	native bool
	why    string // not attached
	link   link.Link
}

// What follows has the layout of the structures of bpf/offload.c.

type offloadPlace struct {
	iface          uint32
	vlan, protocol offloadPort
}

type offloadMAC [8]byte

type offloadWay struct {
	device         uint32
	vlan, protocol offloadPort
	same, other    uint8
	_              [2]uint8
}

// vlanTag is the protocol of a tag that has been asked for by none.
var vlanTag = offloadPort{0x81, 0x00}

// forwardFromHere lets the program ask for routes. The kernel answers it only for an interface that forwards; asked for the loopback,
// it answers as for what this host sends, and the host forwards nothing for anybody.
func forwardFromHere(cfg *Config) error {
	families := map[string]bool{}
	for _, r := range cfg.Relays {
		families[familyName(r.Local.Is6())] = true
	}
	for _, l := range cfg.Listeners {
		families[familyName(l.Address.Addr().Is6())] = true
	}
	for f := range families {
		path := "/proc/sys/net/" + f + "/conf/lo/forwarding"
		b, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(b)) != "0" || f == "ipv6" && errors.Is(err, os.ErrNotExist) { // or a system without IPv6
			continue
		}
		if err == nil {
			err = os.WriteFile(path, []byte("1"), 0)
		}
		if err != nil {
			return fmt.Errorf("it needs net.%s.conf.lo.forwarding = 1: %v", f, errors.Unwrap(err))
		}
	}
	return nil
}

func familyName(inet6 bool) string {
	if inet6 {
		return "ipv6"
	}
	return "ipv4"
}

// refresh attaches the program to the interfaces that there are, and tells it how they look now.
func (o *offload) refresh() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("the interfaces: %v", err)
	}
	byIndex := make(map[int]netlink.Link, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	wanted, err := o.wanted(links, byIndex)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	n := &o.interfaces
	n.all = slices.DeleteFunc(n.all, func(a *attachment) bool {
		gone := wanted[a.index] == nil // or named, and not there
		if gone && a.link != nil {
			_ = a.link.Close()
		}
		return gone
	})
	for index, l := range wanted {
		at := slices.IndexFunc(n.all, func(a *attachment) bool { return a.index == index })
		if at < 0 {
			n.all = append(n.all, &attachment{index: index, why: "not tried"})
			at = len(n.all) - 1
		}
		a := n.all[at]
		a.name = l.Attrs().Name
		if a.link == nil {
			a.attach(o.programs.Programs["offload"], o.mode, l.Type() == "veth")
		}
	}
	for _, name := range o.named {
		if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == name }) {
			n.all = append(n.all, &attachment{name: name, why: "there is no such interface"})
		}
	}
	o.runs = slices.ContainsFunc(n.all, func(a *attachment) bool { return a.why == "" })
	return o.describe(links)
}

// cables are the kinds of interfaces that routes may choose: a bridge, say, has the program on its ports if at all, and they must be named.
var cables = []string{"device", "veth", "vlan", "bond", "team"}

// wanted is the interfaces that the program should be at: those that are named, or those that lead to clients and peers. Of a VLAN it is the
// interface below.
func (o *offload) wanted(links []netlink.Link, byIndex map[int]netlink.Link) (map[int]netlink.Link, error) {
	wanted := make(map[int]netlink.Link)
	want := func(index int) {
		l := byIndex[index]
		for depth := 0; l != nil && l.Type() == "vlan" && depth < 4; depth++ {
			l = byIndex[l.Attrs().ParentIndex]
		}
		if l != nil && l.Attrs().Flags&net.FlagLoopback == 0 && l.Attrs().Flags&net.FlagUp != 0 {
			wanted[l.Attrs().Index] = l
		}
	}
	if len(o.named) > 0 {
		for _, l := range links {
			if slices.Contains(o.named, l.Attrs().Name) {
				want(l.Attrs().Index)
			}
		}
		return wanted, nil
	}
	ours, everywhere := o.addresses()
	if len(ours) == 0 && !everywhere {
		return wanted, nil
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("the addresses of the interfaces: %v", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ours[ip.Unmap()] {
			want(a.LinkIndex)
		}
	}
	if len(wanted) == 0 && !everywhere {
		return wanted, nil // all is on the loopback
	}
	// A router may have a million of them.
	if n := &o.interfaces; len(links) != n.linkCount || time.Since(n.routesAt) > routesEvery {
		if n.routes, err = netlink.RouteList(nil, netlink.FAMILY_ALL); err != nil {
			return nil, fmt.Errorf("the routes: %v", err)
		}
		n.linkCount, n.routesAt = len(links), time.Now()
	}
	for _, r := range o.interfaces.routes {
		byDefault := r.Dst == nil || r.Dst.IP.IsUnspecified()
		if r.Type != unix.RTN_UNICAST || !byDefault && !everywhere {
			continue
		}
		for _, hop := range append([]*netlink.NexthopInfo{{LinkIndex: r.LinkIndex}}, r.MultiPath...) {
			if l := byIndex[hop.LinkIndex]; l != nil && slices.Contains(cables, l.Type()) {
				want(hop.LinkIndex)
			}
		}
	}
	return wanted, nil
}

// addresses is the addresses that packets come to, the loopback's apart, and whether clients may come to any address.
func (o *offload) addresses() (ours map[netip.Addr]bool, everywhere bool) {
	ours = make(map[netip.Addr]bool)
	for _, r := range o.cfg.Relays {
		if !r.Local.IsLoopback() {
			ours[r.Local.WithZone("")] = true
		}
	}
	reachable := len(ours) > 0
	for _, l := range o.cfg.Listeners {
		switch a := l.Address.Addr(); {
		case l.Network != "udp" || a.IsLoopback():
		case a.IsUnspecified():
			everywhere = reachable // with relays on the loopback this is a laboratory on one machine
		default:
			ours[a.WithZone("").Unmap()] = true
		}
	}
	return ours, everywhere
}

func (a *attachment) attach(program *ebpf.Program, mode OffloadMode, veth bool) {
	if features, err := xdpFeatures(a.index); veth && mode != OffloadGeneric && (err != nil || features&xdpXmit == 0) {
		a.why = "the far end of the veth takes nothing from a program: turn on GRO there (ethtool -K INTERFACE gro on)"
		return // a program would cost, and could send nothing
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: a.index, Flags: link.XDPDriverMode})
	if err == nil {
		a.link, a.native, a.why = l, true, ""
		return
	}
	if mode == OffloadGeneric {
		if l, e := link.AttachXDP(link.XDPOptions{Program: program, Interface: a.index, Flags: link.XDPGenericMode}); e == nil {
			a.link, a.native, a.why = l, false, ""
			return
		}
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		a.why = "its driver has no XDP (turn.offload: generic works, and saves less)"
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		a.why = "another XDP program is there"
	default:
		a.why = oneLine(err)
	}
}

// describe writes what the program must know of the interfaces.
func (o *offload) describe(links []netlink.Link) error {
	n := &o.interfaces
	ways, at := make(map[uint32]offloadWay), make(map[offloadPlace]offloadMAC)
	for _, a := range n.all {
		if a.link == nil {
			continue
		}
		same, other := o.exits(a, links)
		for _, l := range links {
			attrs := l.Attrs()
			w := offloadWay{device: uint32(a.index), same: same, other: other}
			place := offloadPlace{iface: uint32(a.index)}
			if v, ok := l.(*netlink.Vlan); ok && attrs.ParentIndex == a.index {
				w.protocol = vlanTag
				if v.VlanProtocol == netlink.VLAN_PROTOCOL_8021AD {
					w.protocol = offloadPort{0x88, 0xA8}
				}
				w.vlan = wirePort(uint16(v.VlanId))
				place.vlan, place.protocol = w.vlan, w.protocol
			} else if attrs.Index != a.index {
				continue
			}
			if attrs.Flags&net.FlagUp == 0 {
				continue
			}
			var mac offloadMAC
			if copy(mac[:], attrs.HardwareAddr) != 6 {
				continue // a tunnel without Ethernet
			}
			mac[6] = 1 // known
			ways[uint32(attrs.Index)], at[place] = w, mac
		}
	}
	if err := replace(o.programs.Maps["places"], n.at, at); err != nil {
		return err
	}
	for place := range n.at { // those that are gone as well
		if err := o.near(place, at[place]); err != nil {
			return err
		}
	}
	for place, mac := range at {
		if err := o.near(place, mac); err != nil {
			return err
		}
	}
	if err := replace(o.programs.Maps["ways"], n.ways, ways); err != nil {
		return err
	}
	n.ways, n.at = ways, at
	return nil
}

// smallIndex is SMALL_INDEX of bpf/offload.c.
const smallIndex = 256

// near writes the MAC of an interface where the program finds it without a hash.
func (o *offload) near(p offloadPlace, mac offloadMAC) error {
	if p.iface >= smallIndex || p.protocol != (offloadPort{}) {
		return nil
	}
	return o.programs.Maps["near"].Put(p.iface, bytesOf(&mac))
}

// replace makes a map of the kernel what now is; it was before.
func replace[K, V comparable](m *ebpf.Map, before, now map[K]V) error {
	for k := range before {
		if _, ok := now[k]; !ok {
			_ = m.Delete(bytesOf(&k))
		}
	}
	for k, v := range now {
		if old, ok := before[k]; ok && old == v {
			continue
		}
		if err := m.Put(bytesOf(&k), bytesOf(&v)); err != nil {
			return fmt.Errorf("tell the program of the interfaces: %w", err)
		}
	}
	return nil
}

// Features of an interface, of linux/netdev.h.
const (
	xdpBasic   = 1 << 0
	xdpXmit    = 1 << 2 // takes frames from programs of other interfaces
	netdevGet  = 1
	attrIndex  = 1
	attrXDP    = 3
	netdevName = "netdev"
)

// exits says whether frames may leave by the interface that they came in by, and by this one if they came in by another. What a driver cannot
// send it drops in silence, so it must have said that it can.
func (o *offload) exits(a *attachment, links []netlink.Link) (same, other uint8) {
	if !a.native {
		return 1, 1 // the kernel's own way out
	}
	if features, err := xdpFeatures(a.index); err == nil && features&xdpXmit != 0 {
		return 1, 1
	}
	at := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == a.index })
	if at < 0 || links[at].Type() == "veth" { // it sends, either way, only what the far end can take
		return 0, 0
	}
	return 1, 0
}

// xdpFeatures asks the kernel, which tells since Linux 6.3.
func xdpFeatures(index int) (uint64, error) {
	family, err := netlink.GenlFamilyGet(netdevName)
	if err != nil {
		return 0, err
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	// nl.Genlmsg leaves the reserved bytes of the header to chance, which this family refuses.
	req.AddRawData(append([]byte{netdevGet, 1, 0, 0}, nl.NewRtAttr(attrIndex, nl.Uint32Attr(uint32(index))).Serialize()...))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, err
		}
		for _, x := range attrs {
			if x.Attr.Type == attrXDP && len(x.Value) == 8 {
				return binary.NativeEndian.Uint64(x.Value), nil
			}
		}
	}
	return 0, errors.New("the kernel does not say")
}

// touch has the kernel ask neighbours again that it has not heard of for long. It does so by itself for what it sends, but it does not
// see what the program sends. Only stale entries are touched: the same request takes from a permanent one what makes it permanent.
func touch(hops map[neighbour]bool) {
	ifaces := make(map[int]bool)
	for h := range hops {
		ifaces[h.iface] = true
	}
	for iface := range ifaces {
		list, err := netlink.NeighList(iface, netlink.FAMILY_ALL)
		if err != nil {
			continue
		}
		for _, n := range list {
			addr, _ := netip.AddrFromSlice(n.IP)
			if n.State != netlink.NUD_STALE || !hops[neighbour{iface, addr.Unmap()}] {
				continue
			}
			_ = netlink.NeighSet(&netlink.Neigh{LinkIndex: iface, Family: n.Family, IP: n.IP, Flags: netlink.NTF_USE}) // one that is gone is resolved anew
		}
	}
}

func (n *interfaces) close() {
	for _, a := range n.all {
		if a.link != nil {
			_ = a.link.Close()
			a.link = nil
		}
	}
}
