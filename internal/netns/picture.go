//go:build linux

package netns

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// conntrackLines bounds how many known flows of each host a picture shows.
const conntrackLines = 40

// Picture describes the lab as the kernel sees it now: hosts, interfaces, addresses, routes, rules with counters, known flows, and
// the counters of userspace links and NATs.
func (l *Lab) Picture() string {
	var b strings.Builder
	for _, h := range l.hosts {
		fmt.Fprintf(&b, "host %s (nsenter --net=%s)\n", h.name, h.NetNS())
		h.describe(&b)
	}
	l.mu.Lock()
	notes := l.notes
	l.mu.Unlock()
	for _, n := range notes {
		fmt.Fprintln(&b, n())
	}
	return b.String()
}

func (h *Host) describe(b *strings.Builder) {
	links, err := h.nl.LinkList()
	if err != nil {
		fmt.Fprintf(b, "  links: %v\n", err)
	}
	names := make(map[int]string)
	for _, link := range links {
		a := link.Attrs()
		names[a.Index] = a.Name
		if a.Name == "lo" {
			continue
		}
		fmt.Fprintf(b, "  %s (%s, mtu %d, %s)", a.Name, link.Type(), a.MTU, a.OperState)
		addrs, _ := h.nl.AddrList(link, netlink.FAMILY_ALL)
		for _, ip := range addrs {
			fmt.Fprintf(b, " %s", ip.IPNet)
		}
		if s := a.Statistics; s != nil {
			fmt.Fprintf(b, "  rx %d (%d dropped) tx %d (%d dropped)", s.RxPackets, s.RxDropped, s.TxPackets, s.TxDropped)
		}
		b.WriteByte('\n')
	}
	routes, _ := h.nl.RouteList(nil, netlink.FAMILY_ALL)
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast() {
			continue
		}
		fmt.Fprintf(b, "  route %v via %v dev %s\n", r.Dst, r.Gw, names[r.LinkIndex])
	}
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	if rules, err := h.nft(ctx, "", "list", "ruleset"); err != nil {
		fmt.Fprintf(b, "  rules: %v\n", err)
	} else if len(rules) > 0 {
		fmt.Fprintln(b, indent(string(rules)))
	}
	var flows []byte
	h.Do(func() (err error) { // some kernels lack the file; the picture then goes without
		flows, err = os.ReadFile("/proc/thread-self/net/nf_conntrack")
		return err
	})
	lines := strings.SplitAfter(string(flows), "\n")
	if more := len(lines) - conntrackLines; more > 0 {
		lines = append(lines[:conntrackLines], fmt.Sprintf("… %d more\n", more))
	}
	if len(flows) > 0 {
		fmt.Fprintln(b, indent("flows:\n"+strings.Join(lines, "")))
	}
}
