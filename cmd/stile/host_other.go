//go:build !linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/stilenet/stile/turn"
)

// readHost knows the on-link prefixes and the default routes only: routes to other inside networks are not read on
// this system, and the start page says so.
func readHost() (*host, error) {
	h := &host{source4: sourceFor("192.0.2.1"), source6: sourceFor("2001:db8::1")}
	if err := h.readInterfaces(); err != nil {
		return nil, err
	}
	for _, s := range []netip.Addr{h.source4, h.source6} {
		if s.IsValid() {
			h.routes = append(h.routes, turn.Route{Prefix: netip.PrefixFrom(s, 0).Masked(), Interface: h.interfaceOf(s)})
		}
	}
	h.sort()
	return h, nil
}

// readInterfaces fills in the addresses, and the on-link prefixes as routes.
func (h *host) readInterfaces() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("read the network interfaces: %w", err)
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			return fmt.Errorf("read the addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			addr = addr.Unmap()
			h.own = append(h.own, addr)
			ones, _ := n.Mask.Size()
			if p, err := addr.Prefix(ones); err == nil && i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
				h.routes = append(h.routes, turn.Route{Prefix: p, Interface: i.Index})
			}
		}
	}
	h.sort()
	return nil
}

// sourceFor asks the system which of our addresses leads to dst. Connecting a UDP socket sends nothing.
func sourceFor(dst string) netip.Addr {
	conn, err := net.Dial("udp", net.JoinHostPort(dst, "9"))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

func (h *host) interfaceOf(a netip.Addr) int {
	for _, r := range h.routes {
		if r.Prefix.Contains(a) {
			return r.Interface
		}
	}
	return 0
}

// watchHost looks once a minute.
func watchHost(ctx context.Context, f func()) error {
	go func() {
		t := time.NewTicker(time.Minute)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				f()
			}
		}
	}()
	return nil
}
