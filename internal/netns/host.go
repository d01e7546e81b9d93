//go:build linux

package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is one namespace. Do, ListenPacket, Dial, Listen and Command are safe for concurrent use; the rest builds.
type Host struct {
	lab  *Lab
	name string
	ns   int // descriptor of the namespace, open as long as the lab
	nl   *netlink.Handle
	next int // number of the next interface without a name
	ips  []netip.Addr
}

// Sysctls of every new host: addresses are usable at once, and an ICMP error is never held back by a rate limit.
var hostSysctls = [][2]string{
	{"net.ipv6.conf.default.accept_dad", "0"},
	{"net.ipv6.conf.default.dad_transmits", "0"},
	{"net.ipv6.conf.default.accept_ra", "0"},
	{"net.ipv6.conf.default.router_solicitations", "0"},
	{"net.ipv4.icmp_ratelimit", "0"},
	{"net.ipv6.icmp.ratelimit", "0"},
}

// Host adds a host with its loopback up. The name is for people: pictures and messages.
func (l *Lab) Host(name string) *Host {
	l.tb.Helper()
	ns, err := newNamespace()
	l.must(err, "host %s", name)
	nl, err := netlink.NewHandleAt(vnetns.NsHandle(ns), unix.NETLINK_ROUTE)
	if err != nil {
		unix.Close(ns)
		l.must(err, "host %s: netlink", name)
	}
	h := &Host{lab: l, name: name, ns: ns, nl: nl}
	l.hosts = append(l.hosts, h)
	l.must(h.setSysctls(hostSysctls), "host %s", name)
	lo, err := nl.LinkByName("lo")
	l.must(err, "host %s: lo", name)
	l.must(nl.LinkSetUp(lo), "host %s: lo up", name)
	return h
}

// Router adds a host that forwards IPv4 and IPv6.
func (l *Lab) Router(name string) *Host {
	l.tb.Helper()
	h := l.Host(name)
	h.Sysctl("net.ipv4.ip_forward", "1")
	h.Sysctl("net.ipv6.conf.all.forwarding", "1")
	return h
}

// Name is the name that Host got.
func (h *Host) Name() string { return h.name }

// IPs are the host's addresses in the order they were added, without loopback and what the kernel added itself.
func (h *Host) IPs() []netip.Addr { return h.ips }

// NetNS is a path that opens the namespace as long as the lab lives, for tools such as nsenter.
func (h *Host) NetNS() string { return nsPath(h.ns) }

// Do runs f on an OS thread inside the namespace and returns its error. Goroutines that f starts run outside. What f opens
// (sockets, netlink handles, eBPF links) belongs to the namespace for good.
func (h *Host) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: enter %s: %w", h.name, err)
		}
		return nil
	}, f)
}

// Sysctl sets a key, such as net.ipv4.conf.all.rp_filter. A dot inside an interface's name is written as a slash.
func (h *Host) Sysctl(key, value string) {
	h.lab.tb.Helper()
	h.lab.must(h.setSysctls([][2]string{{key, value}}), "host %s", h.name)
}

func (h *Host) setSysctls(pairs [][2]string) error {
	return h.Do(func() error {
		for _, p := range pairs {
			path := "/proc/sys/" + strings.NewReplacer(".", "/", "/", ".").Replace(p[0])
			err := os.WriteFile(path, []byte(p[1]), 0)
			if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(p[0], "net.ipv6.") {
				continue // a kernel without IPv6: what needs it fails when it adds an address
			}
			if err != nil {
				return fmt.Errorf("sysctl %s=%s: %w", p[0], p[1], err)
			}
		}
		return nil
	})
}

// ConntrackUDPTimeouts sets how many seconds an unanswered and an answered UDP flow stay known to the host's NAT or firewall.
func (h *Host) ConntrackUDPTimeouts(unanswered, stream int) {
	h.lab.tb.Helper()
	h.Sysctl("net.netfilter.nf_conntrack_udp_timeout", fmt.Sprint(unanswered))
	h.Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", fmt.Sprint(stream))
}

// NFT loads rules in nft's own language. Blocks end with newlines: nft 1.0.6 does not take two on one line.
func (h *Host) NFT(ctx context.Context, rules string) {
	h.lab.tb.Helper()
	_, err := h.nft(ctx, rules, "-f", "-")
	h.lab.must(err, "host %s: nft\n%s", h.name, indent(rules))
}

func (h *Host) nft(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	err := h.Do(func() error {
		cmd := exec.CommandContext(ctx, "nft", args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
		return cmd.Run()
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), nil
}

// Counter reads a named counter of the host's rules, whichever table it is in.
func (h *Host) Counter(ctx context.Context, name string) (packets, bytes uint64, err error) {
	out, err := h.nft(ctx, "", "-j", "list", "counters")
	if err != nil {
		return 0, 0, fmt.Errorf("netns: counters of %s: %w", h.name, err)
	}
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name           string
				Packets, Bytes uint64
			}
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return 0, 0, fmt.Errorf("netns: counters of %s: %w", h.name, err)
	}
	for _, e := range list.Nftables {
		if e.Counter != nil && e.Counter.Name == name {
			return e.Counter.Packets, e.Counter.Bytes, nil
		}
	}
	return 0, 0, fmt.Errorf("netns: %s has no counter %q", h.name, name)
}

// Addr adds an address with its prefix length to an interface; for IPv6 it is usable at once.
func (h *Host) Addr(iface, prefix string) {
	h.lab.tb.Helper()
	p, err := netip.ParsePrefix(prefix)
	h.lab.must(err, "host %s: address of %s", h.name, iface)
	link, err := h.nl.LinkByName(iface)
	h.lab.must(err, "host %s: interface %s", h.name, iface)
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	h.lab.must(h.nl.AddrAdd(link, a), "host %s: add %s to %s", h.name, prefix, iface)
	h.ips = append(h.ips, p.Addr())
}

// Route sends what goes to dst ("default", "default6" or a prefix) to the next hop via.
func (h *Host) Route(dst, via string) {
	h.lab.tb.Helper()
	hop, err := netip.ParseAddr(via)
	h.lab.must(err, "host %s: route to %s", h.name, dst)
	h.lab.must(h.nl.RouteAdd(&netlink.Route{Dst: h.destination(dst), Gw: hop.AsSlice()}), "host %s: route %s via %s", h.name, dst, via)
}

// RouteDev sends what goes to dst out of an interface: to its neighbour, or, if via is not empty, to that next hop even when it
// is on no prefix of the interface.
func (h *Host) RouteDev(dst, via, iface string) {
	h.lab.tb.Helper()
	link, err := h.nl.LinkByName(iface)
	h.lab.must(err, "host %s: interface %s", h.name, iface)
	r := &netlink.Route{Dst: h.destination(dst), LinkIndex: link.Attrs().Index}
	if via == "" {
		r.Scope = netlink.SCOPE_LINK
	} else {
		hop, err := netip.ParseAddr(via)
		h.lab.must(err, "host %s: route to %s", h.name, dst)
		r.Gw, r.Flags = hop.AsSlice(), int(netlink.FLAG_ONLINK)
	}
	h.lab.must(h.nl.RouteAdd(r), "host %s: route %s via %s dev %s", h.name, dst, via, iface)
}

func (h *Host) destination(dst string) *net.IPNet {
	h.lab.tb.Helper()
	switch dst {
	case "default":
		dst = "0.0.0.0/0"
	case "default6":
		dst = "::/0"
	}
	p, err := netip.ParsePrefix(dst)
	h.lab.must(err, "host %s: route to %s", h.name, dst)
	return ipNet(p.Masked())
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
