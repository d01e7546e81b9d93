package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/stilenet/stile/turn"
)

// readHost reads the main routing table and the addresses.
func readHost() (*host, error) {
	h := &host{}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read the addresses: %w", err)
	}
	byLink := make(map[int][]netip.Addr)
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			h.own = append(h.own, addr.Unmap())
			byLink[a.LinkIndex] = append(byLink[a.LinkIndex], addr.Unmap())
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	best := map[bool]int{} // metric of the default route by family: true is IPv6
	for _, r := range routes {
		if r.Table != 254 || r.Type != 1 { // RT_TABLE_MAIN, RTN_UNICAST
			continue
		}
		ipv6 := r.Family == netlink.FAMILY_V6
		prefix := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if ipv6 {
			prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if r.Dst != nil {
			addr, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			if ipv6 {
				prefix = netip.PrefixFrom(addr, ones)
			} else {
				prefix = netip.PrefixFrom(addr.Unmap(), ones)
			}
		}
		hops := []struct {
			link int
			gw   []byte
		}{{r.LinkIndex, r.Gw}}
		for _, m := range r.MultiPath {
			hops = append(hops, struct {
				link int
				gw   []byte
			}{m.LinkIndex, m.Gw})
		}
		for _, hop := range hops {
			if hop.link == 0 {
				continue
			}
			gw, _ := netip.AddrFromSlice(hop.gw)
			h.routes = append(h.routes, turn.Route{Prefix: prefix, Interface: hop.link, Gateway: gw.Unmap()})
		}
		if prefix.Bits() != 0 {
			continue
		}
		if metric, ok := best[ipv6]; ok && metric <= r.Priority {
			continue
		}
		source, ok := netip.AddrFromSlice(r.Src)
		source = source.Unmap()
		for _, a := range byLink[r.LinkIndex] {
			// A unique local IPv6 address leads nowhere that a relay is for; a private IPv4 address may be translated.
			if !ok && a.Is6() == ipv6 && a.IsGlobalUnicast() && !(ipv6 && a.IsPrivate()) {
				source, ok = a, true
			}
		}
		if !ok {
			continue
		}
		best[ipv6] = r.Priority
		if ipv6 {
			h.source6 = source
		} else {
			h.source4 = source
		}
	}
	h.sort()
	return h, nil
}

// watchHost calls f, until ctx ends, a moment after routes or addresses have changed.
func watchHost(ctx context.Context, f func()) error {
	routes := make(chan netlink.RouteUpdate, 16)
	addrs := make(chan netlink.AddrUpdate, 16)
	done := make(chan struct{})
	if err := netlink.RouteSubscribe(routes, done); err != nil {
		return fmt.Errorf("watch the routes: %w", err)
	}
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		close(done)
		return fmt.Errorf("watch the addresses: %w", err)
	}
	go func() {
		defer close(done)
		settle := time.NewTimer(time.Hour)
		settle.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-routes:
				if !ok {
					return
				}
				settle.Reset(hostSettles)
			case _, ok := <-addrs:
				if !ok {
					return
				}
				settle.Reset(hostSettles)
			case <-settle.C:
				f()
			}
		}
	}()
	return nil
}

// hostSettles is how long a change of routes or addresses may have followers that are judged with it.
const hostSettles = 300 * time.Millisecond
