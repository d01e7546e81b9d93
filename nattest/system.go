package nattest

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// errHops is Hop's where the system does not report who dropped a packet to a program without privileges.
var errHops = errors.New("nattest: this system shows ICMP errors to privileged programs only")

// UseSystem sets Gateway, Hop, DialFrom and DontFragment, where they are nil, to those of this machine.
func (c *Config) UseSystem() {
	if c.Gateway == nil {
		c.Gateway = systemGateway
	}
	if c.Hop == nil {
		c.Hop = systemHop
	}
	if c.DialFrom == nil {
		c.DialFrom = dialFrom
	}
	if c.DontFragment == nil {
		c.DontFragment = dontFragment
	}
	if c.Tunnels == nil {
		c.Tunnels = tunnels
	}
}

// dialFrom connects from a local address that other connections may use too.
func dialFrom(ctx context.Context, network, local, address string) (net.Conn, error) {
	from, err := net.ResolveTCPAddr(network, local)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{LocalAddr: from, Control: shareAddress}).DialContext(ctx, network, address)
}

// tunnels lists the addresses of interfaces that have one other end, as VPNs do.
func tunnels() (out []netip.Addr) {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range list {
		if i.Flags&net.FlagPointToPoint == 0 || i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && usable(p.Addr().Unmap()) {
				out = append(out, p.Addr().Unmap())
			}
		}
	}
	return out
}
