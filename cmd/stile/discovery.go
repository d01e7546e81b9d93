package main

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/stilenet/stile/internal/config"
	"github.com/stilenet/stile/turn"
	"github.com/stilenet/stile/turn/dataplane"
)

// discovery adds to what the data plane listens on the sockets of NAT behaviour discovery, and says which of them are its corners.
//
// A listener for all addresses has the second one as well; beside a listener for one address the second one gets sockets of its own.
// What turn.listen has already is not opened twice.
func discovery(cfg *config.Config, h *host, relays []turn.RelayAddress, listeners []dataplane.Listener) (_ []dataplane.Listener, d [2]turn.Discovery, err error) {
	l := cfg.DiscoveryListener()
	if l == nil {
		return listeners, d, nil
	}
	first := slices.IndexFunc(listeners, func(x dataplane.Listener) bool { return x.Network == "udp" && x.Address.Port() == l.Port })
	base, second := listeners[first].Address, turn.RelayAddress(alternate(cfg))
	if second.Local.IsValid() && !h.has(second.Local) {
		return nil, d, fmt.Errorf("config: stun.alternate.address: %v is not an address of this machine: name one of %v, or PUBLIC=LOCAL when a firewall "+
			"translates %v to one of them", second.Local, h.global(), second.Local)
	}
	if second.Local.IsValid() && base.Addr().IsUnspecified() && runtime.GOOS == "windows" {
		return nil, d, fmt.Errorf("config: stun.alternate.address: this system does not tell which address a datagram came to: name the first address in turn.listen")
	}
	ports := [2]uint16{base.Port(), uint16(cfg.STUN.Alternate.Port)}
	if ports[1] == ports[0] { // the default: another value was refused
		ports[1] = 0
	}
	open := func(addr netip.Addr, port uint16) uint16 {
		i := slices.IndexFunc(listeners, func(x dataplane.Listener) bool {
			return x.Network == "udp" && x.Address.Port() == port && covers(x.Address.Addr(), addr)
		})
		if i < 0 {
			i = len(listeners)
			listeners = append(listeners, dataplane.Listener{Network: "udp", Address: netip.AddrPortFrom(addr, port), BindingOnly: true})
		}
		return uint16(i)
	}
	for family := range d {
		six := family == 1
		if base.Addr().Is6() != six && base.Addr() != netip.IPv6Unspecified() {
			continue
		}
		x := &d[family]
		x.Ports = ports
		x.Addrs[0] = h.firstAddress(base.Addr(), relays, six)
		x.Listeners[0][0] = uint16(first)
		if ports[1] != 0 {
			x.Listeners[0][1] = open(base.Addr(), ports[1])
		}
		if !second.Local.IsValid() || second.Local.Is6() != six {
			continue
		}
		switch {
		case !x.Addrs[0].Local.IsValid():
			return nil, d, fmt.Errorf("config: stun.alternate.address: %v has no first address beside it, as there is no default route: name one in turn.listen", second.Local)
		case x.Addrs[0].Local == second.Local:
			return nil, d, fmt.Errorf("config: stun.alternate.address: %v is the address that the default route uses, and so the first one: name another of %v", second.Local, h.global())
		}
		x.Addrs[1] = second
		x.Listeners[1] = [2]uint16{open(second.Local, ports[0]), open(second.Local, ports[1])}
	}
	return listeners, d, nil
}

func alternate(cfg *config.Config) turn.RelayAddress {
	a := cfg.STUN.Alternate.Address
	return turn.RelayAddress{Public: a.Public, Local: a.Local}
}

// covers reports whether a socket bound to a takes what comes to b.
func covers(a, b netip.Addr) bool {
	return a == b || a == netip.IPv6Unspecified() || a == netip.IPv4Unspecified() && b.Is4()
}

// has reports whether a socket can be bound to the address.
func (h *host) has(a netip.Addr) bool { return slices.Contains(h.own, a) || a.IsLoopback() }

// firstAddress is the address that a prober at the second one is told of: the listener's, or of all addresses the one that relays, or that the
// default route uses. It is zero when the family has none.
func (h *host) firstAddress(listener netip.Addr, relays []turn.RelayAddress, six bool) turn.RelayAddress {
	local := listener
	if local.IsUnspecified() {
		if local = h.source4; six {
			local = h.source6
		}
	}
	for _, r := range relays {
		if r.Local == local || !local.IsValid() && r.Local.Is6() == six {
			return r
		}
	}
	return turn.RelayAddress{Public: local, Local: local}
}

// describeDiscovery is the row of the start page.
func describeDiscovery(cfg *config.Config, d [2]turn.Discovery) string {
	l := cfg.DiscoveryListener()
	if l == nil {
		return "none: there is no UDP listener with a port"
	}
	ports := fmt.Sprintf("on UDP port %d", l.Port)
	for _, x := range d {
		if x.Ports[1] != 0 {
			ports = fmt.Sprintf("on UDP ports %d and %d", x.Ports[0], x.Ports[1])
		}
	}
	for _, x := range d {
		if x.Addrs[1].Local.IsValid() {
			return fmt.Sprintf("STUN %s of %s (RFC 5780)", ports, describePublic(x.Addrs[:]))
		}
	}
	return "STUN " + ports + "; for all of RFC 5780 name a second address in stun.alternate.address"
}

func describePublic(addrs []turn.RelayAddress) string {
	var out []string
	for _, a := range addrs {
		s := a.Public.String()
		if a.Public != a.Local {
			s += " (here " + a.Local.String() + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, " and ")
}
